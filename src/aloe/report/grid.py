"""Result rows as the lines and columns of one table: which number stands where, and which rows stand behind another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aloe.draw.tables import Cell
from aloe.report.compare import add_averages, add_deltas, add_paper, mark_best
from aloe.report.lines import MEAN, STAGES, TEN, Column, Group, Line
from aloe.report.paper import PaperTable, paper_tables
from aloe.report.protocol import TEMPLATES, at_protocol_k, deviations
from aloe.report.rows import Result

NOT_OFFICIAL, NOT_PROTOCOL = "†", "‡"


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
    chosen, others = select(rows, _place, _place, lambda row: str(id(row)))
    columns = _in_order({column for _, column in chosen}, paper, all_columns)
    groups = line_up(chosen, rows)
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


Model = tuple[str, str, str, str, str]
Place = tuple[Model, Column]
Others = list[tuple[Result, Result | None]]


def select(
    rows: Sequence[Result],
    place_of: Callable[[Result], Place | None],
    block_of: Callable[[Result], Any],
    way_of: Callable[[Result], str],
) -> tuple[dict[Place, Result], Others]:
    """The row for every place of a table, and the others, each with the row that it stands behind.

    Of several ways of measuring a block the paper's is taken (its settings, then its split), then the one with most numbers,
    then the last; within it of several rows for one place one on the official split, then the last.

    Args:
        place_of: model and column of a row; None for one without a place, which stands behind no other.
        block_of: what is to be measured in one way. way_of: equal for rows that were measured alike.
    """
    places = {id(row): place_of(row) for row in rows}
    blocks: dict[Any, dict[str, list[Result]]] = {}
    for row in rows:
        if places[id(row)]:
            blocks.setdefault(block_of(row), {}).setdefault(way_of(row), []).append(row)
    chosen: dict[Place, Result] = {}
    first: dict[Any, Result] = {}
    for block, ways in blocks.items():
        *_, shown = sorted(
            ways.values(),
            key=lambda way: (not deviations(way[-1]), way[-1].official, len({places[id(row)] for row in way})),
        )
        ordered = sorted(shown, key=lambda row: row.official)  # stable: the last of equals wins
        by_place = {place: row for row in ordered if (place := places[id(row)])}
        chosen |= by_place
        first[block] = next(iter(by_place.values()))
    taken = {id(row) for row in chosen.values()}
    others = [
        (row, (chosen.get(place) or first.get(block_of(row))) if (place := places[id(row)]) else None)
        for row in rows
        if id(row) not in taken
    ]
    return chosen, others


def model_of(row: Result) -> Model:
    """A model is its weights, wherever they lie."""
    weights = str(row.fingerprints.get("model") or row.model)
    return (row.teacher, row.stage, row.architecture, row.name, weights)


def line_up(chosen: Mapping[Place, Result], rows: Sequence[Result]) -> list[Group]:
    """Teachers in the paper's order and then ours; of each the stages in order, and models as they were measured."""
    lines: dict[Model, Line] = {}
    for model in dict.fromkeys(map(model_of, rows)):
        results = {column: row for (owner, column), row in chosen.items() if owner == model}
        if results:
            any_row = next(iter(results.values()))
            line = Line(any_row.name, any_row.stage, any_row.architecture, "model", any_row.interpretable)
            line.results = results
            line.cells = {column: Cell(row.value, note=marks(row)) for column, row in results.items()}
            lines[model] = line
    _tell_apart(lines)
    papers = list(dict.fromkeys(row.teacher for row in paper_tables()["B1"].rows))
    teachers = sorted(dict.fromkeys(model[0] for model in lines), key=lambda t: [*papers, t].index(t))
    groups = [Group(teacher, [line for model, line in lines.items() if model[0] == teacher]) for teacher in teachers]
    for group in groups:
        group.lines.sort(key=lambda line: [*STAGES, line.stage].index(line.stage))
    return groups


def marks(row: Result) -> str:
    """Which footnotes a row's number has."""
    return NOT_OFFICIAL * (not row.official) + NOT_PROTOCOL * bool(deviations(row))


def _place(row: Result) -> Place | None:
    """Model and column of a row; None for zero-shot rows with a user's own prompts."""
    if row.task != "zeroshot":
        return model_of(row), Column(row.data)
    variant = row.settings.get("templates")
    return (model_of(row), Column(row.data, variant)) if isinstance(variant, str) and variant in TEMPLATES else None


def _in_order(found: set[Column], paper: PaperTable, all_columns: bool) -> list[Column]:
    """The paper's ten first, in its order."""
    if all_columns and paper.task == "zeroshot":
        found = found | {Column("imagenet", variant) for variant in TEMPLATES}
    elif all_columns:
        found = found | set(map(Column, TEN))
    prompts = ["", *TEMPLATES]
    return sorted(found, key=lambda c: ([*TEN, c.data].index(c.data), c.data, prompts.index(c.variant)))


def _tell_apart(lines: dict[Model, Line]) -> None:
    """Models of one teacher and stage that share a name get their path for it, or a piece of their fingerprint behind it."""
    alike: dict[tuple[str, ...], list[Model]] = {}
    for model in lines:
        alike.setdefault((model[0], model[1], model[3]), []).append(model)
    for models in alike.values():
        paths = {model: next(iter(lines[model].results.values())).model for model in models}
        for model in models if len(models) > 1 else []:
            distinct = len(set(paths.values())) == len(models)
            lines[model].name = paths[model] if distinct else f"{lines[model].name} ({model[4][:8]})"
