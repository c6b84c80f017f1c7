"""The embedded data set: rendered scenes of ten textured object classes on cluttered backgrounds, each with its exact
class, object mask, depth, surface normals and camera, generated from a seed with numpy alone; and the small teacher
shipped for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aloe.core.bounds import MAX_SEED
from aloe.core.errors import UserError

CLASSES: tuple[str, ...] = (
    "cactus",
    "car",
    "cup",
    "donut",
    "house",
    "mushroom",
    "rocket",
    "snowman",
    "table",
    "tree",
)

MAX_SCENES = 10**7
MAX_RESOLUTION = 2048
"""Pixels on a side, for which the tracer takes some gigabytes."""


@dataclass(frozen=True, eq=False)
class Scene:
    """One rendered view with its ground truth, H = W = resolution.

    Pixel (row, column) looks through the image point (column + 0.5, row + 0.5). The camera frame is x right, y down,
    z forward; the world frame is z up, in metres.
    """

    image: NDArray[np.uint8]
    """(H,W,3) RGB."""
    label: int
    """Index into CLASSES."""
    mask: NDArray[np.bool_]
    """(H,W) visible pixels of the labelled object."""
    depth: NDArray[np.float32]
    """(H,W) metres along the camera z axis, 0 where there is no surface."""
    normals: NDArray[np.float32]
    """(3,H,W) unit vectors in the camera frame, towards the camera, zero where there is no surface."""
    camera_to_world: NDArray[np.float64]
    """(4,4) rigid motion of camera points to world points."""
    intrinsics: NDArray[np.float64]
    """(3,3) pinhole matrix in pixels."""


def check_sizes(spec: str, scenes: int, seed: int, resolution: int) -> None:
    """Raises UserError for more scenes, a larger seed or more pixels than can be rendered; `spec` is what asked for them."""
    for value, most, what in (
        (scenes, MAX_SCENES, "scenes"),
        (seed, MAX_SEED, "as a seed"),
        (resolution, MAX_RESOLUTION, "pixels"),
    ):
        if value > most:
            raise UserError(f"{spec!r} asks for {value} {what}; at most {most} are rendered.")


def render(seed: int, index: int, resolution: int = 64, view: int = 0) -> Scene:
    """Render view `view` of scene `index` of the data set `seed`.

    The content depends on (seed, index) alone; `view` moves the camera in steps of 12 degrees on an arc round the
    static scene. The same arguments give bit-identical arrays. Raises UserError for a negative argument or a resolution
    under 8.
    """
    from .layout import compose
    from .tracing import Tracer, draw

    if min(seed, index, view) < 0 or resolution < 8:
        raise UserError(
            f"Scenes need seed, index and view >= 0 and resolution >= 8, but got seed={seed}, index={index}, "
            f"view={view}, resolution={resolution}."
        )
    label = int(_labels(seed, index, index + 1)[0])
    layout = compose(CLASSES[label], np.random.default_rng([seed, index]))
    pose, intrinsics = layout.pose(view), layout.intrinsics(resolution)
    tracer = Tracer(layout.world, pose[:3, 3])
    image, hits = draw(tracer, intrinsics, pose[:3, :3], resolution)
    labelled = np.array([p.labelled for p in layout.world.primitives] + [False])
    square = (resolution, resolution)
    return Scene(
        image=image,
        label=label,
        mask=labelled[hits.which].reshape(square),
        depth=np.where(hits.which >= 0, hits.depth, 0).astype(np.float32).reshape(square),
        normals=(pose[:3, :3].T @ hits.normal).astype(np.float32).reshape(3, *square),
        camera_to_world=pose,
        intrinsics=intrinsics,
    )


class SceneDataset:
    """`length` scenes of one seed, rendered when asked for; scenes 10 i to 10 i + 9 hold each class once.

    `labels` (length,) are known without rendering. Raises UserError for a negative length, IndexError out of range.
    """

    def __init__(self, length: int, seed: int = 0, resolution: int = 64, view: int = 0) -> None:
        if length < 0:
            raise UserError(f"A scene data set needs a length of 0 or more, but got {length}.")
        self.seed, self.resolution, self.view = seed, resolution, view
        self.labels: NDArray[np.int64] = _labels(seed, 0, length)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Scene:
        if not -len(self) <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        return render(self.seed, index % len(self), self.resolution, self.view)

    def __iter__(self) -> Iterator[Scene]:
        return (self[index] for index in range(len(self)))


def teacher_path() -> Path:
    """The folder of the shipped ViT teacher, in transformers' format."""
    return Path(str(resources.files(__name__) / "teacher"))


def _labels(seed: int, start: int, stop: int) -> NDArray[np.int64]:
    """Labels of the scenes start..stop-1: a fresh permutation of the classes for every ten scenes."""
    count = len(CLASSES)
    blocks = range(start // count, -(-stop // count))
    labels = [np.random.default_rng([seed, block, count]).permutation(count) for block in blocks]
    return np.concatenate([*labels, np.zeros(0, np.int64)])[start % count :][: stop - start].astype(np.int64)
