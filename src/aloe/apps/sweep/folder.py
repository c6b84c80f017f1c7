"""A sweep's folder: `sweep.json` (what all runs share), `sweep.jsonl` (one row per run), `results.jsonl` (the teacher and
the models beside it) and `runs/` (an alignment each). What the runs share is fixed; what has been varied once may be again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aloe.core.errors import UserError
from aloe.core.files import read_json, write_json

SHARED_NAME, RUNS = "sweep.json", "runs"


def claim(home: Path, configurations: Iterable[Mapping[str, Any]], axes: Iterable[str], evaluation: Any) -> None:
    """Make the folder this sweep's, or find that it is; more axes, values, seeds, tasks and data are welcome, and
    anything before the first run has begun.

    Args:
        configurations: of the runs; what is not an axis is equal in all of them. evaluation: what all numbers depend on.

    Raises:
        UserError: it holds something else, or a sweep with other fixed settings, and what differs.
    """
    path = home / SHARED_NAME
    known: dict[str, Any] = {}
    if path.is_file():
        try:
            known = dict(read_json(path))
            varied = {*known["varied"], *axes}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged; give another --output-dir.") from error
    else:
        if home.exists() and not (home.is_dir() and not any(home.iterdir())):
            raise UserError(f"{home} is not empty and holds no sweep; give another --output-dir.")
        varied = set(axes)
    first = next(iter(configurations))
    fixed = {**{k: v for k, v in first.items() if k not in varied}, "evaluation": evaluation}
    fixed = json.loads(json.dumps(fixed))
    was = {k: v for k, v in known.get("fixed", fixed).items() if k not in varied}
    both = [k for k in fixed if k in was]  # another version may know other settings
    differs = [f"{k} was {was[k]!r}, now {fixed[k]!r}" for k in both if was[k] != fixed[k]]
    if differs and (home / RUNS).is_dir():
        raise UserError(
            f"{home} holds a sweep with other fixed settings ({', '.join(differs[:3])}); give another --output-dir, or the"
            " same settings."
        )
    write_json(path, {"varied": sorted(varied), "fixed": fixed})
