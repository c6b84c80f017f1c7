"""The classifier of `zoo:photos-aloe`: `python scripts/photographs_head.py STUDENT CLASSES PHOTOGRAPHS OUTPUT`.

A B-cos head of 112 classes, fitted with binary cross-entropy on frozen features: the 111 of CLASSES/train, which
`photographs_classes.py` writes, and `something else`, for which every other image of CLASSES/none and the PHOTOGRAPHS stand,
less those whose file name shares a word with a class. What it is worth is measured on CLASSES/test, at most eight images a
class, and on the rest of CLASSES/none.
"""

from __future__ import annotations

import argparse
import re
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
    model = attach(student, probe, names)
    save_student(model, output)
    test = features(first_of_each(open_images(str(classes / "test")), PER_CLASS), progress="test")
    best, guess = probe.logits(test.tensor()).sigmoid().max(1)
    away = (best < KNOWN) | (guess == len(names) - 1)
    print(f"{len(known)} training images of {len(names) - 1} classes, {len(rows) - len(known)} of something else")
    print(f"right of {len(test)} test images, %: {100 * float((guess == test.labels).float().mean()):.1f}")
    print(f"of them said to be none, %: {100 * float(away.float().mean()):.1f}")
    print(f"right of those that are named, %: {100 * float((guess == test.labels)[~away].float().mean()):.1f}")
    best, guess = probe.logits(features(halves[1]).tensor()).sigmoid().max(1)
    away = (best < KNOWN) | (guess == len(names) - 1)
    print(f"of {len(halves[1])} background images said to be none, %: {100 * float(away.float().mean()):.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("student")
    parser.add_argument("classes", type=Path)
    parser.add_argument("photographs")
    parser.add_argument("output", type=Path)
    parser.add_argument("--cache", type=Path)
    given = parser.parse_args()
    fit(given.student, given.classes, given.photographs, given.output, given.cache)
