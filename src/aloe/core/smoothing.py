"""A Gaussian over maps and images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian_smooth(maps: Tensor, window: int) -> Tensor:
    """Gaussian of an odd window (sigma = window / 6) over (B, H, W), edges repeated; an even window becomes the next odd."""
    if window <= 1:
        return maps
    window |= 1
    offsets = torch.arange(window, device=maps.device, dtype=maps.dtype) - (window - 1) / 2
    kernel = torch.exp(-0.5 * (offsets / (window / 6)) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(maps[:, None], (window // 2,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[None, None, None, :]), kernel[None, None, :, None])[:, 0]
