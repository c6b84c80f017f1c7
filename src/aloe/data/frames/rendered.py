"""Rendered scenes as frames: exact depth, normals and cameras, the same on every machine.

The probes train and test on one view of each scene, of two different seeds; correspondence pairs view 0 of each test scene
with views 1 to 5, 12 to 60 degrees further round it.
"""

from __future__ import annotations

import re
from functools import lru_cache

import torch

from aloe.core.errors import UserError
from aloe.core.files import digest
from aloe.data.frames.frame import Frame, FramePairs, FrameSplits
from aloe.data.scenes import check_sizes, render

VIEWS = 6  # of each scene, in steps of 12 degrees
MAX_DEPTH = 10.0  # metres, as for rooms; the ground of some scenes goes on to 40
TEST_SEED = 5000  # the test scenes' seed is this far from the training scenes'; no teacher was trained on it
CACHED_BYTES = 1 << 28  # of frames kept in memory, as each takes some 30 ms to render
# One angle in each bin, well away from the edges.
BINS = (6.0, 18.0, 30.0, 42.0, 54.0, 66.0)
SPEC = r"rendered(?::([1-9]\d{0,18}),([1-9]\d{0,18})(?:@(\d{1,19}))?)?(?:/([1-9]\d{0,18}))?"


class RenderedFrames:
    """`scenes` scenes of a seed with `views` views each: frame i is view i % views of scene i // views."""

    def __init__(self, scenes: int, seed: int, resolution: int = 64, views: int = 1) -> None:
        self.scenes, self.seed, self.resolution, self.views = scenes, seed, resolution, views
        self.name = f"rendered:{scenes}@{seed}/{resolution}"
        # float32 of image, depth and normals
        frames = max(16, CACHED_BYTES // (28 * resolution**2))
        self._render = lru_cache(maxsize=frames)(self._rendered)

    def __len__(self) -> int:
        return self.scenes * self.views

    def __getitem__(self, index: int) -> Frame:
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        return self._render(index)

    def state(self) -> str:
        # The first picture stands for the renderer: another version of it is another data set.
        first = self[0].image.numpy().tobytes().hex()
        return digest([self.name, str(self.views), str(MAX_DEPTH), first])

    def _rendered(self, index: int) -> Frame:
        number, view = divmod(index, self.views)
        scene = render(self.seed, number, self.resolution, view)
        depth = torch.from_numpy(scene.depth)
        far = depth > MAX_DEPTH
        return Frame(
            image=torch.from_numpy(scene.image).permute(2, 0, 1).float() / 255,
            depth=depth.masked_fill(far, 0),
            normals=torch.from_numpy(scene.normals).masked_fill(far, 0),
            intrinsics=torch.from_numpy(scene.intrinsics),
            camera_to_world=torch.from_numpy(scene.camera_to_world),
            name=f"scene {number} of seed {self.seed}, view {view}",
        )


def rendered_splits(spec: str) -> FrameSplits:
    """`rendered[:TRAIN,TEST[@SEED]][/RESOLUTION]`: view 0 of TRAIN scenes of SEED and of TEST scenes of SEED + 5000."""
    train, test, seed, resolution = _parsed(spec)
    return FrameSplits(
        name=f"rendered:{train},{test}@{seed}/{resolution}",
        train=RenderedFrames(train, seed, resolution),
        test=RenderedFrames(test, seed + TEST_SEED, resolution),
        official=False,
        max_depth=MAX_DEPTH,
        notes=(
            f"Rendered scenes of {resolution} pixels: {train} train (seed {seed}), {test} test (seed {seed + TEST_SEED}),"
            f" exact depth and normals, nothing beyond {MAX_DEPTH:g} m.",
        ),
    )


def rendered_pairs(spec: str) -> FramePairs:
    """Views (0, k), k = 1 to 5, of each test scene of `spec`; every point with depth is matched, not the object alone."""
    _, test, seed, resolution = _parsed(spec)
    pairs = [(VIEWS * scene, VIEWS * scene + k) for scene in range(test) for k in range(1, VIEWS)]
    return FramePairs(
        name=f"rendered:{test}@{seed + TEST_SEED}/{resolution}",
        frames=RenderedFrames(test, seed + TEST_SEED, resolution, VIEWS),
        pairs=pairs,
        bins=BINS,
        notes=(
            f"{test} rendered scenes of {resolution} pixels (seed {seed + TEST_SEED}), view 0 against the views 12, 24, 36,"
            " 48 and 60 degrees round the scene, so one angle in each bin.",
        ),
    )


def _parsed(spec: str) -> tuple[int, int, int, int]:
    """(train, test, seed, resolution)."""
    match = re.fullmatch(SPEC, spec, re.ASCII)
    if match is None:
        raise UserError(f"{spec!r} is not of the form rendered:TRAIN,TEST@SEED/RESOLUTION (rendered:400,100@0/64).")
    train, test, seed, resolution = match.groups()
    if resolution is not None and int(resolution) < 8:
        raise UserError(f"{spec!r} asks for less than 8 pixels; the default is 64.")
    check_sizes(spec, max(int(train or 1), int(test or 1)), int(seed or 0) + TEST_SEED, int(resolution or 64))
    return int(train or 400), int(test or 100), int(seed or 0), int(resolution or 64)
