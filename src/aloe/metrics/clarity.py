"""How clear a map is, whatever it shows: the share of its spectrum that is speckle, and jumps at the borders of patches."""

from __future__ import annotations

import torch
from torch import Tensor

from aloe.core.errors import UserError
from aloe.metrics.maps import checked_maps

FINE = 0.25  # cycles per pixel: half of what a picture can hold along an axis


def fine_share(maps: Tensor) -> Tensor:
    """The share of a map's power, its mean apart, at more than a quarter of the sampling rate along either axis.

    The map is weighted with a Hann window first, so that opposite edges that differ do not count. White noise has about
    three quarters, a checkerboard of single pixels all, a picture of large parts next to nothing.

    Args:
        maps: (B, H, W), at least 8 pixels on a side.

    Returns:
        (B,) float64 in 0..1 on the CPU, NaN for a map that is constant.

    Raises:
        UserError: maps that are not finite, or too small.
    """
    values = checked_maps(maps)
    height, width = values.shape[1:]
    if min(height, width) < 8:
        raise UserError(f"Clarity needs maps of at least 8 x 8 pixels, got {height} x {width}.")
    window = torch.outer(*(torch.hann_window(n, dtype=values.dtype) for n in (height, width)))
    mean = (values * window).sum((1, 2), keepdim=True) / window.sum()
    power = torch.fft.fft2((values - mean) * window).abs().square()
    rows, columns = (torch.fft.fftfreq(n, dtype=values.dtype).abs() > FINE for n in (height, width))
    fine = (power * (rows[:, None] | columns)).sum((1, 2))
    varies = values.amax((1, 2)) > values.amin((1, 2))
    return torch.where(varies, fine / power.sum((1, 2)), torch.nan)


def seams(maps: Tensor, patch: int) -> Tensor:
    """The mean jump between neighbouring pixels across borders of patches, over that between all others: 1 without a grid.

    Args:
        maps: (B, H, W), H and W a whole number of patches, at least two. patch: pixels on a side, at least 2.

    Returns:
        (B,) float64 on the CPU; infinite for a map that is constant within patches only, NaN for one that is constant.

    Raises:
        UserError: maps that are not finite, or that the patches do not divide.
    """
    values = checked_maps(maps)
    height, width = values.shape[1:]
    if patch < 2 or height % patch or width % patch or min(height, width) < 2 * patch:
        raise UserError(
            f"Maps of {height} x {width} pixels are not two or more patches of {patch} (at least 2) on a side."
        )
    across, elsewhere = [], []
    for axis, side in ((1, height), (2, width)):
        jumps = values.diff(dim=axis).abs()
        border = torch.arange(1, side) % patch == 0
        across.append(jumps.index_select(axis, border.nonzero()[:, 0]).flatten(1))
        elsewhere.append(jumps.index_select(axis, (~border).nonzero()[:, 0]).flatten(1))
    return torch.cat(across, 1).mean(1) / torch.cat(elsewhere, 1).mean(1)
