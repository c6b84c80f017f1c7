"""Rows of a sweep from disk: one finished or diverged run a line, with its configuration and what was measured of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from aloe.core.errors import UserError
from aloe.core.files import json_lines, read_bytes
from aloe.core.rows import Keyed, repeats
from aloe.report.rows import Result

SWEEP_NAME = "sweep.jsonl"


class SweepRow(BaseModel):
    """One run of `aloe sweep`: `configuration` is all that made it, `results` are its rows of `aloe evaluate`, which
    say at least what was `asked` for.

    A run whose loss or weights stopped being finite is `diverged`, has no results, and says so under `reason`.
    """

    model_config = ConfigDict(strict=True, frozen=True, protected_namespaces=())

    key: str
    run: str
    teacher: str
    status: Literal["finished", "diverged"]
    configuration: dict[str, Any]
    results: list[Result] = []
    asked: list[str] = []
    reason: str = ""
    seconds: float = 0.0

    @property
    def seed(self) -> int:
        return int(self.configuration.get("seed", 0))


def read_sweep(folder: Path, notes: list[str] | None = None) -> list[SweepRow]:
    """The runs of a sweep's folder in the order in which they ended; [] where there is no sweep.

    A later row of a run holds what an earlier one says and more, and takes its place; to `notes` a sentence is added where
    the same row came again.

    Raises:
        UserError: a line that is no row of a sweep, or two of a run that contradict each other. A last line that was cut off
            is left out.
    """
    path = folder / SWEEP_NAME
    if not path.is_file():
        return []
    found: dict[str, SweepRow] = {}
    known, again = Keyed(), 0
    data = read_bytes(path)
    for number, value in json_lines(data[: data.rfind(b"\n") + 1]):
        try:
            row = SweepRow.model_validate(value)
        except ValidationError as error:
            raise UserError(f"{path}, line {number}, is not a row of a sweep; move the file away.") from error
        facts = {name: value for name, value in row.model_dump().items() if name in ("run", "configuration", "status")}
        facts |= {f"{r.task} of {r.data} (row {r.key})": r.value for r in row.results}
        known.add(row.key, facts, f"line {number} of {path}", row.run)
        again += found.get(row.key) == row
        found[row.key] = row
    if notes is not None:
        notes += repeats(again, "sweep row")
    return list(found.values())


def value_in_words(value: Any) -> str:
    """A setting as it is typed: 0.01, cosine, 2,4,6."""
    if isinstance(value, list | tuple):
        return ",".join(map(value_in_words, value)) or "none"
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
