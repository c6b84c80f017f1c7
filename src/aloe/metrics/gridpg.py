"""The grid pointing game (paper, appendix A): is the evidence for a class found in the cell that shows the class?

For cell i of a grid of n x n images of distinct classes, with A+ the positive part of the map that explains class i,

    L_i = (sum of A+ over cell i) / (sum of A+ over the grid),

and GridPG is the mean of L over cells and grids. Maps without positive mass are discarded and counted.

Three protocols say how a grid is explained, and scores of two of them do not compare (docs/attribution.md):

- `windows` (the paper's): windows of the model's own size, averaged where they overlap (`aloe.metrics.windows`);
- `whole`: the grid in one pass, n times as wide as the model's own size;
- `resized`: the grid in one pass, shrunk to the model's own size.

Earlier B-cos work also averages a map over a box of k x k pixels before the positive part is taken: `smooth`, off by default.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from aloe.core.errors import UserError
from aloe.metrics.bootstrap import SAMPLES, bootstrap_interval
from aloe.metrics.grids import GridList, compose
from aloe.metrics.maps import checked_maps, tile_sums
from aloe.metrics.windows import MAPS_PER_PASS, Attribute, windowed_maps

PROTOCOLS = ("windows", "whole", "resized")


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
    attribute: Attribute,
    load: Callable[[Sequence[int]], Tensor],
    grids: GridList,
    *,
    protocol: str = "windows",
    smooth: int = 0,
    maps_per_pass: int = MAPS_PER_PASS,
    samples: int = SAMPLES,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    share: Callable[..., Iterable[Tensor]] = map,
) -> GridPG:
    """Play the game; classes, windows and grids are explained together, `maps_per_pass` at a time.

    Args:
        attribute: images (B, 3, H, W) in [0, 1] and classes (B,) int64, on the CPU -> maps (B, H, W).
        load: indices of K images -> (K, 3, S, S) in [0, 1], S the model's own size.
        protocol: of `PROTOCOLS`: what `attribute` is shown, windows of S x S pixels, grids of n*S, or grids shrunk to S.
        smooth: side in pixels of the box that maps are averaged over, odd and no wider than a cell; 0 or 1: none.
        maps_per_pass: how many maps are made in one call; `whole` and `resized` make at least one grid's.
        samples, seed: of the bootstrap.
        progress: told the number of grids done, and of all, after each pass.
        share: `map`, or what does as it does with the work dealt out to several processes.

    Raises:
        UserError: an unknown protocol, a box that is even or wider than a cell, a size that n does not divide, no maps per
            pass, images or maps of a wrong shape, or maps that are not finite.
    """
    check_protocol(protocol)
    cells = grids.n**2
    if maps_per_pass < 1:
        raise UserError(f"At least one map is made at a time, got maps_per_pass={maps_per_pass}.")
    at_a_time = max(1, maps_per_pass // cells)

    def played(start: int) -> Tensor:
        indices, labels = (table[start : start + at_a_time] for table in (grids.indices, grids.labels))
        images = _loaded(load, indices)
        pixels, side = compose(images), images.shape[-1]
        if protocol == "windows":
            maps = windowed_maps(attribute, pixels, labels, side, maps_per_pass=maps_per_pass)
        else:
            maps = _in_one_pass(attribute, _resized(pixels, side, grids.n) if protocol == "resized" else pixels, labels)
        shares = cell_scores(box_mean(maps.flatten(0, 1), smooth, grids.n), grids.n).view(-1, cells, cells)
        if progress:
            progress(min(start + at_a_time, len(grids)), len(grids))
        return shares.diagonal(dim1=1, dim2=2)  # of the map that explains class i, the share in cell i

    table = torch.cat(list(share(played, range(0, len(grids), at_a_time))))
    low, high = bootstrap_interval(table, pool=True, samples=samples, seed=seed)
    return GridPG(
        score=float(table.nanmean()),
        interval=(float(low), float(high)),
        per_cell=table.nanmean(0),
        maps=table.numel(),
        discarded=int(table.isnan().sum()),
        scores=table,
    )


def check_protocol(protocol: str) -> None:
    """Raises a UserError that names the nearest protocol, where there is none of this name."""
    if protocol not in PROTOCOLS:
        near = difflib.get_close_matches(protocol, PROTOCOLS, n=1, cutoff=0)[0]
        raise UserError(f"GridPG has no protocol {protocol!r}, did you mean {near}? Protocols: {', '.join(PROTOCOLS)}.")


def check_smooth(smooth: int, cell: int) -> None:
    """Raises a UserError for a box of an even side, below 0, or wider than a cell of so many pixels."""
    if smooth < 0 or (smooth > 1 and smooth % 2 == 0):
        raise UserError(f"smooth is an odd number of pixels, or 0 for none, got {smooth}.")
    if smooth > cell:
        raise UserError(f"smooth = {smooth} pixels is wider than a cell of {cell} pixels; give at most {cell}.")


def box_mean(maps: Tensor, smooth: int, n: int = 1) -> Tensor:
    """Maps averaged over the box of `smooth` x `smooth` pixels around each pixel, zeros beyond the edge: (B, H, W) ->
    (B, H, W) float64; as they are for 0 and 1.

    Raises:
        UserError: a box of an even side, below 0, or wider than one of n x n cells.
    """
    check_smooth(smooth, min(maps.shape[-2:]) // n)
    if smooth < 2:
        return maps
    return F.avg_pool2d(checked_maps(maps)[:, None], smooth, stride=1, padding=smooth // 2)[:, 0]


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


def _in_one_pass(attribute: Attribute, pixels: Tensor, labels: Tensor) -> Tensor:
    """(G, 3, H, W) and classes (G, K) -> maps (G, K, H, W)."""
    repeated = pixels.repeat_interleave(labels.shape[1], 0)
    maps = attribute(repeated, labels.flatten())
    if maps.shape != (len(repeated), *pixels.shape[-2:]):
        raise UserError(
            f"Maps of grids must be {(len(repeated), *pixels.shape[-2:])}, one for each class and pixel, got "
            f"{tuple(maps.shape)}."
        )
    return maps.unflatten(0, tuple(labels.shape))


def _resized(images: Tensor, side: int, n: int) -> Tensor:
    """Grids shrunk to `side` pixels."""
    if side % n:
        raise UserError(f"Grids of {n} x {n} cells cannot be {side} pixels wide: {n} must divide it.")
    resized = F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
    return resized.clamp(0, 1)
