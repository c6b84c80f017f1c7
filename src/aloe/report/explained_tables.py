"""The measures of explanations, with a table of all models, methods, intervals and costs, and one of other settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from aloe.draw.tables import Block, Table
from aloe.report.columns import Column, Metric, detail, heading, number, numbers, value
from aloe.report.explained import by_method, table_name, variant_of
from aloe.report.footnotes import fewer_grids, measured_notes
from aloe.report.lines import LABELS, printed
from aloe.report.methods import look
from aloe.report.protocol import marks
from aloe.report.rows import Result
from aloe.report.selection import Measured
from aloe.report.tables import others_table


@dataclass(frozen=True)
class Scores:
    """`title` names the table and `words` the measure; `axis` is its picture's. Less is better where it is `lower`."""

    title: str
    words: str
    axis: str
    caption: str
    metrics: tuple[Metric, ...]
    notes: tuple[str, ...]
    lower: bool = False


def _per_cell(heading: str, pick: Callable[[list[float]], float]) -> Metric:
    def of(row: Result) -> float | None:
        scores = [each for each in numbers(row, "per_cell") if each == each]
        return pick(scores) if scores else None

    return Metric(heading, of)


def _megabytes(row: Result) -> float | None:
    peak = number(row, "cost", "peak_bytes")
    return None if peak is None else peak / 2**20


def _count(heading: str, name: str) -> Metric:
    return Metric(heading, detail(name), 0)


def _interval(name: str) -> tuple[Metric, ...]:
    return Metric("95 % from", detail(name, 0)), Metric("to", detail(name, 1))


_COST = (
    Metric("Forward", detail("cost", "forward"), 1),
    Metric("Backward", detail("cost", "backward"), 1),
    Metric("s / image", detail("cost", "seconds"), 3),
    Metric("MiB", _megabytes, 1),
)
_IMAGES = _count("Images", "images")
_MOST = (Metric("Most first", value), *_interval("area_most_interval"))
_AREAS = (*_MOST, Metric("Least first", detail("area_least")), *_interval("area_least_interval"))
_AREA = (
    "Pixel {0}: the class's mean probability (%) over all fractions of blocks {1}, the most attributed first ({2} is"
    " better, bold) and the least attributed first."
)
_CELLS = (_per_cell("Least cell", min), _per_cell("Best cell", max), Metric("Chance", detail("chance")))
_COUNTS = (_count("Grids", "grids"), _count("Maps", "cells"), _count("Discarded", "discarded"))
_MASKS = (Metric("Pointing", detail("pointing")), Metric("Mask area", detail("area")), _IMAGES)
_SEAMS = (Metric("Seams", detail("seams")), _count("Patch", "patch"), _IMAGES)
_BETWEEN_IMAGES = "95 % bootstrap intervals over images."
MEASURES = {
    "b6": Scores(
        "Table B6",
        "GridPG",
        "GridPG (%)",
        "Table B6, all methods, {grids}. GridPG (%) with 95 % bootstrap intervals, and what each map costs. Bold: a model's"
        " best.",
        (Metric("GridPG", value), *_interval("interval"), *_CELLS, *_COUNTS),
        (
            "Cells: the mean score of the grid's least and best position. Discarded: maps without positive attribution.",
            "Forward, backward: passes per image. MiB: peak memory for one image, beyond the model.",
        ),
    ),
    "deletion": Scores(
        "Pixel deletion",
        "pixel deletion",
        "blocks removed (%)",
        _AREA.format("deletion", "removed", "lower"),
        (*_AREAS, Metric("Untouched", detail("most", 0)), _IMAGES),
        (f"{_BETWEEN_IMAGES} Areas of models that start from other probabilities do not compare.",),
        lower=True,
    ),
    "insertion": Scores(
        "Pixel insertion",
        "pixel insertion",
        "blocks put back (%)",
        _AREA.format("insertion", "put back", "higher"),
        (*_AREAS, _IMAGES),
        (_BETWEEN_IMAGES,),
    ),
    "inside": Scores(
        "Object masks",
        "object masks",
        "positive attribution in the mask (%)",
        "Object masks. Share (%) of the positive attribution inside the object. Bold: a model's best.",
        (Metric("Inside", value), *_interval("interval"), *_MASKS),
        ("Mask area: what an even map scores. Pointing: images (%) whose largest value lies in the mask.",),
    ),
    "clarity": Scores(
        "Clarity",
        "clarity",
        "speckle (%)",
        "Clarity. Share (%) of a map's spectrum above a quarter of the sampling rate (bold: the least), and seams.",
        (Metric("Speckle", value), *_interval("interval"), *_SEAMS),
        (
            "Speckle: white noise has 75. Seams: the median map's mean jump at patch borders over that elsewhere; 1: no"
            " grid.",
            "Maps that are made per token and enlarged are smooth whatever they show: compare methods of the same"
            " resolution.",
        ),
        lower=True,
    ),
}


def scores_table(measured: Measured) -> Table:
    """Every model with every method: value, interval and the measure's other numbers; columns without any are left out."""
    kind, name = MEASURES[measured.name], table_name(measured)
    metrics = [m for m in (*kind.metrics, *_COST) if any(m.of(row) is not None for row in measured.results)]
    blocks = []
    for group, data, models in measured.cases():
        rows = []
        for line in models:
            scores = by_method(line, data)
            best = (min if kind.lower else max)(round(row.value, 2) for row in scores.values())
            for method, row in scores.items():
                first, *rest = (metric.cell(row) for metric in metrics)
                first = replace(first, note=marks(row), bold=len(scores) > 1 and round(row.value, 2) == best)
                rows.append(printed(line, [look(method).title], [first, *rest]))
        blocks.append(Block(measured.title(group, data), tuple(rows)))
    notes = (*kind.notes, *fewer_grids(measured), *measured_notes(measured))
    caption = kind.caption.replace("{grids}", measured.protocol_in_words)
    called = f"{name}-all" if measured.name == "b6" else name
    return Table(called, caption, (*LABELS[:2], "Method"), tuple(m.heading for m in metrics), tuple(blocks), notes)


def explained_others(measured: Measured) -> Table | None:
    """Rows measured in another way than their teacher's block, or behind another row; None without any."""
    kind = MEASURES[measured.name]
    places = [heading(Column(row.data, variant_of(row)), measured.columns) for row, _ in measured.others]
    first = kind.metrics[0].heading
    return others_table(table_name(measured), kind.title, measured.others, places, measured.columns, first)
