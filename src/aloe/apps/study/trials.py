"""The design of a session: which image and which two maps a participant sees, on which side and in which order.

A pure function of the settings, the number of images and the participant's number. Pairs of methods come equally often, for
every participant and over all of them to within one; each method is as often left as right; images come in shuffled rounds.
Attention checks fall anywhere among the trials, repeats at least a quarter of the session after the trial that they repeat.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from aloe.apps.study.settings import RANDOM, StudySettings

PRACTICE, MAIN, IDENTICAL, NOISE, REPEAT = KINDS = ("practice", "main", "identical", "random", "repeat")


@dataclass(frozen=True)
class Trial:
    """An image (its number), a method for each side, and for a repeat the position of the trial that it repeats."""

    kind: str
    image: int
    left: str
    right: str
    repeats: int | None = None


def session(settings: StudySettings, images: int, number: int) -> list[Trial]:
    """The trials of the participant `number` (0, 1, ...) of a study of `images` images, in the order that they are shown."""
    rng = np.random.default_rng([settings.seed, number])
    main = _main(settings, images, number, rng)
    timed: list[tuple[float, int, Trial, int | None]] = []  # when (0 to 1), order among equals, trial, what it repeats
    for i, trial in enumerate(main):
        timed.append(((i + 0.5) / len(main), i, trial, None))
    for trial in _checks(settings, images, rng):
        timed.append((rng.uniform(), len(timed), trial, None))
    for i in rng.choice((len(main) + 1) // 2, settings.repeats, replace=False):
        again = replace(main[i], kind=REPEAT, left=main[i].right, right=main[i].left)
        when = rng.uniform(max(0.5, timed[i][0] + 0.25), 1)
        timed.append((when, len(timed), again, int(i)))
    practice = [_pair(PRACTICE, settings, images, rng) for _ in range(settings.practice)]
    ordered = sorted(timed, key=lambda entry: entry[:2])
    positions = {order: len(practice) + at for at, (_, order, _, _) in enumerate(ordered)}
    return practice + [t if of is None else replace(t, repeats=positions[of]) for _, _, t, of in ordered]


def pairs_of(settings: StudySettings, number: int) -> list[tuple[int, int]]:
    """The participant's pairs that count, by their index in `settings.pairs`, each with 0 or 1: the sides it is shown on.

    Whole rounds of all pairs; what is left of a round goes on where the previous participant's rest ended.
    """
    count = len(settings.pairs)
    order = np.random.default_rng([settings.seed]).permutation(count)
    rounds, rest = divmod(settings.trials, count)
    pairs = [(pair, (turn + number) % 2) for turn in range(rounds) for pair in range(count)]
    for place in range(number * rest, (number + 1) * rest):
        lap, at = divmod(place, count)
        pairs.append((int(order[at]), (lap + rounds) % 2))
    return pairs


def _main(settings: StudySettings, images: int, number: int, rng: np.random.Generator) -> list[Trial]:
    sides = [_sides(settings, settings.pairs[pair], flip) for pair, flip in pairs_of(settings, number)]
    sides = [sides[i] for i in rng.permutation(len(sides))]
    rounds_of_images = [rng.permutation(images) for _ in range(-(-len(sides) // images))]
    drawn = np.concatenate(rounds_of_images)[: len(sides)].tolist()
    _avoid_the_same(drawn, sides)
    return [Trial(MAIN, image, *pair) for image, pair in zip(drawn, sides, strict=True)]


def _sides(settings: StudySettings, pair: tuple[str, str], flip: int) -> tuple[str, str]:
    """Of a round, each method stands left in half of its pairs; the next round is its mirror image."""
    a, b = (settings.methods.index(method) for method in pair)
    return (pair[1], pair[0]) if (b - a + flip) % 2 else pair


def _avoid_the_same(images: list[int], sides: list[tuple[str, str]]) -> None:
    """Exchange images so that nobody sees the same image with the same two methods twice, as far as one exchange does it."""
    keys = [frozenset(pair) for pair in sides]
    seen = Counter(zip(images, keys, strict=True))
    for i in range(len(images)):
        if seen[images[i], keys[i]] < 2:
            continue
        for j in range(len(images)):
            if keys[i] != keys[j] and not seen[images[j], keys[i]] and not seen[images[i], keys[j]]:
                seen.subtract([(images[i], keys[i]), (images[j], keys[j])])
                images[i], images[j] = images[j], images[i]
                seen.update([(images[i], keys[i]), (images[j], keys[j])])
                break


def _checks(settings: StudySettings, images: int, rng: np.random.Generator) -> list[Trial]:
    real = [method for method in settings.methods if method != RANDOM]
    checks = []
    for _ in range(settings.identical):
        method = str(rng.choice(real))
        checks.append(Trial(IDENTICAL, int(rng.integers(images)), method, method))
    first = int(rng.integers(2))
    for i in range(settings.random):
        method = str(rng.choice(real))
        sides = (method, RANDOM) if (first + i) % 2 else (RANDOM, method)
        checks.append(Trial(NOISE, int(rng.integers(images)), *sides))
    return checks


def _pair(kind: str, settings: StudySettings, images: int, rng: np.random.Generator) -> Trial:
    left, right = rng.choice(settings.methods, 2, replace=False)
    return Trial(kind, int(rng.integers(images)), str(left), str(right))
