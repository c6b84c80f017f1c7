"""Images to tensors: the random crop and flip of alignment, the fixed crop of evaluation.

Definitions are the customary ones (random resized crop: Szegedy et al. 2015, "Going deeper with
convolutions"). All randomness comes from the generator given at the call; there is none in the
objects.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from PIL import Image


class Transform(Protocol):
    """PIL image to PIL image; deterministic ones ignore the generator."""

    def __call__(self, image: Image.Image, generator: np.random.Generator | None = None) -> Image.Image: ...


class Compose:
    """Steps in order, drawing from one generator."""

    def __init__(self, *steps: Transform) -> None:
        self.steps = steps

    def __call__(self, image: Image.Image, generator: np.random.Generator | None = None) -> Image.Image:
        for step in self.steps:
            image = step(image, generator)
        return image

    def enough(self, size: tuple[int, int], fresh: Callable[[], np.random.Generator]) -> int:
        """The first step's, see `RandomResizedCrop.enough`."""
        first = getattr(self.steps[0], "enough", None) if self.steps else None
        return first(size, fresh) if first else max(size)


class RandomResizedCrop:
    """A random part of the image at `size` x `size`, bilinear and antialiased.

    Ten times an area (uniform in `scale`, as a fraction of the image) and an aspect ratio
    (log-uniform in `ratio`) are drawn until the rectangle fits, then its place; else the largest
    central crop with an allowed ratio.
    """

    def __init__(
        self,
        size: int,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
    ) -> None:
        self.size, self.scale, self.ratio = size, scale, ratio

    def box(self, size: tuple[int, int], generator: np.random.Generator) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) in whole pixels of an image of `size` = (W, H)."""
        width, height = size
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            area, aspect, x, y = generator.random(4).tolist()
            area = width * height * (self.scale[0] + area * (self.scale[1] - self.scale[0]))
            aspect = math.exp(low + aspect * (high - low))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
                return left, top, left + w, top + h
        aspect = min(max(width / height, self.ratio[0]), self.ratio[1])
        w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h

    def __call__(self, image: Image.Image, generator: np.random.Generator | None = None) -> Image.Image:
        if generator is None:
            raise TypeError("RandomResizedCrop needs a generator")
        box = self.box(image.size, generator)
        return image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)

    def enough(self, size: tuple[int, int], fresh: Callable[[], np.random.Generator]) -> int:
        """The shorter side, in pixels, at which an image of `size` may be decoded so that the crop
        that `fresh()` will
        draw is still not enlarged."""
        shorter = min(size)
        if shorter < 2 * self.size:  # no halving is possible: save the draw
            return shorter
        left, top, right, bottom = self.box(size, fresh())
        return math.ceil(shorter * min(1.0, self.size / min(right - left, bottom - top)))


class RandomHorizontalFlip:
    """Mirrors with probability `p`."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def __call__(self, image: Image.Image, generator: np.random.Generator | None = None) -> Image.Image:
        if generator is None:
            raise TypeError("RandomHorizontalFlip needs a generator")
        flip = generator.random() < self.p
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image


class ResizeCenterCrop:
    """Shorter side to `size` / `crop_fraction`, then the central `size` x `size`."""

    def __init__(
        self,
        size: int,
        crop_fraction: float = 1.0,
        resample: Image.Resampling = Image.Resampling.BICUBIC,
    ) -> None:
        if not 0 < crop_fraction <= 1:
            raise ValueError(f"crop_fraction {crop_fraction} is not in (0, 1]")
        self.size, self.resample = size, resample
        self.shorter = math.floor(size / crop_fraction)

    def __call__(self, image: Image.Image, generator: np.random.Generator | None = None) -> Image.Image:
        scale = self.shorter / min(image.size)
        # The longer side is cut, not rounded, as is customary.
        width, height = (max(self.shorter, int(side * scale + 1e-9)) for side in image.size)
        if (width, height) != image.size:
            image = image.resize((width, height), self.resample)
        if (width, height) == (self.size, self.size):
            return image
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return image.crop((left, top, left + self.size, top + self.size))


def to_tensor(image: Image.Image) -> torch.Tensor:
    """RGB image to float32 (3, H, W) in [0, 1]."""
    planes = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
    return torch.from_numpy(np.divide(planes, np.float32(255)))
