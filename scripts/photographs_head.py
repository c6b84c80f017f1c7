"""The classifier of `zoo:photos-aloe`: `python scripts/photographs_head.py STUDENT CLASSES PHOTOGRAPHS OUTPUT`.

A B-cos head of 112 classes, fitted with binary cross-entropy on frozen features: the 111 of CLASSES/train, which
`photographs_classes.py` writes, and `something else`, for which every other image of CLASSES/none and the PHOTOGRAPHS stand,
less those whose file name shares a word with a class. All logits are raised by what suits every other image of CLASSES/test,
at most eight a class, and of the rest of CLASSES/none; what the head is worth is measured on the others.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from aloe.data.sources import open_images
from aloe.data.subset import SubsetImages
from aloe.evaluation.features import extract
from aloe.evaluation.heads import attach
from aloe.evaluation.linear import ProbeSettings, fit_probe
from aloe.models.backbone import KNOWN
from aloe.models.saving import load, save_student

ELSE, PER_CLASS = "something else", 8


def words(name: str) -> set[str]:
    return {word for word in re.split(r"[\W_\d]+", name.lower()) if len(word) > 2}


def unlike(photographs: object, classes: list[str]) -> SubsetImages:
    """The photographs whose file names share no word with a class."""
    taken = {word for name in classes for word in words(name)}
    names = [Path(photographs.name(i)).stem for i in range(len(photographs))]
    return SubsetImages(photographs, np.array([i for i, name in enumerate(names) if not words(name) & taken]))


def first_of_each(source: object, count: int) -> SubsetImages:
    labels = np.asarray(source.labels)
    return SubsetImages(source, np.concatenate([np.flatnonzero(labels == c)[:count] for c in np.unique(labels)]))


def fit(folder: str, classes: Path, photographs: str, output: Path, cache: Path | None) -> None:
    student = load(folder)
    features = partial(extract, student, cache=cache)
    train = open_images(str(classes / "train"))
    names = [*train.classes, ELSE]
    none = open_images(str(classes / "none"))
    halves = [SubsetImages(none, np.arange(start, len(none), 2)) for start in (0, 1)]
    others = unlike(open_images(photographs), train.classes)
    known = features(train, progress="classes")
    rest = [features(source, progress=ELSE) for source in (halves[0], others)]
    rows = torch.cat([known.tensor(), *(part.tensor() for part in rest)])
    labels = torch.cat([known.labels, torch.full((len(rows) - len(known),), len(names) - 1)])
    settings = ProbeSettings(head="bcos", b=student.config.b, loss="bce")
    probe = fit_probe(rows, labels, len(names), settings, progress="fitting")
    test = features(first_of_each(open_images(str(classes / "test")), PER_CLASS), progress="test")
    known_logits, other_logits = probe.logits(test.tensor()), probe.logits(features(halves[1]).tensor())
    raised = raise_of(known_logits[::2], test.labels[::2], other_logits[::2])
    save_student(attach(student, replace(probe, logit_bias=probe.logit_bias + raised), names), output)
    print(f"{len(known)} training images of {len(names) - 1} classes, {len(rows) - len(known)} of something else")
    print(
        f"right of {len(test)} test images, %: {100 * float((known_logits.argmax(1) == test.labels).float().mean()):.1f}"
    )
    named, right = answers(known_logits[1::2] + raised, test.labels[1::2])
    away = ~answers(other_logits[1::2] + raised)[0]
    print(
        f"logits raised by {raised}, chosen on every other image; on {len(named)} test and {len(away)} background images:"
    )
    print(f"  said to be none, %: {100 * float((~named).float().mean()):.1f}")
    print(f"  right of those that are named, %: {100 * float(right[named].float().mean()):.1f}")
    print(f"  background said to be none, %: {100 * float(away.float().mean()):.1f}")


def answers(logits: torch.Tensor, labels: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Which images are named, as a class other than the last with a probability of `KNOWN`; and which of all are right."""
    best, guess = logits.sigmoid().max(1)
    return (best >= KNOWN) & (guess < logits.shape[1] - 1), guess == labels if labels is not None else guess < 0


def raise_of(known: torch.Tensor, labels: torch.Tensor, others: torch.Tensor) -> float:
    """What to add to all logits: binary cross-entropy of one class against 111 is careful, and names few images.

    Of steps of a quarter, the one with the largest mean of two shares: of images of a class that are named rightly, and of
    `others` that are not named.
    """

    def score(added: float) -> float:
        named, right = answers(known + added, labels)
        return float((named & right).float().mean() + (~answers(others + added)[0]).float().mean())

    return max((step / 4 for step in range(17)), key=score)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("student")
    parser.add_argument("classes", type=Path)
    parser.add_argument("photographs")
    parser.add_argument("output", type=Path)
    parser.add_argument("--cache", type=Path)
    given = parser.parse_args()
    fit(given.student, given.classes, given.photographs, given.output, given.cache)
