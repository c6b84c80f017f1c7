"""What a study asks, of how many people, in which words; saved inside the study's file."""

from __future__ import annotations

from itertools import combinations
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from aloe.core.settings import Checked, Count, Seed

RANDOM = "random"  # the method whose maps are noise
QUESTION = "Which picture helps you more to understand the answer?"
CONSENT = """\
You will see photographs, what an artificial neural network says that they show, and two pictures that try to explain the \
answer. Each time you choose the picture that helps you more. There are no right answers; it takes about ten minutes.

Taking part is voluntary. You may stop at any time by closing the page; your personal link lets you go on later.

We store your choices, how long each one took and when you started and finished. We store no name, no network address and \
nothing about your device. A cookie remembers your personal link on this device. The answers are analysed together and may \
be published without your personal link."""

MAX_TRIALS = 10_000
Few = Annotated[int, Field(ge=1, le=MAX_TRIALS)]
FewOrNone = Annotated[int, Field(ge=0, le=MAX_TRIALS)]


class StudySettings(Checked):
    """A study.

    Args:
        identical, random: attention checks among them, a map beside itself and a map beside noise.
        repeats: comparisons that come back later with their sides exchanged.
        places: sessions that may be started.
        question, consent: words that participants see; a blank line starts a paragraph.
    """

    methods: tuple[str, ...] = Field(
        ("inherent", "attnlrp", "intgrad", "legrad", "chefercam", "lime"), description="attribution methods"
    )
    trials: Few = Field(50, description="comparisons per participant that count")
    practice: FewOrNone = Field(3, description="trials for practice before them")
    identical: FewOrNone = 2
    random: FewOrNone = 4
    repeats: FewOrNone = Field(4, validate_default=True)
    ties: bool = Field(False, description="offer 'no difference'")
    seed: Seed = Field(0, description="of every participant's draw")
    places: Count = 1000
    title: str = Field("Explaining what a network sees", description="heading of the study's pages")
    question: str = QUESTION
    consent: str = CONSENT
    contact: str = Field("", description="whom participants can ask")

    @field_validator("methods")
    @classmethod
    def _two_methods(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(methods)) < 2 or len(set(methods)) < len(methods):
            raise ValueError("A study compares at least two methods, each named once")
        return methods

    @field_validator("repeats")
    @classmethod
    def _repeats_of_trials(cls, repeats: int, info: ValidationInfo) -> int:
        trials = info.data.get("trials", repeats * 2)
        if repeats > (trials + 1) // 2:
            raise ValueError(f"Only the first half of {trials} trials can come back")
        return repeats

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every two methods."""
        return list(combinations(self.methods, 2))

    @property
    def shown(self) -> int:
        """Trials that a participant answers in all."""
        return self.practice + self.trials + self.identical + self.random + self.repeats
