"""Bars of a table and k-NN accuracy against k, as SVG and PNG; colours (Okabe and Ito's) tell stages apart for every eye."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aloe.draw.figures import plain
from aloe.report import kit
from aloe.report.columns import Column, heading
from aloe.report.lines import STAGES, Group, Line, stage_title
from aloe.report.protocol import accuracy_by_k
from aloe.report.tables import Grid

_MARKERS = dict(zip(kit.COLOURS, kit.MARKERS, strict=True))
READABLE = 300
"""Bars of a panel that may have their numbers beside them, and hatches: of more, each is narrower than a digit."""
_HATCHES = ("", "////", "....", "xxxx")


def bar_chart(grid: Grid) -> kit.Picture:
    """A panel per teacher, a bar per model and column, the paper's number as a line across its bar."""
    most = max(len(group.of("model")) for group in grid.groups)
    width = min(14.0, max(3.6, 1.0 + len(grid.columns) * (0.3 + 0.32 * most)))
    with kit.sheet((width, 0.5 + 2.2 * len(grid.groups)), len(grid.groups)) as (figure, table):
        panels = table[:, 0]
        for panel, group in zip(panels, grid.groups, strict=True):
            _bars(panel, group, grid.columns, len(grid.columns) * most)
        _legend(figure, grid.groups, panels)
        return kit.as_files(figure)


def k_chart(grid: Grid) -> kit.Picture | None:
    """k-NN accuracy against k, a panel per teacher and data set; None where no row has several k."""
    shown = [(group, column) for group in grid.groups for column in grid.columns if _curves(group, column)]
    if not shown:
        return None
    with kit.tiles(len(shown), 4, (2.8, 2.5), (0.0, 0.5), least=3.6) as (figure, panels):
        for panel, (group, column) in zip(panels, shown, strict=True):
            _lines(panel, group, column, grid.columns)
        _legend(figure, [group for group, _ in shown], panels, lines=True)
        return kit.as_files(figure)


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
            color=kit.colour_of(line.stage),
            hatch="" if alone else _HATCHES[kit.twin(group.of("model"), line) % len(_HATCHES)],
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
            style = {"rotation": 90, "fontsize": 5.5} if small else {"rotation": 0, "fontsize": 7}
            kit.above(panel, f"{height:.1f}", (left, top), 2, va="bottom", **style)
    panel.set_xticks(range(len(columns)), [plain(heading(c, columns)) for c in columns])
    panel.set_xlim(-0.5, len(columns) - 0.5)
    top = max((cell.value or 0.0 for line in group.lines for cell in line.cells.values()), default=0.0)
    panel.set_ylim(0, max(1.0, top * (1.28 if small else 1.14)))
    panel.set_yticks([tick for tick in range(0, 101, 20) if tick <= max(20, top + 10)])
    panel.set_ylabel("accuracy (%)")
    kit.entitle(panel, group.teacher)
    kit.rule(panel, "y")
    panel.tick_params(axis="x", length=0)


def _lines(panel: Any, group: Group, column: Column, columns: Sequence[Column]) -> None:
    curves = _curves(group, column)
    for line, values in curves:
        panel.plot(
            list(values),
            list(values.values()),
            color=kit.colour_of(line.stage),
            marker=_MARKERS.get(line.stage, "x"),
            linestyle=kit.DASHES[kit.twin(group.of("model"), line) % len(kit.DASHES)],
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
    kit.entitle(panel, f"{group.teacher}\n{heading(column, columns)}")
    kit.rule(panel)


def _curves(group: Group, column: Column) -> list[tuple[Line, dict[int, float]]]:
    curves = [(line, accuracy_by_k(line.results[column])) for line in group.of("model") if column in line.results]
    return [(line, values) for line, values in curves if len(values) > 1]


def _legend(figure: Any, groups: Sequence[Group], panels: Sequence[Any], lines: bool = False) -> None:
    """Stages above the figure; beside a panel the names, where a stage has several models."""

    def key(stage: str, at: int) -> Any:
        colour = kit.colour_of(stage)
        if lines:
            dash = kit.DASHES[at % len(kit.DASHES)]
            return kit.stroke(color=colour, marker=_MARKERS.get(stage, "x"), linestyle=dash, markersize=4)
        return kit.swatch(facecolor=colour, hatch=_HATCHES[at % len(_HATCHES)])

    present = {line.stage for group in groups for line in group.of("model")}
    stages = [*(s for s in STAGES if s in present), *sorted(present - set(STAGES))]
    keys = {stage_title(stage): key(stage, 0) for stage in stages}
    if not lines and any(group.of("paper") for group in groups):
        keys["paper"] = kit.stroke(color="black", linewidth=1.1)
    across = min(len(keys), int(figure.get_figwidth() / 0.9))
    kit.legend_above(figure, list(keys.values()), keys, across, handlelength=1.6, columnspacing=1.2)
    for panel, group in zip(panels, groups, strict=False):
        models = group.of("model")
        if len({line.stage for line in models}) < len(models):
            names = (f"{stage_title(line.stage)}: {line.name}" for line in models)
            handles = [key(line.stage, kit.twin(group.of("model"), line)) for line in models]
            kit.legend_beside(panel, handles, names, fontsize=6)
