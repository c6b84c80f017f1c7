"""From words to tokens: which tokens of an answer spell a word or phrase, and which token tells it from another word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aloe.core.errors import UserError


@dataclass(frozen=True)
class Span:
    """One occurrence of a word or phrase: characters [start, stop) of the answer, and the indices of its tokens."""

    text: str
    start: int
    stop: int
    tokens: tuple[int, ...]


def spell(tokenizer: Any, ids: Sequence[int]) -> tuple[str, list[int]]:
    """The text of an answer, and for each of its tokens the number of characters that it ends at.

    What is decoded grows with every token; a letter that several tokens spell belongs to the last of them.
    """
    ends: list[int] = []
    text = ""
    for k in range(len(ids)):
        text = tokenizer.decode(list(ids[: k + 1]), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        ends.append(max(len(text.rstrip("\ufffd")), ends[-1] if ends else 0))
    return text, ends


def find(text: str, ends: Sequence[int], words: Sequence[str | int] | None = None) -> list[Span]:
    """Every occurrence of each word or phrase in the answer, in the answer's order; None: all of its words.

    Whole words count, whatever their case. A number names a single token of the answer, from 0.

    Raises:
        UserError: a word or token that the answer does not have, or no answer.
    """
    if not text.strip():
        raise UserError("The answer is empty: there is no word to ground.")
    starts = [0, *ends[:-1]]
    places: list[tuple[int, int]] = []
    spans = []
    if words is None:
        places = [m.span() for m in re.finditer(r"\w+(?:['\u2019-]\w+)*", text)]
    for word in words or ():
        if isinstance(word, int):
            if not 0 <= word < len(ends):
                raise UserError(f"The answer has no token {word}; it has {len(ends)}, counted from 0.")
            spans.append(Span(text[starts[word] : ends[word]].strip(), starts[word], ends[word], (word,)))
            continue
        pattern = r"\s+".join(map(re.escape, word.split()))
        inside = [m.span() for m in re.finditer(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE)] if pattern else []
        if not inside:
            raise UserError(f"The answer has no {word!r}; it reads {_short(text)!r}.")
        places += inside
    for start, stop in sorted(set(places)):
        tokens = tuple(k for k, (a, b) in enumerate(zip(starts, ends, strict=True)) if a < stop and b > start)
        spans.append(Span(text[start:stop], start, stop, tokens))
    return sorted(spans, key=lambda span: (span.start, span.stop))


def part(tokenizer: Any, ids: Sequence[int], text: str, span: Span, other: str) -> tuple[int, int]:
    """Where an answer with another word in the span's place first reads differently: index of the token, and the other token.

    Raises:
        UserError: it does not differ, or the answer's tokens are not the tokenizer's own for its text.
    """
    mine = tokenizer(text[: span.stop], add_special_tokens=False)["input_ids"]
    theirs = tokenizer(text[: span.start] + other, add_special_tokens=False)["input_ids"]
    at = next((k for k, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), None)
    if at is None or not other.strip():
        raise UserError(f"{span.text!r} cannot be told from {other!r} by a token; give another word.")
    if list(ids[: at + 1]) != list(mine[: at + 1]):
        raise UserError(
            f"{span.text!r} cannot be compared with {other!r}: the answer is not spelt as its tokenizer would."
        )
    if theirs[at] == getattr(tokenizer, "unk_token_id", None):
        raise UserError(f"The model knows no word {other!r}; give another one to compare with.")
    return at, int(theirs[at])


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}..."
