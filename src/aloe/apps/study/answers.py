"""Answers as rows: read from a study's file or from an export, written as CSV or JSON lines."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_type_hints

from aloe.apps.study.answer import Answer
from aloe.apps.study.store import CHOICES, connect
from aloe.apps.study.together import put_together
from aloe.apps.study.trials import IDENTICAL, KINDS
from aloe.core.errors import UserError
from aloe.core.files import json_lines, read_table, read_words
from aloe.core.printable import for_spreadsheets, from_spreadsheets
from aloe.core.typed import number, whole_number

_QUERY = (
    "SELECT participant, position, (SELECT count(*) FROM trials o WHERE o.participant = t.participant) AS planned, kind,"
    " name AS image, class AS title, left, right, repeats, choice, seconds, answered"
    " FROM answers a JOIN trials t USING (participant, position) JOIN images USING (image) ORDER BY participant, position"
)


_SQLITE = b"SQLite format 3\0"
_TABLES = (".csv", ".tsv", ".txt", ".jsonl", ".json")
_OTHERS = (b"PK\3\4", b"\xd0\xcf\x11\xe0", b"%PDF", b"\x1f\x8b")  # workbooks and archives, old workbooks, PDF, gzip
_ACCEPTED = "the study's own file, or its answers as a table (CSV) or as JSON lines"


def read_studies(paths: Path | Iterable[Path]) -> tuple[list[Answer], list[str]]:
    """The answers of a study's file, or of its exports as CSV or JSON lines, and sentences on how several files fit together.

    Files of one study are put together, each answer once; participants of different studies are told apart by a number.

    Raises:
        UserError: a file that is neither, or without answers, or two answers of a participant to one trial.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    read = [(str(path), [(place, _answer(row, place)) for place, row in _rows(path)]) for path in files]
    if not any(placed for _, placed in read):
        raise UserError(f"There are no answers in {', '.join(map(str, files))} yet.")
    return put_together(read)


def to_csv(answers: Iterable[Answer]) -> str:
    """A header and a line for every answer."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Answer)], lineterminator="\n")
    writer.writeheader()
    for answer in answers:
        writer.writerow({name: for_spreadsheets(value) for name, value in asdict(answer).items()})
    return text.getvalue()


def to_jsonl(answers: Iterable[Answer]) -> str:
    """An object for every answer."""
    return "".join(json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers)


FORMATS = {"csv": to_csv, "jsonl": to_jsonl}


def stored_answers(path: Path) -> list[Answer]:
    """What a study's file holds now, through a connection of its own."""
    return [_answer(row, str(path)) for row in _stored(path)]


def progress(path: Path) -> list[dict[str, Any]]:
    """A row for every participant of a study's file: when started and finished, how many answers of how many, the code."""
    query = (
        "SELECT participant, started, finished, code,"
        " (SELECT count(*) FROM answers a WHERE a.participant = p.participant) AS answered,"
        " (SELECT count(*) FROM trials t WHERE t.participant = p.participant) AS planned FROM participants p"
    )
    return _select(path, query)


def _rows(path: Path) -> list[tuple[str, Any]]:
    """(place, row) of a file's rows."""
    if _is_database(path) if path.is_file() else path.suffix.lower() not in _TABLES:
        return [
            (f"trial {row['position']} of participant {row['participant']} in {path}", row) for row in _stored(path)
        ]
    text = read_words(path)
    lines = path.suffix.lower() == ".jsonl" or text.lstrip().startswith("{")
    if "\0" in text or (text.lstrip().startswith("[") and not lines):
        raise UserError(f"{path} holds no answers of a study; give {_ACCEPTED}.")
    if lines:
        rows: Iterable[tuple[int, Any]] = json_lines(text.encode())
    else:
        table = read_table(path, [field.name for field in fields(Answer)], "answer of a study")
        rows = ((line, {name: from_spreadsheets(cell) for name, cell in row.items()}) for line, row in table)
    return [(f"line {number} of {path}", row) for number, row in rows]


def _is_database(path: Path) -> bool:
    """Whether a file is one of SQLite, by its first bytes, whatever its name."""
    try:
        with path.open("rb") as file:
            first = file.read(len(_SQLITE))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    if first.startswith(_OTHERS):
        raise UserError(f"{path} holds no answers of a study; give {_ACCEPTED}.")
    return first == _SQLITE


def _stored(path: Path) -> list[dict[str, Any]]:
    return _select(path, _QUERY)


def _select(path: Path, query: str) -> list[dict[str, Any]]:
    with closing(connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query)]


def _answer(row: Any, place: str) -> Answer:
    problem, values = "", {}
    if isinstance(row, ValueError):
        problem = f"it cannot be read as JSON ({row})"
    elif not isinstance(row, dict):
        problem = "it is no object with names and values"
    else:
        missing = [name for name in _KINDS if name not in row]
        values = {name: _value(row[name], kind) for name, kind in _KINDS.items() if name in row}
        wrong = [name for name, value in values.items() if value is _WRONG]
        if missing:
            problem = f"it has no {', '.join(missing)}"
        elif wrong:
            problem = f"its {wrong[0]} is {row[wrong[0]]!r}"
        elif values["kind"] not in KINDS or values["choice"] not in CHOICES:
            problem = f"its kind is {values['kind']!r} and its choice {values['choice']!r}"
        elif (values["left"] == values["right"]) != (values["kind"] == IDENTICAL):
            problem = f"it is a trial of the kind {values['kind']} of {values['left']} and {values['right']}"
    if problem:
        raise UserError(f"{place[0].upper()}{place[1:]} is no answer of a study: {problem}.")
    return Answer(**values)


_KINDS = get_type_hints(Answer)
_WRONG = object()  # in place of a value that is not of its kind


def _value(value: Any, kind: Any) -> Any:
    """A value of a row as its kind; a spreadsheet may have written a decimal comma."""
    if kind is str:
        return str(value) if isinstance(value, str | int) else _WRONG
    if value in (None, ""):
        return None if kind == (int | None) else _WRONG
    text = str(value)
    parsed = number(text.replace(",", ".")) if kind is float else whole_number(text)
    return _WRONG if parsed is None else parsed
