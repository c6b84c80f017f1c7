"""Depth maps and surface normals side by side (the paper's Figure C5): the image, the truth, one picture per model.

Depth is coloured near-bright to far-dark on a scale of even lightness steps (a straight line in OKLCh's lightness, after
Ottosson 2020); all pictures of a row share the truth's range. Normals show their direction as (n + 1) / 2 in the customary
axes: red to the right, green up, blue towards the viewer. Pixels without truth are grey in the truth only: models answer
everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from aloe.draw.gallery import row

GREY = 150  # of pixels that are not known
# Lightness and hue in degrees: pale yellow by orange and magenta to dark blue.
_NEAR, _FAR = (0.96, 105.0), (0.22, -75.0)
_CHROMA = 0.19  # in the middle; less towards the ends, and where the screen has no such colour


def depth_colours(depth: Tensor, low: float, high: float, valid: Tensor | None = None) -> np.ndarray:
    """Depth (H, W) in metres as colours (H, W, 3) uint8: `low` and nearer brightest, `high` and farther darkest.

    Grey where `valid` (H, W) is not, or the depth is not finite.
    """
    known = depth.isfinite() if valid is None else valid & depth.isfinite()
    share = (torch.where(known, depth.float(), low) - low) / max(high - low, 1e-9)
    colours = _scale()[(share.clamp(0, 1) * 255).round().long().cpu().numpy()]
    return np.where(known.cpu().numpy()[..., None], colours, np.uint8(GREY))


def normal_colours(normals: Tensor, valid: Tensor | None = None) -> np.ndarray:
    """Normals (3, H, W) in the camera frame (x right, y down, z forward; any length) as colours (H, W, 3) uint8.

    Grey where `valid` (H, W) is not, or the normal is zero or not finite.
    """
    length = normals.norm(dim=0)
    known = length.isfinite() & (length > 0)
    known = known if valid is None else valid & known
    unit = torch.where(known, normals / length, torch.zeros_like(normals))
    towards = unit * unit.new_tensor([1, -1, -1])[:, None, None]
    colours = ((towards + 1) / 2 * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return np.where(known.cpu().numpy()[..., None], colours, np.uint8(GREY))


def depth_row(
    image: Tensor, truth: Tensor, valid: Tensor, predictions: Mapping[str, Tensor], side: int = 224
) -> Image.Image:
    """The image (3, h, w), its depth (H, W) where valid (H, W), and predictions (H, W) by caption, on the truth's range.

    The range runs from the truth's 2nd to its 98th percentile and stands in its caption.
    """
    low, high = (float(torch.quantile(truth[valid].double(), share)) for share in (0.02, 0.98))
    pictures = [_pixels(image), depth_colours(truth, low, high, valid)]
    pictures += [depth_colours(depth, low, high) for depth in predictions.values()]
    return row(pictures, ["Input", f"Truth, {low:.2f} to {high:.2f} m", *predictions], side)


def normal_row(
    image: Tensor, truth: Tensor, valid: Tensor, predictions: Mapping[str, Tensor], side: int = 224
) -> Image.Image:
    """The image (3, h, w), its normals (3, H, W) where valid (H, W), and predictions (3, H, W) by caption."""
    pictures = [_pixels(image), normal_colours(truth, valid), *map(normal_colours, predictions.values())]
    return row(pictures, ["Input", "Truth", *predictions], side)


def _pixels(image: Tensor) -> np.ndarray:
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()


@cache
def _scale() -> np.ndarray:
    """(256, 3) uint8, from near to far."""
    along = np.linspace(0, 1, 256)
    lightness = _NEAR[0] + along * (_FAR[0] - _NEAR[0])
    hue = np.deg2rad(_NEAR[1] + along * (_FAR[1] - _NEAR[1]))
    chroma = _CHROMA * np.sin(np.pi * (0.12 + 0.76 * along))
    rgb = _linear_rgb(lightness, chroma, hue)
    while (outside := ((rgb < 0) | (rgb > 1)).any(axis=1)).any():
        chroma = np.where(outside, 0.98 * chroma, chroma)
        rgb = _linear_rgb(lightness, chroma, hue)
    curved = np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * rgb ** (1 / 2.4) - 0.055)
    return (curved * 255).round().astype(np.uint8)


def _linear_rgb(lightness: np.ndarray, chroma: np.ndarray, hue: np.ndarray) -> np.ndarray:
    """OKLCh to linear sRGB, (N, 3)."""
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
    to_cones = [
        [1, 0.3963377774, 0.2158037573],
        [1, -0.1055613458, -0.0638541728],
        [1, -0.0894841775, -1.2914855480],
    ]
    to_rgb = [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
    return (lab @ np.array(to_cones).T) ** 3 @ np.array(to_rgb).T
