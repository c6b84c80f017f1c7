"""The lines of a table before it is text, in groups that belong to one teacher, and the rows that they are printed as."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from aloe.draw.tables import Block, Cell, Row
from aloe.models import stages
from aloe.report.columns import MEAN, Column
from aloe.report.rows import Result

STAGES = {name: stage.table for name, stage in stages.STAGES.items()}
LABELS = ("Model", "Stage", "Architecture", "Inter.")
Kind = Literal["model", "paper", "delta"]


def stage_title(stage: str) -> str:
    """A stage as tables and legends call it; one that is not known goes by its own name."""
    return STAGES.get(stage, stage)


@dataclass
class Line:
    """One row of the table: a model, the paper's numbers of that model, or a difference of two lines (neither, ours or the
    paper's, is `interpretable` or not)."""

    name: str
    stage: str
    architecture: str = ""
    kind: Kind = "model"
    interpretable: bool | None = None
    cells: dict[Column, Cell] = field(default_factory=dict)
    results: dict[Column, Result] = field(default_factory=dict)


@dataclass
class Group:
    """The lines of one teacher."""

    teacher: str
    lines: list[Line]

    @property
    def title(self) -> str:
        return self.teacher or "teacher unknown"

    def of(self, kind: str, stage: str | None = None) -> list[Line]:
        """Lines of a kind, of one stage or of all."""
        return [line for line in self.lines if line.kind == kind and stage in (None, line.stage)]

    def columns(self) -> list[Column]:
        """Those for which the group shows a number, without the average."""
        return list(dict.fromkeys(c for line in self.lines for c in line.cells if c != MEAN))

    def rows(self, columns: Sequence[Column]) -> tuple[Row, ...]:
        """The lines as they are printed, a dash where a line has no number."""
        ticks = {True: "✓", False: "✗", None: ""}
        return tuple(
            printed(
                line,
                (line.architecture, ticks[line.interpretable]),
                [line.cells.get(c, Cell()) for c in columns],
                line.kind,
            )
            for line in self.lines
        )


def printed(of: Line | Result, words: Iterable[str], cells: Iterable[Cell], kind: Kind = "model") -> Row:
    """Name, stage and further words of a model before its numbers; a teacher's are gray."""
    return Row((of.name, stage_title(of.stage), *words), tuple(cells), kind, gray=of.interpretable is False)


def blocks_of(rows: Iterable[tuple[str, Row]]) -> tuple[Block, ...]:
    """Rows under their titles, in the order in which those come first."""
    blocks: dict[str, list[Row]] = {}
    for title, row in rows:
        blocks.setdefault(title, []).append(row)
    return tuple(Block(title, tuple(group)) for title, group in blocks.items())
