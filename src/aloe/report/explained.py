"""Rows of explanations (GridPG, pixel deletion and insertion, object masks) that may stand side by side: those of one teacher
and its students on one data set, measured in the same way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from aloe.attribution.presets import DIFFERENT
from aloe.core.errors import UserError
from aloe.report.grid import Place, line_up, model_of, select
from aloe.report.lines import Column, Group, Line, heading
from aloe.report.methods import PAPER, rank
from aloe.report.protocol import (
    EXPLANATIONS,
    at_protocol_k,
    deviations,
    grid_protocol,
    measured_alike,
    settings_of,
)
from aloe.report.rows import Result

GRIDS = {  # GridPG's protocols in words, the paper's first; scores of two of them do not compare
    "windows": "windows of the model's own size",
    "whole": "whole grids in one pass",
    "resized": "grids resized to the model's own size",
}
MEASURES = {
    "b6": "GridPG",
    "deletion": "pixel deletion",
    "insertion": "pixel insertion",
    "inside": "object masks",
    "clarity": "clarity",
}


@dataclass
class Measured:
    """What one measure has found; lines hold the rows by data set and method.

    `others` are the rows that stand behind another one or were measured in another way than their teacher's block, with a row
    that is shown; None for a row without a method.
    """

    name: str
    groups: list[Group]
    others: list[tuple[Result, Result | None]]

    @property
    def columns(self) -> list[Column]:
        return list(dict.fromkeys(c for group in self.groups for line in group.lines for c in line.results))

    @property
    def protocol(self) -> str:
        """GridPG's protocol, empty for other measures.

        Raises:
            UserError: the rows mix protocols.
        """
        if self.name != "b6":
            return ""
        found = list(dict.fromkeys(grid_protocol(row) for row in self.results))
        _refuse_a_mixture(found)
        return found[0] if found else ""

    @property
    def results(self) -> list[Result]:
        """The rows that are shown."""
        return [row for group in self.groups for line in group.lines for row in line.results.values()]

    def place(self, data: str) -> str:
        """A data set's heading."""
        return heading(Column(data), self.columns)

    def title(self, group: Group, data: str) -> str:
        """A block's teacher and data set."""
        return f"{group.teacher or 'teacher unknown'}, {self.place(data)}"

    def cases(self) -> Iterator[tuple[Group, str, list[Line]]]:
        """Every teacher with every data set it has, and the models measured there, teachers first."""
        for group in self.groups:
            for data in dict.fromkeys(c.data for line in group.lines for c in line.results):
                lines = [line for line in group.lines if any(c.data == data for c in line.results)]
                yield group, data, lines


def collect(name: str, results: Sequence[Result], protocol: str | None = None) -> Measured | None:
    """The rows of a measure, each with its method, or None where there is none; see `side_by_side`.

    Args:
        protocol: of GridPG (`GRIDS`): its rows alone.

    Raises:
        UserError: rows of several protocols, and none is chosen.
    """
    rows = [_named(row, results) for row in _once(results) if measure_of(row) == name]
    if name == "b6":
        rows = [row for row in rows if protocol in (None, grid_protocol(row))]
        _refuse_a_mixture(protocols_of(rows))
    return side_by_side(name, rows, lambda row: _place(row) if method_of(row) else None)


def protocols_of(results: Sequence[Result]) -> list[str]:
    """GridPG's protocols that there are rows of, the paper's first."""
    found = {grid_protocol(row) for row in results if measure_of(row) == "b6"}
    return sorted(found, key=lambda name: ([*GRIDS, name].index(name), name))


def _refuse_a_mixture(protocols: Sequence[str]) -> None:
    if len(protocols) > 1:
        words = " and ".join(f"{name} ({GRIDS.get(name, 'unknown')})" for name in protocols)
        raise UserError(f"GridPG by {words} do not stand in one table; make one for each protocol.")


def _once(results: Sequence[Result]) -> list[Result]:
    """Without rows that stand there a second time because both presets give a method the same options."""
    found: dict[str, Result] = {}
    for row in results:
        twin = row.model_dump(include={"task", "model", "name", "data", "value", "fingerprints", "versions", "device"})
        key = json.dumps([twin, {k: v for k, v in row.settings.items() if k != "preset"}], sort_keys=True)
        found[key if row.task in EXPLANATIONS else row.key] = row
    return list(found.values())


def side_by_side(name: str, rows: Sequence[Result], place_of: Callable[[Result], Place | None]) -> Measured | None:
    """The rows of one task that may be compared, or None without rows: of a teacher and its students on one data set those
    that were measured in one way, see `select`."""
    if not rows:
        return None
    chosen, others = select(rows, place_of, lambda row: (row.teacher, row.data), measured_alike)
    return Measured(name, line_up(chosen, rows), others)


def measure_of(row: Result) -> str | None:
    """The name in `MEASURES` of what a row holds, or None."""
    if row.task == "deletion":
        return "insertion" if settings_of(row).get("mode") == "insertion" else "deletion"
    return {"gridpg": "b6", "inside": "inside", "clarity": "clarity"}.get(row.task)


def method_of(row: Result) -> str:
    """The key of the attribution method; empty where a row has none."""
    found = row.details.get("method") or row.settings.get("method")
    return found if isinstance(found, str) else ""


def variant_of(row: Result) -> str:
    """The method's key, with `@paper` behind it where it ran with the paper's options and those are not ours."""
    method = method_of(row)
    return method + PAPER if row.settings.get("preset") == "paper" and method in DIFFERENT else method


def by_method(line: Line, data: str) -> dict[str, Result]:
    """A model's rows on one data set, in the order of methods."""
    found = {c.variant: row for c, row in line.results.items() if c.data == data}
    return {method: found[method] for method in sorted(found, key=rank)}


def accuracy(row: Result, task: str, results: Sequence[Result]) -> Result | None:
    """The accuracy on its data of a row's model: of its weights, of the backbone its probe was fitted on, or of its name.

    Where none of that is known (a head from elsewhere, say), and it is the only model of its teacher, stage and architecture
    without one: the only accuracy that is left over.
    """

    def kin(other: Result) -> tuple[str, ...]:
        return (other.data, other.teacher, other.stage, other.architecture)

    def same(own: Result, other: Result) -> bool:
        fitted = fitted_on(own, results)
        return model_of(other) in (model_of(own), fitted and model_of(fitted)) or own.name == other.name

    alike = [at_protocol_k(other) for other in results if other.task == task and kin(other) == kin(row)]
    found = [other for other in alike if other is fitted_on(row, results)] or [o for o in alike if same(row, o)]
    if not found:
        explained = {model_of(r): r for r in results if r.task in EXPLANATIONS and kin(r) == kin(row)}
        without = [own for own in explained.values() if not any(same(own, other) for other in alike)]
        left = [other for other in alike if not any(same(own, other) for own in explained.values())]
        found = left if len(without) == len(set(map(model_of, left))) == 1 else []
    return max(reversed(found), key=lambda other: (not deviations(other), other.official), default=None)


def fitted_on(row: Result, results: Sequence[Result]) -> Result | None:
    """The linear-probe row whose probe a row's model is: `aloe evaluate` names the probe's folder in that row."""
    name = PurePath(row.model).name
    probes = [r for r in results if r.task == "linear" and isinstance(r.details.get("probe"), str)]
    return next((r for r in probes if name and PurePath(r.details["probe"]).name == name), None)


def _place(row: Result) -> Place:
    return model_of(row), Column(row.data, variant_of(row))


def _named(row: Result, results: Sequence[Result]) -> Result:
    """A model with a probe goes by the name of the model that the probe was fitted on."""
    fitted = fitted_on(row, results)
    return row.model_copy(update={"name": fitted.name}) if fitted else row
