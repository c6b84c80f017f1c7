"""How far participants agree who judged the same two maps of the same image: pairwise agreement and Krippendorff's alpha."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aloe.apps.study.answers import Answer
from aloe.apps.study.store import TIE
from aloe.apps.study.trials import MAIN


@dataclass(frozen=True)
class Agreement:
    """`same`: how often two participants who saw the same two maps chose the same; `alpha`: that beyond chance (1 always,
    0 by chance); `comparisons` that several judged, with `answers` in all. None where there are none, or no choice."""

    same: float | None
    alpha: float | None
    comparisons: int
    answers: int


def agreement(answers: Iterable[Answer]) -> Agreement:
    """Over the trials that count, the first answer of each participant to a comparison.

    Which of two methods is called the first is arbitrary, so every comparison enters alpha both ways round: chance is a coin
    between the two methods, plus the ties.
    """
    choices: dict[tuple[str, str, str], dict[str, str]] = defaultdict(dict)
    for answer in answers:
        if answer.kind == MAIN:
            first, second = sorted((answer.left, answer.right))
            said = TIE if answer.winner is None else "first" if answer.winner == first else "second"
            choices[answer.image, first, second].setdefault(answer.participant, said)
    units = [Counter(said.values()) for said in choices.values() if len(said) > 1]
    mirrored = [Counter({TIE: u[TIE], "first": u["second"], "second": u["first"]}) for u in units]
    pairs = sum(u.total() * (u.total() - 1) for u in units)
    same = sum(n * (n - 1) for u in units for n in u.values())
    count = sum(u.total() for u in units)
    return Agreement(same / pairs if pairs else None, krippendorff([*units, *mirrored]), len(units), count)


def krippendorff(units: Sequence[Counter[str]]) -> float | None:
    """Krippendorff's alpha for nominal data (Krippendorff 2011): how often each value was given to each unit.

    None where no unit has two values, or all values are one.
    """
    several = [unit for unit in units if unit.total() > 1]
    totals = sum(several, Counter[str]())
    count = totals.total()
    chance = count * (count - 1) - sum(n * (n - 1) for n in totals.values())
    if not chance:
        return None
    differing = sum((unit.total() ** 2 - sum(n * n for n in unit.values())) / (unit.total() - 1) for unit in several)
    return 1 - (count - 1) * differing / chance
