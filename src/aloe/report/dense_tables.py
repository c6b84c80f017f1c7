"""Tables of dense prediction: B4 (depth), B5 (surface normals) and correspondence, which the paper draws as Figure B1.

A block is a teacher with its students on one data set, measured in the same way; below the models stand ALOE minus its
baseline and the share of the gap between converted model and teacher that alignment closes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from aloe.draw.tables import MINUS, MISSING, Block, Cell, Row, Table
from aloe.report.compare import add_deltas, add_gaps, add_paper, mark_best
from aloe.report.explained import Measured, side_by_side
from aloe.report.explained_tables import way_notes
from aloe.report.grid import marks, model_of
from aloe.report.lines import Column, Group, Line, stage_title
from aloe.report.metric import Metric, detail, number, numbers
from aloe.report.paper import paper_tables
from aloe.report.protocol import DENSE
from aloe.report.rows import Result
from aloe.report.tables import LABELS, others_table, rows_of, split_notes

DENSE_TITLES = {"b4": "Table B4", "b5": "Table B5", "correspondence": "Correspondence"}
_CAPTIONS = {
    "b4": "Depth from a head on frozen features.",
    "b5": "Surface normals from a head on frozen features.",
    "correspondence": "Matches between two views by nearest features: those (%) closer than a distance in 3-D.",
}
_VALUES = {"b4": "Relative δ1 (%)", "b5": "δ1 (%)", "correspondence": "Recall (%)"}  # of a row's `value`
_DIGITS = {"b4": 4, "b5": 3}
_RECALLS = {"mean_of_bins": "{} ↑", "global": "{}, all ↑", "reachable/global": "{}, possible"}


def collect_dense(name: str, results: Sequence[Result]) -> Measured | None:
    """The rows of a table in `DENSE`, or None without any; see `side_by_side`."""
    rows = [row for row in results if row.task == DENSE[name]]
    return side_by_side(name, rows, lambda row: (model_of(row), Column(row.data)))


def dense_tables(measured: Measured, *, with_paper: bool = True) -> list[Table]:
    """The table itself, of correspondence also by the angle between the views, and the rows measured in another way."""
    places = [measured.place(row.data) for row, _ in measured.others]
    name = measured.name
    others = others_table(name, DENSE_TITLES[name], measured.others, places, measured.columns, _VALUES[name])
    angles = _angle_tables(measured) if name == "correspondence" else []
    return [_main_table(measured, with_paper), *angles, *([others] if others else [])]


def _main_table(measured: Measured, with_paper: bool) -> Table:
    name = measured.name
    metrics = _recalls(measured.results) if name == "correspondence" else _printed(name)
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
        blocks.append(Block(measured.title(group, data), rows_of(shown, columns)))
    caption = f"{DENSE_TITLES[name]}. {_CAPTIONS[name]} Bold: the best of a block's interpretable models."
    heads = tuple(metric.heading for metric in metrics)
    return Table(name, caption, LABELS, heads, tuple(blocks), tuple(_footnotes(measured, groups)))


def _printed(name: str) -> list[Metric]:
    """The paper's columns; behind the data, `nyuv2/relative.delta1` has the way to the number in a row's details."""
    found = []
    for key, words in paper_tables()[name.upper()].columns.items():
        metric = key.partition("/")[2]
        digits = 2 if metric == "rmse" else _DIGITS[name]  # degrees, unlike metres
        found.append(Metric(words, detail(*metric.split(".")), digits, metric, lower="↓" in words))
    return found


def _recalls(results: Sequence[Result]) -> list[Metric]:
    """At every distance of any row, what some row has of: the mean over bins, all matches, the most a model could reach."""
    steps = sorted({step for row in results for step in numbers(row, "thresholds") if step == step})
    found = [
        Metric(words.format(_centimetres(step)), _recall(kind, step), key=f"{kind}@{step:g}", compared="↑" in words)
        for kind, words in _RECALLS.items()
        for step in steps
    ]
    return [metric for metric in found if any(metric.of(row) is not None for row in results)]


def _recall(kind: str, step: float) -> Callable[[Result], float | None]:
    def of(row: Result) -> float | None:
        steps = numbers(row, "thresholds")
        return number(row, *kind.split("/"), steps.index(step)) if step in steps else None

    return of


def _line(line: Line, data: str, metrics: Sequence[Metric]) -> Line:
    """A model's numbers on one data set, without those that its row lacks."""
    row = line.results[Column(data)]
    values = {metric: metric.of(row) for metric in metrics}
    cells = {
        Column(data, metric.key): Cell(value, metric.decimals, note=marks(row))
        for metric, value in values.items()
        if value is not None
    }
    return Line(line.name, line.stage, line.architecture, "model", line.interpretable, cells)


def _angle_tables(measured: Measured) -> list[Table]:
    """Recall by the angle between the views: a table for every division into bins, a row per model and distance."""
    blocks: dict[tuple[str, ...], list[Block]] = {}
    for group, data, lines in measured.cases():
        rows = [(line, line.results[Column(data)]) for line in lines]
        edges = _bins(rows[0][1])
        found = []
        for line, row in rows:
            for i, step in enumerate(numbers(row, "thresholds")):
                cells = tuple(Cell(number(row, "binned", i, b), note=marks(row)) for b in range(len(edges)))
                known = tuple(cell if cell.value is not None else Cell() for cell in cells)
                words = (line.name, stage_title(line.stage), _centimetres(step))
                found.append(Row(words, known, gray=not line.interpretable))
        if edges:
            blocks.setdefault(edges, []).append(Block(measured.title(group, data), tuple(found)))
    caption = "Correspondence, by the rotation between the views. Matches (%) closer than a distance in 3-D."
    headers = (*LABELS[:2], "Within")
    notes = (
        f"The mean of the pairs in each bin, {MISSING} where there is none.",
        *split_notes(measured.results, measured.columns),
    )
    return [
        Table("correspondence-angles" + f"-{i}" * (i > 1), caption, headers, edges, tuple(parts), notes)
        for i, (edges, parts) in enumerate(blocks.items(), 1)
    ]


def _bins(row: Result) -> tuple[str, ...]:
    pairs = [(number(row, "bins", b, 0), number(row, "bins", b, 1)) for b in range(len(numbers(row, "bins")))]
    return tuple(f"{low:g}{MISSING}{high:g}°" for low, high in pairs if low is not None and high is not None)


def _footnotes(measured: Measured, groups: Sequence[Group]) -> Iterator[str]:
    yield "✓ inherently interpretable, ✗ not."
    yield from _METRIC_NOTES[measured.name]
    if any(line.name.startswith("gap closed") for group in groups for line in group.of("delta")):
        yield (
            f"gap closed by a model: (its number {MINUS} converted) / (teacher {MINUS} converted) in percent, of unrounded"
            f" numbers; {MISSING} where the teacher is not better."
        )
    if measured.name == "correspondence":
        yield from _pair_notes(measured)
    yield from way_notes(measured)
    yield from split_notes(measured.results, measured.columns)
    if any(group.of("paper") for group in groups):
        table = measured.name.upper()
        yield f"paper: as printed in Table {table} of the paper; its differences are computed from these rows."
        if table == "B5":
            yield "The paper does not say whose the Baseline of Table B5 is; here it stands with the teacher of Table B4."


def _pair_notes(measured: Measured) -> Iterator[str]:
    """How many pairs and matches, once for data sets and teachers that agree."""
    found: dict[str, list[str]] = {}
    for _, data, lines in measured.cases():
        row = lines[0].results[Column(data)]
        counts = [(number(row, word), word) for word in ("pairs", "matches")]
        words = ", ".join(f"{count:.0f} {word}" for count, word in counts if count is not None)
        bins = [
            f"{edge}: {n:.0f}" for edge, n in zip(_bins(row), numbers(row, "pairs_in_bins"), strict=False) if n == n
        ]
        found.setdefault(words + (f" (pairs at {', '.join(bins)})" if bins else ""), []).append(measured.place(data))
    for words, places in found.items():
        if words:
            yield f"{', '.join(dict.fromkeys(places))}: {words}."


def _centimetres(metres: float) -> str:
    return f"{100 * metres:g} cm"


_METRIC_NOTES: dict[str, tuple[str, ...]] = {
    "b4": (
        "δ1: share of the pixels whose depth is right within a factor of 1.25. RMSE in metres. Relative: after the scale and"
        " shift that fit each image best. All are means over images.",
    ),
    "b5": (
        "δ1, δ2, δ3: share of the pixels whose normal is less than 11.25, 22.5 and 30 degrees off. RMSE in degrees. All are"
        " means over images.",
    ),
    "correspondence": (
        "A distance alone: the mean of the bins of the rotation between the views; all: over all matches of all pairs;"
        " possible: the share of the same matched points for which the other view has a point so close.",
    ),
}
