"""Tables B1 (linear probe), B2 (k-NN) and B3 (zero-shot) in the paper's form, with footnotes for all that leaves it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

from aloe.draw.tables import Block, Cell, Row, Table
from aloe.report.grid import NOT_OFFICIAL, NOT_PROTOCOL, Grid
from aloe.report.lines import MEAN, TEN, Column, Group, Line, heading, stage_title
from aloe.report.paper import AVERAGE
from aloe.report.protocol import accuracy_by_k, deviations, differences, in_words
from aloe.report.rows import Result

TABLES = {"b1": "linear-probe", "b2": "k-NN", "b3": "zero-shot"}
_CAPTIONS = {
    "b1": "Linear-probe accuracy (%) on frozen features: B-cos heads on students, linear heads on teachers.",
    "b2": "k-NN accuracy (%) on frozen features, {}.",
    "b3": "Zero-shot accuracy (%) with the teacher's own text tower.",
}
_DENSE_DATA = ("nyuv2", "scannet")  # which have official splits or pairs, as the ten have
LABELS = ("Model", "Stage", "Architecture", "Inter.")


def main_table(name: str, grid: Grid) -> Table:
    """The table of the paper's name: one block per teacher."""
    ks = sorted({_first(row.settings.get("k", 20)) for _, _, row in _results(grid)}) or [20]
    words = _CAPTIONS[name].format(f"k = {', '.join(map(str, ks))}")
    caption = f"Table {name.upper()}. {words} Bold: the best of a block's interpretable models."
    blocks = [Block(group.teacher or "teacher unknown", rows_of(group, grid.columns)) for group in grid.groups]
    heads = tuple(heading(c, grid.columns) for c in grid.columns)
    return Table(name, caption, LABELS, heads, tuple(blocks), tuple(_footnotes(grid)))


def other_settings(name: str, grid: Grid) -> Table | None:
    """The rows that stand behind one of the main table, and how they differ from it; None when there are none."""
    places = [_heading(row, grid.columns) for row, _ in grid.others]
    return others_table(name, f"Table {name.upper()}", grid.others, places, grid.columns, "Accuracy")


def others_table(
    name: str,
    title: str,
    others: Sequence[tuple[Result, Result | None]],
    places: Sequence[str],
    columns: Sequence[Column],
    value: str,
) -> Table | None:
    """Rows that the table `title` leaves out, each with its place in words and what sets it apart; None without rows."""
    if not others:
        return None
    blocks: dict[str, list[Row]] = {}
    for (row, chosen), place in zip(others, places, strict=True):
        labels = (row.name, stage_title(row.stage), row.architecture, place)
        words = (*labels, differences(row, chosen))
        mark = NOT_OFFICIAL * (not row.official)
        shown = Row(words, (Cell(row.value, note=mark),), gray=not row.interpretable)
        blocks.setdefault(row.teacher, []).append(shown)
    caption = f"{title}, other settings. Rows that {title} does not show, and their settings."
    notes = tuple(split_notes([row for row, _ in others], columns))
    headers = (*LABELS[:3], "Data", "Settings")
    parts = tuple(Block(teacher, tuple(rows)) for teacher, rows in blocks.items())
    return Table(f"{name}-other", caption, headers, (value,), parts, notes)


def by_k(grid: Grid) -> Table | None:
    """k-NN accuracy against k for the rows of Table B2 that have several; None when none has."""
    rows = [(line, column, row) for line, column, row in _results(grid) if len(accuracy_by_k(row)) > 1]
    ks = sorted({k for _, _, row in rows for k in accuracy_by_k(row)})
    if not rows:
        return None
    blocks: dict[str, list[Row]] = {}
    for line, column, row in rows:
        values = accuracy_by_k(row)
        labels = (line.name, stage_title(line.stage), heading(column, grid.columns))
        mark = NOT_OFFICIAL * (not row.official)
        cells = tuple(Cell(values.get(k), note=mark * (k in values)) for k in ks)
        blocks.setdefault(row.teacher, []).append(Row(labels, cells, gray=not line.interpretable))
    parts = tuple(Block(teacher, tuple(lines)) for teacher, lines in blocks.items())
    caption = "Table B2, by k. k-NN accuracy (%) for several numbers of neighbours."
    notes = tuple(split_notes([row for _, _, row in rows], grid.columns))
    return Table("b2-by-k", caption, (*LABELS[:2], "Data"), tuple(f"k = {k}" for k in ks), parts, notes)


def rows_of(group: Group, columns: Sequence[Column]) -> tuple[Row, ...]:
    """A group's lines as they are printed, a dash where a line has no number."""
    return tuple(
        Row(
            _labels(line),
            tuple(line.cells.get(c, Cell()) for c in columns),
            line.kind,
            gray=line.interpretable is False,
        )
        for line in group.lines
    )


def split_notes(results: Sequence[Result], columns: Sequence[Column]) -> Iterator[str]:
    """What was used instead of the official split, by data set; and what is to be said of official ones."""
    used: dict[str, dict[str, list[str]]] = {}
    registered = {_heading(row, columns) for row in results if row.data in (*TEN, *_DENSE_DATA)}
    for row in (r for r in results if not r.official):
        counts = ", ".join(f"{count} {part}" for part, count in row.counts.items())
        words = (counts if "pairs" in row.counts else f"{counts} images") if counts else "others"
        words += f" ({'; '.join(note.rstrip('.') for note in row.notes)})" if row.notes else ""
        used.setdefault(_heading(row, columns), {}).setdefault(words, []).append(row.name)
    for name, models in used.items():
        parts = [
            f"{words}, of {', '.join(dict.fromkeys(of))}" if len(models) > 1 else words for words, of in models.items()
        ]
        own = name not in registered
        yield f"{NOT_OFFICIAL} {name}: {'no official split:' if own else 'not the official split, but'} {'; '.join(parts)}."
    yield from dict.fromkeys(
        f"{_heading(r, columns)}: {n.rstrip('.')}." for r in results if r.official for n in r.notes
    )


def _labels(line: Line) -> tuple[str, ...]:
    tick = {True: "✓", False: "✗", None: ""}[line.interpretable]
    return (line.name, stage_title(line.stage), line.architecture, tick)


def _footnotes(grid: Grid) -> Iterator[str]:
    results = [row for _, _, row in _results(grid)]
    yield "✓ inherently interpretable, ✗ not."
    yield from _metric_notes(results, grid)
    yield from split_notes(results, grid.columns)
    yield from _protocol_notes(grid)
    yield from _average_notes(grid)
    yield from _paper_notes(grid)


def _metric_notes(results: list[Result], grid: Grid) -> Iterator[str]:
    metrics: dict[str, list[str]] = {}
    for row in results:
        metrics.setdefault(row.metric, []).append(_heading(row, grid.columns))
    if len(metrics) == 1:
        yield f"Accuracy: {next(iter(metrics))}."
    elif metrics:
        yield "Accuracy: " + "; ".join(f"{m} for {', '.join(dict.fromkeys(h))}" for m, h in metrics.items()) + "."


def _protocol_notes(grid: Grid) -> Iterator[str]:
    found: dict[str, dict[str, list[str]]] = {}
    for line, column, row in _results(grid):
        if settings := deviations(row):
            places = found.setdefault(in_words(settings), {}).setdefault(line.name, [])
            places.append(heading(column, grid.columns))
    for words, models in found.items():
        where = "; ".join(f"{model} on {', '.join(places)}" for model, places in models.items())
        yield f"{NOT_PROTOCOL} not the protocol's settings: {words} ({where})."


def _average_notes(grid: Grid) -> Iterator[str]:
    if MEAN not in grid.columns:
        return
    word = heading(MEAN)
    yield f"{word}: over the data sets for which a block has numbers; a row that lacks one of them has no average."
    shown = [c for c in grid.columns if c != MEAN]
    for group in grid.groups:
        columns = [c for c in shown if c in group.columns()]
        if 1 < len(columns) < len(shown):
            names = ", ".join(heading(c, grid.columns) for c in columns)
            yield f"{word} of the block {group.teacher}: {len(columns)} of {len(shown)} data sets ({names})."


def _paper_notes(grid: Grid) -> Iterator[str]:
    """Where the paper's rows come from, and where one of its averages is not that of its own columns."""
    lines = [(group, line) for group in grid.groups for line in group.of("paper")]
    if not lines:
        return
    words = f"paper: as printed in Table {grid.paper.name} of the paper; its differences are computed from these rows"
    whole = {c.data for c in grid.columns if c != MEAN} == set(TEN)
    yield f"{words}{', and its averages, over the data sets shown' if MEAN in grid.columns and not whole else ''}."
    for group, line in lines:
        row = grid.paper.find(group.teacher, line.stage)
        if MEAN in line.cells and whole and row:
            mean = fmean(float(row.values[key]) for key in TEN)
            if abs(mean - float(row.values[AVERAGE])) > 0.0051:
                yield (
                    f"The paper prints {row.values[AVERAGE]} as average of {row.name} {row.architecture}; "
                    f"its ten columns average {mean:.2f}."
                )


def _results(grid: Grid) -> Iterator[tuple[Line, Column, Result]]:
    for group in grid.groups:
        for line in group.lines:
            for column in grid.columns:
                if column in line.results:
                    yield line, column, line.results[column]


def _first(ks: Any) -> int:
    """Of several numbers of neighbours the first counts."""
    return int(ks[0] if isinstance(ks, list) and ks else ks or 20)


def _heading(row: Result, columns: Sequence[Column]) -> str:
    variant = str(row.settings.get("templates", "")) if row.task == "zeroshot" else ""
    column = Column(row.data, variant)
    return heading(column if column in columns else Column(row.data), columns)
