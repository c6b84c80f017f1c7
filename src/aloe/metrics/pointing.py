"""Maps against object masks: the share of positive attribution inside the object, and the pointing game."""

from __future__ import annotations

import torch
from torch import Tensor

from aloe.core.arrays import as_tensor
from aloe.core.errors import UserError
from aloe.metrics.maps import checked_maps


def inside_share(maps: Tensor, masks: Tensor) -> Tensor:
    """The share of a map's positive mass that lies in the object's mask.

    Args:
        maps: (B, H, W). masks: (B, H, W) bool, each with at least one pixel.

    Returns:
        (B,) float64 in 0..1 on the CPU, NaN where a map has no positive mass.

    Raises:
        UserError: maps that are not finite, masks of another shape or kind, or empty ones.
    """
    values, masks = _checked(maps, masks)
    positive = values.clamp_min(0)
    inside, total = (positive * masks).sum((1, 2)), positive.sum((1, 2))
    return torch.where(total > 0, inside / total, torch.nan)


def pointing_hits(maps: Tensor, masks: Tensor) -> Tensor:
    """Whether a map's largest value lies in the object's mask; of equal values the first in row-major order counts.

    Shapes: (B, H, W), (B, H, W) bool -> (B,) bool on the CPU. Raises UserError as `inside_share`.
    """
    values, masks = _checked(maps, masks)
    at = values.flatten(1).argmax(1)
    return masks.flatten(1).gather(1, at[:, None])[:, 0]


def _checked(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    maps, masks = as_tensor(maps, "maps"), as_tensor(masks, "masks")
    if masks.dtype != torch.bool or masks.shape != maps.shape:
        raise UserError(
            f"Masks must be bool of the maps' shape {tuple(maps.shape)}, got {masks.dtype} {tuple(masks.shape)}."
        )
    values = checked_maps(maps)
    empty = int((~masks.flatten(1).any(1)).sum())
    if empty:
        raise UserError(
            f"{empty} of {len(masks)} masks are empty; leave those images out, there is nothing to point at."
        )
    return values, masks.cpu()
