"""A number of a result row as a column of a table, and the way to it in the row's details."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any

from aloe.report.rows import Result


@dataclass(frozen=True)
class Metric:
    """A column: its heading, and what it shows of a row; None is a dash.

    `key` is the variant by which the paper's table knows it. Less is better where it is `lower`; an upper bound is not
    `compared`.
    """

    heading: str
    of: Callable[[Result], float | None]
    decimals: int = 2
    key: str = ""
    lower: bool = False
    compared: bool = True


def detail(*path: str | int) -> Callable[[Result], float | None]:
    """What reads one of the row's details: `detail("interval", 0)`."""
    return lambda row: number(row, *path)


def number(row: Result, *path: str | int) -> float | None:
    """A number in a row's details, None where it is missing or not finite: `number(row, "interval", 0)`."""
    value: Any = row.details
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) else None


def numbers(row: Result, name: str) -> list[float]:
    """A list in a row's details, NaN for what is no number."""
    found = row.details.get(name)
    values = [number(row, name, i) for i in range(len(found))] if isinstance(found, list) else []
    return [float("nan") if value is None else value for value in values]
