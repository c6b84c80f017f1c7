"""Tables of a sweep: one per varied setting, mean and interval over seeds; of objectives beside the paper's Table B8."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aloe.draw.tables import Block, Cell, Row, Table
from aloe.report.lines import stage_title
from aloe.report.paper import paper_tables
from aloe.report.rows import Result
from aloe.report.sweep_rows import SweepRow, value_in_words
from aloe.report.sweeps import (
    FRACTION,
    OBJECTIVE,
    OBJECTIVE_NAMES,
    Curve,
    Measure,
    axes_of,
    curves_along,
    mean_interval,
    measures_of,
    references,
    value_title,
)

_PAPER_FIGURE = "Figure B2"
_TITLES = {
    OBJECTIVE: "Table B8, here: alignment objectives",
    FRACTION: "Figure B2, here: share of the images aligned on",
    "after_block": "Aligned layers",
    "stem": "Stem",
    "b": "Exponent B",
    "resolution": "Resolution (pixels)",
}
_HEADERS = {OBJECTIVE: "Objective", FRACTION: "Images", "after_block": "After blocks", "b": "B"}
_INTERVAL = "± 95 %"


def sweep_table(axis: str, runs: Sequence[SweepRow], rows: Sequence[Result], with_paper: bool = True) -> Table:
    """The table of one varied setting: a block per curve, a row per value, then the models beside them.

    Args:
        rows: of other models (teacher, B-cosified), shown where they were measured on the same images.
    """
    curves = curves_along(runs, axis, axes_of(runs))
    measures = measures_of([run for curve in curves for run in curve.runs])
    paper = paper_tables()["B8"] if axis == OBJECTIVE and with_paper else None
    blocks = []
    for curve in curves:
        shown = [*_rows(curve, measures), *_beside(curve, measures, rows)]
        if paper:
            shown = [_with_paper(row) for row in shown]
        blocks.append(Block(curve.title, tuple(shown)))
    columns = [words for measure in measures for words in (measure.heading, _INTERVAL)]
    columns += [f"paper: {row.name}" for row in paper.rows] if paper else []
    caption = f"{title(axis)}. Mean over seeds. Bold: the best of a block's runs."
    notes = tuple(_footnotes(axis, curves, with_paper))
    headers = (_HEADERS.get(axis, title(axis)), "Seeds")
    return Table(f"sweep-{axis}", caption, headers, tuple(columns), tuple(blocks), notes)


def title(axis: str) -> str:
    return _TITLES.get(axis, axis.replace("_", " ").capitalize())


def _rows(curve: Curve, measures: Sequence[Measure]) -> list[Row]:
    by_measure = {m: {v: numbers for v in curve.points if (numbers := curve.numbers(v, m))} for m in measures}
    best = {m: max((_shown(n, m) for n in values.values()), default=None) for m, values in by_measure.items()}
    rows = []
    for key, value in zip(curve.points, curve.values, strict=True):
        cells: list[Cell] = []
        for measure, values in by_measure.items():
            if key not in values:
                cells += [Cell(), Cell()]
                continue
            mean, half = mean_interval(values[key])
            bold = len(values) > 1 and _shown(values[key], measure) == best[measure]
            cells += [Cell(mean, measure.decimals, bold=bold), Cell(half, measure.decimals)]
        rows.append(Row((value_title(curve.axis, value), _seeds(curve.points[key])), tuple(cells)))
    return rows


def _shown(numbers: Sequence[float], measure: Measure) -> float:
    return round(mean_interval(numbers)[0], measure.decimals)


def _seeds(runs: Sequence[SweepRow]) -> str:
    done = [str(run.seed) for run in sorted(runs, key=lambda r: r.seed) if run.status == "finished"]
    lost = [str(run.seed) for run in sorted(runs, key=lambda r: r.seed) if run.status == "diverged"]
    return "; ".join([*([", ".join(done)] if done else []), *([f"{', '.join(lost)} diverged"] if lost else [])])


def _beside(curve: Curve, measures: Sequence[Measure], rows: Sequence[Result]) -> list[Row]:
    models: dict[tuple[str, str], dict[Measure, Result]] = {}
    for measure in measures:
        for row in references(rows, measure, curve.runs):
            models.setdefault((row.name, row.stage), {})[measure] = row
    shown = []
    for (name, stage), values in models.items():
        cells = [(Cell(values[m].value, m.decimals) if m in values else Cell(), Cell()) for m in measures]
        words = f"{stage_title(stage)}: {name}"
        shown.append(Row((words, ""), tuple(cell for pair in cells for cell in pair), gray=stage == "teacher"))
    return shown


def _with_paper(row: Row) -> Row:
    """The row with the paper's numbers for its objective, or dashes."""
    key = next((k for k, name in OBJECTIVE_NAMES.items() if name == row.labels[0]), "")
    values = [printed.values.get(key) for printed in paper_tables()["B8"].rows]
    more = (Cell(None if v is None else float(v), 1) for v in values)
    return Row(row.labels, (*row.cells, *more), row.kind, row.gray)


def _footnotes(axis: str, curves: Sequence[Curve], with_paper: bool) -> Iterator[str]:
    runs = [run for curve in curves for run in curve.runs]
    yield f"{_INTERVAL}: half of the 95 % interval of the mean by Student's t over seeds; a dash stands for one seed."
    if lost := [run for run in runs if run.status == "diverged"]:
        yield f"{len(lost)} of {len(runs)} runs diverged and are in no mean."
    counts = {(r.data, tuple(r.counts.items())) for run in runs for r in run.results}
    for data, parts in sorted(counts):
        yield f"{data}: {', '.join(f'{count} {part}' for part, count in parts)} images."
    yield _setting(runs)
    if with_paper and axis == OBJECTIVE:
        yield (
            "paper: as printed in Table B8, IN1k top-1 (%) without saying by what probe; 84.0 and 81.1 are its linear"
            " probes of Table B1, SigLIP2's numbers are not. Its teachers, data and steps are others than here."
        )
    if with_paper and axis == FRACTION:
        printed = paper_tables()[_PAPER_FIGURE]
        aligned, teacher = printed.rows
        numbers = {**aligned.values, **teacher.values}
        yield (
            f"paper, Figure B2 (text): DINOv3 ViT-B/16, linear probe on IN1k, {numbers['lowest']} to {numbers['highest']}"
            f" between 0.1 % (15k) and 100 % (15M images); {numbers['converged']} after longer training; teacher"
            f" {numbers['teacher']}; B-cosified {numbers['gain']} points lower at 1.5M images."
        )


def _setting(runs: Sequence[SweepRow]) -> str:
    """Steps and batch, which say how long an alignment was."""
    configurations = [run.configuration for run in runs]

    def all_of(name: str) -> str:
        return " or ".join(dict.fromkeys(value_in_words(c.get(name)) for c in configurations))

    return (
        f"Every run: {all_of('steps')} steps of {all_of('batch_size')} images, learning rate {all_of('learning_rate')}."
    )
