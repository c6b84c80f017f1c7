"""Posed RGB-D captures: any folder or archive of frames with colour, depth and camera poses.

    camera-intrinsics.txt            3 x 3 pinhole matrix of the depth camera, in pixels
    color-intrinsics.txt             that of the colour camera, where the two differ (optional)
    depth-to-color.txt               4 x 4 motion of its points into the colour camera's frame, metres (optional)
    NAME.color.jpg (or .png, ...)    colour
    NAME.depth.png                   16-bit grey, millimetres along the camera's z axis; 0 and 65535 are invalid
    NAME.pose.txt                    4 x 4 camera (that of the depth) to world, metres

This is the layout of 7-Scenes (Shotton et al. 2013) with the cameras added. Without a colour camera of its own, colour and
depth are taken as registered pixel by pixel; with one, depth and normals are moved into it. Colour and depth are of one size.
Cameras stand for the frames beside them and below; captures of several rooms lie in folders of their own, and pairs are of
frames of one folder. The last number in NAME is the frame's number.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aloe.core.errors import UserError
from aloe.core.files import digest
from aloe.data.decode import EXTENSIONS
from aloe.data.frames.files import Files, image_tensor, positive_depth
from aloe.data.frames.frame import Frame, FramePairs, FrameSplits
from aloe.data.frames.geometry import (
    back_project,
    checked_intrinsics,
    checked_pose,
    normals_from_depth,
    register,
    relative_pose,
    visible_share,
)
from aloe.data.frames.pair_settings import PairSettings

TRAIN_SHARE = 0.8  # of the frames in the order of their names
MAX_DEPTH = 10.0  # metres
INVALID = (0, 65535)  # depth values that mean "unknown"
NORMAL_RADIUS = 7  # pixels at 640 x 480: the window that the normals' plane is fitted in
INTRINSICS, COLOUR, MOTION = "camera-intrinsics.txt", "color-intrinsics.txt", "depth-to-color.txt"
BINS = (0.0, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 180.0)
# 7-Scenes states one nominal matrix, that of the Kinect's depth camera, and its colour is not registered: the colour camera
# has the nominal 525 pixels and sits 25 mm to the right. Where colour edges should lie by this, they do (docs/dense.md).
KINECT_DEPTH = ((585.0, 0.0, 320.0), (0.0, 585.0, 240.0), (0.0, 0.0, 1.0))
KINECT_COLOUR = ((525.0, 0.0, 320.0), (0.0, 525.0, 240.0), (0.0, 0.0, 1.0))
KINECT_OFFSET = -0.025  # metres along x, of depth camera points in the colour camera's frame
OVERLAP_STEP = 8  # every eighth pixel is enough to tell how much two views share


@dataclass(frozen=True, eq=False)
class Cameras:
    """Of a folder of frames: intrinsics of depth and colour (3, 3), and the motion (4, 4) of the depth camera's points into
    the colour camera's frame; `how` says where they come from."""

    depth: Tensor
    colour: Tensor
    motion: Tensor
    how: str

    @property
    def registered(self) -> bool:
        return torch.equal(self.depth, self.colour) and torch.equal(self.motion, torch.eye(4, dtype=torch.float64))


class RgbdFrames:
    """Frames of a capture in the order of their names, as the colour camera sees them; `normals` also fits surface normals
    to the depth."""

    def __init__(self, files: Files, stems: list[str], cameras: dict[str, Cameras], *, normals: bool) -> None:
        self.name = f"rgbd:{files.path.name}"
        self.files, self.stems, self.cameras, self.normals = files, stems, cameras, normals

    def __len__(self) -> int:
        return len(self.stems)

    def __getitem__(self, index: int) -> Frame:
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        stem, cameras = self.stems[index], self.cameras[self.stems[index]]
        image = image_tensor(self.files.colour(_colour(self.files, stem)))
        depth = self.measured(index)
        if image.shape[1:] != depth.shape:
            raise UserError(
                f"{stem} in {self.files.path} has colour of {image.shape[2]} x {image.shape[1]} pixels and depth of"
                f" {depth.shape[1]} x {depth.shape[0]}; bring them to one size first."
            )
        normals = normals_from_depth(depth, cameras.depth, NORMAL_RADIUS) if self.normals else None
        if not cameras.registered:
            depth, normals = register(depth, normals, cameras.depth, cameras.colour, cameras.motion)
        return Frame(
            image=image,
            depth=depth,
            normals=normals,
            intrinsics=cameras.colour,
            camera_to_world=self.pose(index) @ torch.linalg.inv(cameras.motion),
            name=stem,
        )

    def measured(self, index: int) -> Tensor:
        """(H, W) float32 metres as the depth camera saw them, 0 where unknown or beyond `MAX_DEPTH`; raises UserError."""
        name = f"{self.stems[index]}.depth.png"
        stored = self.files.depth(name)
        metres = np.where(np.isin(stored, INVALID), 0, stored) / 1000
        return positive_depth(torch.from_numpy(metres), MAX_DEPTH)

    def pose(self, index: int) -> Tensor:
        """(4, 4) depth camera to world; raises UserError."""
        name = f"{self.stems[index]}.pose.txt"
        return checked_pose(self.files.matrix(name), f"{name} in {self.files.path}")

    def state(self) -> str:
        names = [name for s in self.stems for name in (_colour(self.files, s), f"{s}.depth.png", f"{s}.pose.txt")]
        used = [self.cameras[stem] for stem in self.stems]
        cameras = [str([x.tolist() for x in (camera.depth, camera.colour, camera.motion)]) for camera in used]
        return digest([self.files.state(names), *cameras, str((MAX_DEPTH, NORMAL_RADIUS if self.normals else 0))])


def rgbd_splits(path: Path) -> FrameSplits:
    """The first 80 % of the frames at `path` (a folder or archive) for training, the rest for testing.

    Raises:
        UserError: see `open_capture`; or too few frames for two parts.
    """
    files, stems, cameras = open_capture(path)
    cut = int(TRAIN_SHARE * len(stems))
    if cut == 0:
        raise UserError(f"{path} has {len(stems)} frame; two are the least for training and testing.")
    rooms = len({_folder(stem) for stem in stems})
    same = "one sequence: the test frames show the room that was trained on" if rooms == 1 else f"{rooms} sequences"
    return FrameSplits(
        name=f"rgbd:{path.name}",
        train=RgbdFrames(files, stems[:cut], cameras, normals=True),
        test=RgbdFrames(files, stems[cut:], cameras, normals=True),
        official=False,
        max_depth=MAX_DEPTH,
        notes=(
            f"{cut} frames train, {len(stems) - cut} test, in the order of their names, of {same}.",
            f"Normals are planes fitted to the measured depth in windows of {2 * NORMAL_RADIUS + 1} pixels.",
            *_how(cameras),
        ),
    )


def rgbd_pairs(path: Path, options: PairSettings | None = None) -> FramePairs:
    """Pairs of frames at `path` whose numbers differ by gaps[0] to gaps[1] (both included) and whose views overlap.

    The candidates are put in a random order and taken while fewer than `count` have a share of at least `min_overlap`
    of the first view's points seen by the second at the same depth (`geometry.visible_share`).

    Raises:
        UserError: see `open_capture`; no two frames at such a distance, or no pair that overlaps.
    """
    options = options or PairSettings.of()
    (low, high), count, min_overlap, seed = options.gaps, options.count, options.min_overlap, options.seed
    files, stems, cameras = open_capture(path)
    frames = RgbdFrames(files, stems, cameras, normals=False)
    candidates = _candidates(stems, low, high)
    if not candidates:
        raise UserError(f"No two frames of {path} are {low} to {high} frames apart; choose other gaps.")
    depth, pose = lru_cache(maxsize=128)(frames.measured), lru_cache(maxsize=None)(frames.pose)
    lens = [cameras[stem].depth for stem in stems]

    @lru_cache(maxsize=512)
    def points(index: int) -> Tensor:
        grid = (slice(OVERLAP_STEP // 2, None, OVERLAP_STEP),) * 2
        seen = back_project(depth(index), lens[index])[(slice(None), *grid)].flatten(1)
        return seen[:, seen[2] > 0]

    pairs: list[tuple[int, int]] = []
    for at in np.random.default_rng(seed).permutation(len(candidates)):
        first, second = candidates[at]
        motion = relative_pose(pose(first), pose(second))
        if visible_share(points(first), motion, depth(second), lens[second]) >= min_overlap:
            pairs.append((first, second))
        if len(pairs) == count:
            break
    if not pairs:
        raise UserError(
            f"No two frames of {path}, {low} to {high} apart, share {min_overlap:.0%} of their points; choose other gaps"
            " or a smaller min_overlap, and check that the poses are camera to world in metres."
        )
    return FramePairs(
        name=f"rgbd:{path.name}",
        frames=frames,
        pairs=sorted(pairs),
        bins=BINS,
        notes=(
            f"{len(pairs)} pairs of frames {low} to {high} apart with at least {min_overlap:.0%} of the points in common,"
            f" of {len(candidates)} candidates (seed {seed}).",
            *_how(cameras),
        ),
        options=options.model_dump(mode="json"),
    )


def open_capture(path: Path) -> tuple[Files, list[str], dict[str, Cameras]]:
    """The capture's files, the names of its frames (without ending) in order, and the cameras of each.

    Raises:
        UserError: not a folder or archive, no frames, a frame without one of its files, missing or unusable cameras.
    """
    files = Files(path)
    stems = sorted(name.removesuffix(".depth.png") for name in files.names() if name.endswith(".depth.png"))
    if not stems:
        raise UserError(
            f"{path} has no NAME.depth.png; a capture needs NAME.color.jpg, NAME.depth.png and NAME.pose.txt."
        )
    of_folder: dict[str, Cameras] = {}
    for stem in stems:
        _colour(files, stem)
        if f"{stem}.pose.txt" not in files:
            raise UserError(
                f"{stem}.pose.txt is missing in {path}; every frame needs its 4 x 4 camera-to-world matrix."
            )
        folder = _folder(stem)
        if folder not in of_folder:
            of_folder[folder] = _cameras(files, folder)
    return files, stems, {stem: of_folder[_folder(stem)] for stem in stems}


def _cameras(files: Files, folder: str) -> Cameras:
    """The cameras of the frames in a folder, from the nearest files: beside the frames or in a folder above."""
    names = {end: _nearest(files, folder, end) for end in (INTRINSICS, COLOUR, MOTION)}
    if names[INTRINSICS] is None:
        raise UserError(
            f"{files.path} has no {INTRINSICS}; put the camera's 3 x 3 matrix (fx 0 cx, 0 fy cy, 0 0 1, in pixels) beside"
            f" the frames{f' in {folder}' if folder else ''}."
        )

    def matrix(end: str, check: Callable[[Tensor, str], Tensor]) -> Tensor | None:
        name = names[end]
        return None if name is None else check(files.matrix(name), f"{name} in {files.path}")

    depth, colour = matrix(INTRINSICS, checked_intrinsics), matrix(COLOUR, checked_intrinsics)
    motion = matrix(MOTION, checked_pose)
    assert depth is not None
    still = torch.eye(4, dtype=torch.float64)
    if colour is None and motion is None and torch.equal(depth, torch.tensor(KINECT_DEPTH, dtype=torch.float64)):
        still[0, 3] = KINECT_OFFSET
        how = (
            f"{INTRINSICS} is the nominal Kinect depth camera of 7-Scenes, whose colour is not registered: depth was moved"
            f" into the nominal colour camera ({KINECT_COLOUR[0][0]:g} pixels, {-1000 * KINECT_OFFSET:g} mm to the right)."
        )
        return Cameras(depth, torch.tensor(KINECT_COLOUR, dtype=torch.float64), still, how)
    if colour is None and motion is None:
        return Cameras(depth, depth, still, f"Colour and depth are taken as registered: {INTRINSICS} stands for both.")
    how = f"Depth was moved into the colour camera of {COLOUR} and {MOTION}."
    return Cameras(depth, depth if colour is None else colour, still if motion is None else motion, how)


def _how(cameras: dict[str, Cameras]) -> list[str]:
    return sorted({camera.how for camera in cameras.values()})


def _nearest(files: Files, folder: str, end: str) -> str | None:
    while True:
        name = f"{folder}/{end}".lstrip("/")
        if name in files:
            return name
        if not folder:
            return None
        folder = _folder(folder)


def _colour(files: Files, stem: str) -> str:
    for extension in EXTENSIONS:
        if f"{stem}.color{extension}" in files:
            return f"{stem}.color{extension}"
    raise UserError(f"{stem}.color.jpg (or .png) is missing in {files.path}; every frame needs its colour image.")


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _number(stem: str) -> int:
    """The frame's number: the last digits of its name."""
    digits = re.findall(r"\d+", stem.rpartition("/")[2])
    if not digits:
        raise UserError(
            f"{stem} has no number in its name, so how far frames lie apart is unknown; name it frame-000012."
        )
    return int(digits[-1])


def _candidates(stems: list[str], low: int, high: int) -> list[tuple[int, int]]:
    """All (i, j) of one folder with low <= number j - number i <= high."""
    of_folder: dict[str, dict[int, int]] = {}
    for i, stem in enumerate(stems):
        numbers = of_folder.setdefault(_folder(stem), {})
        if numbers.setdefault(_number(stem), i) != i:
            raise UserError(
                f"{stem} and {stems[numbers[_number(stem)]]} have the same frame number; rename one of them."
            )
    pairs = []
    for numbers in of_folder.values():
        farthest = min(high, max(numbers) - min(numbers))
        for number, i in numbers.items():
            if farthest - low < len(numbers):
                pairs += [(i, numbers[number + gap]) for gap in range(low, farthest + 1) if number + gap in numbers]
            else:  # numbers far apart: the frames are fewer than the distances
                pairs += [(i, j) for other, j in numbers.items() if low <= other - number <= farthest]
    return sorted(pairs)
