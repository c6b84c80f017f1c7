"""Pictures of explanations: bars of teacher against student (the paper's Figure B4), curves of pixel deletion (B3), and
localisation against accuracy. A method has the same colour everywhere; a model is told by hatching or by its panel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite
from textwrap import fill
from typing import Any

from aloe.draw.figures import plain
from aloe.report import kit
from aloe.report.columns import number, numbers
from aloe.report.explained import accuracy, by_method
from aloe.report.explained_tables import MEASURES
from aloe.report.lines import Group, Line, stage_title
from aloe.report.localization import paper_row
from aloe.report.methods import INHERENT, PAPER, look, rank
from aloe.report.paper import PaperRow
from aloe.report.rows import Result
from aloe.report.selection import Measured

_HATCHES = ("", "xxx", "---", "\\\\\\\\")
_PAPERS: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": "black"}
_PROBES = {"linear": "linear-probe accuracy (%)", "classifier": "accuracy of the model's own classifier (%)"}


def method_bars(measured: Measured, with_paper: bool = False) -> kit.Picture:
    """A panel per teacher and data set, a group of bars per method: the teacher hatched, students full, with their intervals.

    Args:
        with_paper: mark the numbers of the paper's Table B6 (`paper_row`).
    """
    cases = list(measured.cases())
    methods = _methods(cases)
    most = max(len(models) for *_, models in cases)
    width = min(11.0, max(3.8, 1.0 + len(methods) * (0.34 + 0.24 * most)))
    with kit.sheet((width, 0.5 + 2.4 * len(cases)), len(cases)) as (figure, table):
        for panel, (group, data, models) in zip(table[:, 0], cases, strict=True):
            _bars(panel, methods, models, data)
            panel.set_ylabel(MEASURES[measured.name].axis)
            title = _title(group, data, measured)
            kit.entitle(panel, title)
            paper = paper_row(group, data, measured) if with_paper and measured.name == "b6" else None
            if paper:
                _mark_paper(panel, methods, paper)
            _model_legend(panel, models, title, paper)
        return kit.as_files(figure)


def deletion_chart(measured: Measured) -> kit.Picture | None:
    """The class's probability against the blocks changed: a panel per model, below it that of the least attributed first.

    None where no row has a curve.
    """
    shown = [
        (group, data, line)
        for group, data, models in measured.cases()
        for line in models
        if any(_curve(row, "most") for row in by_method(line, data).values())
    ]
    if not shown:
        return None
    orders = [o for o in ("most", "least") if any(_curve(r, o) for _, d, m in shown for r in by_method(m, d).values())]
    down, across = kit.in_rows(len(shown), 4)
    size = (max(3.6, 0.4 + 2.3 * across), 0.6 + 2.0 * down * len(orders))
    with kit.sheet(size, down * len(orders), across, sharex=True, sharey=True) as (figure, panels):
        for panel in panels.flatten():
            panel.set_visible(False)
        for n, (_, data, line) in enumerate(shown):
            for i, order in enumerate(orders):
                panel = panels[n // across * len(orders) + i][n % across]
                panel.set_visible(True)
                _curves(panel, by_method(line, data), order)
                if i == 0:
                    kit.entitle(panel, f"{_cut(line.name)}\n{stage_title(line.stage)}, {measured.place(data)}")
                words = f"{order} attributed first"
                panel.text(0.97, 0.96, words, transform=panel.transAxes, ha="right", va="top", fontsize=7)
                if i == len(orders) - 1:
                    panel.set_xlabel(MEASURES[measured.name].axis)
                if n % across == 0:
                    panel.set_ylabel("class probability (%)")
                panel.tick_params(labelbottom=True)
        _method_legend(figure, _methods([(g, d, [m]) for g, d, m in shown]))
        return kit.as_files(figure)


def accuracy_chart(measured: Measured, results: Sequence[Result]) -> kit.Picture | None:
    """GridPG against accuracy, a panel per teacher and data set: the teacher's methods, students' W(x)x, and an arrow from
    the teacher's best to each.

    None where fewer than two models have an accuracy of one kind.
    """
    shown = []
    for group, data, models in measured.cases():
        task, points = max(((t, _known(models, data, t, results)) for t in _PROBES), key=lambda choice: len(choice[1]))
        if len(points) > 1:
            shown.append((group, data, [line for line, _ in points], task, [value for _, value in points]))
    if not shown:
        return None
    with kit.tiles(len(shown), 3, (3.2, 2.8), (0.0, 0.6), least=4.2) as (figure, panels):
        for panel, (group, data, models, task, values) in zip(panels, shown, strict=True):
            _points(panel, models, data, values)
            panel.set_xlabel(_PROBES[task])
            panel.set_ylabel(MEASURES["b6"].axis)
            kit.entitle(panel, _title(group, data, measured, ":\n"))
        _method_legend(figure, _methods((g, d, m) for g, d, m, *_ in shown), markers=True)
        return kit.as_files(figure)


Case = tuple[Group, str, list[Line]]


def _bars(panel: Any, methods: Sequence[str], models: Sequence[Line], data: str) -> None:
    thick, top = 0.84 / len(models), 0.0
    by_model = [by_method(line, data) for line in models]
    for i, line in enumerate(models):
        for method, row in by_model[i].items():
            beside = [method in rows for rows in by_model]  # bars of a method stand around its middle
            at = methods.index(method) + (sum(beside[:i]) + 0.5 - sum(beside) / 2) * thick
            high = number(row, "interval", 1)
            style = {"color": look(method).colour, "edgecolor": "white", "linewidth": 0}
            panel.bar(at, row.value, 0.9 * thick, **style, **_shade(models, line))
            for colour, wide in (("white", 2.0), ("#222222", 0.8)):  # seen on dark bars too
                panel.errorbar(at, row.value, _reach(row), ecolor=colour, elinewidth=wide, capsize=1.5, capthick=wide)
            tip = max(row.value, high or 0.0)
            turn = 90 if len(models) > 2 else 0
            kit.above(panel, f"{row.value:.1f}", (at, tip), fontsize=6, rotation=turn, va="bottom")
            top = max(top, tip)
    rows = [row for rows in by_model for row in rows.values()]
    chances = {number(row, "chance") if row.task == "gridpg" else number(row, "area") for row in rows} - {None}
    if len(chances) == 1:
        chance = chances.pop() or 0.0
        panel.axhline(chance, color="black", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0.5)
        places = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        panel.annotate("chance", (1, chance), (2, 0), **places, va="center", fontsize=6)
        top = max(top, chance)
    panel.set_xticks(range(len(methods)), [plain(fill(look(m).title, 12)) for m in methods], fontsize=7)
    panel.set_xlim(-0.55, len(methods) - 0.45)
    panel.set_ylim(0, max(1.0, top * (1.3 if len(models) > 2 else 1.14)))
    panel.set_yticks([tick for tick in range(0, 101, 20 if top > 50 else 10) if tick <= max(20, top + 5)])
    kit.rule(panel, "y")
    panel.tick_params(axis="x", length=0)


def _mark_paper(panel: Any, methods: Sequence[str], paper: PaperRow) -> None:
    """The paper's numbers as hollow diamonds before their methods' bars: post-hoc on its teacher, W(x)x of its student."""
    for key, digits in paper.values.items():
        method = key + PAPER if key + PAPER in methods else key
        if method in methods:
            at = methods.index(method) - 0.47
            for size, edge in ((6.5, "white"), (5.0, "black")):  # seen on dark bars too
                style = {**_PAPERS, "markeredgecolor": edge, "markersize": size}
                panel.plot(at, float(digits), "D", **style, zorder=4)
            panel.set_ylim(0, max(panel.get_ylim()[1], 1.08 * float(digits)))


def _curves(panel: Any, rows: dict[str, Result], order: str) -> None:
    for method, row in reversed(rows.items()):  # the first method is drawn last and lies on top
        if not (curve := _curve(row, order)):
            continue
        percent = [100 * value for value in numbers(row, "fractions")]
        low, high = _curve(row, f"{order}_low"), _curve(row, f"{order}_high")
        style = {"color": look(method).colour, "linewidth": 2.0 if method == INHERENT else 1.1}
        if low and high:
            panel.fill_between(percent, low, high, color=look(method).colour, alpha=0.13, linewidth=0)
        marks = {
            "marker": look(method).marker,
            "markersize": 7 if method == INHERENT else 4,
            "markeredgewidth": 0,
            "markevery": max(1, len(curve) // 7),
        }
        panel.plot(percent, curve, **style, **marks, linestyle="-" if order == "most" else "--")
    panel.set_xlim(0, 100)
    panel.set_ylim(0, 100)
    panel.set_xticks(range(0, 101, 25))
    panel.set_yticks(range(0, 101, 25))
    kit.rule(panel)


def _points(panel: Any, models: Sequence[Line], data: str, values: Sequence[float]) -> None:
    best: list[tuple[float, float]] = []
    for line, x in zip(models, values, strict=True):
        if line.stage == "teacher":
            rows = by_method(line, data)
            for method, row in rows.items():
                _point(panel, x, row, look(method).marker, 5, look(method).colour)
            best.append((x, max(row.value for row in rows.values())))
    start = max(best, key=lambda point: point[1], default=None)
    students = [(line, own, x) for line, x in zip(models, values, strict=True) if (own := _own(line, data))]
    for n, (line, own, x) in enumerate(students, 1):
        if start:
            arrow = {"arrowstyle": "->", "color": "#888888", "linewidth": 0.9, "shrinkA": 5, "shrinkB": 6}
            panel.annotate("", (x, own.value), start, arrowprops=arrow, zorder=1)
        _point(panel, x, own, look(INHERENT).marker, 10, look(INHERENT).colour)
        name = line.name if len(students) == 1 else str(n)
        box = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.6}
        kit.above(panel, plain(name), (x, own.value), 8, fontsize=7, bbox=box)
    if len(students) > 1:
        names = "\n".join(f"{n}  {line.name}" for n, (line, *_) in enumerate(students, 1))
        panel.annotate(plain(names), (1, 1), (6, 0), "axes fraction", "offset points", va="top", fontsize=6.5)
    panel.margins(0.22, 0.16)
    kit.rule(panel)


def _point(panel: Any, x: float, row: Result, marker: str, size: float, colour: str) -> None:
    panel.errorbar(
        x, row.value, _reach(row), marker=marker, markersize=size, color=colour, linewidth=0.8, markeredgewidth=0
    )


def _own(line: Line, data: str) -> Result | None:
    """A student's W(x)x."""
    return by_method(line, data).get(INHERENT) if line.stage != "teacher" else None


def _reach(row: Result) -> list[list[float]] | None:
    """How far the interval goes down and up, as matplotlib wants it."""
    low, high = (number(row, "interval", end) for end in (0, 1))
    return None if low is None or high is None else [[max(0.0, row.value - low)], [max(0.0, high - row.value)]]


def _known(models: Sequence[Line], data: str, task: str, results: Sequence[Result]) -> list[tuple[Line, float]]:
    points = []
    for line in models:
        measured = accuracy(next(iter(by_method(line, data).values())), task, results)
        if measured and (line.stage == "teacher" or _own(line, data)):
            points.append((line, measured.value))
    return points


def _curve(row: Result, name: str) -> list[float]:
    """Empty unless it has a number for every fraction but some."""
    values, fractions = numbers(row, name), numbers(row, "fractions")
    whole = len(values) == len(fractions) and all(map(isfinite, fractions)) and any(map(isfinite, values))
    return values if whole else []


def _methods(cases: Iterable[Case]) -> list[str]:
    return sorted({m for _, data, models in cases for line in models for m in by_method(line, data)}, key=rank)


def _shade(models: Sequence[Line], line: Line) -> dict[str, Any]:
    """A teacher is hatched and light, and students differ in their hatches."""
    if line.stage == "teacher":
        return {"hatch": "////", "alpha": 0.45}
    students = [other for other in models if other.stage != "teacher"]
    place = next(i for i, other in enumerate(students) if other is line)
    return {"hatch": _HATCHES[place % len(_HATCHES)], "alpha": 1.0}


def _model_legend(panel: Any, models: Sequence[Line], title: str, paper: PaperRow | None = None) -> None:
    """Above the panel beside its title, or on the right where there is no room."""
    handles = [kit.swatch(facecolor="#555555", **_shade(models, line)) for line in models]
    names = [f"{stage_title(line.stage)}: {_cut(line.name)}" for line in models]
    if paper:
        handles.append(kit.stroke(marker="D", linestyle="", **_PAPERS, markersize=5.0))
        names.append(f"paper: {paper.architecture}, IN1k")
    style: dict[str, Any] = {"borderaxespad": 0.2, "handlelength": 1.8}
    if len(title) + sum(len(name) + 6 for name in names) < 15 * panel.figure.get_figwidth():
        style |= {"loc": "lower right", "ncols": len(names)}
    kit.legend_beside(panel, handles, names, **style)


def _method_legend(figure: Any, methods: Sequence[str], markers: bool = False) -> None:
    line = "" if markers else "-"
    handles = [
        kit.stroke(color=look(m).colour, marker=look(m).marker, markeredgewidth=0, linestyle=line) for m in methods
    ]
    columns = min(len(methods), max(2, int(figure.get_figwidth() / 1.35)))
    kit.legend_above(figure, handles, [look(m).title for m in methods], columns, handlelength=1.6, fontsize=7)


def _title(group: Group, data: str, measured: Measured, colon: str = ": ") -> str:
    """Teacher, data and, of GridPG, how grids were shown."""
    grids = f"{colon}{measured.protocol_in_words}" if measured.name == "b6" else ""
    return f"{measured.title(group, data)}{grids}"


def _cut(name: str, most: int = 27) -> str:
    """The end of a long name, which mostly tells more."""
    return name if len(name) <= most else f"…{name[1 - most :]}"
