"""Tables B1 (linear probe), B2 (k-NN) and B3 (zero-shot) in the paper's form, with footnotes for all that leaves it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from aloe.draw.tables import Block, Table
from aloe.report.columns import MEAN, TEN, Column, heading, noted
from aloe.report.compare import add_averages, add_deltas, add_paper, mark_best
from aloe.report.footnotes import own_heading, split_notes
from aloe.report.lines import LABELS, Group, Line, blocks_of, printed
from aloe.report.paper import AVERAGE, PaperTable, paper_tables
from aloe.report.protocol import (
    NOT_PROTOCOL,
    TEMPLATES,
    accuracy_by_k,
    at_protocol_k,
    deviations,
    differences,
    in_words,
    split_mark,
)
from aloe.report.rows import Result
from aloe.report.selection import Others, Place, line_up, model_of, select

TABLES = {"b1": "linear-probe", "b2": "k-NN", "b3": "zero-shot"}
_CAPTIONS = {
    "b1": "Linear-probe accuracy (%) on frozen features: B-cos heads on students, linear heads on teachers.",
    "b2": "k-NN accuracy (%) on frozen features, {}.",
    "b3": "Zero-shot accuracy (%) with the teacher's own text tower.",
}


@dataclass
class Grid:
    """A table before it is text.

    `others` are the rows of its task that stand behind another row of the same model and data, with that row, or that have
    no place in the table, with None.
    """

    paper: PaperTable
    columns: list[Column]
    groups: list[Group]
    others: Others


def build_grid(
    table: str, results: Sequence[Result], *, with_paper: bool = True, all_columns: bool = False
) -> Grid | None:
    """The grid of a table (`b1`, `b2` or `b3`), or None without a row of its task.

    Of several rows for a model and a column one is taken, see `select`.
    """
    paper = paper_tables()[table.upper()]
    rows = [at_protocol_k(r) for r in results if r.task == paper.task]
    if not rows:
        return None
    main_rows, others = select(rows, _place, _place, lambda row: str(id(row)))
    columns = _in_order({column for _, column in main_rows}, paper, all_columns)
    groups = line_up(main_rows, rows)
    for group in groups:
        if with_paper:
            add_paper(group, paper, columns)
        if paper.task != "zeroshot":
            add_averages(group, paper)
        add_deltas(group)
        mark_best(group)
    if any(MEAN in line.cells for group in groups for line in group.lines):
        columns.append(MEAN)
    return Grid(paper, columns, groups, others)


def _place(row: Result) -> Place | None:
    """Model and column of a row; None for zero-shot rows with a user's own prompts."""
    if row.task != "zeroshot":
        return model_of(row), Column(row.data)
    variant = row.settings.get("templates")
    return (model_of(row), Column(row.data, variant)) if isinstance(variant, str) and variant in TEMPLATES else None


def _in_order(columns: set[Column], paper: PaperTable, all_columns: bool) -> list[Column]:
    """The paper's ten first, in its order."""
    if all_columns and paper.task == "zeroshot":
        columns = columns | {Column("imagenet", variant) for variant in TEMPLATES}
    elif all_columns:
        columns = columns | set(map(Column, TEN))
    prompts = ["", *TEMPLATES]
    return sorted(columns, key=lambda c: ([*TEN, c.data].index(c.data), c.data, prompts.index(c.variant)))


def main_table(name: str, grid: Grid) -> Table:
    """The table of the paper's name: one block per teacher."""
    ks = sorted({_first(row.settings.get("k", 20)) for _, _, row in _results(grid)}) or [20]
    words = _CAPTIONS[name].format(f"k = {', '.join(map(str, ks))}")
    caption = f"Table {name.upper()}. {words} Bold: the best of a block's interpretable models."
    blocks = tuple(Block(group.title, group.rows(grid.columns)) for group in grid.groups)
    heads = tuple(heading(c, grid.columns) for c in grid.columns)
    return Table(name, caption, LABELS, heads, blocks, tuple(_footnotes(grid)))


def other_settings(name: str, grid: Grid) -> Table | None:
    """The rows that stand behind one of the main table, and how they differ from it; None when there are none."""
    places = [own_heading(row, grid.columns) for row, _ in grid.others]
    return others_table(name, f"Table {name.upper()}", grid.others, places, grid.columns, "Accuracy")


def others_table(
    name: str, title: str, others: Others, places: Sequence[str], columns: Sequence[Column], value: str
) -> Table | None:
    """Rows that the table `title` leaves out, each with its place in words and what sets it apart; None without rows."""
    if not others:
        return None
    rows = []
    for (row, main_row), place in zip(others, places, strict=True):
        words = (row.architecture, place, differences(row, main_row))
        rows.append((row.teacher, printed(row, words, [noted(row.value, split_mark(row))])))
    caption = f"{title}, other settings. Rows that {title} does not show, and their settings."
    notes = tuple(split_notes([row for row, _ in others], columns))
    return Table(f"{name}-other", caption, (*LABELS[:3], "Data", "Settings"), (value,), blocks_of(rows), notes)


def by_k(grid: Grid) -> Table | None:
    """k-NN accuracy against k for the rows of Table B2 that have several; None when none has."""
    entries = [(line, column, row) for line, column, row in _results(grid) if len(accuracy_by_k(row)) > 1]
    if not entries:
        return None
    ks = sorted({k for _, _, row in entries for k in accuracy_by_k(row)})
    rows = []
    for line, column, row in entries:
        cells = [noted(accuracy_by_k(row).get(k), split_mark(row)) for k in ks]
        rows.append((row.teacher, printed(line, [heading(column, grid.columns)], cells)))
    caption = "Table B2, by k. k-NN accuracy (%) for several numbers of neighbours."
    notes = tuple(split_notes([row for _, _, row in entries], grid.columns))
    return Table("b2-by-k", caption, (*LABELS[:2], "Data"), tuple(f"k = {k}" for k in ks), blocks_of(rows), notes)


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
        metrics.setdefault(row.metric, []).append(own_heading(row, grid.columns))
    if len(metrics) == 1:
        yield f"Accuracy: {next(iter(metrics))}."
    elif metrics:
        yield "Accuracy: " + "; ".join(f"{m} for {', '.join(dict.fromkeys(h))}" for m, h in metrics.items()) + "."


def _protocol_notes(grid: Grid) -> Iterator[str]:
    by_words: dict[str, dict[str, list[str]]] = {}
    for line, column, row in _results(grid):
        if settings := deviations(row):
            places = by_words.setdefault(in_words(settings), {}).setdefault(line.name, [])
            places.append(heading(column, grid.columns))
    for words, models in by_words.items():
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
