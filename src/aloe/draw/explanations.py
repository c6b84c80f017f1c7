"""W(x) and contribution maps as pixels: the colour explanation and the signed map (docs/method.md section 3).

Everything here is a pure function of tensors; placing pictures beside one another is `gallery.py`.
"""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor

from aloe.core.bounds import MAX_SIDE
from aloe.core.errors import UserError
from aloe.core.smoothing import gaussian_smooth

PERCENTILE = 99.5
POSITIVE, NEGATIVE = (0.70, 0.02, 0.15), (0.02, 0.30, 0.62)  # signed maps: red adds to the value, blue takes from it


def colour_explanation(weights: Tensor, contributions: Tensor, smooth: int | None = None) -> Tensor:
    """The colours that W(x) looks for, shown where they raise the value.

    At each pixel the six-vector of W(x) is divided by its largest absolute entry and clamped at 0; RGB is the first three
    entries over the sum of both triples. Alpha is the norm of the six-vector where the contribution is positive, 0
    elsewhere, smoothed by a Gaussian, divided by its 99.5th percentile and clipped to [0, 1].

    Args:
        weights: (B, 6, H, W). contributions: (B, H, W).
        smooth: width in pixels of the Gaussian's window, an even one counts as the next odd one; default 15 at 224
            pixels and in proportion.

    Returns:
        (B, H, W, 4) uint8, RGBA.

    Raises:
        UserError: `smooth` is no whole number of pixels.
    """
    whole = isinstance(smooth, Integral) and not isinstance(smooth, bool)
    if smooth is not None and not (whole and 0 <= smooth <= MAX_SIDE):
        raise UserError(f"smooth is a whole number of pixels, at most {MAX_SIDE}, got {smooth!r}.")
    weights = weights.float()
    positive = (weights / weights.abs().amax(dim=1, keepdim=True).clamp_min(1e-20)).clamp_min(0)
    colour = positive[:, :3] / (positive[:, :3] + positive[:, 3:]).clamp_min(1e-20)
    alpha = weights.norm(dim=1) * (contributions > 0)
    alpha = gaussian_smooth(alpha, int(smooth or 0) or _default_window(alpha.shape[-1]))
    alpha = (alpha / _percentile(alpha)).clamp(0, 1)
    rgba = torch.cat((colour, alpha[:, None]), dim=1)
    return (rgba * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def signed_map(contributions: Tensor) -> Tensor:
    """Contributions on a diverging scale, symmetric about 0 and clipped at the 99.5th percentile of their size.

    White is 0, red raises the value, blue lowers it. Shapes: (B, H, W) -> (B, H, W, 3) uint8.
    """
    values = contributions.float()
    values = (values / _percentile(values.abs())).clamp(-1, 1)
    ends = torch.where(
        (values > 0)[..., None],
        torch.tensor(POSITIVE, device=values.device),
        torch.tensor(NEGATIVE, device=values.device),
    )
    rgb = 1 + values.abs()[..., None] * (ends - 1)
    return (rgb * 255).round().to(torch.uint8)


def over_white(rgba: Tensor) -> Tensor:
    """RGBA over a white page: (B, H, W, 4) uint8 -> (B, H, W, 3) uint8."""
    colour, alpha = rgba[..., :3].float(), rgba[..., 3:].float() / 255
    return (colour * alpha + 255 * (1 - alpha)).round().to(torch.uint8)


def _default_window(pixels: int) -> int:
    return 2 * round(15 * pixels / 224 / 2 - 0.5) + 1


def _percentile(values: Tensor) -> Tensor:
    """Per map, (B, 1, 1); never 0."""
    quantile = torch.quantile(values.flatten(1), PERCENTILE / 100, dim=1)
    return quantile.clamp_min(1e-20)[:, None, None]
