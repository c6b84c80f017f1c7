"""One answer of a study."""

from __future__ import annotations

from dataclasses import dataclass

from aloe.apps.study.store import LEFT, RIGHT


@dataclass(frozen=True)
class Answer:
    """A participant's answer to the trial at a position of `planned`: methods left and right of an image, and the choice.

    `title` is the class that was explained, `repeats` the position of the trial that a repeat repeats, `seconds` from the
    page's making to its answer, `answered` seconds since 1970.
    """

    participant: str
    position: int
    planned: int
    kind: str
    image: str
    title: str
    left: str
    right: str
    repeats: int | None
    choice: str
    seconds: float
    answered: float

    @property
    def winner(self) -> str | None:
        """The method that was chosen; None for a tie."""
        return {LEFT: self.left, RIGHT: self.right}.get(self.choice)
