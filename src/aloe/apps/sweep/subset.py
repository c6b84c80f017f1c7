"""Parts of the data: a nested fraction of the images to align on, and fewer images to evaluate on.

A fraction is the head of one seeded permutation, so that 1 % of the images contains the 0.1 % of the same seed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from aloe.core.errors import UserError
from aloe.data.sources import ImageSource
from aloe.data.splits import Splits
from aloe.data.subset import SubsetImages

_STREAM = 0xF7AC  # keeps these draws apart from others of the same seed


def nested(source: ImageSource, fraction: float, seed: int) -> ImageSource:
    """`fraction` (0 to 1] of the images; at one seed the smaller fractions are parts of the larger ones.

    Raises:
        UserError: a fraction that is not one image.
    """
    if fraction == 1:
        return source
    count = round(fraction * len(source))
    if count == 0:
        raise UserError(f"A fraction of {fraction:g} of {len(source)} images is not one image.")
    return _head(source, count, seed)


def thinned(splits: Splits, train: int | None, test: int | None) -> Splits:
    """Labelled data with at most so many training and test images, always the same ones; None leaves a part whole."""
    parts: dict[str, Any] = {}
    notes = []
    for part, count in (("train", train), ("test", test)):
        source = getattr(splits, part)
        if count is not None and source is not None and count < len(source):
            parts[part] = _head(source, count, seed=0)
            notes.append(f"{count} of the {len(source)} {part} images, drawn with seed 0")
    return replace(splits, **parts, notes=(*splits.notes, *notes), official=splits.official and not parts)


def _head(source: ImageSource, count: int, seed: int) -> SubsetImages:
    order = np.random.default_rng([_STREAM, seed]).permutation(len(source))
    return SubsetImages(source, np.sort(order[:count]))
