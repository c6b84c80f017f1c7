"""Maps and images as the PNG files that participants see: one size and one palette for all methods, only the map differs.

As in the paper's Figure B5, blue speaks for the class and yellow against it; white is 0.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from aloe.draw.explanations import PERCENTILE

BLUE, YELLOW = (0, 70, 170), (235, 165, 0)
SMALLEST = 192  # pixels: smaller pictures are enlarged by a whole factor, without smoothing


def map_png(values: Tensor) -> bytes:
    """A signed map (H, W) on a scale symmetric about 0 and clipped at the 99.5th percentile of its size."""
    values = torch.nan_to_num(values.float())
    most = torch.quantile(values.abs().flatten(), PERCENTILE / 100).clamp_min(1e-20)
    levels = ((values / most).clamp(-1, 1) * 127).round().to(torch.int16) + 127
    picture = Image.fromarray(levels.to(torch.uint8).numpy(), "P")
    picture.putpalette(_PALETTE)
    return _png(picture)


def image_png(pixels: Tensor) -> bytes:
    """An image (3, H, W) in [0, 1]."""
    return _png(Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).numpy()))


def _png(picture: Image.Image) -> bytes:
    factor = -(-SMALLEST // picture.width)
    size = (picture.width * factor, picture.height * factor)
    buffer = io.BytesIO()
    picture.resize(size, Image.Resampling.NEAREST).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _palette() -> list[int]:
    """255 levels from yellow (0) over white (127) to blue (254)."""
    strength = (np.arange(255) - 127)[:, None] / 127
    ends = np.where(strength < 0, np.array(YELLOW), np.array(BLUE))
    return np.round(255 + np.abs(strength) * (ends - 255)).astype(int).ravel().tolist()


_PALETTE = _palette()
