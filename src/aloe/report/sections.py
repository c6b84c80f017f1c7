"""The sections of a report: the tables and charts of every measure that there are rows of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from aloe.draw.tables import Table
from aloe.report.correspondence import correspondence_chart
from aloe.report.dense_tables import DENSE_TITLES, collect_dense, dense_tables
from aloe.report.explained import collect, measure_of, table_name
from aloe.report.explained_plots import accuracy_chart, deletion_chart, method_bars
from aloe.report.explained_tables import MEASURES, explained_others, scores_table
from aloe.report.kit import Picture
from aloe.report.localization import localization_table
from aloe.report.own_tables import OWN, own_table
from aloe.report.plots import bar_chart, k_chart
from aloe.report.protocol import DENSE, grid_protocol, protocols_of
from aloe.report.rows import Result
from aloe.report.sweep_plots import sweep_chart
from aloe.report.sweep_rows import SweepRow
from aloe.report.sweep_tables import sweep_table
from aloe.report.sweeps import axes_of, curves_along
from aloe.report.tables import TABLES, build_grid, by_k, main_table, other_settings

SWEEP = "sweep"
CHOICES = {
    **TABLES,
    **DENSE,
    **{name: kind.words for name, kind in MEASURES.items()},
    **{name: name for name in OWN},
    SWEEP: "aloe sweep",
}
Chart = Callable[[], Picture | None]


@dataclass
class Section:
    """One table of the paper with what belongs to it; charts, and pictures once they are drawn, by name (their table's or
    their own)."""

    tables: list[Table]
    charts: dict[str, Chart]
    results: list[Result]
    pictures: dict[str, Picture] = field(default_factory=dict)


def sections_of(
    name: str, rows: Sequence[Result], *, with_paper: bool = True, all_columns: bool = False
) -> list[Section]:
    """The sections of one of `CHOICES` but sweeps: none without rows, of GridPG one for each protocol."""
    if name in MEASURES:
        protocols: list[str | None] = [*protocols_of(rows)] if name == "b6" else [None]
        sections = [_explained(name, rows, with_paper, protocol) for protocol in protocols]
    elif name in DENSE:
        sections = [_dense(name, rows, with_paper)]
    else:
        sections = [_own(name, rows) if name in OWN else _section(name, rows, with_paper, all_columns)]
    return [section for section in sections if section]


def sweep_sections(sweeps: dict[Path, list[SweepRow]], rows: Sequence[Result], with_paper: bool) -> list[Section]:
    """A section for every setting that was varied in any of the sweeps, whose runs stand together."""
    runs = [run for own in sweeps.values() for run in own]
    axes = axes_of(runs)
    sections = []
    for axis in axes:
        shown = [run for curve in curves_along(runs, axis, axes) for run in curve.runs]
        if not shown:
            continue
        table = sweep_table(axis, runs, rows, with_paper)
        results = [
            row.model_copy(update={"settings": {**row.settings, "alignment": run.configuration}})
            for run in shown
            for row in run.results
        ]
        sections.append(Section([table], {table.name: partial(sweep_chart, axis, runs, rows)}, results))
    return sections


def called(name: str) -> str:
    """A choice in words."""
    titles = {n: kind.title for n, kind in MEASURES.items()} | DENSE_TITLES | OWN
    return f"{titles.get(name, f'Table {name.upper()}')} ({CHOICES[name]})"


def _section(name: str, rows: Sequence[Result], with_paper: bool, all_columns: bool) -> Section | None:
    grid = build_grid(name, rows, with_paper=with_paper, all_columns=all_columns)
    if grid is None:
        return None
    charts: dict[str, Chart] = {name: partial(bar_chart, grid)} if grid.groups else {}
    charts |= {"b2-by-k": partial(k_chart, grid)} if name == "b2" else {}
    tables = [main_table(name, grid) if grid.groups else None, other_settings(name, grid), by_k(grid)]
    return Section([t for t in tables if t], charts, [r for r in rows if r.task == grid.paper.task])


def _own(name: str, rows: Sequence[Result]) -> Section | None:
    table = own_table(name, rows)
    return None if table is None else Section([table], {}, [row for row in rows if row.task == name])


def _dense(name: str, rows: Sequence[Result], with_paper: bool) -> Section | None:
    measured = collect_dense(name, rows)
    if measured is None:
        return None
    charts: dict[str, Chart] = {name: partial(correspondence_chart, measured)} if name == "correspondence" else {}
    tables = dense_tables(measured, with_paper=with_paper)
    return Section(tables, charts, [row for row in rows if row.task == DENSE[name]])


def _explained(name: str, rows: Sequence[Result], with_paper: bool, protocol: str | None) -> Section | None:
    measured = collect(name, rows, protocol)
    if measured is None:
        return None
    tables: list[Table | None] = []
    charts: dict[str, Chart] = {}
    if measured.groups:
        first = [localization_table(measured, rows, with_paper)] if name == "b6" else []
        tables = [*first, scores_table(measured)]
        curves = name in ("deletion", "insertion")
        drawn = partial(deletion_chart, measured) if curves else partial(method_bars, measured, with_paper)
        charts = {table_name(measured): drawn}
        charts |= {f"{table_name(measured)}-accuracy": partial(accuracy_chart, measured, rows)} if first else {}
    of_measure = [r for r in rows if measure_of(r) == name and protocol in (None, grid_protocol(r))]
    return Section([t for t in (*tables, explained_others(measured)) if t], charts, of_measure)
