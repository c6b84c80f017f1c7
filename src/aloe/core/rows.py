"""Rows read from files, held against their key: the same row counts once, and two that contradict each other are refused."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

from aloe.core.errors import UserError


class Keyed:
    """The facts of rows by key, with the place that each was read from; `repeated` counts rows that came again."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[str, dict[str, Any]]] = {}
        self.repeated = 0

    def __contains__(self, key: Hashable) -> bool:
        return key in self._known

    def add(self, key: Hashable, facts: Mapping[str, Any], place: str, name: str) -> bool:
        """Whether the key is new.

        Args:
            facts: what two rows of the key must agree on, as far as both hold it.
            place, name: where the row stands and what it is about, as in "line 3 of a.csv" and "trial 3 of participant 1".

        Raises:
            UserError: another row of the key says something else.
        """
        if key not in self._known:
            self._known[key] = (place, dict(facts))
            return True
        before, earlier = self._known[key]
        if difference := contradiction(earlier, facts):
            words = f"{before} and {place} contradict each other on {name}: {difference}; leave out the wrong one."
            raise UserError(f"{words[0].upper()}{words[1:]}")
        self._known[key] = (before, {**earlier, **facts})
        self.repeated += 1
        return False


def contradiction(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """What two rows say differently, such as "value 50.0 and 52.0"; "" where they agree on all that both hold."""
    for name in first:
        if name in second and not _same(first[name], second[name]):
            return f"{name} {first[name]!r} and {second[name]!r}"
    return ""


def repeats(count: int, what: str = "row") -> list[str]:
    """The sentence for so many rows that came again; none for 0."""
    return [f"{count} {what if count == 1 else f'{what}s'} came more than once and counted once."] if count else []


def _same(first: Any, second: Any) -> bool:
    numbers = (int, float)
    if isinstance(first, numbers) and isinstance(second, numbers):
        return math.isclose(first, second, rel_tol=1e-9) or (first != first and second != second)
    return bool(first == second)
