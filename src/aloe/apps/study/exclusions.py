"""Whose answers count: every participant is judged by the rules, and every rule that leaves somebody out is reported."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Annotated

from pydantic import Field

from aloe.apps.study.answers import Answer
from aloe.apps.study.settings import RANDOM
from aloe.apps.study.store import LEFT, RIGHT, TIE
from aloe.apps.study.trials import IDENTICAL, MAIN, NOISE, REPEAT
from aloe.core.settings import Checked

Share = Annotated[float, Field(ge=0, le=1)]


class Rules(Checked):
    """What a participant may do at most; a share of 1 turns a rule off.

    Args:
        finished: leave out who did not answer every trial.
        noise: share of the random maps that were preferred, or called no different.
        identical: share of the identical pairs in which a difference was seen; judged where ties were offered.
        seconds: the least median time per answer.
        one_side: share of the answers that fell on one side.
        inconsistent: share of the repeats that were answered differently.
    """

    finished: bool = True
    noise: Share = 0.25
    identical: Share = 1
    seconds: Annotated[float, Field(ge=0)] = 1.0
    one_side: Share = 0.9
    inconsistent: Share = 1


@dataclass(frozen=True)
class Judged:
    """A participant: the numbers that the rules look at (None where nothing was asked), and the rules that were broken."""

    participant: str
    answered: int
    planned: int
    noise: float | None
    identical: float | None
    seconds: float
    one_side: float | None
    inconsistent: float | None
    broken: tuple[str, ...]


def judge(answers: Iterable[Answer], rules: Rules) -> list[Judged]:
    """Every participant by the rules."""
    of: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        of[answer.participant].append(answer)
    ties = any(answer.choice == TIE for all_of_one in of.values() for answer in all_of_one)
    return [_judged(participant, own, rules, ties) for participant, own in of.items()]


def keep(answers: Iterable[Answer], judged: Iterable[Judged]) -> list[Answer]:
    """The answers of those who broke no rule."""
    kept = {each.participant for each in judged if not each.broken}
    return [answer for answer in answers if answer.participant in kept]


def report(judged: Sequence[Judged], rules: Rules) -> list[str]:
    """A sentence for the study and one for each rule that is on, with how many broke it."""
    kept = sum(not each.broken for each in judged)
    words = {
        "finished": "answered every trial",
        "noise": f"preferred the random map in at most {rules.noise:.0%} of its checks",
        "identical": f"saw a difference in at most {rules.identical:.0%} of the identical pairs",
        "seconds": f"took at least {rules.seconds:g} s per answer (median)",
        "one_side": f"chose one side in at most {rules.one_side:.0%} of the trials",
        "inconsistent": f"changed at most {rules.inconsistent:.0%} of the repeated answers",
    }
    lines = [f"{kept} of {len(judged)} participants are counted."]
    for rule, sentence in words.items():
        off = {"finished": False, "seconds": 0.0}.get(rule, 1.0)
        if getattr(rules, rule) != off:
            lines.append(f"Rule: {sentence}; left out by it: {sum(rule in each.broken for each in judged)}.")
    return lines


def _judged(participant: str, answers: list[Answer], rules: Rules, ties: bool) -> Judged:
    by_position = {answer.position: answer for answer in answers}
    counted = [a for a in answers if a.kind in (MAIN, REPEAT)]
    noise = [a.choice == TIE or a.winner == RANDOM for a in answers if a.kind == NOISE]
    identical = [a.choice != TIE for a in answers if a.kind == IDENTICAL] if ties else []
    changed = [
        a.winner != by_position[a.repeats].winner
        for a in answers
        if a.kind == REPEAT and a.repeats is not None and a.repeats in by_position
    ]
    sides = [sum(a.choice == side for a in counted) / len(counted) for side in (LEFT, RIGHT)] if counted else []
    planned = answers[0].planned
    values = {
        "noise": _share(noise),
        "identical": _share(identical),
        "one_side": max(sides, default=None),
        "inconsistent": _share(changed),
    }
    broken = ["finished"] if rules.finished and len(answers) < planned else []
    broken += [rule for rule, value in values.items() if value is not None and value > getattr(rules, rule)]
    seconds = median(a.seconds for a in answers)
    broken += ["seconds"] if seconds < rules.seconds else []
    return Judged(participant, len(answers), planned, seconds=seconds, broken=tuple(broken), **values)


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
