"""Regions of an image as shares of its pixels: boxes in whole pixels, carried through resizing and cropping by their area."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from aloe.core.arrays import as_tensor
from aloe.core.errors import UserError
from aloe.core.typed import number

Box = tuple[float, float, float, float]
"""x, y of the upper left corner, width and height, in pixels."""


def parsed_region(text: str) -> Box:
    """`x,y,w,h` as a box.

    Raises:
        UserError: these are not four numbers.
    """
    numbers = [number(word) for word in text.split(",")]
    if len(numbers) != 4 or any(value is None for value in numbers):
        raise UserError(f"A region is x,y,width,height in pixels, such as 10,20,64,48; got {text!r}.")
    return tuple(numbers)  # type: ignore[return-value]


def listed(boxes: Any) -> list[Any]:
    """Boxes as a list; one alone, four numbers or `x,y,w,h`, is a list of it."""
    boxes = boxes.tolist() if hasattr(boxes, "tolist") else boxes
    if isinstance(boxes, str) or not isinstance(boxes, Iterable):
        return [boxes]
    members = list(boxes)
    return [members] if members and all(isinstance(value, Real) for value in members) else members


def check_masks(masks: Any, height: int, width: int) -> Tensor:
    """Shares of an image's pixels, (R, H, W); one alone may be (H, W), and they may be an array, or true and false.

    Raises:
        UserError: there is none, of another size, or with a value outside [0, 1].
    """
    regions = as_tensor(masks, "masks")
    regions = regions[None] if regions.ndim == 2 else regions
    if regions.ndim != 3 or tuple(regions.shape[1:]) != (height, width) or not len(regions):
        raise UserError(
            f"Masks are shares of the second image's pixels, (R, {height}, {width}), got {tuple(regions.shape)}."
        )
    if not bool(((regions >= 0) & (regions <= 1)).all()):
        raise UserError("Masks are shares of pixels in [0, 1]; these hold other values, or NaN.")
    return regions


def check_region(region: Any, height: int, width: int, name: str = "the second image") -> Box:
    """The box, if it lies in an image of that size and holds something.

    Raises:
        UserError: it does not, saying why.
    """
    if isinstance(region, str):
        region = parsed_region(region)
    try:
        x, y, w, h = (float(value) for value in region)
    except (TypeError, ValueError) as error:
        raise UserError(f"A region is (x, y, width, height) in pixels, got {region!r}.") from error
    words = ",".join(f"{value:g}" for value in (x, y, w, h))
    if not all(map(math.isfinite, (x, y, w, h))) or w <= 0 or h <= 0:
        raise UserError(f"The region {words} holds no pixels: give x,y,width,height with a width and a height above 0.")
    if x < 0 or y < 0 or x + w > width or y + h > height:
        raise UserError(f"The region {words} does not lie in {name}, which is {width} x {height} pixels (x,y,w,h).")
    return x, y, w, h


def shares(regions: Sequence[Box], height: int, width: int, view: Box | None = None) -> Tensor:
    """Of every pixel the share that lies in each box, (R, H, W) in [0, 1]; boxes that tile the image add up to 1.

    Args:
        height, width: of the image as the model sees it.
        view: the part of the boxes' own image that the model sees, as a box in its pixels; default: the same pixels.
    """
    left, top, wide, high = view or (0.0, 0.0, float(width), float(height))
    areas = []
    for x, y, w, h in regions:
        across = _covered((x - left) * width / wide, (x + w - left) * width / wide, width)
        down = _covered((y - top) * height / high, (y + h - top) * height / high, height)
        areas.append(down[:, None] * across)
    return torch.stack(areas).float()


def patch_cells(rows: int, columns: int, patch: int) -> Tensor:
    """The number of the patch of every pixel, row by row, (H, W)."""
    which = torch.arange(rows * columns).view(rows, columns)
    return which.repeat_interleave(patch, 0).repeat_interleave(patch, 1)


def centre_view(size: tuple[int, int], side: int) -> Box:
    """The part of an image of (W, H) pixels that is left when its shorter side becomes `side` and its centre is cut out."""
    width, height = size
    shorter = min(size)
    scale = side / shorter
    seen = [max(side, int(length * scale + 1e-9)) for length in size]  # as `ResizeCenterCrop` has it
    left, top = (round((length - side) / 2) for length in seen)
    across, down = width / seen[0], height / seen[1]
    return left * across, top * down, side * across, side * down


def _covered(start: float, stop: float, count: int) -> Tensor:
    """Of each of `count` unit intervals the share between two places, float64."""
    edges = torch.arange(count + 1, dtype=torch.float64).clamp(start, stop)
    return edges.diff()
