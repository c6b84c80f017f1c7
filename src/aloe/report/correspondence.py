"""Multiview correspondence: its columns by distance, its tables by the rotation between the views, and Figure B1, a curve per
model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import isfinite, nan
from typing import Any

from aloe.draw.tables import MISSING, Block, Table
from aloe.report import kit
from aloe.report.columns import Column, Metric, noted, number, numbers
from aloe.report.footnotes import listed, split_notes
from aloe.report.lines import LABELS, Line, printed, stage_title
from aloe.report.protocol import marks
from aloe.report.rows import Result
from aloe.report.selection import Measured

_RECALLS = {"mean_of_bins": "{} ↑", "global": "{}, all ↑", "reachable/global": "{}, possible"}


def bins(row: Result) -> list[tuple[float, float]]:
    """Edges of the bins of the rotation between the views, in degrees; none where one is no number."""
    pairs = [(number(row, "bins", b, 0), number(row, "bins", b, 1)) for b in range(len(numbers(row, "bins")))]
    whole = [(low, high) for low, high in pairs if low is not None and high is not None]
    return whole if len(whole) == len(pairs) else []


def recalls(results: Sequence[Result]) -> list[Metric]:
    """At every distance of any row, what some row has of: the mean over bins, all matches, the most a model could reach."""
    steps = sorted({step for row in results for step in numbers(row, "thresholds") if step == step})
    metrics = [
        Metric(words.format(_centimetres(step)), _recall(kind, step), key=f"{kind}@{step:g}", compared="↑" in words)
        for kind, words in _RECALLS.items()
        for step in steps
    ]
    return [metric for metric in metrics if any(metric.of(row) is not None for row in results)]


def _recall(kind: str, step: float) -> Callable[[Result], float | None]:
    def of(row: Result) -> float | None:
        steps = numbers(row, "thresholds")
        return number(row, *kind.split("/"), steps.index(step)) if step in steps else None

    return of


def angle_tables(measured: Measured) -> list[Table]:
    """Recall by the angle between the views: a table for every division into bins, a row per model and distance."""
    blocks: dict[tuple[str, ...], list[Block]] = {}
    for group, data, lines in measured.cases():
        pairs = [(line, line.results[Column(data)]) for line in lines]
        edges = _edges(pairs[0][1])
        rows = tuple(
            printed(
                line,
                [_centimetres(step)],
                [noted(number(row, "binned", i, b), marks(row)) for b in range(len(edges))],
            )
            for line, row in pairs
            for i, step in enumerate(numbers(row, "thresholds"))
        )
        if edges:
            blocks.setdefault(edges, []).append(Block(measured.title(group, data), rows))
    caption = "Correspondence, by the rotation between the views. Matches (%) closer than a distance in 3-D."
    headers = (*LABELS[:2], "Within")
    notes = (
        f"The mean of the pairs in each bin, {MISSING} where there is none.",
        *split_notes(measured.results, measured.columns),
    )
    return [
        Table("correspondence-angles" + f"-{i}" * (i > 1), caption, headers, edges, tuple(parts), notes)
        for i, (edges, parts) in enumerate(blocks.items(), 1)
    ]


def _edges(row: Result) -> tuple[str, ...]:
    return tuple(f"{low:g}{MISSING}{high:g}°" for low, high in bins(row))


def pair_notes(measured: Measured) -> Iterator[str]:
    """How many pairs and matches, once for data sets and teachers that agree."""
    by_words: dict[str, list[str]] = {}
    for _, data, lines in measured.cases():
        row = lines[0].results[Column(data)]
        counts = [(number(row, word), word) for word in ("pairs", "matches")]
        words = ", ".join(f"{count:.0f} {word}" for count, word in counts if count is not None)
        at = [f"{e}: {n:.0f}" for e, n in zip(_edges(row), numbers(row, "pairs_in_bins"), strict=False) if n == n]
        by_words.setdefault(words + (f" (pairs at {', '.join(at)})" if at else ""), []).append(measured.place(data))
    for words, places in by_words.items():
        if words:
            yield f"{listed(places, ', ')}: {words}."


def _centimetres(metres: float) -> str:
    return f"{100 * metres:g} cm"


def correspondence_chart(measured: Measured) -> kit.Picture | None:
    """Recall against the bins of the rotation and, apart on the right, its mean over bins: a line of panels per teacher and
    data set, in it a panel per threshold; None where no row has bins."""
    shown = []
    for group, data, models in measured.cases():
        lines = [line for line in models if bins(line.results[Column(data)])]
        steps = _thresholds(lines[0].results[Column(data)]) if lines else []
        if steps:
            shown.append((group, data, lines, steps))
    if not shown:
        return None
    across = max(len(steps) for *_, steps in shown)
    with kit.sheet((2.4 + 2.3 * across, 0.3 + 2.3 * len(shown)), len(shown), across) as (figure, table):
        for panels, (group, data, lines, steps) in zip(table, shown, strict=True):
            for i, panel in enumerate(panels):
                if i < len(steps):
                    _curves(panel, data, lines, i)
                    words = f"{measured.title(group, data) if i == 0 else ''}\nwithin {100 * steps[i]:g} cm"
                    kit.entitle(panel, words)
                else:
                    panel.set_visible(False)
            panels[0].set_ylabel("matches (%)")
            handles = [kit.stroke(**_style(lines, line)) for line in lines]
            names = (f"{stage_title(line.stage)}: {line.name}" for line in lines)
            kit.legend_beside(panels[len(steps) - 1], handles, names)
        return kit.as_files(figure)


def _curves(panel: Any, data: str, lines: Sequence[Line], threshold: int) -> None:
    edges = bins(lines[0].results[Column(data)])
    highest = 0.0
    for line in lines:
        row, style = line.results[Column(data)], _style(lines, line)
        values = [number(row, "binned", threshold, b) for b in range(len(edges))]
        panel.plot(range(len(edges)), [nan if v is None else v for v in values], **style)
        mean = number(row, "mean_of_bins", threshold)
        panel.plot([len(edges)], [nan if mean is None else mean], **style)
        highest = max(highest, *(v for v in (*values, mean, 0.0) if v is not None))
    panel.axvline(len(edges) - 0.5, color="#cccccc", linewidth=0.8)
    names = [*(f"{low:g}-{high:g}°" for low, high in edges), "mean"]
    panel.set_xticks(range(len(names)), names, fontsize=6.5, rotation=40 if len(edges) > 4 else 0)
    panel.set_xlim(-0.4, len(edges) + 0.4)
    panel.set_ylim(0, 1.08 * highest or 1.0)
    panel.set_xlabel("rotation between the views")
    kit.rule(panel, "y")


def _style(lines: Sequence[Line], line: Line) -> dict[str, Any]:
    """The stage tells the colour; models of one stage differ in dashes, and all of them in their marker."""
    place = next(i for i, other in enumerate(lines) if other is line)
    return {
        "color": kit.colour_of(line.stage),
        "marker": kit.MARKERS[place % len(kit.MARKERS)],
        "linestyle": kit.DASHES[kit.twin(lines, line) % len(kit.DASHES)],
        "markersize": 4,
        "linewidth": 1.3,
    }


def _thresholds(row: Result) -> list[float]:
    """In metres, up to the first that is no number."""
    thresholds = numbers(row, "thresholds")
    return thresholds[: next((i for i, step in enumerate(thresholds) if not isfinite(step)), len(thresholds))]
