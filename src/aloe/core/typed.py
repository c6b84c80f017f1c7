"""Numbers and lists that people type, by one rule: Western digits only, one comma between two values, none left empty."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from aloe.core.errors import UserError

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")  # more digits are no count of anything
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)


def first_twice(names: Iterable[str]) -> str | None:
    """The first name that came before, or None."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def whole_number(text: str) -> int | None:
    """The whole number that a text is, or None; "²", "1_0" and "1 2" are none."""
    match = _WHOLE.fullmatch(text.strip())
    return int(match[0]) if match else None


def number(text: str) -> float | None:
    """The finite number that a text is, or None."""
    match = _NUMBER.fullmatch(text.strip())
    value = float(match[0]) if match else math.inf
    return value if math.isfinite(value) else None


def odd_number(text: str) -> bool:
    """Whether a text is a number to Python, or all but one, and none by this rule: 1_0, 1e400, other digits than Western."""
    try:
        return math.isfinite(float(text)) and number(text) is None
    except (ValueError, OverflowError):
        return False


def words(text: str, option: str, *, none: bool = False) -> list[str]:
    """The words of a list with commas; `none`: a list without any is given back as it is.

    Raises:
        UserError: there is none, or nothing between two commas.
    """
    parts = [word.strip() for word in text.split(",")]
    if none and not any(parts):
        return []
    if not all(parts):
        raise UserError(f"{option} takes one or several words with a comma between two, got {text!r}.")
    return parts


def whole_numbers(text: str, option: str, example: str, least: int = 0) -> list[int]:
    """The whole numbers of a list with commas.

    Raises:
        UserError: something else stands there, or a number below `least`; `example` shows how it is done.
    """
    numbers = [whole_number(word) for word in text.split(",")]
    if not all(value is not None and value >= least for value in numbers):
        below = f" of at least {least}" if least > 0 else ""
        raise UserError(
            f"{option} takes a whole number{below}, or several with commas, such as {example}; got {text!r}."
        )
    return [value for value in numbers if value is not None]


def named_numbers(text: str, option: str, example: str) -> dict[str, float]:
    """The numbers of a list `name=number,name=number`.

    Raises:
        UserError: something else stands there, or a name twice.
    """
    pairs = [(name.strip(), number(value)) for name, _, value in (word.partition("=") for word in text.split(","))]
    numbers = {name: value for name, value in pairs if name and value is not None}
    if len(numbers) < len(pairs):
        raise UserError(f"{option} takes name=number with commas, each name once, such as {example}; got {text!r}.")
    return numbers
