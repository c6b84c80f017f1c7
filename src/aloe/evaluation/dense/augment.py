"""Probe3D's training augmentation (El Banani et al. 2024) of a square frame: colours, and a random part of it.

Depth is not rescaled and normals are not turned when a part is enlarged, as in that protocol. Every draw comes from the
generator.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from aloe.data.frames.frame import Frame

JITTER, JITTER_SHARE = 0.2, 0.8  # of brightness, contrast, saturation and hue; how often
CROP_SHARE, CROP_AREA = 0.5, (0.5, 1.0)
_GREY = (0.299, 0.587, 0.114)


def augmented(frame: Frame, generator: torch.Generator) -> Frame:
    """Colours changed in 4 of 5 frames, a square part of half to all of the area taken in 1 of 2; H = W before and after."""
    change, crop = torch.rand(2, generator=generator).tolist()
    if change < JITTER_SHARE:
        frame = replace(frame, image=jittered(frame.image, generator))
    if crop >= CROP_SHARE:
        return frame
    side = frame.image.shape[-1]
    area, down, across = torch.rand(3, generator=generator).tolist()
    part = max(1, round(side * (CROP_AREA[0] + area * (CROP_AREA[1] - CROP_AREA[0])) ** 0.5))
    top, left = int(down * (side - part + 1)), int(across * (side - part + 1))
    return frame.cropped(top, left, part, part).resized(side)


def jittered(image: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness, contrast and saturation by factors from 0.8 to 1.2 and hue by up to a fifth of the circle, in random order.

    Shapes: (3, H, W) in [0, 1] -> the same.
    """
    order = torch.randperm(4, generator=generator).tolist()
    draws = (JITTER * (2 * torch.rand(4, generator=generator) - 1)).tolist()
    for kind in order:
        if kind == 3:
            image = hue_shifted(image, draws[3])
            continue
        grey = (image * image.new_tensor(_GREY)[:, None, None]).sum(dim=0, keepdim=True)
        towards = (torch.zeros_like(grey), grey.mean(), grey)[kind]
        image = (towards + (1 + draws[kind]) * (image - towards)).clamp(0, 1)
    return image


def hue_shifted(image: Tensor, turn: float) -> Tensor:
    """The hue of (3, H, W) turned by a part of the circle; value and saturation (HSV) stay."""
    value, low = image.amax(dim=0), image.amin(dim=0)
    spread = value - low
    red, green, blue = image
    safe = torch.where(spread > 0, spread, torch.ones_like(spread))
    sextant = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    # A channel of a colour with hue h: value minus the part of the spread that a trapezoid over the circle leaves.
    angle = torch.stack([sextant + offset for offset in (5.0, 3.0, 1.0)]) + 6 * turn
    angle = angle.remainder(6)
    return value - spread * torch.minimum(angle, 4 - angle).clamp(0, 1)
