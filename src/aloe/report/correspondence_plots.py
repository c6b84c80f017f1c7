"""Figure B1: recall of multiview correspondence over the rotation between the views, a curve per model."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, nan
from typing import Any

from aloe.draw.figures import plain
from aloe.report.explained import Measured
from aloe.report.lines import Column, Line, stage_title
from aloe.report.metric import number, numbers
from aloe.report.panels import DASHES, as_files, colour_of, rule, sheet
from aloe.report.rows import Result

_MARKERS = "os^Dvp"


def correspondence_chart(measured: Measured) -> dict[str, bytes] | None:
    """Recall against the bins of the rotation and, apart on the right, its mean over bins: a line of panels per teacher and
    data set, in it a panel per threshold; None where no row has bins.

    Returns:
        The picture's bytes by format, `svg` and `png`.

    Raises:
        UserError: matplotlib is not installed.
    """
    shown = []
    for group, data, models in measured.cases():
        lines = [line for line in models if _bins(line.results[Column(data)])]
        steps = _thresholds(lines[0].results[Column(data)]) if lines else []
        if steps:
            shown.append((group, data, lines, steps))
    if not shown:
        return None
    across = max(len(steps) for *_, steps in shown)
    with sheet((2.4 + 2.3 * across, 0.3 + 2.3 * len(shown)), len(shown), across) as (figure, table):
        for panels, (group, data, lines, steps) in zip(table, shown, strict=True):
            for i, panel in enumerate(panels):
                if i < len(steps):
                    _curves(panel, data, lines, i)
                    words = f"{measured.title(group, data) if i == 0 else ''}\nwithin {100 * steps[i]:g} cm"
                    panel.set_title(plain(words), loc="left", fontsize=8)
                else:
                    panel.set_visible(False)
            panels[0].set_ylabel("matches (%)")
            _legend(panels[len(steps) - 1], lines)
        return as_files(figure)


def _curves(panel: Any, data: str, lines: Sequence[Line], threshold: int) -> None:
    bins = _bins(lines[0].results[Column(data)])
    highest = 0.0
    for line in lines:
        row, style = line.results[Column(data)], _style(lines, line)
        values = [number(row, "binned", threshold, b) for b in range(len(bins))]
        panel.plot(range(len(bins)), [nan if v is None else v for v in values], **style)
        mean = number(row, "mean_of_bins", threshold)
        panel.plot([len(bins)], [nan if mean is None else mean], **style)
        highest = max(highest, *(v for v in (*values, mean, 0.0) if v is not None))
    panel.axvline(len(bins) - 0.5, color="#cccccc", linewidth=0.8)
    names = [*(f"{low:g}-{high:g}°" for low, high in bins), "mean"]
    panel.set_xticks(range(len(names)), names, fontsize=6.5, rotation=40 if len(bins) > 4 else 0)
    panel.set_xlim(-0.4, len(bins) + 0.4)
    panel.set_ylim(0, 1.08 * highest or 1.0)
    panel.set_xlabel("rotation between the views")
    rule(panel, "y")


def _style(lines: Sequence[Line], line: Line) -> dict[str, Any]:
    """The stage tells the colour; models of one stage differ in dashes, and all of them in their marker."""
    twins = [other for other in lines if other.stage == line.stage]
    place, twin = (next(i for i, other in enumerate(some) if other is line) for some in (lines, twins))
    return {
        "color": colour_of(line.stage),
        "marker": _MARKERS[place % len(_MARKERS)],
        "linestyle": DASHES[twin % len(DASHES)],
        "markersize": 4,
        "linewidth": 1.3,
    }


def _legend(panel: Any, lines: Sequence[Line]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **_style(lines, line)) for line in lines]
    names = [plain(f"{stage_title(line.stage)}: {line.name}") for line in lines]
    panel.legend(handles, names, loc="upper left", bbox_to_anchor=(1, 1), fontsize=6.5, frameon=False)


def _thresholds(row: Result) -> list[float]:
    """In metres, up to the first that is no number."""
    thresholds = numbers(row, "thresholds")
    return thresholds[: next((i for i, step in enumerate(thresholds) if not isfinite(step)), len(thresholds))]


def _bins(row: Result) -> list[tuple[float, float]]:
    """Edges in degrees; none where one is no number."""
    pairs = [(number(row, "bins", b, 0), number(row, "bins", b, 1)) for b in range(len(numbers(row, "bins")))]
    whole = [(low, high) for low, high in pairs if low is not None and high is not None]
    return whole if len(whole) == len(pairs) else []
