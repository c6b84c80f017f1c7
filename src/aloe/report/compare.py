"""What a reader compares: the paper's number below ours, averages, ALOE minus its baseline, and the best in bold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Literal

from aloe.report.lines import MEAN, STAGES, Column, Group, Line
from aloe.report.paper import AVERAGE, PaperTable
from aloe.viz.tables import MINUS, Cell


def add_paper(group: Group, paper: PaperTable, columns: Sequence[Column]) -> None:
    """The paper's line behind our last one of its stage, where the paper has this teacher at this stage."""
    for stage in dict.fromkeys(line.stage for line in group.lines):
        row = paper.find(group.teacher, stage)
        shown = [c for c in columns if row and c.key in row.values]
        if row is None or not shown:
            continue
        line = Line("paper", stage, row.architecture, "paper", stage != "teacher")
        for column in shown:
            digits = row.values[column.key]
            line.cells[column] = Cell(float(digits), decimals=-int(digits.as_tuple().exponent))
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


def add_deltas(group: Group) -> None:
    """Aligned minus B-cosified as in the paper, or minus the teacher where nothing was B-cosified; then the paper's."""
    for kind in ("model", "paper"):
        for line in group.of(kind, "aligned"):
            for stage in ("b-cosified", "teacher"):
                baselines = [b for b in group.of(kind, stage) if set(b.cells) & set(line.cells)]
                if baselines:
                    best = max(baselines, key=lambda b: fmean(_value(b.cells[c]) for c in b.cells if c in line.cells))
                    group.lines.append(_delta(line, best, named=len(baselines) > 1))
                    break


def mark_best(group: Group) -> None:
    """Bold for the best of at least two interpretable models, and for all that show the same number."""
    rivals = [line for line in group.of("model") if line.interpretable]
    for column in (*group.columns(), MEAN):
        shown = {id(line): round(_value(line.cells[column]), 2) for line in rivals if column in line.cells}
        for line in rivals:
            if len(shown) > 1 and shown.get(id(line)) == max(shown.values()):
                line.cells[column] = replace(line.cells[column], bold=True)


def _delta(line: Line, baseline: Line, named: bool) -> Line:
    """Of the numbers as they are shown, so that a reader's subtraction agrees."""
    name = "paper" if line.kind == "paper" else f"Δ {line.name}"
    against = baseline.name if named else STAGES[baseline.stage]
    kind: Literal["paper", "delta"] = "paper" if line.kind == "paper" else "delta"
    delta = Line(name, f"{STAGES['aligned']} {MINUS} {against}", kind=kind)
    for column in line.cells:
        if column in baseline.cells:
            a, b = line.cells[column], baseline.cells[column]
            difference = round(_value(a), a.decimals) - round(_value(b), b.decimals)
            delta.cells[column] = Cell(difference, min(a.decimals, b.decimals), delta=True, note=_union((a, b)))
    return delta


def _value(cell: Cell) -> float:
    assert cell.value is not None  # lines hold no empty cells
    return cell.value


def _union(cells: Iterable[Cell]) -> str:
    return "".join(sorted({mark for cell in cells for mark in cell.note}))
