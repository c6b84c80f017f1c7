"""ScanNet's 1500 test pairs (of SuperGlue and LoFTR) as Probe3D uses them (El Banani et al. 2024; docs/dense.md).

    PATH/scannet_test_1500/scene%04d_%02d/color/ID.jpg
    PATH/scannet_test_1500/scene%04d_%02d/depth/ID.png     16-bit, millimetres
    PATH/scannet_test_1500/scene%04d_%02d/pose/ID.txt      4 x 4 camera to world, metres
    test.npz          array `name`, rows of room, sequence, first ID, second ID
    intrinsics.npz    a 3 x 3 matrix for each scene name

PATH is a folder or an archive with these below any folder. Colour is resized to 480 x 640, the size that the intrinsics are
of; so is depth (by nearest) where it is of another size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from aloe.core.errors import UserError
from aloe.core.files import digest
from aloe.data.frames.arrays import NPZ_BYTES, arrays_of_npz
from aloe.data.frames.files import Files, image_tensor, positive_depth
from aloe.data.frames.frame import Frame, FramePairs
from aloe.data.frames.geometry import checked_intrinsics, checked_pose
from aloe.data.frames.pair_settings import PROTOCOLS

HEIGHT, WIDTH = 480, 640
BINS = (0.0, 15.0, 30.0, 60.0, 180.0)
PAIRS = 1500  # of the published list


class ScanNetFrames:
    """Views of the pairs, each once: (scene, ID) with the folder they lie in and the intrinsics of their scene."""

    name = "scannet"

    def __init__(self, files: Files, folder: str, views: list[tuple[str, int]], lenses: dict[str, Tensor]) -> None:
        self.files, self.folder, self.views, self.lenses = files, folder, views, lenses

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int) -> Frame:
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        scene, _ = self.views[index]
        colour, depth_file, pose_file = self._names(index)
        image = self.files.colour(colour).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
        depth = torch.from_numpy(self.files.depth(depth_file).astype(np.float32) / 1000)
        depth = F.interpolate(depth[None, None], (HEIGHT, WIDTH), mode="nearest-exact")[0, 0]
        return Frame(
            image=image_tensor(image),
            depth=positive_depth(depth, float("inf")),
            intrinsics=self.lenses[scene],
            camera_to_world=checked_pose(self.files.matrix(pose_file), f"{pose_file} in {self.files.path}"),
            name=colour,
        )

    def state(self) -> str:
        names = [name for index in range(len(self)) for name in self._names(index)]
        return digest(
            [self.files.state(names), *(f"{name} {lens.tolist()}" for name, lens in sorted(self.lenses.items()))]
        )

    def _names(self, index: int) -> tuple[str, str, str]:
        scene, number = self.views[index]
        start = f"{self.folder}{scene}"
        return f"{start}/color/{number}.jpg", f"{start}/depth/{number}.png", f"{start}/pose/{number}.txt"


def scannet_pairs(path: Path) -> FramePairs:
    """The pairs that `test.npz` lists.

    Raises:
        UserError: test.npz or intrinsics.npz is missing or not of its layout, or a scene or image they name is not there.
    """
    files = Files(path)
    rows = _arrays(files, "test.npz").get("name", np.zeros(0))
    if rows.ndim != 2 or rows.shape[1] != 4 or not len(rows) or rows.dtype.kind not in "iu":
        raise UserError(
            f"test.npz of {path} has no array `name` of whole numbers (pairs, 4): room, sequence and two images."
        )
    lenses = _arrays(files, "intrinsics.npz")
    ids: dict[tuple[str, int], int] = {}
    pairs = []
    for room, sequence, first, second in rows.tolist():
        scene = f"scene{room:04d}_{sequence:02d}"
        if scene not in lenses:
            raise UserError(f"intrinsics.npz of {path} has no matrix for {scene}; every scene of test.npz needs one.")
        pairs.append(tuple(ids.setdefault((scene, number), len(ids)) for number in (first, second)))
    views = list(ids)
    scene, number = views[0]
    end = f"{scene}/color/{number}.jpg"
    names = files.ending(end)
    if not names:
        raise UserError(f"{path} has no {end}, which test.npz lists; the data set is not complete.")
    scenes = {scene for scene, _ in views}
    checked = {s: checked_intrinsics(torch.from_numpy(lenses[s]), f"{s} of intrinsics.npz") for s in scenes}
    return FramePairs(
        name="scannet",
        frames=ScanNetFrames(files, names[0].removesuffix(end), views, checked),
        pairs=[(a, b) for a, b in pairs],
        bins=BINS,
        notes=(f"{len(pairs)} pairs of ScanNet test views at {WIDTH} x {HEIGHT}.",),
        official=len(pairs) == PAIRS,
        defaults=PROTOCOLS["scannet"],
    )


def _arrays(files: Files, end: str) -> dict[str, np.ndarray]:
    names = files.ending(end)
    if not names:
        raise UserError(f"{files.path} has no {end}; it comes with the 1500 test pairs.")
    return arrays_of_npz(files.read(names[0], NPZ_BYTES), f"{names[0]} in {files.path}")
