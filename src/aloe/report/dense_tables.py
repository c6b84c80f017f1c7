"""Tables of dense prediction: B4 (depth), B5 (surface normals) and correspondence, which the paper draws as Figure B1.

A block is a teacher with its students on one data set, measured in the same way; below the models stand ALOE minus its
baseline and the share of the gap between converted model and teacher that alignment closes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aloe.draw.tables import MINUS, MISSING, Block, Table
from aloe.report.columns import Column, Metric, detail
from aloe.report.compare import add_deltas, add_gaps, add_paper, mark_best
from aloe.report.correspondence import angle_tables, pair_notes, recalls
from aloe.report.footnotes import measured_notes
from aloe.report.lines import LABELS, Group, Line
from aloe.report.paper import paper_tables
from aloe.report.protocol import DENSE, marks
from aloe.report.rows import Result
from aloe.report.selection import Measured, model_of, side_by_side
from aloe.report.tables import others_table


@dataclass(frozen=True)
class _Words:
    """`value` is what a row's own number is; `decimals` are those of the paper's columns."""

    title: str
    caption: str
    value: str
    note: str
    decimals: int = 2


_WORDS = {
    "b4": _Words(
        "Table B4",
        "Depth from a head on frozen features.",
        "Relative δ1 (%)",
        "δ1: share of the pixels whose depth is right within a factor of 1.25. RMSE in metres. Relative: after the scale and"
        " shift that fit each image best. All are means over images.",
        4,
    ),
    "b5": _Words(
        "Table B5",
        "Surface normals from a head on frozen features.",
        "δ1 (%)",
        "δ1, δ2, δ3: share of the pixels whose normal is less than 11.25, 22.5 and 30 degrees off. RMSE in degrees. All are"
        " means over images.",
        3,
    ),
    "correspondence": _Words(
        "Correspondence",
        "Matches between two views by nearest features: those (%) closer than a distance in 3-D.",
        "Recall (%)",
        "A distance alone: the mean of the bins of the rotation between the views; all: over all matches of all pairs;"
        " possible: the share of the same matched points for which the other view has a point so close.",
    ),
}
DENSE_TITLES = {name: words.title for name, words in _WORDS.items()}


def collect_dense(name: str, results: Sequence[Result]) -> Measured | None:
    """The rows of a table in `DENSE`, or None without any; see `side_by_side`."""
    rows = [row for row in results if row.task == DENSE[name]]
    return side_by_side(name, rows, lambda row: (model_of(row), Column(row.data)))


def dense_tables(measured: Measured, *, with_paper: bool = True) -> list[Table]:
    """The table itself, of correspondence also by the angle between the views, and the rows measured in another way."""
    name, words = measured.name, _WORDS[measured.name]
    places = [measured.place(row.data) for row, _ in measured.others]
    others = others_table(name, words.title, measured.others, places, measured.columns, words.value)
    angles = angle_tables(measured) if name == "correspondence" else []
    return [_main_table(measured, with_paper), *angles, *([others] if others else [])]


def _main_table(measured: Measured, with_paper: bool) -> Table:
    name, words = measured.name, _WORDS[measured.name]
    metrics = recalls(measured.results) if name == "correspondence" else _printed(name)
    compared, bounds = [m for m in metrics if m.compared], [m for m in metrics if not m.compared]
    groups, blocks = [], []
    for group, data, lines in measured.cases():
        columns = [Column(data, metric.key) for metric in metrics]
        lower = {Column(data, metric.key) for metric in metrics if metric.lower}
        shown = Group(group.teacher, [_line(line, data, compared) for line in lines])
        if with_paper and name.upper() in paper_tables():
            add_paper(shown, paper_tables()[name.upper()], columns)
        mark_best(shown, lower)
        add_deltas(shown, ("b-cosified", "converted", "teacher"), lower)
        add_gaps(shown, lower)
        for line, source in zip(shown.of("model"), lines, strict=True):
            line.cells |= _line(source, data, bounds).cells
        groups.append(shown)
        blocks.append(Block(measured.title(group, data), shown.rows(columns)))
    caption = f"{words.title}. {words.caption} Bold: the best of a block's interpretable models."
    heads = tuple(metric.heading for metric in metrics)
    return Table(name, caption, LABELS, heads, tuple(blocks), tuple(_footnotes(measured, groups)))


def _printed(name: str) -> list[Metric]:
    """The paper's columns; behind the data, `nyuv2/relative.delta1` has the way to the number in a row's details."""
    metrics = []
    for key, words in paper_tables()[name.upper()].columns.items():
        metric = key.partition("/")[2]
        digits = 2 if metric == "rmse" else _WORDS[name].decimals  # degrees, unlike metres
        metrics.append(Metric(words, detail(*metric.split(".")), digits, metric, lower="↓" in words))
    return metrics


def _line(line: Line, data: str, metrics: Sequence[Metric]) -> Line:
    """A model's numbers on one data set, without those that its row lacks."""
    row = line.results[Column(data)]
    cells = {Column(data, metric.key): metric.cell(row, marks(row)) for metric in metrics}
    present = {column: cell for column, cell in cells.items() if cell.value is not None}
    return Line(line.name, line.stage, line.architecture, "model", line.interpretable, present)


def _footnotes(measured: Measured, groups: Sequence[Group]) -> Iterator[str]:
    yield "✓ inherently interpretable, ✗ not."
    yield _WORDS[measured.name].note
    if any(line.name.startswith("gap closed") for group in groups for line in group.of("delta")):
        yield (
            f"gap closed by a model: (its number {MINUS} converted) / (teacher {MINUS} converted) in percent, of unrounded"
            f" numbers; {MISSING} where the teacher is not better."
        )
    if measured.name == "correspondence":
        yield from pair_notes(measured)
    yield from measured_notes(measured)
    if any(group.of("paper") for group in groups):
        table = measured.name.upper()
        yield f"paper: as printed in Table {table} of the paper; its differences are computed from these rows."
        if table == "B5":
            yield "The paper does not say whose the Baseline of Table B5 is; here it stands with the teacher of Table B4."
