"""A study's file: SQLite with the pictures, the participants and their answers; one file is all that a server needs.

Answers are durable before anybody is told so (write-ahead log, a sync of the disk at every commit). Tokens are stored hashed.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from aloe.apps.study import trials
from aloe.apps.study.settings import StudySettings
from aloe.apps.study.writer import Writer
from aloe.core.errors import UserError

FORMAT = 1  # SQLite's user_version of our files
_APPLICATION = 0x414C4F45  # "ALOE", SQLite's application_id
CHOICES = LEFT, RIGHT, TIE = ("left", "right", "tie")


class Refused(UserError):
    """What a participant may not do now."""


@dataclass(frozen=True)
class Material:
    """An image of a study as PNG files: itself, its predicted class, and a map for every method."""

    name: str
    title: str
    png: bytes
    maps: dict[str, bytes]


@dataclass(frozen=True)
class Session:
    """A participant: `answered` of `total` trials (0 before the start), and the code that shows that all are done."""

    participant: int
    started: bool
    finished: bool
    answered: int
    total: int
    code: str


@dataclass(frozen=True)
class Shown:
    """A trial as its page needs it: pictures by their ids, which say nothing of the methods."""

    position: int
    kind: str
    title: str
    image: str
    left: str
    right: str


def create_study(path: Path, settings: StudySettings, material: Sequence[Material], about: str = "") -> None:
    """Write a study into a new file, whole or not at all. `about` is kept with it: which models, which options.

    Raises:
        UserError: there is a file already, it cannot be written, or no images.
    """
    if path.exists():
        raise UserError(f"{path} is there already, perhaps with answers; give another --db, or move it away.")
    if not material:
        raise UserError("A study needs at least one image.")
    aside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.unlink(missing_ok=True)
        aside.touch(0o600)  # it will hold answers, and the key that signs the forms
        with closing(sqlite3.connect(aside)) as connection, connection:
            connection.executescript(resources.files("aloe.apps.study").joinpath("schema.sql").read_text())
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
            words = {"settings": settings.model_dump_json(), "about": about, "key": secrets.token_hex(32)}
            connection.executemany("INSERT INTO study VALUES (?, ?)", words.items())
            for number, each in enumerate(material):
                _add(connection, number, each)
        aside.replace(path)
    except (OSError, sqlite3.Error) as error:
        aside.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written: {error}.") from error


class Store:
    """An open study. Reads are for one thread at a time; writes go through `Writer` and return futures.

    Raises:
        UserError: no file, or one that holds no study.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reads = connect(path)
        self.settings = read_settings(self._reads)
        self.key = bytes.fromhex(_word(self._reads, "key"))
        self.images = self._one("SELECT count(*) FROM images")[0]
        self._writer = Writer(lambda: connect(path))

    def close(self) -> None:
        """Write what waits and close the file."""
        self._writer.close()
        self._reads.close()

    def session(self, token: str) -> Session | None:
        """The participant whose personal link has this token."""
        row = self._one(
            "SELECT participant, started IS NOT NULL, finished IS NOT NULL,"
            " (SELECT count(*) FROM answers a WHERE a.participant = p.participant),"
            " (SELECT count(*) FROM trials t WHERE t.participant = p.participant), code"
            " FROM participants p WHERE token = ?",
            hashed(token),
        )
        return Session(row[0], bool(row[1]), bool(row[2]), *row[3:]) if row else None

    def shown(self, participant: int, position: int) -> Shown:
        """A trial with the ids of its pictures."""
        row = self._one(
            "SELECT kind, class, i.picture, l.picture, r.picture FROM trials t JOIN images i USING (image)"
            " JOIN maps l ON l.image = t.image AND l.method = t.left JOIN maps r ON r.image = t.image AND r.method = t.right"
            " WHERE participant = ? AND position = ?",
            participant,
            position,
        )
        return Shown(position, *row)

    def picture(self, identity: str) -> bytes | None:
        """A PNG by its id."""
        row = self._one("SELECT png FROM pictures WHERE id = ?", identity)
        return row[0] if row else None

    def start(self, token: str | None = None) -> Future[str]:
        """Start the session of an invited token, or of a new one; returns the token. A session that has started stays.

        Raises (in the future):
            Refused: all places are taken, or nobody has this token.
        """
        return self._writer.submit(lambda connection: _start(connection, self.settings, self.images, token))

    def invite(self, count: int) -> list[str]:
        """New tokens, whose sessions start when their links are opened and the consent given."""

        def job(connection: sqlite3.Connection) -> list[str]:
            return [_add_participant(connection) for _ in range(count)]

        return self._writer.submit(job).result()

    def answer(self, participant: int, position: int, choice: str, seconds: float) -> Future[bool]:
        """Write an answer to the participant's next trial; False where this trial had one, which then stays.

        Raises (in the future):
            Refused: a trial that is not the next, or a choice that is not offered.
        """
        if choice not in CHOICES or (choice == TIE and not self.settings.ties):
            raise Refused("This answer was not offered.")
        return self._writer.submit(lambda connection: _answer(connection, participant, position, choice, seconds))

    def _one(self, query: str, *values: Any) -> Any:
        return self._reads.execute(query, values).fetchone()


def connect(path: Path) -> sqlite3.Connection:
    """A connection to a study's file, in which every commit is a sync of the disk.

    Raises:
        UserError: no file, or one that holds no study.
    """
    if not path.is_file():
        raise UserError(
            f"There is no study {path}; make one with `aloe study build IMAGES --student MODEL --db {path}`."
        )
    connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    try:
        known = connection.execute("PRAGMA application_id").fetchone()[0] == _APPLICATION
        if known and connection.execute("PRAGMA user_version").fetchone()[0] == FORMAT:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            return connection
    except sqlite3.DatabaseError as error:
        connection.close()
        raise UserError(f"{path} holds no study of this version ({error}); `aloe study build` makes one.") from error
    connection.close()
    raise UserError(f"{path} holds no study of this version; make one with `aloe study build`.")


def read_settings(connection: sqlite3.Connection) -> StudySettings:
    """The settings with which a study was built."""
    return StudySettings.model_validate_json(_word(connection, "settings"))


def hashed(token: str) -> bytes:
    """What the file keeps of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _word(connection: sqlite3.Connection, name: str) -> str:
    return connection.execute("SELECT value FROM study WHERE name = ?", (name,)).fetchone()[0]


def _add(connection: sqlite3.Connection, number: int, material: Material) -> None:
    def picture(png: bytes) -> str:
        identity = secrets.token_hex(16)
        connection.execute("INSERT INTO pictures VALUES (?, ?)", (identity, png))
        return identity

    row = (number, material.name, material.title, picture(material.png))
    connection.execute("INSERT INTO images VALUES (?, ?, ?, ?)", row)
    rows = [(number, method, picture(png)) for method, png in material.maps.items()]
    connection.executemany("INSERT INTO maps VALUES (?, ?, ?)", rows)


def _add_participant(connection: sqlite3.Connection) -> str:
    token, code = secrets.token_urlsafe(32), secrets.token_hex(5).upper()
    connection.execute("INSERT INTO participants (token, code) VALUES (?, ?)", (hashed(token), code))
    return token


def _start(connection: sqlite3.Connection, settings: StudySettings, images: int, token: str | None) -> str:
    started = connection.execute("SELECT count(*) FROM participants WHERE started IS NOT NULL").fetchone()[0]
    if token is not None:
        row = connection.execute("SELECT started FROM participants WHERE token = ?", (hashed(token),)).fetchone()
        if row is None:
            raise Refused("There is no session with this link.")
        if row[0] is not None:
            return token
    if started >= settings.places:
        raise Refused("This study has all the participants that it needs. Thank you for your interest!")
    token = token or _add_participant(connection)
    connection.execute("UPDATE participants SET started = ? WHERE token = ?", (time.time(), hashed(token)))
    participant = connection.execute(
        "SELECT participant FROM participants WHERE token = ?", (hashed(token),)
    ).fetchone()
    planned = enumerate(trials.session(settings, images, started))
    rows = [{"participant": participant[0], "position": position, **asdict(trial)} for position, trial in planned]
    connection.executemany(
        "INSERT INTO trials VALUES (:participant, :position, :kind, :image, :left, :right, :repeats)", rows
    )
    return token


def _answer(connection: sqlite3.Connection, participant: int, position: int, choice: str, seconds: float) -> bool:
    following, total = connection.execute(
        "SELECT (SELECT count(*) FROM answers WHERE participant = ?1), (SELECT count(*) FROM trials WHERE participant = ?1)",
        (participant,),
    ).fetchone()
    if 0 <= position < following:
        return False
    if position != following or position >= total:
        raise Refused("Please answer the trials in their order.")
    now = time.time()
    connection.execute(
        "INSERT INTO answers (participant, position, choice, seconds, answered) VALUES (?, ?, ?, ?, ?)",
        (participant, position, choice, round(seconds, 3), now),
    )
    if position + 1 == total:
        connection.execute("UPDATE participants SET finished = ? WHERE participant = ?", (now, participant))
    return True
