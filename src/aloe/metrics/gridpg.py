"""The grid pointing game (paper, appendix A): is the evidence for a class found in the cell that shows the class?

For cell i of a grid of n x n images of distinct classes, with A+ the positive part of the map that explains class i,

    L_i = (sum of A+ over cell i) / (sum of A+ over the grid),

and GridPG is the mean of L over cells and grids. Maps without positive mass are discarded and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from aloe.core.errors import UserError
from aloe.metrics.bootstrap import SAMPLES, bootstrap_interval
from aloe.metrics.grids import GridList, compose
from aloe.metrics.maps import checked_maps, tile_sums


@dataclass(frozen=True, eq=False)
class GridPG:
    """What the game gave, all from 0 to 1; NaN where every map was discarded.

    `score` is the mean of L over the maps that count, `interval` its 95 % bootstrap interval over grids, `per_cell` (n*n,)
    the mean by position of the explained cell, `maps` how many were explained, `discarded` how many of them had no
    positive mass, `scores` (G, n*n) every L, NaN where discarded.
    """

    score: float
    interval: tuple[float, float]
    per_cell: Tensor
    maps: int
    discarded: int
    scores: Tensor

    @property
    def chance(self) -> float:
        """The score of a uniform map."""
        return 1 / self.scores.shape[1]


def grid_pointing(
    attribute: Callable[[Tensor, Tensor], Tensor],
    load: Callable[[Sequence[int]], Tensor],
    grids: GridList,
    *,
    side: int | None = None,
    grids_per_pass: int = 8,
    samples: int = SAMPLES,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> GridPG:
    """Play the game; all classes of `grids_per_pass` grids are explained in one call.

    Args:
        attribute: images (B, 3, H, W) in [0, 1] and classes (B,) int64, on the CPU -> maps (B, H, W).
        load: indices of K images -> (K, 3, S, S) in [0, 1].
        side: pixels that a grid is resized to, for models limited to their native size; None: n * S.
        grids_per_pass: n*n times as many images are explained at a time.
        samples, seed: of the bootstrap.
        progress: told the number of grids done, and of all, after each pass.

    Raises:
        UserError: a side that n does not divide, no grids per pass, images or maps of a wrong shape, or maps that are not
            finite.
    """
    cells = grids.n**2
    if grids_per_pass < 1:
        raise UserError(f"At least one grid is explained at a time, got grids_per_pass={grids_per_pass}.")
    if side is not None and (side < grids.n or side % grids.n):
        raise UserError(f"Grids of {grids.n} x {grids.n} cells cannot be {side} pixels wide: {grids.n} must divide it.")
    scores = []
    for start in range(0, len(grids), grids_per_pass):
        indices, labels = (table[start : start + grids_per_pass] for table in (grids.indices, grids.labels))
        pixels = _resized(compose(_loaded(load, indices)), side).repeat_interleave(cells, 0)
        maps = attribute(pixels, labels.flatten())
        if maps.shape != (len(pixels), *pixels.shape[-2:]):
            raise UserError(
                f"Maps of grids must be {(len(pixels), *pixels.shape[-2:])}, one for each class and pixel, got "
                f"{tuple(maps.shape)}."
            )
        shares = cell_scores(maps, grids.n).view(-1, cells, cells)
        scores.append(shares.diagonal(dim1=1, dim2=2))  # of the map that explains class i, the share in cell i
        if progress:
            progress(min(start + grids_per_pass, len(grids)), len(grids))
    table = torch.cat(scores)
    low, high = bootstrap_interval(table, pool=True, samples=samples, seed=seed)
    return GridPG(
        score=float(table.nanmean()),
        interval=(float(low), float(high)),
        per_cell=table.nanmean(0),
        maps=table.numel(),
        discarded=int(table.isnan().sum()),
        scores=table,
    )


def cell_scores(maps: Tensor, n: int) -> Tensor:
    """The share of a map's positive mass in each of n x n cells, row-major: (B, H, W) -> (B, n*n) float64, on the CPU.

    Rows of maps without positive mass are NaN.

    Raises:
        UserError: maps that are not finite, or whose height or width n does not divide.
    """
    values = checked_maps(maps)
    height, width = values.shape[1:]
    if n < 1 or height % n or width % n:
        raise UserError(f"Maps of {height} x {width} pixels cannot be cut into {n} x {n} equal cells.")
    mass = tile_sums(values.clamp_min(0), n, n)
    return mass / mass.sum(1, keepdim=True)  # 0 / 0 is NaN


def _loaded(load: Callable[[Sequence[int]], Tensor], indices: Tensor) -> Tensor:
    """(G, n*n) indices -> (G, n*n, 3, S, S)."""
    images = load(indices.flatten().tolist())
    if images.ndim != 4 or images.shape[:2] != (indices.numel(), 3) or images.shape[2] != images.shape[3]:
        raise UserError(f"{indices.numel()} images of a grid must be (K, 3, S, S), got {tuple(images.shape)}.")
    return images.view(*indices.shape, *images.shape[1:])


def _resized(images: Tensor, side: int | None) -> Tensor:
    if side is None or side == images.shape[-1]:
        return images
    resized = F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
    return resized.clamp(0, 1)
