"""The parts of a table before it is text: columns, lines and the group of lines that belong to one teacher."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePath
from typing import Literal

from aloe.draw.tables import Cell
from aloe.models import stages
from aloe.report.methods import look
from aloe.report.paper import AVERAGE, paper_tables
from aloe.report.protocol import TEMPLATES
from aloe.report.rows import Result

STAGES = {name: stage.table for name, stage in stages.STAGES.items()}


def stage_title(stage: str) -> str:
    """A stage as tables and legends call it; one that is not known goes by its own name."""
    return STAGES.get(stage, stage)


TEN = {key: heading for key, heading in paper_tables()["B1"].columns.items() if key != AVERAGE}


@dataclass(frozen=True)
class Column:
    """A data set; `variant` is the prompts (zero-shot), the attribution method (explanations) or the metric (dense)."""

    data: str
    variant: str = ""

    @property
    def key(self) -> str:
        """What the paper's tables know it by."""
        return f"{self.data}/{self.variant}" if self.variant else self.data


MEAN = Column("", AVERAGE)  # no data set is called so


@dataclass
class Line:
    """One row of the table: a model, the paper's numbers of that model, or a difference of two lines (neither, ours or the
    paper's, is `interpretable` or not)."""

    name: str
    stage: str
    architecture: str = ""
    kind: Literal["model", "paper", "delta"] = "model"
    interpretable: bool | None = None
    cells: dict[Column, Cell] = field(default_factory=dict)
    results: dict[Column, Result] = field(default_factory=dict)


@dataclass
class Group:
    """The lines of one teacher."""

    teacher: str
    lines: list[Line]

    def of(self, kind: str, stage: str | None = None) -> list[Line]:
        """Lines of a kind, of one stage or of all."""
        return [line for line in self.lines if line.kind == kind and stage in (None, line.stage)]

    def columns(self) -> list[Column]:
        """Those for which the group shows a number, without the average."""
        return list(dict.fromkeys(c for line in self.lines for c in line.cells if c != MEAN))


@lru_cache(maxsize=16)
def _by_end(columns: tuple[Column, ...]) -> dict[str, set[str]]:
    """The data of columns by the end of their path."""
    found: dict[str, set[str]] = {}
    for column in columns:
        found.setdefault(PurePath(column.data).name, set()).add(column.data)
    return found


def heading(column: Column, columns: Iterable[Column] = ()) -> str:
    """The paper's heading; of a path its end, unless that is taken by another of the columns or by the paper."""
    if column == MEAN:
        return paper_tables()["B1"].columns[AVERAGE]
    name = TEN.get(column.data)
    if name is None:
        kind = re.match(r"\w\w+:", column.data)  # rendered:400,100@0/64 is no path
        end = column.data if kind else PurePath(column.data).name or column.data
        clash = end in (*TEN, *TEN.values()) or bool(_by_end(tuple(columns)).get(end, set()) - {column.data})
        name = column.data if clash else end
    variant = TEMPLATES.get(column.variant) or look(column.variant).title
    return f"{name}, {variant}" if column.variant else name
