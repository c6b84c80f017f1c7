"""How many participants does a difference need? Simulated studies, fitted as real ones, and how often they find it.

Errors of the fit are of the sandwich form, clustered by participant (a participant's answers depend on one another), which is
what the bootstrap over participants estimates, at the price of one fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from statistics import NormalDist

import numpy as np

from aloe.apps.study.fit import bradley_terry, win_rate
from aloe.apps.study.settings import MAX_TRIALS, StudySettings
from aloe.apps.study.trials import pairs_of
from aloe.core.bounds import MAX_HELD, check_product
from aloe.core.errors import UserError

_NORMAL_95 = 1.959964  # two-sided 5 %
LARGEST = 5000  # participants that are worth planning for
_PILOT, _FEWEST = 30, 8


@dataclass(frozen=True)
class Power:
    """Simulated studies of `participants` with `trials` each: the share in which the difference was found, with the right
    sign and an interval without 0, and the mean standard error of the difference."""

    participants: int
    trials: int
    power: float
    error: float


def power(
    difference: float,
    participants: int,
    trials: int,
    *,
    methods: int = 6,
    spread: float = 0.5,
    simulations: int = 200,
    seed: int = 0,
) -> Power:
    """How often a difference of scores between two methods is found, the others half-way between them.

    Args:
        spread: standard deviation of a method's score from person to person.

    Raises:
        UserError: fewer than two participants or methods, no trials, or no simulations; more than are held together.
    """
    if not (np.isfinite(difference) and np.isfinite(spread) and spread >= 0):
        raise UserError(f"difference and spread must be finite numbers, got {difference} and {spread}.")
    if methods > 100 or max(participants, methods, trials, simulations) > MAX_TRIALS:
        raise UserError(f"Planning takes at most {MAX_TRIALS} participants, trials and simulations, and 100 methods.")
    check_product({"participants": participants, "pairs of methods": methods * (methods - 1) // 2}, 10 * MAX_HELD)
    if participants < 2 or methods < 2 or trials < 1 or simulations < 1:
        raise UserError("Planning needs two participants and two methods at least, one trial and one simulation.")
    names = tuple(str(i) for i in range(methods))
    settings = StudySettings.of(methods=names, trials=trials, repeats=0, seed=seed)
    scores = np.zeros(methods)
    scores[:2] = difference / 2, -difference / 2
    pairs = np.array([[names.index(m) for m in pair] for pair in settings.pairs])
    counts = np.array(
        [np.bincount([p for p, _ in pairs_of(settings, n)], minlength=len(pairs)) for n in range(participants)]
    )
    rng, detections, errors = np.random.default_rng(seed), 0, []
    for _ in range(simulations):
        own = scores + spread * rng.standard_normal((participants, methods))
        won = rng.binomial(counts, win_rate(own[:, pairs[:, 0]] - own[:, pairs[:, 1]]))
        wins = np.zeros((participants, methods, methods))
        wins[:, pairs[:, 0], pairs[:, 1]], wins[:, pairs[:, 1], pairs[:, 0]] = won, counts - won
        fitted = bradley_terry(wins.sum(0))
        covariance = clustered_covariance(wins, fitted)
        error = float(np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]))
        detections += (fitted[0] - fitted[1]) * np.sign(difference) > _NORMAL_95 * error
        errors.append(error)
    return Power(participants, trials, float(detections / simulations), float(np.mean(errors)))


def participants_needed(difference: float, trials: int, *, goal: float = 0.8, **options: float | int) -> Power | None:
    """The participants, to within some percent, whose simulated studies find the difference with a probability of `goal`.

    The error falls with the root of the number of participants: two studies say where the goal is reached, and steps of a
    twentieth from there make sure of it.

    Returns:
        The power at that number; None where even `LARGEST` would not do.

    Raises:
        UserError: as `power`; no difference, or a goal that is no probability.
    """
    if not 0 < goal < 1 or not difference or not np.isfinite(difference):
        raise UserError("Give a difference other than 0 and a power between 0 and 1.")
    target_error = abs(difference) / (_NORMAL_95 + NormalDist().inv_cdf(goal))
    estimate = power(difference, _PILOT, trials, **options)  # type: ignore[arg-type]
    for _ in range(2):
        count = max(_FEWEST, ceil(estimate.participants * (estimate.error / target_error) ** 2))
        if count > LARGEST:
            return None
        estimate = power(difference, count, trials, **options)  # type: ignore[arg-type]
    while estimate.power < goal:
        estimate = power(difference, ceil(1.05 * estimate.participants), trials, **options)  # type: ignore[arg-type]
    return estimate


def clustered_covariance(wins: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The covariance (M, M) of fitted scores (M,) of mean 0 for wins (P, M, M), participants drawn independently."""
    both = wins + wins.transpose(0, 2, 1)
    rate = win_rate(scores[:, None] - scores[None, :])
    surprise = (wins - both * rate).sum(2)  # (P, M), the gradient of each participant's log-likelihood
    information = -(both.sum(0) * rate * (1 - rate))
    np.fill_diagonal(information, -information.sum(1))
    people, share = len(wins), 1 / len(scores)
    inverse = np.linalg.inv(information + share) - share  # on scores of mean 0: the information of a shift is 0
    return inverse @ (surprise.T @ surprise * people / (people - 1)) @ inverse
