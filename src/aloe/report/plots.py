"""Bars of a table and k-NN accuracy against k, as SVG and PNG; colours (Okabe and Ito's) tell stages apart for every eye."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aloe.draw.figures import plain
from aloe.report.grid import Grid
from aloe.report.lines import STAGES, Column, Group, Line, heading, stage_title
from aloe.report.panels import COLOURS, DASHES, as_files, colour_of, in_rows, rule, sheet
from aloe.report.protocol import accuracy_by_k

_MARKERS = dict(zip(COLOURS, "os^Dvp", strict=True))
READABLE = 300
"""Bars of a panel that may have their numbers beside them, and hatches: of more, each is narrower than a digit."""
_HATCHES = ("", "////", "....", "xxxx")


def bar_chart(grid: Grid) -> dict[str, bytes]:
    """A panel per teacher, a bar per model and column, the paper's number as a line across its bar.

    Returns:
        The picture's bytes by format, `svg` and `png`.

    Raises:
        UserError: matplotlib is not installed.
    """
    most = max(len(group.of("model")) for group in grid.groups)
    width = min(14.0, max(3.6, 1.0 + len(grid.columns) * (0.3 + 0.32 * most)))
    with sheet((width, 0.5 + 2.2 * len(grid.groups)), len(grid.groups)) as (figure, table):
        panels = table[:, 0]
        for panel, group in zip(panels, grid.groups, strict=True):
            _bars(panel, group, grid.columns, len(grid.columns) * most)
        _legend(figure, grid.groups, panels)
        return as_files(figure)


def k_chart(grid: Grid) -> dict[str, bytes] | None:
    """k-NN accuracy against k, a panel per teacher and data set; None where no row has several k. See `bar_chart`."""
    shown = [(group, column) for group in grid.groups for column in grid.columns if _curves(group, column)]
    if not shown:
        return None
    down, across = in_rows(len(shown), 4)
    with sheet((max(3.6, 2.8 * across), 0.5 + 2.5 * down), down, across) as (figure, table):
        panels = table.flatten()
        for panel, (group, column) in zip(panels, shown, strict=False):
            _lines(panel, group, column, grid.columns)
        for panel in panels[len(shown) :]:
            panel.set_visible(False)
        _legend(figure, [group for group, _ in shown], panels, lines=True)
        return as_files(figure)


def _bars(panel: Any, group: Group, columns: Sequence[Column], count: int) -> None:
    small, alone = count > 24, count > READABLE
    models = group.of("model")
    thick = 0.84 / len(models)
    for i, line in enumerate(models):
        at = [x for x, column in enumerate(columns) if column in line.cells]
        heights = [line.cells[columns[x]].value or 0.0 for x in at]
        lefts = [x - 0.42 + (i + 0.5) * thick for x in at]
        panel.bar(
            lefts,
            heights,
            0.92 * thick,
            color=colour_of(line.stage),
            hatch="" if alone else _HATCHES[_twin(group, line) % len(_HATCHES)],
            edgecolor="white",
            linewidth=0,
        )
        printed = next(iter(group.of("paper", line.stage)), None)
        tops = list(heights)
        for n, (x, left) in enumerate(zip(at, lefts, strict=True)):
            if printed and columns[x] in printed.cells:
                value = printed.cells[columns[x]].value or 0.0
                panel.plot([left - 0.46 * thick, left + 0.46 * thick], [value] * 2, color="black", linewidth=1.1)
                tops[n] = max(heights[n], value)
        for left, height, top in () if alone else zip(lefts, heights, tops, strict=True):
            words = panel.annotate(
                f"{height:.1f}",
                (left, top),
                (0, 2),
                textcoords="offset points",
                ha="center",
                va="bottom",
                rotation=90 if small else 0,
                fontsize=5.5 if small else 7,
            )
            words.set_in_layout(False)  # the limits below make room; the layout need not look at hundreds of numbers
    panel.set_xticks(range(len(columns)), [plain(heading(c, columns)) for c in columns])
    panel.set_xlim(-0.5, len(columns) - 0.5)
    top = max((cell.value or 0.0 for line in group.lines for cell in line.cells.values()), default=0.0)
    panel.set_ylim(0, max(1.0, top * (1.28 if small else 1.14)))
    panel.set_yticks([tick for tick in range(0, 101, 20) if tick <= max(20, top + 10)])
    panel.set_ylabel("accuracy (%)")
    panel.set_title(plain(group.teacher), loc="left", fontsize=8)
    rule(panel, "y")
    panel.tick_params(axis="x", length=0)


def _lines(panel: Any, group: Group, column: Column, columns: Sequence[Column]) -> None:
    curves = _curves(group, column)
    for line, values in curves:
        panel.plot(
            list(values),
            list(values.values()),
            color=colour_of(line.stage),
            marker=_MARKERS.get(line.stage, "x"),
            linestyle=DASHES[_twin(group, line) % len(DASHES)],
            markersize=4,
            linewidth=1.2,
        )
    ks = sorted({k for _, values in curves for k in values})
    panel.set_xscale("log")
    panel.set_xticks(ks, map(str, ks))
    panel.minorticks_off()
    panel.margins(y=0.12)
    panel.set_xlabel("k (neighbours)")
    panel.set_ylabel("k-NN accuracy (%)")
    panel.set_title(plain(f"{group.teacher}\n{heading(column, columns)}"), loc="left", fontsize=8)
    rule(panel)


def _curves(group: Group, column: Column) -> list[tuple[Line, dict[int, float]]]:
    found = [(line, accuracy_by_k(line.results[column])) for line in group.of("model") if column in line.results]
    return [(line, values) for line, values in found if len(values) > 1]


def _twin(group: Group, line: Line) -> int:
    """0 for the first model of its stage in the group, 1 for the second ..."""
    return next(i for i, other in enumerate(group.of("model", line.stage)) if other is line)


def _legend(figure: Any, groups: Sequence[Group], panels: Sequence[Any], lines: bool = False) -> None:
    """Stages above the figure; beside a panel the names, where a stage has several models."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    def key(stage: str, twin: int) -> Any:
        colour = colour_of(stage)
        if lines:
            dash = DASHES[twin % len(DASHES)]
            return Line2D([], [], color=colour, marker=_MARKERS.get(stage, "x"), linestyle=dash, markersize=4)
        return Patch(facecolor=colour, edgecolor="white", linewidth=0, hatch=_HATCHES[twin % len(_HATCHES)])

    found = {line.stage for group in groups for line in group.of("model")}
    stages = [*(s for s in STAGES if s in found), *sorted(found - set(STAGES))]
    keys = {plain(stage_title(stage)): key(stage, 0) for stage in stages}
    if not lines and any(group.of("paper") for group in groups):
        keys["paper"] = Line2D([], [], color="black", linewidth=1.1)
    across = min(len(keys), int(figure.get_figwidth() / 0.9))
    spacing = {"handlelength": 1.6, "columnspacing": 1.2, "frameon": False}
    figure.legend(list(keys.values()), list(keys), loc="outside upper center", ncols=across, **spacing)
    for panel, group in zip(panels, groups, strict=False):
        models = group.of("model")
        if len({line.stage for line in models}) < len(models):
            names = [f"{stage_title(line.stage)}: {line.name}" for line in models]
            handles = [key(line.stage, _twin(group, line)) for line in models]
            panel.legend(handles, map(plain, names), loc="upper left", bbox_to_anchor=(1, 1), fontsize=6, frameon=False)
