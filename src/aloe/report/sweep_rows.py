"""Rows of a sweep from disk: one finished or diverged run a line, with its configuration and what was measured of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from aloe.core.errors import UserError
from aloe.core.files import read_bytes
from aloe.core.rows import Keyed, repeats
from aloe.evaluation.rows import checked_lines
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
        UserError: a file without any row of a sweep, or two of a run that contradict each other. A line that is none is left
            out, and named in `notes`; a last line that was cut off goes without a word.
    """
    path = folder / SWEEP_NAME
    if not path.is_file():
        return []
    by_key: dict[str, SweepRow] = {}
    keyed, again = Keyed(), 0
    data = read_bytes(path)
    rows, left_out = checked_lines(path, data[: data.rfind(b"\n") + 1], SweepRow, "row of a sweep")
    if left_out and not rows:
        raise UserError(f"{path} holds no row of a sweep ({left_out[0].rstrip('.')}); move the file away.")
    for number, _, row in rows:
        facts = {name: value for name, value in row.model_dump().items() if name in ("run", "configuration", "status")}
        facts |= {f"{r.task} of {r.data} (row {r.key})": r.value for r in row.results}
        keyed.add(row.key, facts, f"line {number} of {path}", row.run)
        again += by_key.get(row.key) == row
        by_key[row.key] = row
    if notes is not None:
        notes += [*left_out, *repeats(again, "sweep row")]
    return list(by_key.values())


def value_in_words(value: Any) -> str:
    """A setting as it is typed: 0.01, cosine, 2,4,6."""
    if isinstance(value, list | tuple):
        return ",".join(map(value_in_words, value)) or "none"
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
