"""The one rule of a teacher's geometry: square patches of square RGB images, in whole pixels."""

from __future__ import annotations

from collections.abc import Iterable
from math import isqrt
from numbers import Integral
from typing import Any

from torch import nn

from aloe.core.errors import UserError

SIDES = ("image_size", "patch_size")


def settle(config: Any, where: str) -> None:
    """Check a vision configuration, and write `[8, 8]`, which transformers allows, as 8.

    Raises:
        UserError: what ALOE does not support, naming the field.
    """
    channels = getattr(config, "num_channels", 3)
    if channels != 3:
        raise UserError(f"{where}: num_channels is {channels!r}; ALOE converts models of RGB images, which have 3.")
    for field in SIDES:
        value = getattr(config, field, None)
        if value is not None:
            setattr(config, field, side(value, f"{where}: {field}"))
    patch, image = config.patch_size, getattr(config, "image_size", None)
    if image is not None and image < patch:
        raise UserError(f"{where}: image_size {image} is smaller than patch_size {patch}.")


def settle_modules(model: nn.Module) -> None:
    """The same in a module that is already built, whose embeddings divide by the patch size that they were given."""
    module: Any
    for module in model.modules():
        value = getattr(module, "patch_size", None)
        takes_pairs = type(module).__name__.endswith("PatchEmbeddings")
        if isinstance(value, list | tuple) and not takes_pairs and len(set(value)) == 1:
            module.patch_size = int(value[0])


def check_side(pixels: int, patch: int, what: str = "Resolution") -> int:
    """A side in pixels that is a whole number of patches.

    Raises:
        UserError: it is not; the nearest is named.
    """
    if pixels < patch or pixels % patch:
        near = max(patch, round(pixels / patch) * patch)
        raise UserError(f"{what} {pixels} is not a whole number of {patch}-pixel patches; {near} is.")
    return pixels


def patches_of(height: int, width: int, patch: int) -> tuple[int, int]:
    """Rows and columns of patches in images of that many pixels.

    Raises:
        UserError: not whole numbers, or none.
    """
    if height % patch or width % patch or not height * width:
        raise UserError(f"Images of {height}x{width} are not a whole number of {patch}-pixel patches; resize them.")
    return height // patch, width // patch


def side(value: Any, what: str) -> int:
    """A side in pixels, also given as a pair of equal ones.

    Raises:
        UserError: not a whole number from 1 on, or a rectangle.
    """
    sides: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
    if not sides or not all(isinstance(s, Integral) and not isinstance(s, bool) and int(s) >= 1 for s in sides):
        raise UserError(f"{what} must be a whole number of pixels, got {value!r}.")
    if len(set(sides)) != 1:
        raise UserError(f"Only square images and patches are supported; {what} is {value}.")
    return int(sides[0])


def square_grid(rows: int, before: Iterable[int] = (0,)) -> int | None:
    """Patches on a side, from the rows of a table of positions; None where they are no square.

    Args:
        before: how many rows may stand before those of the patches; the first that leaves a square counts.
    """
    patches = (rows - count for count in before)
    return next((isqrt(n) for n in patches if n > 0 and isqrt(n) ** 2 == n), None)


def native_side(config: Any, where: str) -> int:
    """Native pixels on a side; NaFlex configurations state the number of patches instead.

    Raises:
        UserError: neither is stated, or what is stated is no square.
    """
    count = getattr(config, "num_patches", None)
    if not count or getattr(config, "image_size", None):
        return side(config.image_size, f"{where}: image_size")
    grid = square_grid(int(count))
    if grid is None:
        raise UserError(f"{where}: num_patches {count} is no square grid of patches.")
    return grid * int(config.patch_size)
