"""A sweep's folder: `sweep.json` (what all runs share), `sweep.jsonl` (one row per run), `results.jsonl` (the teacher and
the models beside it), `runs/` (an alignment each) and `.locks/`. What the runs share is fixed; what has been varied once may
be again.

Several processes may work in it, on machines that share it. Each holds the lock of the run that it works on, see
`aloe.core.locks`; rows are read and written under the folder's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aloe.core.errors import UserError
from aloe.core.files import read_json, write_json
from aloe.core.locks import alone, holder, is_taken, taken
from aloe.evaluation.results import ResultLog, Row
from aloe.report.sweep_rows import SWEEP_NAME, SweepRow

SHARED_NAME, RUNS, LOCKS = "sweep.json", "runs", ".locks"


class SweepFolder:
    """The rows and locks of a sweep's folder. A lock has a name: that of a run, or `models` for what is beside them."""

    def __init__(self, home: Path) -> None:
        self.home = home

    @contextmanager
    def taken(self, name: str) -> Iterator[bool]:
        """Whether this process may work on what has that name for the block; False where another one does."""
        with taken(self._lock(name)) as mine:
            yield mine

    def is_taken(self, name: str) -> bool:
        return is_taken(self._lock(name))

    def holder(self, name: str) -> str:
        return holder(self._lock(name))

    def rows(self) -> dict[str, Row]:
        """What the folder's processes have finished until now, by key; {} where there is no folder yet."""
        if not self.home.is_dir():
            return {}
        with self.alone():  # to open the rows removes a line that was cut, or is being written
            return ResultLog(self.home, SWEEP_NAME, SweepRow).rows

    def add(self, row: Row) -> None:
        """Append a row; it is on the disk when this returns."""
        with self.alone():
            ResultLog(self.home, SWEEP_NAME, SweepRow).add(row)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep the other processes from the files that they share."""
        with alone(self._lock("rows")):
            yield

    def _lock(self, name: str) -> Path:
        return self.home / LOCKS / f"{name}.lock"


def check_ours(home: Path) -> None:
    """Raises a UserError for a folder that holds something else than a sweep."""
    # Listed before the plan is looked for, which another worker may write at this moment.
    strange = home.exists() and (not home.is_dir() or any(not path.name.startswith(".") for path in home.iterdir()))
    if strange and not (home / SHARED_NAME).is_file():
        raise UserError(f"{home} is not empty and holds no sweep; give another --output-dir.")


def claim(home: Path, configurations: Iterable[Mapping[str, Any]], axes: Iterable[str], evaluation: Any) -> None:
    """Make the folder this sweep's, or find that it is; more axes, values, seeds, tasks and data are welcome, and
    anything before the first run has begun.

    Args:
        configurations: of the runs; what is not an axis is equal in all of them. evaluation: what all numbers depend on.

    Raises:
        UserError: it holds something else, or a sweep with other fixed settings, and what differs.
    """
    check_ours(home)
    path = home / SHARED_NAME
    record: dict[str, Any] = {}
    if path.is_file():
        try:
            record = dict(read_json(path))
            varied = {*record["varied"], *axes}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged; give another --output-dir.") from error
    else:
        varied = set(axes)
    first = next(iter(configurations))
    fixed = {**{k: v for k, v in first.items() if k not in varied}, "evaluation": evaluation}
    fixed = json.loads(json.dumps(fixed))
    was = {k: v for k, v in record.get("fixed", fixed).items() if k not in varied}
    both = [k for k in fixed if k in was]  # another version may know other settings
    differs = [f"{k} was {was[k]!r}, now {fixed[k]!r}" for k in both if was[k] != fixed[k]]
    if differs and (home / RUNS).is_dir():
        raise UserError(
            f"{home} holds a sweep with other fixed settings ({', '.join(differs[:3])}); give another --output-dir, or the"
            " same settings."
        )
    write_json(path, {"varied": sorted(varied), "fixed": fixed})
