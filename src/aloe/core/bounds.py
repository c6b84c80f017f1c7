"""The largest numbers that settings and options of the command line take, each declared here alone."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from numbers import Integral
from typing import Any

from aloe.core.errors import UserError

MAX_SEED = 2**32 - 1
"""The largest that every generator of random numbers takes."""
MAX_COUNT = 10**9
"""Of steps, epochs, images and whatever else is counted."""
MAX_HELD = 10**6
"""Of what is made one by one and held in memory together: grids, heads, samples of a bootstrap, simulated people."""
MAX_STUDIED = 10_000
"""Images of a study, whose pictures are held together until it is written."""
MAX_CELLS = 10_000
"""Of a sweep's grid: the product of how many values its axes have."""
MAX_PREFETCH = 64
"""Batches that each process that reads images has ready."""
MAX_SIDE = 1 << 14
"""Pixels on a side of the largest image that a model may be given."""
MAX_BATCH = 1 << 16
FIRST_BATCH = 1 << 10
"""Images that a GPU is tried with where no batch is asked for; halved until they fit."""
SMALL_BATCH = 256
"""Images of a batch that may be more than there are."""
MAX_WORKERS = 1 << 10
"""Processes that read images; no more than there are cores are started."""


def counted(value: Any, name: str, most: int = MAX_COUNT) -> int:
    """A whole number from 1 to `most`; `name` is that of the argument.

    Raises:
        UserError: anything else.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or not 1 <= int(value) <= most:
        raise UserError(f"{name} must be at least 1 and at most {most}, a whole number, got {value!r}.")
    return int(value)


def check_product(counts: Mapping[str, int], most: int = MAX_HELD) -> None:
    """Hold a product of counts, by what they count, against what is made one by one and held together.

    Raises:
        UserError: it is more than `most`.
    """
    if (product := prod(counts.values())) > most:
        words = " x ".join(f"{count} {name}" for name, count in counts.items())
        raise UserError(f"{words} are {product}, more than the {most} that are held together; give fewer.")


def numbered(value: Any, name: str, count: int, where: str) -> int:
    """The number of one of `count` things, which begin at 0; `name` is what one is called, `where` what has them.

    Raises:
        UserError: there is none of that number.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or not 0 <= int(value) < count:
        raise UserError(f"There is no {name} {value!r}; {where} {count}, 0 to {count - 1}.")
    return int(value)


def check_batch(size: int, images: int) -> None:
    """The one rule of batches: no more images than there are, where those are more than `SMALL_BATCH`; at most `MAX_BATCH`.

    Raises:
        UserError: a larger one.
    """
    most = min(MAX_BATCH, max(images, SMALL_BATCH))
    if size > most:
        raise UserError(f"batch_size is {size}, but there are only {images} images; give at most {most}.")
