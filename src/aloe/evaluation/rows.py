"""What a line of a results file must hold to count, by one rule for those who write it further and those who report it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from aloe.core.files import json_lines
from aloe.core.rows import Keyed

Checked = TypeVar("Checked", bound=BaseModel)


class Result(BaseModel):
    """One measured number, as `aloe evaluate` writes it; `value` is in percent (a cosine as it is)."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())

    key: str
    task: str
    model: str
    name: str
    stage: str
    interpretable: bool
    data: str
    value: float
    teacher: str = ""
    architecture: str = ""
    metric: str = "top-1"
    official: bool = False
    counts: dict[str, int] = {}
    settings: dict[str, Any] = {}
    details: dict[str, Any] = {}
    fingerprints: dict[str, Any] = {}
    versions: dict[str, str] = {}
    device: str = ""
    seconds: float | None = None
    notes: list[str] = []


def result_lines(file: Path, data: bytes, known: Keyed) -> tuple[list[tuple[int, dict[str, Any], Result]], list[str]]:
    """`checked_lines` of result rows, which are added to those that are `known`.

    Raises:
        UserError: two results of a key that contradict each other.
    """
    rows, notes = checked_lines(file, data, Result, "result row")
    for number, row, result in rows:
        facts: dict[str, Any] = {
            name: row[name] for name in ("task", "data", "metric", "value", "counts") if name in row
        }
        name = f"{result.task} of {result.name} on {result.data}"
        known.add(result.key, facts, f"line {number} of {file}", name)
    return rows, notes


def checked_lines(
    file: Path, data: bytes, kind: type[Checked], what: str
) -> tuple[list[tuple[int, dict[str, Any], Checked]], list[str]]:
    """(line, what stands there, the same checked) of a file's rows, and a sentence for each line that is none.

    Args:
        data: the file's content; `file` is its name in the sentences.
        kind: what a row must be; `what` is what it is called.
    """
    rows, notes, last = [], [], data.count(b"\n") + 1
    for number, value in json_lines(data):
        if isinstance(value, ValueError):
            cut = "cut off, as by an interrupted run," if number == last else "not JSON"
            notes.append(f"Line {number} of {file} is {cut} and was left out.")
            continue
        try:
            rows.append((number, value, kind.model_validate(value)))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            notes.append(f"Line {number} of {file} is no {what} and was left out: {where}: {first['msg']}.")
    return rows, notes
