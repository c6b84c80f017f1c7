"""What the measures start from: finite attribution maps and their sums over tiles, and values from 0 to 1."""

from __future__ import annotations

from torch import Tensor

from aloe.core.arrays import as_tensor
from aloe.core.errors import UserError

ROUNDING = 1e-3  # by which a probability in low precision may exceed 1


def checked_maps(maps: Tensor) -> Tensor:
    """The maps (B, H, W) in float64, where sums of float32 values are as good as exact: on the CPU, without gradients.

    Raises:
        UserError: not (B, H, W) floating point, or values that are not finite.
    """
    maps = as_tensor(maps, "maps")
    if maps.ndim != 3 or not maps.is_floating_point():
        raise UserError(f"Attribution maps must be float (B, H, W), got {maps.dtype} {tuple(maps.shape)}.")
    broken = int((~maps.isfinite()).flatten(1).any(1).sum())
    if broken:
        raise UserError(
            f"{broken} of {len(maps)} attribution maps hold values that are not finite; explain in float32 (no autocast)."
        )
    return maps.detach().cpu().double()


def tile_sums(maps: Tensor, rows: int, columns: int) -> Tensor:
    """Sums over rows x columns equal tiles in row-major order: (B, H, W) -> (B, rows * columns), H and W divisible."""
    count, height, width = maps.shape
    tiles = maps.reshape(count, rows, height // rows, columns, width // columns)
    return tiles.sum((2, 4)).flatten(1)


def in_unit_interval(values: Tensor) -> bool:
    """Whether all values lie in [0, 1] but for rounding; NaN does not."""
    return bool(((values >= -ROUNDING) & (values <= 1 + ROUNDING)).all())
