"""Rows of explanations (GridPG, pixel deletion and insertion, object masks) that may stand side by side: those of one teacher
and its students on one data set, measured in the same way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import PurePath

from aloe.attribution.presets import DIFFERENT
from aloe.report.columns import Column
from aloe.report.lines import Line
from aloe.report.methods import PAPER, rank
from aloe.report.protocol import EXPLANATIONS, at_protocol_k, deviations, grid_protocol, one_protocol, settings_of
from aloe.report.rows import Result
from aloe.report.selection import Measured, Place, model_of, side_by_side


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
        one_protocol(rows)
    return side_by_side(name, rows, lambda row: _place(row) if method_of(row) else None)


def _once(results: Sequence[Result]) -> list[Result]:
    """Without rows that stand there a second time because both presets give a method the same options."""
    by_key: dict[str, Result] = {}
    for row in results:
        twin = row.model_dump(include={"task", "model", "name", "data", "value", "fingerprints", "versions", "device"})
        key = json.dumps([twin, {k: v for k, v in row.settings.items() if k != "preset"}], sort_keys=True)
        by_key[key if row.task in EXPLANATIONS else row.key] = row
    return list(by_key.values())


def measure_of(row: Result) -> str | None:
    """The name in `MEASURES` of what a row holds, or None."""
    if row.task == "deletion":
        return "insertion" if settings_of(row).get("mode") == "insertion" else "deletion"
    return {"gridpg": "b6", "inside": "inside", "clarity": "clarity"}.get(row.task)


def method_of(row: Result) -> str:
    """The key of the attribution method; empty where a row has none."""
    method = row.details.get("method") or row.settings.get("method")
    return method if isinstance(method, str) else ""


def variant_of(row: Result) -> str:
    """The method's key, with `@paper` behind it where it ran with the paper's options and those are not ours."""
    method = method_of(row)
    return method + PAPER if row.settings.get("preset") == "paper" and method in DIFFERENT else method


def table_name(measured: Measured) -> str:
    """Tables and pictures of GridPG by windows have the plain name, those of other protocols have it in theirs."""
    other = measured.name == "b6" and measured.protocol not in ("windows", "")
    return f"{measured.name}-{measured.protocol}" if other else measured.name


def by_method(line: Line, data: str) -> dict[str, Result]:
    """A model's rows on one data set, in the order of methods."""
    rows = {c.variant: row for c, row in line.results.items() if c.data == data}
    return {method: rows[method] for method in sorted(rows, key=rank)}


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
    candidates = [other for other in alike if other is fitted_on(row, results)] or [o for o in alike if same(row, o)]
    if not candidates:
        explained = {model_of(r): r for r in results if r.task in EXPLANATIONS and kin(r) == kin(row)}
        without = [own for own in explained.values() if not any(same(own, other) for other in alike)]
        left = [other for other in alike if not any(same(own, other) for own in explained.values())]
        candidates = left if len(without) == len(set(map(model_of, left))) == 1 else []
    return max(reversed(candidates), key=lambda other: (not deviations(other), other.official), default=None)


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
