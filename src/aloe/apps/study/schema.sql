-- A study in one file. What cannot be is refused by the tables themselves: an answer to a trial that is not the participant's,
-- a second answer to a trial, an answer before the one before it.
CREATE TABLE study (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE pictures (id TEXT PRIMARY KEY, png BLOB NOT NULL);
CREATE TABLE images (
    image INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    class TEXT NOT NULL,
    picture TEXT NOT NULL REFERENCES pictures
);
CREATE TABLE maps (
    image INTEGER NOT NULL REFERENCES images,
    method TEXT NOT NULL,
    picture TEXT NOT NULL REFERENCES pictures,
    PRIMARY KEY (image, method)
);
CREATE TABLE participants (
    participant INTEGER PRIMARY KEY,
    token BLOB NOT NULL UNIQUE, -- SHA-256 of the personal link's token: the file gives nobody a link
    code TEXT NOT NULL UNIQUE,
    started REAL, -- seconds since 1970, as below; no value: invited
    finished REAL
);
CREATE TABLE trials (
    participant INTEGER NOT NULL REFERENCES participants,
    position INTEGER NOT NULL,
    kind TEXT NOT NULL,
    image INTEGER NOT NULL REFERENCES images,
    left TEXT NOT NULL,
    right TEXT NOT NULL,
    repeats INTEGER,
    PRIMARY KEY (participant, position),
    FOREIGN KEY (image, left) REFERENCES maps,
    FOREIGN KEY (image, right) REFERENCES maps
) WITHOUT ROWID;
CREATE TABLE answers (
    participant INTEGER NOT NULL,
    position INTEGER NOT NULL,
    previous INTEGER GENERATED ALWAYS AS (NULLIF(position, 0) - 1) STORED,
    choice TEXT NOT NULL CHECK (choice IN ('left', 'right', 'tie')),
    seconds REAL NOT NULL,
    answered REAL NOT NULL,
    PRIMARY KEY (participant, position),
    FOREIGN KEY (participant, position) REFERENCES trials,
    FOREIGN KEY (participant, previous) REFERENCES answers
) WITHOUT ROWID;
