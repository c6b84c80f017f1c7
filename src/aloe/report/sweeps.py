"""Runs of a sweep as curves: one varied setting, everything else but the seed the same, a mean and an interval per value."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from aloe.report.columns import Column, heading
from aloe.report.explained import variant_of
from aloe.report.methods import look
from aloe.report.protocol import grid_protocol, settings_of
from aloe.report.rows import Result
from aloe.report.sweep_rows import SweepRow, value_in_words

FRACTION, OBJECTIVE = "fraction", "objective"
OBJECTIVE_NAMES = {  # Table B8's order, then what is not the paper's
    **{"mse": "MSE", "cosine": "Cosine", "siglip": "SigLIP", "infonce": "InfoNCE"},
    "standardized": "Standardised",
}
_TASKS = {"knn": "k-NN", "linear": "linear probe", "zeroshot": "zero-shot", "classifier": "class head"}
# The 97.5 % quantiles of Student's t by degrees of freedom, 1 to 30.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True)
class Measure:
    """What a number of a run is: a task on a data set, of an attribution method where there is one, and the `way` it was
    measured in where scores of several do not compare: GridPG's protocol, the shares of pixel deletion."""

    task: str
    data: str
    method: str = ""
    way: str = ""

    @classmethod
    def of(cls, row: Result) -> Measure:
        way = grid_protocol(row) if row.task == "gridpg" else ""
        if row.task == "deletion" and settings_of(row)["fractions"] != "paper":
            way = f"{settings_of(row)['fractions']} shares"
        return cls(row.task, row.data, variant_of(row), way)

    @property
    def decimals(self) -> int:
        return 4 if self.task == "cosine" else 2

    @property
    def heading(self) -> str:
        method = f" {look(self.method).title}" if self.method else ""
        way = f", {self.way}" if self.way else ""
        return f"{heading(Column(self.data))} {_TASKS.get(self.task, self.task)}{method}{way}"


@dataclass(frozen=True)
class Curve:
    """The runs of one teacher along an axis; `others` are the further varied settings, equal in all of them.

    `points` maps each value, in order, to the runs of its seeds; a value is kept in JSON because it may be a list.
    """

    axis: str
    teacher: str
    others: dict[str, Any]
    points: dict[str, list[SweepRow]]

    @property
    def values(self) -> list[Any]:
        return [json.loads(value) for value in self.points]

    @property
    def title(self) -> str:
        return ", ".join([self.teacher, *(f"{k} {value_title(k, v)}" for k, v in self.others.items())])

    @property
    def runs(self) -> list[SweepRow]:
        return [run for runs in self.points.values() for run in runs]

    def numbers(self, value: str, measure: Measure) -> list[float]:
        """Of the seeds that finished."""
        values = ({Measure.of(r): r.value for r in run.results}.get(measure) for run in self.points[value])
        return [number for number in values if number is not None]


def axes_of(runs: Sequence[SweepRow]) -> list[str]:
    """What differs between the runs, seeds aside: objective and fraction first."""
    configurations = [run.configuration for run in runs]
    shared = [k for k in configurations[0] if all(k in other for other in configurations)] if configurations else []
    told = {"seed", "teacher", "teacher_fingerprint", "data_fingerprint"}
    axes = [k for k in shared if k not in told and len({_json(c[k]) for c in configurations}) > 1]
    return sorted(axes, key=lambda axis: [OBJECTIVE, FRACTION, axis].index(axis))


def curves_along(runs: Sequence[SweepRow], axis: str, axes: Sequence[str]) -> list[Curve]:
    """The curves along one of the `axes`, each with at least two values."""
    groups: dict[str, dict[str, list[SweepRow]]] = {}
    for run in runs:
        kept = {k: v for k, v in run.configuration.items() if k in axes and k != axis}
        same = _json([run.teacher, run.configuration.get("data_fingerprint"), kept])
        groups.setdefault(same, {}).setdefault(_json(run.configuration[axis]), []).append(run)
    several = {same: values for same, values in groups.items() if len(values) > 1}
    curves = []
    for same, values in several.items():
        teacher, _, others = json.loads(same)
        curves.append(Curve(axis, teacher, others, {value: values[value] for value in sorted(values, key=_rank)}))
    varied = {k for curve in curves for k in curve.others if len({_json(c.others.get(k)) for c in curves}) > 1}
    kept_by = {id(curve): {k: v for k, v in curve.others.items() if k in varied} for curve in curves}
    return [Curve(c.axis, c.teacher, kept_by[id(c)], c.points) for c in curves]


def measures_of(runs: Sequence[SweepRow]) -> list[Measure]:
    return list(dict.fromkeys(Measure.of(row) for run in runs for row in run.results))


def references(rows: Sequence[Result], measure: Measure, runs: Sequence[SweepRow]) -> list[Result]:
    """Rows of other models, the teacher first, measured on the very images and with the settings of the runs."""
    ways = {_way(r) for run in runs for r in run.results if Measure.of(r) == measure}
    teachers = {run.teacher for run in runs}
    by_name = {r.name: r for r in rows if Measure.of(r) == measure and _way(r) in ways and r.teacher in teachers}
    return sorted(by_name.values(), key=lambda r: r.stage != "teacher")


def mean_interval(numbers: Sequence[float]) -> tuple[float, float | None]:
    """The mean and the half width of its 95 % interval by Student's t; None of a single number.

    The interval is that of other seeds, on the same images and teacher.
    """
    if len(numbers) < 2:
        return fmean(numbers), None
    quantile = _T[min(len(numbers) - 1, len(_T)) - 1]
    return fmean(numbers), quantile * stdev(numbers) / sqrt(len(numbers))


def value_title(axis: str, value: Any) -> str:
    """A value as people write it: 0.1 %, MSE, 2,4,6."""
    if axis == FRACTION and is_numeric([value]):
        return f"{100 * value:g} %"
    if axis == OBJECTIVE:
        return OBJECTIVE_NAMES.get(str(value), str(value))
    return value_in_words(value)


def is_numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _way(row: Result) -> str:
    images = {k: v for k, v in row.fingerprints.items() if k != "model"}
    head = {k: v for k, v in row.settings.items() if k != "head"}  # a teacher's is plain, a student's B-cos
    return _json([images, head])


def _rank(value: str) -> tuple[int, float, str]:
    loaded = json.loads(value)
    if is_numeric([loaded]):
        return (0, float(loaded), "")
    return (1, float([*OBJECTIVE_NAMES, loaded].index(loaded)), str(value))


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
