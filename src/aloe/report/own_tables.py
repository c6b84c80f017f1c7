"""What the paper has no table for: a model's own class head on labelled images, and its cosine to the teacher by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from aloe.draw.tables import Block, Cell, Row, Table
from aloe.report.grid import NOT_OFFICIAL
from aloe.report.lines import STAGES, stage_title
from aloe.report.rows import Result
from aloe.report.tables import LABELS, split_notes

CLASS_HEAD, COSINE = "classifier", "cosine"
OWN = {CLASS_HEAD: "classifier", COSINE: "cosine"}
OWN_TITLES = {CLASS_HEAD: "the class head's accuracy", COSINE: "the cosine to the teacher"}
_LAST = ("pooled", "pooled_centred")
_TITLES = {"pooled": "pooled", "pooled_centred": "pooled, centred"}


def own_table(task: str, rows: Sequence[Result]) -> Table | None:
    """The rows of a task (`classifier`, `cosine`), one block per teacher; None without any."""
    rows = [row for row in rows if row.task == task]
    if not rows:
        return None
    return _table(task, rows, _class_head(rows) if task == CLASS_HEAD else _cosines(rows))


Columns = tuple[str, tuple[str, ...], Callable[[Result], list[Any]]]


def _class_head(rows: Sequence[Result]) -> Columns:
    return "Class head. Accuracy (%) of a model's own classifier.", ("top-1",), lambda row: [row.value]


def _cosines(rows: Sequence[Result]) -> Columns:
    blocks = sorted({k for row in rows for k in row.details if k.startswith("after_block_")}, key=_number)
    names = [*blocks, *(name for name in _LAST if any(name in row.details for row in rows))]
    heads = tuple(_TITLES[name] if name in _TITLES else f"block {_number(name)}" for name in names)
    caption = "Cosine to the teacher. Mean over tokens and images, of the states after blocks and of the pooled output."
    return caption, heads, lambda row: [row.details.get(name) for name in names]


def _table(task: str, rows: Sequence[Result], columns: Columns) -> Table:
    caption, heads, values = columns
    decimals = 4 if task == COSINE else 2
    parts: dict[str, dict[tuple[str, str, str], Row]] = {}
    for row in sorted(rows, key=lambda row: [*STAGES, row.stage].index(row.stage)):
        labels = (row.name, stage_title(row.stage), row.architecture, row.data)
        mark = NOT_OFFICIAL * (not row.official)
        numbers = [value if isinstance(value, int | float) else None for value in values(row)]
        cells = tuple(Cell(value, decimals, note=mark if value is not None else "") for value in numbers)
        block = parts.setdefault(row.teacher or "teacher unknown", {})
        block[row.data, row.name, str(row.fingerprints.get("model"))] = Row(labels, cells, gray=not row.interpretable)
    blocks = tuple(Block(teacher, tuple(lines.values())) for teacher, lines in parts.items())
    return Table(task, caption, (*LABELS[:3], "Data"), heads, blocks, tuple(split_notes(rows, ())))


def _number(name: str) -> int:
    return int(name.rpartition("_")[2])
