"""From answers to Bradley-Terry scores (section B.2, Table B7): method i beats method j with probability
sigmoid(score_i - score_j), scores of mean 0, intervals from a bootstrap over participants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from aloe.apps.study.answers import Answer
from aloe.apps.study.trials import MAIN
from aloe.core.bounds import MAX_HELD, check_product
from aloe.core.errors import UserError

Ties = Literal["half", "drop"]
LEVEL, SAMPLES = 0.95, 1000
PRIOR = 0.01  # choix's alpha: keeps a score finite where a method won, or lost, every time


@dataclass
class Fit:
    """M methods: `scores` (M,), their intervals `low` and `high` (M,); `wins` (M, M), how often the row's method beat the
    column's, a tie half for each; the model's win rates with intervals `rate_low`, `rate_high` (M, M)."""

    methods: list[str]
    scores: np.ndarray
    low: np.ndarray
    high: np.ndarray
    wins: np.ndarray
    rate_low: np.ndarray
    rate_high: np.ndarray
    participants: int
    answers: int
    ties: int
    notes: list[str] = field(default_factory=list)

    @property
    def rates(self) -> np.ndarray:
        """(M, M): the probability that the row's method beats the column's."""
        return win_rate(self.scores[:, None] - self.scores[None, :])

    @property
    def observed(self) -> np.ndarray:
        """(M, M): the share of comparisons that the row's method won; NaN where there was none."""
        both = self.wins + self.wins.T
        return np.divide(self.wins, both, out=np.full_like(both, np.nan), where=both > 0)

    @property
    def order(self) -> list[int]:
        """The methods from the best."""
        return np.argsort(-self.scores, kind="stable").tolist()


def win_rate(difference: Any) -> Any:
    """The probability of winning by the difference of two scores."""
    return 1 / (1 + np.exp(-np.asarray(difference, float)))


def fit(answers: Sequence[Answer], *, ties: Ties = "half", samples: int = SAMPLES, seed: int = 0) -> Fit:
    """Scores of the methods from the trials that count (practice, checks and repeats do not).

    Args:
        ties: a tie is half a win for both, or left out.
        samples: of the bootstrap, each as many participants as there are. seed: of their draws.

    Raises:
        UserError: no answers that count, too few samples, methods that were never compared, or choix is missing.
    """
    counted = [answer for answer in answers if answer.kind == MAIN]
    if not counted:
        raise UserError("There are no answers to fit: nobody that the rules keep has answered a trial that counts.")
    if samples < 1:
        raise UserError(f"A bootstrap needs at least one sample, got {samples}.")
    methods = sorted({method for answer in counted for method in (answer.left, answer.right)})
    each = win_matrices(counted, methods, ties)
    wins = each.sum(0)
    reached = _reach(wins + wins.T)[0]
    if lost := [method for method, reachable in zip(methods, reached, strict=True) if not reachable]:
        words = f"{', '.join(lost)} and {methods[0]} were never compared, not even through others"
        raise UserError(f"{words}; more answers are needed.")
    scores = bradley_terry(wins)
    check_product({"samples": samples, "rates of winning": len(methods) ** 2}, 10 * MAX_HELD)
    rng, drawn = np.random.default_rng(seed), np.empty((samples, len(methods)))
    for i in range(samples):
        drawn[i] = bradley_terry(each[rng.integers(len(each), size=len(each))].sum(0), scores)
    rates = win_rate(drawn[:, :, None] - drawn[:, None, :])
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    low, high = np.quantile(drawn, ends, axis=0)
    rate_low, rate_high = np.quantile(rates, ends, axis=0)
    if len(each) < 2:
        low, high, rate_low, rate_high = (np.full_like(ends, np.nan) for ends in (low, high, rate_low, rate_high))
    undecided = sum(answer.winner is None for answer in counted)
    done = Fit(methods, scores, low, high, wins, rate_low, rate_high, len(each), len(counted), undecided)
    if len(each) < 2:
        done.notes.append("One participant alone has no interval: it says nothing of how much others would differ.")
    if not _reach(wins).all():
        done.notes.append(
            "Some methods won, or lost, every comparison with the others; their scores have no bound but the fit's prior."
        )
    return done


def win_matrices(answers: Sequence[Answer], methods: Sequence[str], ties: Ties = "half") -> np.ndarray:
    """(P, M, M): for each participant, how often the row's method beat the column's."""
    participants = list(dict.fromkeys(answer.participant for answer in answers))
    person = {name: i for i, name in enumerate(participants)}
    index = {method: i for i, method in enumerate(methods)}
    wins = np.zeros((len(participants), len(methods), len(methods)))
    for answer in answers:
        p, left, right = person[answer.participant], index[answer.left], index[answer.right]
        if answer.winner is not None:
            loser = right if answer.winner == answer.left else left
            wins[p, index[answer.winner], loser] += 1
        elif ties == "half":
            wins[p, left, right] += 0.5
            wins[p, right, left] += 0.5
    return wins


def bradley_terry(wins: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """Maximum-likelihood scores (M,) of mean 0 for wins (M, M), through choix, with a trace of a prior.

    Raises:
        UserError: choix is missing.
    """
    try:
        import choix
    except ImportError as error:
        raise UserError('The study needs choix: pip install "aloe-vit[study]".') from error
    scores = choix.ilsr_pairwise_dense(wins, alpha=PRIOR, initial_params=start, max_iter=1000, tol=1e-5)
    return scores - scores.mean()


def _reach(edges: np.ndarray) -> np.ndarray:
    """Which methods beat which, at least through others: where all beat all, scores are finite without a prior."""
    reach = (edges > 0) | np.eye(len(edges), dtype=bool)
    for _ in range(len(edges)):
        reach = reach @ reach
    return reach
