"""Result rows from disk, read without touching the file: a row that comes again counts once, what contradicts it is refused,
and what cannot be read is reported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aloe.core.errors import UserError
from aloe.core.files import read_bytes
from aloe.core.rows import Keyed, repeats
from aloe.evaluation.rows import Result, result_lines
from aloe.evaluation.settings import RESULTS_NAME


def read_results(paths: Sequence[Path]) -> tuple[list[Result], list[str]]:
    """The rows of several results files or of folders that hold one, in order, and a sentence for each line left out.

    Raises:
        UserError: a file that is missing, cannot be read or has no rows, or two rows of a key that contradict each other.
    """
    by_key: dict[str, Result] = {}
    keyed = Keyed()
    notes: list[str] = []
    for path in paths:
        file = path / RESULTS_NAME if path.is_dir() else path
        rows, left_out = result_lines(file, _read(file), keyed)
        if not rows:
            why = f" ({left_out[0]})" if left_out else ""
            raise UserError(f"{file} holds no result rows{why}; `aloe evaluate` writes them.")
        for _, _, row in rows:
            by_key.pop(row.key, None)  # the last one also takes the last place
            by_key[row.key] = row
        notes += left_out
    return list(by_key.values()), [*notes, *repeats(keyed.repeated, "result row")]


def _read(file: Path) -> bytes:
    try:
        return read_bytes(file)
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist; give a folder that `aloe evaluate` has written to.") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from error
