"""Pixel deletion and insertion (paper, appendix A): does the model lose what the map says it used?

Blocks of pixels are ranked by mean attribution and removed, the most attributed first (the class's probability should fall
fast) or the least attributed first (it should stay). Insertion starts from the fill and puts the same blocks back in. All
fractions of all images run through the model in full batches.

The fills `black`, `mean` and `blur` are images, made in RGB before the model's preparation. `zero` is the paper's: all input
channels of the model are 0, which no image is for a six-channel input. Preparation is per pixel (normalisation or the
six-channel encoding), so mixing prepared inputs by a mask is the same as mixing images.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aloe.core.arrays import as_tensor
from aloe.core.errors import UserError
from aloe.core.smoothing import gaussian_smooth
from aloe.metrics.bootstrap import SAMPLES, bootstrap_interval
from aloe.metrics.maps import checked_maps, in_unit_interval, tile_sums

BLOCK = 16
FILLS = ("zero", "black", "mean", "blur")
MODES = ("deletion", "insertion")
FRACTIONS = tuple(step / 20 for step in range(21))
PAPER_FRACTIONS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8)


@dataclass(frozen=True)
class CurveSummary:
    """Means over images with the ends of their 95 % bootstrap intervals, as probabilities: all float64 on the CPU.

    Shapes: `fractions`, `most`, `least` and their `_low` and `_high` (F,); areas under the curves (); intervals (2,).
    """

    fractions: Tensor
    most: Tensor
    most_low: Tensor
    most_high: Tensor
    least: Tensor
    least_low: Tensor
    least_high: Tensor
    area_most: Tensor
    area_most_interval: Tensor
    area_least: Tensor
    area_least_interval: Tensor


@dataclass(frozen=True, eq=False)
class Curves:
    """The target's probability after each step.

    Shapes: `fractions` (F,) of the blocks that are changed, rising; `most` and `least` (B, F), the most and the least
    attributed blocks first.
    """

    fractions: Tensor
    most: Tensor
    least: Tensor

    def summary(self, samples: int = SAMPLES, seed: int = 0) -> CurveSummary:
        """Means, areas (trapezoids over the fractions, divided by their range: mean probabilities) and their intervals
        over images."""
        facts: dict[str, Tensor] = {"fractions": self.fractions}
        for name, curves in (("most", self.most), ("least", self.least)):
            areas = torch.trapezoid(curves, self.fractions, dim=1) / (self.fractions[-1] - self.fractions[0])
            facts[name], facts[f"area_{name}"] = curves.mean(0), areas.mean()
            facts[f"{name}_low"], facts[f"{name}_high"] = bootstrap_interval(curves, samples=samples, seed=seed)
            facts[f"area_{name}_interval"] = torch.stack(bootstrap_interval(areas, samples=samples, seed=seed))
        return CurveSummary(**facts)


@torch.no_grad()
def deletion_curves(
    maps: Tensor,
    images: Tensor,
    classes: Tensor,
    *,
    prepare: Callable[[Tensor], Tensor],
    probability: Callable[[Tensor, Tensor], Tensor],
    block: int = BLOCK,
    fractions: Sequence[float] | None = None,
    fill: str = "zero",
    mode: str = "deletion",
    batch_size: int = 64,
) -> Curves:
    """The target's probability while blocks are deleted from images, or inserted into the fill.

    Args:
        maps: (B, H, W). images: (B, 3, H, W) in [0, 1]. classes: (B,) int64, the targets.
        prepare: images (b, 3, H, W) -> model input (b, C, H, W) on the model's device, pixel by pixel.
        probability: model input (b, C, H, W) and classes (b,) on its device -> (b,) from 0 to 1.
        block: side of a block in pixels; it divides H and W.
        fractions: of the blocks to change, rising, from 0 to 1; default in steps of 0.05. They are rounded to whole
            blocks, and those that then are equal become one.
        fill: `zero`, `black`, `mean` or `blur`. mode: `deletion` or `insertion`.
        batch_size: inputs per pass.

    Raises:
        UserError: an unknown fill or mode, fractions out of order or range, a block that does not divide the maps,
            shapes that differ, images outside [0, 1], maps that are not finite, or a `probability` that is none.
    """
    maps, images, classes = as_tensor(maps, "maps"), as_tensor(images, "images"), as_tensor(classes, "classes")
    if mode not in MODES:
        raise UserError(f"There is no mode {mode!r}; modes: {', '.join(MODES)}.")
    if fill not in FILLS:
        raise UserError(f"There is no fill {fill!r}; fills: {', '.join(FILLS)}.")
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}.")
    shape = tuple(maps.shape)
    if len(shape) != 3 or not shape[0] or images.shape != (shape[0], 3, *shape[1:]) or classes.shape != shape[:1]:
        raise UserError(
            f"Maps (B, H, W), images (B, 3, H, W) and classes (B,) must fit, got {shape}, "
            f"{tuple(images.shape)} and {tuple(classes.shape)}."
        )
    if not in_unit_interval(images):
        raise UserError("Image values must lie in [0, 1]; do not normalise them, `prepare` does what is needed.")
    ranks = block_ranks(maps, block)
    blocks = ranks.shape[1]
    steps = torch.tensor(_whole_blocks(FRACTIONS if fractions is None else fractions, blocks))
    jobs = torch.arange(len(maps) * 2 * len(steps))  # by image, then most or least first, then step
    parts = []
    for job in jobs.split(batch_size):
        image, reverse, changed = job // (2 * len(steps)), job // len(steps) % 2 == 1, steps[job % len(steps)]
        rank = torch.where(reverse[:, None], blocks - 1 - ranks[image], ranks[image])
        first, last = int(image[0]), int(image[-1])
        inputs, filled = _ends(images[first : last + 1], prepare, fill, block)
        start, goal = (inputs, filled) if mode == "deletion" else (filled, inputs)
        mask = _pixels(rank < changed[:, None], shape[1] // block, block).to(inputs.device)
        row = (image - first).to(inputs.device)
        mixed = torch.where(mask, goal[row], start[row])
        parts.append(_checked(probability(mixed, classes[image.to(classes.device)].to(inputs.device)), len(job)))
    table = torch.cat(parts).view(len(maps), 2, len(steps))
    return Curves(steps.double() / blocks, table[:, 0], table[:, 1])


def block_ranks(maps: Tensor, block: int) -> Tensor:
    """Each block's place when blocks are ordered by mean attribution, 0 for the largest; of equal ones the earlier first.

    Shapes: (B, H, W) -> (B, blocks) int64 on the CPU, blocks in row-major order. The least attributed first is the reverse
    order.

    Raises:
        UserError: a block that does not divide the height and width, or maps that are not finite.
    """
    values = checked_maps(maps)
    height, width = values.shape[1:]
    if block < 1 or height % block or width % block:
        common = math.gcd(height, width)
        sizes = ", ".join(str(size) for size in range(1, common + 1) if common % size == 0)
        raise UserError(f"Blocks of {block} pixels do not divide {height} x {width} pixels; give one of {sizes}.")
    means = tile_sums(values, height // block, width // block) / block**2
    return means.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def fill_image(images: Tensor, fill: str, *, block: int = BLOCK) -> Tensor:
    """What stands in place of removed pixels, in RGB: (B, 3, H, W) -> (B, 3, H, W), in [0, 1].

    `black`; `mean`, each image's own mean colour; `blur`, each image under a Gaussian with a sigma of half a block.

    Raises:
        UserError: another fill; `zero` is none in RGB.
    """
    if fill == "black":
        return torch.zeros_like(images)
    if fill == "mean":
        return images.mean((2, 3), keepdim=True).expand_as(images)
    if fill == "blur":
        return gaussian_smooth(images.flatten(0, 1), 3 * block).view_as(images).clamp(0, 1)
    raise UserError(f"There is no fill {fill!r} in RGB; fills: {', '.join(f for f in FILLS if f != 'zero')}.")


def _whole_blocks(fractions: Sequence[float], blocks: int) -> list[int]:
    values = [float(f) for f in fractions]
    rising = all(a < b for a, b in itertools.pairwise(values))
    if len(values) < 2 or not rising or values[0] < 0 or values[-1] > 1:
        raise UserError(f"Fractions must be two or more rising numbers from 0 to 1, got {values}.")
    steps = sorted({math.floor(f * blocks + 0.5) for f in values})
    if len(steps) < 2:
        raise UserError(
            f"These fractions are all the same number of {blocks} blocks; give more of them or smaller blocks."
        )
    return steps


def _ends(images: Tensor, prepare: Callable[[Tensor], Tensor], fill: str, block: int) -> tuple[Tensor, Tensor]:
    """The model's input for whole images, and for the fill alone."""
    inputs = prepare(images)
    if inputs.ndim != 4 or len(inputs) != len(images) or inputs.shape[-2:] != images.shape[-2:]:
        raise UserError(
            f"The prepared input must keep the images' pixels, {tuple(images.shape)} became {tuple(inputs.shape)}."
        )
    return inputs, torch.zeros_like(inputs) if fill == "zero" else prepare(fill_image(images, fill, block=block))


def _pixels(blocks: Tensor, rows: int, block: int) -> Tensor:
    """(b, blocks) of so many rows -> (b, 1, H, W)."""
    tiles = blocks.view(len(blocks), 1, rows, -1)
    return tiles.repeat_interleave(block, 2).repeat_interleave(block, 3)


def _checked(values: Tensor, count: int) -> Tensor:
    values = values.detach().cpu().double()
    if values.shape != (count,) or not in_unit_interval(values):
        raise UserError(f"`probability` must give {count} values from 0 to 1, for logits apply the softmax or sigmoid.")
    return values
