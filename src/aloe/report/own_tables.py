"""What the paper has no table for: a model's own class head on labelled images, and its cosine to the teacher by block."""

from __future__ import annotations

from collections.abc import Sequence

from aloe.draw.tables import Row, Table
from aloe.report.columns import Metric, detail, value
from aloe.report.footnotes import split_notes
from aloe.report.lines import LABELS, STAGES, blocks_of, printed
from aloe.report.protocol import split_mark
from aloe.report.rows import Result

CLASS_HEAD, COSINE = "classifier", "cosine"
OWN = {CLASS_HEAD: "the class head's accuracy", COSINE: "the cosine to the teacher"}
_CAPTIONS = {
    CLASS_HEAD: "Class head. Accuracy (%) of a model's own classifier.",
    COSINE: "Cosine to the teacher. Mean over tokens and images, of the states after blocks and of the pooled output.",
}
_LAST = {"pooled": "pooled", "pooled_centred": "pooled, centred"}


def own_table(task: str, rows: Sequence[Result]) -> Table | None:
    """The rows of a task (`classifier`, `cosine`), one block per teacher; None without any."""
    rows = [row for row in rows if row.task == task]
    if not rows:
        return None
    metrics = [Metric("top-1", value)] if task == CLASS_HEAD else _cosines(rows)
    lines: dict[tuple[str, ...], tuple[str, Row]] = {}
    for row in sorted(rows, key=lambda row: [*STAGES, row.stage].index(row.stage)):
        cells = [metric.cell(row, split_mark(row)) for metric in metrics]
        block = row.teacher or "teacher unknown"
        place = (block, row.data, row.name, str(row.fingerprints.get("model")))
        lines[place] = (block, printed(row, (row.architecture, row.data), cells))
    heads = tuple(metric.heading for metric in metrics)
    notes = tuple(split_notes(rows, ()))
    return Table(task, _CAPTIONS[task], (*LABELS[:3], "Data"), heads, blocks_of(lines.values()), notes)


def _cosines(rows: Sequence[Result]) -> list[Metric]:
    names = {name for row in rows for name in row.details}
    blocks = sorted(int(name.rpartition("_")[2]) for name in names if name.startswith("after_block_"))
    heads = {f"after_block_{n}": f"block {n}" for n in blocks} | {k: v for k, v in _LAST.items() if k in names}
    return [Metric(words, detail(name), 4) for name, words in heads.items()]
