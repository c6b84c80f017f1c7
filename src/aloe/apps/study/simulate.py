"""Participants of known preferences: for tests, for rehearsals, and for planning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from aloe.apps.study import trials
from aloe.apps.study.answers import Answer
from aloe.apps.study.fit import win_rate
from aloe.apps.study.settings import RANDOM, StudySettings
from aloe.apps.study.store import CHOICES, LEFT, RIGHT
from aloe.core.bounds import check_product
from aloe.core.errors import UserError

_NOISE = -4.0  # the score of a random map where none is given
_PACE, _CARELESS_PACE = 4.0, 1.5  # seconds per answer, median


@dataclass(frozen=True)
class Preferences:
    """How people choose: left with probability sigmoid(score of left - score of right + `left`), and so on.

    Args:
        scores: of each method.
        spread: standard deviation of each method's score from person to person.
        left: log-odds by which the left side is favoured.
        tie: two maps whose difference is felt to be below this are called no different (Rao and Kupper 1967), where offered.
        careless: share of people who press any key.
    """

    scores: Mapping[str, float]
    spread: float = 0.0
    left: float = 0.0
    tie: float = 0.0
    careless: float = 0.0

    def person(self, rng: np.random.Generator) -> Person:
        """One of them."""
        scores = {RANDOM: _NOISE} | {m: s + self.spread * rng.standard_normal() for m, s in self.scores.items()}
        return Person(scores, self.left, self.tie, bool(rng.uniform() < self.careless), rng)


@dataclass
class Person:
    """Somebody with scores of their own, and a generator to draw their answers from."""

    scores: Mapping[str, float]
    left: float
    tie: float
    careless: bool
    rng: np.random.Generator

    def choose(self, left: str, right: str, ties: bool = False) -> str:
        """The answer to two maps by their methods."""
        if self.careless:
            return CHOICES[self.rng.integers(3 if ties else 2)]
        lead, width = self.scores[left] - self.scores[right] + self.left, self.tie if ties else 0.0
        draw = self.rng.uniform()
        if draw < win_rate(lead - width):
            return LEFT
        return RIGHT if draw > 1 - win_rate(-lead - width) else CHOICES[2]

    def seconds(self) -> float:
        """How long an answer takes."""
        pace = _CARELESS_PACE if self.careless else _PACE
        return round(float(pace * np.exp(0.4 * self.rng.standard_normal())), 3)


def simulate(
    settings: StudySettings, images: int, participants: int, preferences: Preferences, seed: int = 0
) -> list[Answer]:
    """The answers of so many participants to the trials that a study would show them.

    Raises:
        UserError: a method of the study has no score, or more answers than are held together.
    """
    check_product({"participants": participants, "trials": settings.shown})
    if missing := [m for m in settings.methods if m not in {RANDOM, *preferences.scores}]:
        raise UserError(f"The simulation needs a score for {', '.join(missing)}.")
    answers = []
    for number in range(participants):
        person = preferences.person(np.random.default_rng([seed, number]))
        planned = trials.session(settings, images, number)
        for position, trial in enumerate(planned):
            answers.append(
                Answer(
                    participant=str(number + 1),
                    position=position,
                    planned=len(planned),
                    kind=trial.kind,
                    image=f"image {trial.image}",
                    title="",
                    left=trial.left,
                    right=trial.right,
                    repeats=trial.repeats,
                    choice=person.choose(trial.left, trial.right, settings.ties),
                    seconds=person.seconds(),
                    answered=0.0,
                )
            )
    return answers
