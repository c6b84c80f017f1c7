"""Frames: images with depth, surface normals and cameras, and what a user may name as a set of them.

One `Frame` is one view; a `FrameSource` reads frames one at a time; `FrameSplits` are what the depth and normal probes
train and test on; `FramePairs` are what correspondence compares. `open_frames` and `open_pairs` understand

    rendered   rendered:TRAIN,TEST@SEED/RESOLUTION     the package's scenes (default rendered:400,100@0/64)
    rgbd=PATH                                          a posed RGB-D folder or archive, your own or the sample
    nyuv2=PATH                                         NYUv2: the official .mat, Probe3D's pickle, GeoNet's training folder
    navi=PATH   scannet=PATH                           pairs of views: NAVI v1, the 1500 pairs of ScanNet

Pixel (row, column) has its centre at (column + 0.5, row + 0.5), everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from aloe.dense.matching_settings import PairSettings
from aloe.errors import UserError


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


def open_frames(spec: str) -> FrameSplits:
    """The train and test frames that `spec` names (`rendered`, `rgbd=PATH`, `nyuv2=PATH`; see the head of this module).

    Raises:
        UserError: unknown spec, absent or damaged files, or a data set that serves pairs only.
    """
    kind, path = _parsed(spec)
    if kind == "rendered":
        from aloe.dense.sources.rendered import rendered_splits

        return rendered_splits(spec)
    if kind == "rgbd":
        from aloe.dense.sources.rgbd import rgbd_splits

        return rgbd_splits(path)
    if kind == "nyuv2":
        from aloe.dense.sources.nyuv2 import nyuv2_splits

        return nyuv2_splits(path)
    raise UserError(f"{spec!r} serves view pairs for correspondence, not depth and normals; use {_SPLITS} for those.")


def open_pairs(
    spec: str,
    *,
    gaps: tuple[int, int] | None = None,
    count: int | None = None,
    seed: int | None = None,
    min_overlap: float | None = None,
) -> FramePairs:
    """The pairs of views that `spec` names (`rendered`, `rgbd=PATH`, `navi=PATH`, `scannet=PATH`).

    Args:
        gaps: rgbd only: smallest and largest distance of the two frame numbers, both included (default 8, 64).
        count: rgbd only: how many pairs at most, drawn at random from those that overlap (default 200).
        seed: rgbd only: of that draw (default 0).
        min_overlap: rgbd only: share of the first view's points that the second sees at the same depth (default 0.3).

    Raises:
        UserError: unknown spec, absent or damaged files, no overlapping pairs, a data set without poses, impossible options,
            or an option for a data set whose pairs are fixed.
    """
    kind, path = _parsed(spec)
    given = {"gaps": gaps, "count": count, "seed": seed, "min_overlap": min_overlap}
    options = {key: value for key, value in given.items() if value is not None}
    if options and kind != "rgbd":
        raise UserError(f"The pairs of {kind} are fixed: {', '.join(options)} can be chosen for rgbd=PATH only.")
    if kind == "rendered":
        from aloe.dense.sources.rendered import rendered_pairs

        return rendered_pairs(spec)
    if kind == "rgbd":
        from aloe.dense.sources.rgbd import rgbd_pairs

        return rgbd_pairs(path, PairSettings.of(**options))
    if kind == "navi":
        from aloe.dense.sources.navi import navi_pairs

        return navi_pairs(path)
    if kind == "scannet":
        from aloe.dense.sources.scannet import scannet_pairs

        return scannet_pairs(path)
    raise UserError(f"{spec!r} has no camera poses, so it serves depth and normals only; use {_PAIRS} for pairs.")


_SPLITS = "rendered, rgbd=PATH or nyuv2=PATH"
_PAIRS = "rendered, rgbd=PATH, navi=PATH or scannet=PATH"


def _parsed(spec: str) -> tuple[str, Path]:
    """The data set's kind and its path, which exists (unused for `rendered`)."""
    kind, separator, path = spec.partition("=")
    if spec.partition(":")[0] == "rendered":
        return "rendered", Path()
    if kind not in ("rgbd", "nyuv2", "navi", "scannet") or not separator or not path:
        raise UserError(f"{spec!r} is not a data set with depth; give {_SPLITS}, navi=PATH or scannet=PATH.")
    found = Path(path).expanduser()
    if not found.exists():
        raise UserError(f"{found} does not exist; {kind}=PATH needs the folder or file of the data set.")
    return kind, found
