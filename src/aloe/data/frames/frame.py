"""Frames: images with depth, surface normals and cameras; what the probes train on and correspondence compares.

Pixel (row, column) has its centre at (column + 0.5, row + 0.5), everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from aloe.core.errors import UserError
from aloe.data.shared import hash_of_pixels


class NoTruth(UserError):
    """A frame without one valid pixel of what is asked for: probes leave it out and say so."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One view, H x W pixels; the camera frame is x right, y down, z forward."""

    image: Tensor
    """(3, H, W) float32 in [0, 1]."""
    depth: Tensor | None = None
    """(H, W) float32 metres along the camera's z axis, 0 where unknown."""
    normals: Tensor | None = None
    """(3, H, W) float32 unit vectors in the camera frame, towards the camera; zero where unknown."""
    intrinsics: Tensor | None = None
    """(3, 3) float64 pinhole matrix in pixels."""
    camera_to_world: Tensor | None = None
    """(4, 4) float64 rigid motion of camera points to world points, metres."""
    mask: Tensor | None = None
    """(H, W) bool, the points that may be matched (NAVI's object); None: all with depth."""
    name: str = ""

    def cropped_square(self) -> Frame:
        """The central square of the shorter side; everything moves together."""
        height, width = self.image.shape[-2:]
        side = min(height, width)
        return self.cropped((height - side) // 2, (width - side) // 2, side, side)

    def cropped(self, top: int, left: int, height: int, width: int) -> Frame:
        """The given rectangle, in whole pixels inside the image; everything moves together."""

        def cut(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[..., top : top + height, left : left + width]

        intrinsics = self.intrinsics
        if intrinsics is not None:
            intrinsics = intrinsics.clone()
            intrinsics[0, 2] -= left
            intrinsics[1, 2] -= top
        image = self.image[..., top : top + height, left : left + width]
        return replace(
            self,
            image=image,
            depth=cut(self.depth),
            normals=cut(self.normals),
            mask=cut(self.mask),
            intrinsics=intrinsics,
        )

    def resized(self, side: int) -> Frame:
        """A square frame at `side` x `side`: the image bilinear and antialiased, depth, normals and mask by the nearest
        pixel centre, the intrinsics scaled. Raises ValueError when the frame is not square."""
        height, width = self.image.shape[-2:]
        if height != width:
            raise ValueError(f"Only a square frame is resized, but {self.name or 'this one'} is {height} x {width}.")
        if side == height:
            return self
        size = (side, side)

        def nearest(x: Tensor | None) -> Tensor | None:
            if x is None:
                return None
            planes = x.reshape(1, -1, height, width).float()
            return F.interpolate(planes, size, mode="nearest-exact").reshape(*x.shape[:-2], *size).to(x.dtype)

        smooth = F.interpolate(self.image[None], size, mode="bilinear", antialias=True, align_corners=False)[0]
        intrinsics = self.intrinsics
        if intrinsics is not None:
            scale = side / height
            intrinsics = torch.diag(intrinsics.new_tensor([scale, scale, 1.0])) @ intrinsics
        return replace(
            self,
            image=smooth.clamp(0, 1),
            depth=nearest(self.depth),
            normals=nearest(self.normals),
            mask=nearest(self.mask),
            intrinsics=intrinsics,
        )


class FrameSource(Protocol):
    """A sequence of frames, read one at a time."""

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Frame:
        """Frame `index`; IndexError past the end, UserError when its files are missing or damaged."""

    def state(self) -> str:
        """A hash that changes with the content: the key of caches, and part of every result."""


@dataclass(frozen=True, eq=False)
class FrameSplits:
    """What depth and normal probes train and test on."""

    name: str
    train: FrameSource
    test: FrameSource
    official: bool
    """Whether both splits are the published protocol's."""
    max_depth: float
    """Metres; deeper pixels are invalid (depth 0) in every frame."""
    notes: tuple[str, ...] = ()
    """Sentences for the report: every choice and deviation that a reader must know."""

    @cached_property
    def shared(self) -> int:
        """How many test frames are training frames too, told by the pixels of their images. Reads every frame."""
        training = set(_contents(self.train))
        return sum(content in training for content in _contents(self.test))


def _contents(frames: FrameSource) -> Iterator[str]:
    """A hash of every frame's image."""
    for i in range(len(frames)):
        try:
            image = frames[i].image
        except NoTruth:
            continue
        yield hash_of_pixels(tuple(image.shape), image.numpy().tobytes())


@dataclass(frozen=True, eq=False)
class FramePairs:
    """Pairs of views of one scene, as positions in `frames`: points of the first are matched in the second."""

    name: str
    frames: FrameSource
    pairs: list[tuple[int, int]]
    bins: tuple[float, ...]
    """Edges in degrees of rotation between the two cameras; bin k is [edge k, edge k + 1)."""
    notes: tuple[str, ...] = ()
    official: bool = False
    """Whether frames and pairs are the published protocol's."""
    defaults: dict[str, Any] = field(default_factory=dict)
    """Settings of matching (`CorrespondenceSettings`) in which the protocol of these pairs leaves the defaults."""
    options: dict[str, Any] = field(default_factory=dict)
    """How the pairs were chosen, where that can be chosen (`PairSettings`)."""
