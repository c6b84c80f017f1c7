"""Result rows from disk, read without touching the file: a row that comes again counts once, what contradicts it is refused,
and what cannot be read is reported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from aloe.core.errors import UserError
from aloe.core.files import json_lines, read_bytes
from aloe.core.rows import Keyed, repeats
from aloe.evaluation.settings import RESULTS_NAME, result_facts, result_name


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


def read_results(paths: Sequence[Path]) -> tuple[list[Result], list[str]]:
    """The rows of several results files or of folders that hold one, in order, and a sentence for each line left out.

    Raises:
        UserError: a file that is missing, cannot be read or has no rows, or two rows of a key that contradict each other.
    """
    found: dict[str, Result] = {}
    known = Keyed()
    notes: list[str] = []
    for path in paths:
        file = path / RESULTS_NAME if path.is_dir() else path
        rows, left_out = _read_file(file)
        if not rows:
            why = f" ({left_out[0]})" if left_out else ""
            raise UserError(f"{file} holds no result rows{why}; `aloe evaluate` writes them.")
        for number, row in rows:
            known.add(
                row.key, result_facts(row.model_dump()), f"line {number} of {file}", result_name(row.model_dump())
            )
            found.pop(row.key, None)  # the last one also takes the last place
            found[row.key] = row
        notes += left_out
    return list(found.values()), [*notes, *repeats(known.repeated, "result row")]


def _read_file(file: Path) -> tuple[list[tuple[int, Result]], list[str]]:
    try:
        data = read_bytes(file)
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist; give a folder that `aloe evaluate` has written to.") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from error
    rows, notes, last = [], [], data.count(b"\n") + 1
    for number, value in json_lines(data):
        if isinstance(value, ValueError):
            cut = "cut off, as by an interrupted run," if number == last else "not JSON"
            notes.append(f"Line {number} of {file} is {cut} and was left out.")
            continue
        try:
            rows.append((number, Result.model_validate(value)))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            notes.append(f"Line {number} of {file} is no result row and was left out: {where}: {first['msg']}.")
    return rows, notes
