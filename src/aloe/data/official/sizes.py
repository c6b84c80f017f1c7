"""Whether a copy of a registered data set is the official one, as far as its sizes tell: clauses on what differs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from aloe.data.decode import UnreadableImage
from aloe.data.sources import ImageSource

SAMPLED = 16  # images that are looked at for their size


def uneven(per_class: Mapping[str, int], opened: Mapping[str, ImageSource]) -> list[str]:
    """The parts whose classes have not as many images each as the official ones."""
    differences = []
    for part, count in per_class.items():
        if part not in opened:
            continue
        if part == "train" and "validation" not in opened:  # they may be among the training images
            count += per_class.get("validation", 0)
        labels: Any = opened[part].labels
        images = np.bincount(labels)
        if (images != count).any():
            differences.append(f"{images.min()} to {images.max()} {part} images of a class instead of {count}")
    return differences


def reduced(short_side: int | None, source: ImageSource) -> list[str]:
    """Says so where images are all of one size on their short side and the official ones are not of that size."""
    sides = set()
    for i in np.linspace(0, len(source) - 1, min(SAMPLED, len(source))).astype(int).tolist():
        with suppress(UnreadableImage):
            sides.add(min(source.load(i).size))
    if len(sides) != 1 or sides == {short_side}:
        return []
    return [f"images of {sides.pop()} pixels on the short side, which the official ones do not have: a reduced copy"]


def sizes_that_differ(official: Mapping[str, int], sizes: Mapping[str, int]) -> list[str]:
    """How the sizes differ from the official ones; training images may include those for validation."""
    together = official["train"] + official.get("validation", 0)
    if "validation" not in sizes and sizes["train"] == together:
        official = {"train": together, "test": official["test"]}
    return [
        f"{sizes.get(part, 0)} {part} images instead of {n}" for part, n in official.items() if sizes.get(part) != n
    ]
