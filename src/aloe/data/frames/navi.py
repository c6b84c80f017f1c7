"""NAVI v1 (Jampani et al. 2023) pairs as Probe3D draws and crops them (El Banani et al. 2024; docs/dense.md).

    PATH/OBJECT/wild_set/annotations.json      [{filename, image_size (h, w), camera: {q (w, x, y, z), t (mm), focal_length}}]
    PATH/OBJECT/wild_set/images/*.jpg
    PATH/OBJECT/wild_set/depth/*.png           16-bit disparity: depth is 65535 * 10 / value millimetres, 0 unknown

PATH is a folder or an archive with these below any folder. Deviations from Probe3D: images are put in the order of their
names (its order, and so its pairs, are the file system's), and points follow from the depth of the final crop by its
intrinsics, which agrees with moving the points along by nearest neighbours to half a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from aloe.core.errors import UserError
from aloe.core.files import digest, parse_json
from aloe.core.typed import first_twice
from aloe.data.frames.files import Files, image_tensor
from aloe.data.frames.frame import Frame, FramePairs
from aloe.data.frames.geometry import checked_pose, rotation_angle

COLLECTION = "wild_set"  # Probe3D's test split
SHRUNK, SIDE = 1024, 512  # pixels of the shorter side first, then of the square
SEED = 8  # of the draw of pairs
FARTHEST = 120.0  # degrees between two views
STRIDE = 4  # every fourth image is the first of a pair
BINS = (0.0, 30.0, 60.0, 90.0, 120.0)
FARTHEST_FOCAL = 1e7  # pixels
LONGEST = 8  # longer over shorter side of an image, which is brought to `SHRUNK` pixels of the shorter


@dataclass(frozen=True, eq=False)
class View:
    """One annotated image: its files, (h, w), focal length in pixels, and object-to-camera pose (4, 4) in metres."""

    thing: str
    image: str
    depth: str
    size: tuple[int, int]
    focal: float
    pose: Tensor


class NaviFrames:
    """The views, cropped round the object to 512 x 512; the mask is the object, which is all that has depth."""

    name = "navi"

    def __init__(self, files: Files, views: list[View]) -> None:
        self.files, self.views = files, views

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int) -> Frame:
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        view = self.views[index]
        colour, stored = self.files.colour(view.image), self.files.depth(view.depth)
        if not colour.size == stored.shape[::-1] == view.size[::-1]:
            raise UserError(
                f"{view.image} in {self.files.path} is {colour.size[0]} x {colour.size[1]} pixels, its depth"
                f" {stored.shape[1]} x {stored.shape[0]} and its annotation {view.size[1]} x {view.size[0]}; they must agree."
            )
        if max(colour.size) > LONGEST * min(colour.size):
            raise UserError(
                f"{view.image} in {self.files.path} is {colour.size[0]} x {colour.size[1]} pixels, too long for a square."
            )
        scale = SHRUNK / min(colour.size)
        shrunk = (round(colour.width * scale), round(colour.height * scale))
        image = image_tensor(colour.resize(shrunk, Image.Resampling.BICUBIC))
        near = Image.fromarray(stored.astype(np.int32)).resize(shrunk, Image.Resampling.NEAREST)
        disparity = torch.from_numpy(np.array(near)).float()
        depth = torch.where(disparity > 0, 65535 * 10 / disparity.clamp_min(1) / 1000, 0)
        focal = view.focal * SIDE / min(view.size)
        intrinsics = torch.tensor([[focal, 0, SIDE / 2], [0, focal, SIDE / 2], [0, 0, 1]], dtype=torch.float64)
        image, depth = _square(image), _square(depth[None])[0]
        if not (depth > 0).any():
            raise UserError(
                f"{view.depth} in {self.files.path} has no valid depth in the central square; remove the image."
            )
        frame = Frame(
            image=image,
            depth=depth,
            intrinsics=intrinsics,
            camera_to_world=torch.linalg.inv(view.pose),
            mask=depth > 0,
            name=view.image,
        ).cropped(*object_square(depth > 0))
        nearest = F.interpolate(frame.image[None], (SIDE, SIDE), mode="nearest-exact")[0]  # as in Probe3D
        return replace(frame.resized(SIDE), image=nearest)

    def state(self) -> str:
        annotations = [f"{view.size} {view.focal} {view.pose.tolist()}" for view in self.views]
        return digest([self.files.state(name for v in self.views for name in (v.image, v.depth)), *annotations])


def navi_pairs(path: Path) -> FramePairs:
    """For every fourth image of each object's wild set, another within 120 degrees, drawn with Probe3D's seed.

    Raises:
        UserError: no annotated wild sets, a broken annotation, or no two views within 120 degrees.
    """
    files = Files(path)
    views = _views(files)
    draw = np.random.default_rng(SEED)
    of_object: dict[str, list[int]] = {}
    for i, view in enumerate(views):
        of_object.setdefault(view.thing, []).append(i)
    drawn = []
    for i, view in enumerate(views):
        others = of_object[view.thing]
        angles = [rotation_angle(views[j].pose @ torch.linalg.inv(view.pose)) for j in others]
        close = [j for j, angle in zip(others, angles, strict=True) if j != i and 0 < angle <= FARTHEST]
        if close:
            drawn.append((i, close[int(draw.integers(len(close)))]))
    if not drawn:
        raise UserError(
            f"No two images of one object in {path} are within {FARTHEST:g} degrees, so there are no pairs."
        )
    pairs = drawn[::STRIDE]
    return FramePairs(
        name="navi",
        frames=NaviFrames(files, views),
        pairs=pairs,
        bins=BINS,
        notes=(
            f"NAVI v1 {COLLECTION}: {len(pairs)} pairs of {len(of_object)} objects, drawn with seed {SEED} from the images in"
            " the order of their names (not official: Probe3D's own order, and so its pairs, depend on the file system and"
            " cannot be had).",
        ),
    )


def object_square(mask: Tensor) -> tuple[int, int, int, int]:
    """(top, left, side, side) of the square round a mask (H, W): the longer side of its box, centred on the box where that
    fits, else pushed inside."""
    height, width = mask.shape
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    side = max(bottom - top, right - left)
    y, x = (top + bottom - side) // 2, (left + right - side) // 2
    return min(max(y, 0), height - side), min(max(x, 0), width - side), side, side


def _square(x: Tensor) -> Tensor:
    """(C, H, W) with the shorter side at 512 by nearest, then the central square."""
    height, width = x.shape[-2:]
    scale = SIDE / min(height, width)
    size = (max(SIDE, int(height * scale)), max(SIDE, int(width * scale)))
    x = F.interpolate(x[None], size, mode="nearest-exact")[0]
    top, left = round((size[0] - SIDE) / 2), round((size[1] - SIDE) / 2)
    return x[:, top : top + SIDE, left : left + SIDE]


def _views(files: Files) -> list[View]:
    """The wild-set images of objects with a wild set and another collection, in the order of their names."""
    annotations = [name for name in files.names() if name.endswith("/annotations.json")]
    collections: dict[str, list[str]] = {}
    for name in annotations:
        thing, collection = name.rsplit("/", 2)[0:2]
        collections.setdefault(thing, []).append(collection)
    views = []
    for thing, names in sorted(collections.items()):
        if COLLECTION in names and len(names) > 1:
            views += _annotated(files, f"{thing}/{COLLECTION}", thing)
    if not views:
        raise UserError(
            f"{files.path} has no OBJECT/{COLLECTION}/annotations.json of an object with two collections or more; give the"
            " folder navi_v1."
        )
    return views


def _annotated(files: Files, folder: str, thing: str) -> list[View]:
    name = f"{folder}/annotations.json"
    try:
        entries = sorted(parse_json(files.read(name)), key=lambda entry: str(entry["filename"]))
        views = [_view(folder, thing, entry) for entry in entries]
    except (ValueError, LookupError, TypeError, OverflowError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name} in {files.path} is not NAVI's list of annotations ({str(error)[:200]}).") from error
    if twice := first_twice(view.image for view in views):
        raise UserError(f"{name} in {files.path} lists {twice} more than once; correct it.")
    for view in views:
        for file in (view.image, view.depth):
            if file not in files:
                raise UserError(f"{files.path} has no {file}, which {name} lists; the data set is not complete.")
    return views


def _view(folder: str, thing: str, entry: dict[str, Any]) -> View:
    file, camera = str(entry["filename"]), entry["camera"]
    height, width = (int(x) for x in entry["image_size"])
    focal = float(camera["focal_length"])
    if not 0 < focal <= FARTHEST_FOCAL:
        raise UserError(f"{folder}/{file} has a focal length of {focal}; its annotation needs one in pixels.")
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = _rotation(torch.tensor(camera["q"], dtype=torch.float64))
    pose[:3, 3] = torch.tensor(camera["t"], dtype=torch.float64) / 1000
    stem = file.rpartition(".")[0]
    return View(
        thing=thing,
        image=f"{folder}/images/{file}",
        depth=f"{folder}/depth/{stem}.png",
        size=(height, width),
        focal=focal,
        pose=checked_pose(pose, f"the camera of {folder}/{file}"),
    )


def _rotation(q: Tensor) -> Tensor:
    """(3, 3) of a quaternion (w, x, y, z), of any length."""
    w, x, y, z = (q / q.norm()).tolist()
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return torch.tensor(rows, dtype=torch.float64)
