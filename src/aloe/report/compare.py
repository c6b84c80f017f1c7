"""What a reader compares: the paper's number below ours, averages, ALOE minus its baseline, the share of the gap between
converted model and teacher that alignment closes, and the best in bold. Less is better in the columns that are `lower`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Literal

from aloe.draw.tables import MINUS, Cell
from aloe.report.columns import MEAN, Column
from aloe.report.lines import STAGES, Group, Line
from aloe.report.paper import AVERAGE, PaperTable, as_printed


def add_paper(group: Group, paper: PaperTable, columns: Sequence[Column]) -> None:
    """The paper's line behind our last one of its stage, where the paper has this teacher at this stage."""
    for stage in dict.fromkeys(line.stage for line in group.lines):
        row = paper.find(group.teacher, stage)
        shown = [c for c in columns if row and c.key in row.values]
        if row is None or not shown:
            continue
        line = Line("paper", stage, row.architecture, "paper", stage != "teacher")
        for column in shown:
            line.cells[column] = as_printed(row.values[column.key])
        last = max(i for i, other in enumerate(group.lines) if other.stage == stage)
        group.lines.insert(last + 1, line)


def add_averages(group: Group, paper: PaperTable) -> None:
    """Over the columns for which the group shows numbers; a line that lacks one has none.

    The paper's lines have the average that it prints where all of its columns are shown.
    """
    columns = group.columns()
    if len(columns) < 2:
        return
    whole = {c.key for c in columns} == set(paper.columns) - {AVERAGE}
    for line in group.lines:
        if line.kind == "paper" and whole:
            row = paper.find(group.teacher, line.stage)
            line.cells[MEAN] = Cell(float(row.values[AVERAGE])) if row else Cell()
        elif all(c in line.cells for c in columns):
            cells = [line.cells[c] for c in columns]
            line.cells[MEAN] = Cell(fmean(_value(cell) for cell in cells), note=_union(cells))


def add_deltas(
    group: Group, against: Sequence[str] = ("b-cosified", "teacher"), lower: Collection[Column] = ()
) -> None:
    """Aligned minus B-cosified as in the paper, or minus the next stage of `against` that the group has; then the paper's."""
    for kind in ("model", "paper"):
        for line in group.of(kind, "aligned"):
            baselines = (_baseline(group, kind, stage, line, lower) for stage in against)
            if baseline := next((each for each in baselines if each), None):
                group.lines.append(_delta(line, *baseline))


def add_gaps(group: Group, lower: Collection[Column] = ()) -> None:
    """Percent of the gap from the converted model to the teacher that alignment closes, 100 where it reaches the teacher.

    Of unrounded numbers; none where the teacher is not better in the digits that are shown.
    """
    for line in group.of("model", "aligned"):
        ends = [_baseline(group, "model", stage, line, lower) for stage in ("teacher", "converted")]
        if not all(ends):
            continue
        (teacher, above), (start, below) = (end for end in ends if end)
        share = Line(f"gap closed by {line.name}", f"% of {above} {MINUS} {below}", kind="delta")
        for column in line.cells:
            if column in teacher.cells and column in start.cells:
                own, top, bottom = (x.cells[column] for x in (line, teacher, start))
                if (_shown(top) - _shown(bottom)) * (-1 if column in lower else 1) > 0:
                    closed = (_value(own) - _value(bottom)) / (_value(top) - _value(bottom))
                    share.cells[column] = Cell(100 * closed, 1, note=_union((own, top, bottom)))
        if share.cells:
            group.lines.append(share)


def mark_best(group: Group, lower: Collection[Column] = ()) -> None:
    """Bold for the best of at least two interpretable models, and for all that show the same number."""
    rivals = [line for line in group.of("model") if line.interpretable]
    for column in (*group.columns(), MEAN):
        shown = {id(line): _shown(line.cells[column]) for line in rivals if column in line.cells}
        for line in rivals:
            if len(shown) > 1 and shown.get(id(line)) == (min if column in lower else max)(shown.values()):
                line.cells[column] = replace(line.cells[column], bold=True)


def _baseline(group: Group, kind: str, stage: str, line: Line, lower: Collection[Column]) -> tuple[Line, str] | None:
    """The best line of a stage that shares columns with `line`, and what to call it; None where there is none."""
    candidates = [b for b in group.of(kind, stage) if set(b.cells) & set(line.cells)]

    def merit(b: Line) -> float:
        return fmean(_value(b.cells[c]) * (-1 if c in lower else 1) for c in b.cells if c in line.cells)

    if not candidates:
        return None
    best = max(candidates, key=merit)
    return best, best.name if len(candidates) > 1 else STAGES[stage]


def _delta(line: Line, baseline: Line, called: str) -> Line:
    """Of the numbers as they are shown, so that a reader's subtraction agrees."""
    name = "paper" if line.kind == "paper" else f"Δ {line.name}"
    kind: Literal["paper", "delta"] = "paper" if line.kind == "paper" else "delta"
    delta = Line(name, f"{STAGES['aligned']} {MINUS} {called}", kind=kind)
    for column in line.cells:
        if column in baseline.cells:
            a, b = line.cells[column], baseline.cells[column]
            delta.cells[column] = Cell(
                _shown(a) - _shown(b), min(a.decimals, b.decimals), delta=True, note=_union((a, b))
            )
    return delta


def _shown(cell: Cell) -> float:
    return round(_value(cell), cell.decimals)


def _value(cell: Cell) -> float:
    assert cell.value is not None  # lines hold no empty cells
    return cell.value


def _union(cells: Iterable[Cell]) -> str:
    return "".join(sorted({mark for cell in cells for mark in cell.note}))
