"""Which result rows stand in a table: one for every model and column, measured alike within a block, under their teachers;
and the others, each with the row that it stands behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aloe.draw.tables import Cell
from aloe.report.columns import Column, heading
from aloe.report.lines import STAGES, Group, Line
from aloe.report.paper import paper_tables
from aloe.report.protocol import GRIDS, deviations, marks, measured_alike, one_protocol
from aloe.report.rows import Result

Model = tuple[str, str, str, str, str]
Place = tuple[Model, Column]
Others = list[tuple[Result, Result | None]]


@dataclass
class Measured:
    """What one measure has found; lines hold the rows by data set and method.

    `others` are the rows that stand behind another one or were measured in another way than their teacher's block, with a row
    that is shown; None for a row without a method.
    """

    name: str
    groups: list[Group]
    others: Others

    @property
    def columns(self) -> list[Column]:
        return list(dict.fromkeys(c for group in self.groups for line in group.lines for c in line.results))

    @property
    def protocol(self) -> str:
        """See `one_protocol`."""
        return one_protocol(self.results)

    @property
    def protocol_in_words(self) -> str:
        return GRIDS.get(self.protocol, self.protocol)

    @property
    def results(self) -> list[Result]:
        """The rows that are shown."""
        return [row for group in self.groups for line in group.lines for row in line.results.values()]

    def place(self, data: str) -> str:
        """A data set's heading."""
        return heading(Column(data), self.columns)

    def title(self, group: Group, data: str) -> str:
        """A block's teacher and data set."""
        return f"{group.title}, {self.place(data)}"

    def cases(self) -> Iterator[tuple[Group, str, list[Line]]]:
        """Every teacher with every data set it has, and the models measured there, teachers first."""
        for group in self.groups:
            for data in dict.fromkeys(c.data for line in group.lines for c in line.results):
                lines = [line for line in group.lines if any(c.data == data for c in line.results)]
                yield group, data, lines


def side_by_side(name: str, rows: Sequence[Result], place_of: Callable[[Result], Place | None]) -> Measured | None:
    """The rows of one task that may be compared, or None without rows: of a teacher and its students on one data set those
    that were measured in one way, see `select`."""
    if not rows:
        return None
    main_rows, others = select(rows, place_of, lambda row: (row.teacher, row.data), measured_alike)
    return Measured(name, line_up(main_rows, rows), others)


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
    main_rows: dict[Place, Result] = {}
    first: dict[Any, Result] = {}
    for block, ways in blocks.items():
        *_, shown = sorted(
            ways.values(),
            key=lambda way: (not deviations(way[-1]), way[-1].official, len({places[id(row)] for row in way})),
        )
        ordered = sorted(shown, key=lambda row: row.official)  # stable: the last of equals wins
        by_place = {place: row for row in ordered if (place := places[id(row)])}
        main_rows |= by_place
        first[block] = next(iter(by_place.values()))
    taken = {id(row) for row in main_rows.values()}
    others = [
        (row, (main_rows.get(place) or first.get(block_of(row))) if (place := places[id(row)]) else None)
        for row in rows
        if id(row) not in taken
    ]
    return main_rows, others


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
