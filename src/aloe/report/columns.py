"""The columns of tables: where a number of a result row stands, and the way to it in the row's details."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from pathlib import PurePath
from typing import Any

from aloe.draw.tables import Cell
from aloe.report.methods import look
from aloe.report.paper import AVERAGE, paper_tables
from aloe.report.protocol import TEMPLATES
from aloe.report.rows import Result

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


@dataclass(frozen=True)
class Metric:
    """A column of numbers: its heading, and what it shows of a row; None is a dash.

    `key` is the variant by which the paper's table knows it. Less is better where it is `lower`; an upper bound is not
    `compared`.
    """

    heading: str
    of: Callable[[Result], float | None]
    decimals: int = 2
    key: str = ""
    lower: bool = False
    compared: bool = True

    def cell(self, row: Result, note: str = "") -> Cell:
        return noted(self.of(row), note, self.decimals)


def noted(value: float | None, note: str, decimals: int = 2) -> Cell:
    """A number with its marks, or a dash."""
    return Cell(value, decimals, note=note if value is not None else "")


def value(row: Result) -> float:
    """What a row was measured for."""
    return row.value


def detail(*path: str | int) -> Callable[[Result], float | None]:
    """What reads one of the row's details: `detail("interval", 0)`."""
    return lambda row: number(row, *path)


def number(row: Result, *path: str | int) -> float | None:
    """A number in a row's details, None where it is missing or not finite: `number(row, "interval", 0)`."""
    entry: Any = row.details
    for step in path:
        try:
            entry = entry[step]
        except (KeyError, IndexError, TypeError):
            return None
    return float(entry) if isinstance(entry, int | float) and not isinstance(entry, bool) and isfinite(entry) else None


def numbers(row: Result, name: str) -> list[float]:
    """A list in a row's details, NaN for what is no number."""
    entries = row.details.get(name)
    values = [number(row, name, i) for i in range(len(entries))] if isinstance(entries, list) else []
    return [float("nan") if each is None else each for each in values]


@lru_cache(maxsize=16)
def _by_end(columns: tuple[Column, ...]) -> dict[str, set[str]]:
    """The data of columns by the end of their path."""
    by_end: dict[str, set[str]] = {}
    for column in columns:
        by_end.setdefault(PurePath(column.data).name, set()).add(column.data)
    return by_end


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
