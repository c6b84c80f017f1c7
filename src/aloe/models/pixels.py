"""Pixels that a student is given: RGB in [0, 1], neither normalised nor bytes; the likeliest first mistake is told."""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor, nn

from aloe.core.errors import UserError

PixelCheck = Literal["error", "warn", "off"]
SLACK = 0.05
"""How far values may leave [0, 1], as interpolation and printing do."""


def can_be_checked(pixels: Tensor) -> bool:
    """Whether the values can be looked at: not while a graph is traced, compiled or made of shapes alone."""
    plain = type(pixels) in (Tensor, nn.Parameter) and pixels.device.type != "meta" and pixels.numel() > 0
    return plain and not (torch.compiler.is_compiling() or torch.jit.is_tracing())


def check_range(pixels: Tensor, mode: PixelCheck) -> None:
    """Tell values outside [0, 1], by an error or a warning. This waits for the device.

    Raises:
        UserError: in mode `error`.
    """
    low, high = (float(value) for value in pixels.detach().aminmax())
    if low >= -SLACK and high <= 1 + SLACK:
        return
    words = (
        f"The pixel values go from {low:.3g} to {high:.3g}, but a student takes RGB in [0, 1]: do not normalise them, and"
        " divide bytes by 255 (the AutoImageProcessor that is saved with every student does what is needed);"
        ' model.base_model.check_pixels = "warn" or "off" lets other values pass.'
    )
    if mode == "error":
        raise UserError(words)
    warnings.warn(words, stacklevel=2)
