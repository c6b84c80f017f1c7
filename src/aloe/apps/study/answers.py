"""Answers as rows: read from a study's file or from an export, written as CSV or JSON lines."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from aloe.apps.study.store import CHOICES, LEFT, RIGHT, connect
from aloe.apps.study.trials import IDENTICAL, KINDS
from aloe.core.errors import UserError
from aloe.core.files import json_lines, read_bytes, read_text

_QUERY = (
    "SELECT participant, position, (SELECT count(*) FROM trials o WHERE o.participant = t.participant) AS planned, kind,"
    " name AS image, class AS title, left, right, repeats, choice, seconds, answered"
    " FROM answers a JOIN trials t USING (participant, position) JOIN images USING (image) ORDER BY participant, position"
)
_SEPARATOR = ":"  # between the file's number and the participant's, where several files are read


@dataclass(frozen=True)
class Answer:
    """A participant's answer to the trial at a position of `planned`: methods left and right of an image, and the choice.

    `title` is the class that was explained, `repeats` the position of the trial that a repeat repeats, `seconds` from the
    page's making to its answer, `answered` seconds since 1970.
    """

    participant: str
    position: int
    planned: int
    kind: str
    image: str
    title: str
    left: str
    right: str
    repeats: int | None
    choice: str
    seconds: float
    answered: float

    @property
    def winner(self) -> str | None:
        """The method that was chosen; None for a tie."""
        return {LEFT: self.left, RIGHT: self.right}.get(self.choice)


def read_answers(paths: Path | Iterable[Path]) -> list[Answer]:
    """The answers of a study's file, or of its exports as CSV or JSON lines; of several files together.

    Raises:
        UserError: a file that is neither, or without answers.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    found = []
    for number, path in enumerate(files, 1):
        mark = f"{number}{_SEPARATOR}" if len(files) > 1 else ""
        found += [replace(a, participant=f"{mark}{a.participant}") for a in (_answer(row, path) for row in _rows(path))]
    if not found:
        raise UserError(f"There are no answers in {', '.join(map(str, files))} yet.")
    return found


def to_csv(answers: Iterable[Answer]) -> str:
    """A header and a line for every answer."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Answer)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, answers))
    return text.getvalue()


def to_jsonl(answers: Iterable[Answer]) -> str:
    """An object for every answer."""
    return "".join(json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers)


FORMATS = {"csv": to_csv, "jsonl": to_jsonl}


def stored_answers(path: Path) -> list[Answer]:
    """What a study's file holds now, through a connection of its own."""
    return [_answer(row, path) for row in _stored(path)]


def progress(path: Path) -> list[dict[str, Any]]:
    """A row for every participant of a study's file: when started and finished, how many answers of how many, the code."""
    query = (
        "SELECT participant, started, finished, code,"
        " (SELECT count(*) FROM answers a WHERE a.participant = p.participant) AS answered,"
        " (SELECT count(*) FROM trials t WHERE t.participant = p.participant) AS planned FROM participants p"
    )
    return _select(path, query)


def _rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix not in (".csv", ".jsonl"):
        return _stored(path)
    try:
        if path.suffix == ".jsonl":
            return [value for _, value in json_lines(read_bytes(path))]
        return list(csv.DictReader(io.StringIO(read_text(path))))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error


def _stored(path: Path) -> list[dict[str, Any]]:
    return _select(path, _QUERY)


def _select(path: Path, query: str) -> list[dict[str, Any]]:
    with closing(connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query)]


def _answer(row: Any, path: Path) -> Answer:
    try:
        values = {name: _value(row[name], kind) for name, kind in get_type_hints(Answer).items()}
        answer = Answer(**values)
        known = answer.kind in KINDS and answer.choice in CHOICES
        if not known or (answer.left == answer.right) != (answer.kind == IDENTICAL):
            raise ValueError(f"{answer.kind} trial of {answer.left} and {answer.right}: {answer.choice}")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} has a line that is no answer of a study ({error!r}).") from error
    return answer


def _value(value: Any, kind: Any) -> Any:
    if kind == (int | None):
        return int(value) if value not in (None, "") else None
    return kind(value)
