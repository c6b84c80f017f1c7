"""A name that nobody knows, and the nearest one that somebody does; names that are too many to be told."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def nearest(name: object, known: Iterable[str]) -> str | None:
    """The known name that was most likely meant, upper and lower case alike, or by its initials (lr); None where none is."""
    by_lower = {k.strip().lower(): k for k in known}
    plain = str(name).strip().lower()
    matches = difflib.get_close_matches(plain, by_lower, n=1)
    initials = [k for k in by_lower if "".join(word[:1] for word in k.split("_")) == plain and len(plain) > 1]
    return by_lower[matches[0]] if matches else by_lower[initials[0]] if len(initials) == 1 else None


def meant(name: object, known: Iterable[str], kind: str) -> str:
    """`, did you mean NAME; KIND: all of them.`, to end a sentence with; without the first half where none is near."""
    known = list(known)
    near = nearest(name, known)
    return (f", did you mean {near}" if near else "") + f"; {kind}: {', '.join(known)}."


def chosen(name: object, known: Iterable[str]) -> str | None:
    """The known name that equals `name` but for case and spaces around it; None where none or several do, or no text."""
    if not isinstance(name, str):
        return None
    known = list(known)
    if name in known:
        return name
    matches = [k for k in known if k.strip().lower() == name.strip().lower()]
    return matches[0] if len(matches) == 1 else None


def first_few(names: Sequence[str], most: int = 5, more: str = ", ...", between: str = ", ") -> str:
    """The first of many names; `more` follows where there are others, `{}` in it for how many."""
    return between.join(names[:most]) + (more.format(len(names) - most) if len(names) > most else "")
