"""Pictures of a sweep: a number against a varied setting, with its interval over seeds (paper, Figure B2: over fractions)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aloe.draw.figures import plain
from aloe.report import kit
from aloe.report.lines import STAGES, stage_title
from aloe.report.rows import Result
from aloe.report.sweep_rows import SweepRow
from aloe.report.sweep_tables import title
from aloe.report.sweeps import (
    FRACTION,
    Curve,
    Measure,
    axes_of,
    curves_along,
    is_numeric,
    mean_interval,
    measures_of,
    references,
    value_title,
)

_LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_MARKERS = "osD^vp"
_BESIDE = ("--", "-.", ":")


def sweep_chart(axis: str, runs: Sequence[SweepRow], rows: Sequence[Result]) -> kit.Picture | None:
    """A panel per measured number: means with their 95 % intervals over seeds, every seed a small dot, other models as lines;
    None where no run has a number."""
    curves = curves_along(runs, axis, axes_of(runs))
    measures = measures_of([run for curve in curves for run in curve.runs])
    if not measures:
        return None
    with kit.tiles(len(measures), 3, (3.6, 2.7), (0.6, 0.4)) as (figure, panels):
        shown: dict[str, Any] = {}
        for panel, measure in zip(panels, measures, strict=True):
            _panel(panel, curves, measure, rows)
            shown |= {label: handle for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
        ours = sorted(shown, key=lambda label: not label.startswith(STAGES["aligned"]))
        most = int(figure.get_figwidth() * 15 / (max(map(len, ours)) + 8))
        kit.legend_above(figure, [shown[label] for label in ours], ours, max(1, min(len(ours), most)))
        return kit.as_files(figure)


def _panel(panel: Any, curves: Sequence[Curve], measure: Measure, rows: Sequence[Result]) -> None:
    axis = curves[0].axis
    values = {key: value for curve in curves for key, value in zip(curve.points, curve.values, strict=True)}
    numeric = is_numeric(list(values.values()))
    places = {key: float(value) if numeric else float(i) for i, (key, value) in enumerate(values.items())}
    logarithmic = numeric and min(places.values()) > 0 and max(places.values()) >= 20 * min(places.values())
    wide = 0.02 * (max(places.values()) - min(places.values())) if numeric else 0.12
    for number, curve in enumerate(curves):  # a little beside each other, so that their intervals can be told apart
        aside = number - (len(curves) - 1) / 2
        at = {key: x * 1.14**aside if logarithmic else x + wide * aside for key, x in places.items()}
        beside = {key: x * 0.94 if logarithmic else x - wide / 3 for key, x in at.items()}
        colour, marker = _LINES[number % len(_LINES)], _MARKERS[number % len(_MARKERS)]
        style = {"color": colour, "marker": marker, "linestyle": "-" if numeric else "none"}
        _curve(panel, curve, measure, at, beside, style)
    runs = [run for curve in curves for run in curve.runs]
    _beside(panel, references(rows, measure, runs))
    if logarithmic:
        panel.set_xscale("log")
    panel.set_xticks(list(places.values()), [plain(value_title(axis, value)) for value in values.values()])
    panel.minorticks_off()
    unit = "" if measure.task == "cosine" else " (%)"
    panel.set_ylabel(plain(measure.heading + unit))
    panel.set_xlabel(plain("images aligned on" if axis == FRACTION else title(axis).rpartition(": ")[2]))
    panel.margins(x=0.08, y=0.1)
    if not numeric:
        panel.set_xlim(-0.5, len(places) - 0.5)
    kit.rule(panel, "y")


def _curve(
    panel: Any, curve: Curve, measure: Measure, at: dict[str, float], beside: dict[str, float], style: dict[str, str]
) -> None:
    points = []
    for key in curve.points:
        if numbers := curve.numbers(key, measure):
            mean, half = mean_interval(numbers)
            points.append((at[key], mean, half or 0.0))
            panel.plot([beside[key]] * len(numbers), numbers, ".", color=style["color"], alpha=0.6, markersize=3)
    xs, means, halves = zip(*points, strict=True) if points else ((), (), ())
    label = f"{STAGES['aligned']}: {curve.title}"
    panel.errorbar(xs, means, yerr=halves, **style, markersize=4, linewidth=1.2, capsize=2.5, label=label)


def _beside(panel: Any, rows: Sequence[Result]) -> None:
    for number, row in enumerate(rows):
        style = {"color": kit.colour_of(row.stage), "linestyle": _BESIDE[number % len(_BESIDE)]}
        panel.axhline(row.value, **style, linewidth=1.0, label=f"{stage_title(row.stage)}: {row.name}")
