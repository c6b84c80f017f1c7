"""Explanations of a grid by windows of the model's own size, as the paper's numbers were made (docs/attribution.md).

A model is never shown a size that it was not made for: every window of the size of one cell, at a stride of half a window, is
explained on its own for each class of the grid, and maps are averaged where windows overlap,

    A(p) = (sum of A_w(p) over the windows w that hold pixel p) / (number of those windows).

Maps are not normalised per window: a window that does not show the class should give little.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from aloe.core.errors import UserError
from aloe.metrics.maps import checked_maps

MAPS_PER_PASS = 32
Attribute = Callable[[Tensor, Tensor], Tensor]


def window_starts(side: int, n: int) -> list[int]:
    """Where the 2n - 1 windows of `side` pixels begin along n cells of that side: every half window, rounded down to whole
    pixels, so that each cell is a window, also of an odd side."""
    return [k * side // 2 for k in range(2 * n - 1)]


def windowed_maps(
    attribute: Attribute, images: Tensor, classes: Tensor, side: int, *, maps_per_pass: int = MAPS_PER_PASS
) -> Tensor:
    """Maps of grids for several classes each, averaged over windows.

    Args:
        attribute: images (B, 3, side, side) and classes (B,) -> maps (B, side, side). Equal images follow each other, so
            that a method can share what does not depend on the class.
        images: (G, 3, n * side, n * side). classes: (G, K) int64, explained in each of the grid's windows.
        maps_per_pass: windows times classes that are explained at a time, the most that is held besides G * K maps.

    Returns:
        (G, K, n * side, n * side) float64 on the CPU.

    Raises:
        UserError: images that are not a whole number of windows wide, no maps per pass, or maps of a wrong shape or that are
            not finite.
    """
    n, per_grid = _cells_across(images, side), classes.shape[1]
    if maps_per_pass < 1:
        raise UserError(f"At least one map is made at a time, got maps_per_pass={maps_per_pass}.")
    starts = window_starts(side, n)
    whole = maps_per_pass // per_grid * per_grid or maps_per_pass  # of all classes of a window, where they fit
    jobs = torch.cartesian_prod(torch.arange(len(images)), torch.arange(len(starts) ** 2), torch.arange(per_grid))
    total = torch.zeros(len(images), per_grid, n * side, n * side, dtype=torch.float64)
    count = torch.zeros(n * side, n * side, dtype=torch.float64)
    for y in starts:
        for x in starts:
            count[y : y + side, x : x + side] += 1
    for part in jobs.split(whole):
        corners = [(starts[w // len(starts)], starts[w % len(starts)]) for w in part[:, 1].tolist()]
        of = list(zip(part.tolist(), corners, strict=True))
        pixels = torch.stack([images[g, :, y : y + side, x : x + side] for (g, _, _), (y, x) in of])
        maps = attribute(pixels, classes[part[:, 0], part[:, 2]])
        if maps.shape != (len(part), side, side):
            raise UserError(f"Maps of windows must be {(len(part), side, side)}, got {tuple(maps.shape)}.")
        for ((g, _, k), (y, x)), window_map in zip(of, checked_maps(maps), strict=True):
            total[g, k, y : y + side, x : x + side] += window_map
    return total / count


def _cells_across(images: Tensor, side: int) -> int:
    height, width = images.shape[-2:]
    if side < 1 or height != width or height % side:
        raise UserError(f"Grids of {height} x {width} pixels are not a whole number of {side}-pixel windows wide.")
    return height // side
