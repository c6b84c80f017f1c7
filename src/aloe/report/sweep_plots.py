"""Pictures of a sweep: a number against a varied setting, with its interval over seeds (paper, Figure B2: over fractions)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aloe.draw.figures import plain
from aloe.report.lines import STAGES, stage_title
from aloe.report.panels import as_files, colour_of, in_rows, rule, sheet
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


def sweep_chart(axis: str, runs: Sequence[SweepRow], rows: Sequence[Result]) -> dict[str, bytes] | None:
    """A panel per measured number: means with their 95 % intervals over seeds, every seed a small dot, other models as lines.

    Returns:
        The picture's bytes by format; None where no run has a number.

    Raises:
        UserError: matplotlib is not installed.
    """
    curves = curves_along(runs, axis, axes_of(runs))
    measures = measures_of([run for curve in curves for run in curve.runs])
    if not measures:
        return None
    down, across = in_rows(len(measures), 3)
    with sheet((0.6 + 3.6 * across, 0.4 + 2.7 * down), down, across) as (figure, table):
        panels = table.flatten()
        for panel, measure in zip(panels, measures, strict=False):
            _panel(panel, curves, measure, rows)
        for panel in panels[len(measures) :]:
            panel.set_axis_off()
        shown: dict[str, Any] = {}
        for panel in panels:
            shown |= {label: handle for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
        ours = sorted(shown, key=lambda label: not label.startswith(STAGES["aligned"]))
        words = max(map(len, ours))
        figure.legend(
            [shown[label] for label in ours],
            ours,
            loc="outside upper center",
            ncols=max(1, min(len(ours), int(figure.get_figwidth() * 15 / (words + 8)))),
            frameon=False,
        )
        return as_files(figure)


def _panel(panel: Any, curves: Sequence[Curve], measure: Measure, rows: Sequence[Result]) -> None:
    axis = curves[0].axis
    values = {key: value for curve in curves for key, value in zip(curve.points, curve.values, strict=True)}
    numeric = is_numeric(list(values.values()))
    places = {key: float(value) if numeric else float(i) for i, (key, value) in enumerate(values.items())}
    logarithmic = numeric and min(places.values()) > 0 and max(places.values()) >= 20 * min(places.values())
    for number, curve in enumerate(curves):
        _curve(panel, curve, measure, places, number, len(curves), logarithmic, joined=numeric)
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
    rule(panel, "y")


def _curve(
    panel: Any,
    curve: Curve,
    measure: Measure,
    places: dict[str, float],
    number: int,
    count: int,
    logarithmic: bool,
    *,
    joined: bool,
) -> None:
    """Curves stand a little beside each other, so that their intervals can be told apart."""
    colour, marker = _LINES[number % len(_LINES)], _MARKERS[number % len(_MARKERS)]
    aside = number - (count - 1) / 2
    step = 0.12 if not joined else 0.02 * (max(places.values()) - min(places.values()))
    points = []
    for key in curve.points:
        numbers = curve.numbers(key, measure)
        if not numbers:
            continue
        x = places[key] * 1.14**aside if logarithmic else places[key] + step * aside
        mean, half = mean_interval(numbers)
        points.append((x, mean, half or 0.0))
        beside = x * 0.94 if logarithmic else x - step / 3
        panel.plot([beside] * len(numbers), numbers, ".", color=colour, alpha=0.6, markersize=3)
    xs, means, halves = zip(*points, strict=True) if points else ((), (), ())
    panel.errorbar(
        xs,
        means,
        yerr=halves,
        color=colour,
        marker=marker,
        linestyle="-" if joined else "none",
        markersize=4,
        linewidth=1.2,
        capsize=2.5,
        label=plain(f"{STAGES['aligned']}: {curve.title}"),
    )


def _beside(panel: Any, rows: Sequence[Result]) -> None:
    for number, row in enumerate(rows):
        panel.axhline(
            row.value,
            color=colour_of(row.stage),
            linestyle=_BESIDE[number % len(_BESIDE)],
            linewidth=1.0,
            label=plain(f"{stage_title(row.stage)}: {row.name}"),
        )
