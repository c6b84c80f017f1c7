"""Writers of small data sets in exactly the official layouts, for the tests of dense sources."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path

import numpy as np
from PIL import Image

from aloe.data.scenes import Scene, render

SIDE = 48


def write_depth(path: Path, values: np.ndarray) -> None:
    Image.fromarray(values.astype(np.uint16)).save(path)


def write_capture(
    folder: Path, views: range | list[int] = range(5), seed: int = 4, prefix: str = "frame-"
) -> list[Scene]:
    """Views of one rendered scene as a posed RGB-D capture, frame numbers in steps of 8."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes = [render(seed, 0, SIDE, view) for view in views]
    for view, scene in zip(views, scenes, strict=True):
        stem = folder / f"{prefix}{8 * view:06d}"
        Image.fromarray(scene.image).save(f"{stem}.color.png")
        write_depth(Path(f"{stem}.depth.png"), np.minimum(np.rint(scene.depth * 1000), 65535))
        np.savetxt(f"{stem}.pose.txt", scene.camera_to_world)
    np.savetxt(folder / "camera-intrinsics.txt", scenes[0].intrinsics)
    return scenes


def nyu_arrays(count: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (N, 3, 480, 640), depths (N, 480, 640) with holes and far points, normals (N, 3, 480, 640)."""
    rng = np.random.default_rng(0)

    def blocks(values: np.ndarray) -> np.ndarray:  # of 40 pixels: compresses at once
        return values.repeat(40, -2).repeat(40, -1)

    images = blocks(rng.integers(0, 256, (count, 3, 12, 16), dtype=np.uint8))
    depths = blocks(rng.uniform(0.5, 9.5, (count, 12, 16)).astype(np.float32))
    depths[:, 0, 80], depths[:, 1, 90] = 0, 11
    normals = rng.normal(size=(count, 3, 12, 16)).astype(np.float32)
    return images, depths, blocks(normals / np.linalg.norm(normals, axis=1, keepdims=True))


def write_labelled(folder: Path, images: np.ndarray, depths: np.ndarray, normals: np.ndarray | None) -> Path:
    """`nyu_depth_v2_labeled.mat` as MATLAB writes it (axes reversed), and `all_normals.pklz`."""
    import h5py

    path = folder / "nyu_depth_v2_labeled.mat"
    with h5py.File(path, "w") as file:
        file["images"] = images.transpose(0, 1, 3, 2)
        file["rawDepths"] = depths.transpose(0, 2, 1)
        file["depths"] = np.ones_like(depths).transpose(0, 2, 1)  # filled in: not what is used
    if normals is not None:
        with gzip.open(folder / "all_normals.pklz", "wb", compresslevel=1) as file:
            pickle.dump({"all_normals": normals.transpose(0, 2, 3, 1)}, file, protocol=2)  # as Python 2 did
    return path


def write_navi(root: Path, scenes: list[Scene], things: tuple[str, ...] = ("cup",), collections: int = 2) -> None:
    """Views of a scene as NAVI v1 images of an object (its mask), `wild_set` and empty other collections."""
    for thing in things:
        folder = root / thing / "wild_set"
        for part in ("images", "depth"):
            (folder / part).mkdir(parents=True)
        entries = []
        for number, scene in enumerate(scenes):
            name = f"{number:03d}"
            Image.fromarray(scene.image).save(folder / "images" / f"{name}.jpg", quality=95)
            millimetres = np.where(scene.mask, scene.depth * 1000, np.inf)
            write_depth(folder / "depth" / f"{name}.png", np.rint(np.minimum(655350 / millimetres, 65535)))
            world_to_camera = np.linalg.inv(scene.camera_to_world)
            camera = {
                "q": quaternion(world_to_camera[:3, :3]),
                "t": (world_to_camera[:3, 3] * 1000).tolist(),
                "focal_length": float(scene.intrinsics[0, 0]),
            }
            entry = {"filename": f"{name}.jpg", "image_size": list(scene.depth.shape), "split": "val", "camera": camera}
            entries.insert(0, entry)  # not in the order of the names
        (folder / "annotations.json").write_text(json.dumps(entries))
        for k in range(1, collections):
            (root / thing / f"multiview_{k:02d}").mkdir()
            (root / thing / f"multiview_{k:02d}" / "annotations.json").write_text("[]")


def quaternion(r: np.ndarray) -> list[float]:
    """(w, x, y, z) of a rotation, from the eigenvector of its 4 x 4 symmetric form (Bar-Itzhack 2000)."""
    (a, b, c), (d, e, f), (g, h, i) = r
    form = [[a + e + i, h - f, c - g, d - b], [h - f, a - e - i, b + d, c + g], [c - g, b + d, e - a - i, f + h]]
    form = np.array([*form, [d - b, c + g, f + h, i - a - e]])
    return np.linalg.eigh(form)[1][:, -1].tolist()


def write_scannet(root: Path, scenes: list[Scene], pairs: list[tuple[int, int]]) -> None:
    """Views of a scene as ScanNet's scene0707_00, IDs in steps of 15; colour at 1296 x 968, depth at 640 x 480."""
    folder = root / "scannet_test_1500" / "scene0707_00"
    for part in ("color", "depth", "pose"):
        (folder / part).mkdir(parents=True)
    for number, scene in enumerate(scenes):
        Image.fromarray(scene.image).resize((1296, 968)).save(folder / "color" / f"{15 * number}.jpg")
        depth = Image.fromarray(np.rint(scene.depth * 1000).astype(np.int32)).resize(
            (640, 480), Image.Resampling.NEAREST
        )
        write_depth(folder / "depth" / f"{15 * number}.png", np.array(depth))
        np.savetxt(folder / "pose" / f"{15 * number}.txt", scene.camera_to_world)
    scale = np.diag([640 / SIDE, 480 / SIDE, 1])
    np.savez(root / "intrinsics.npz", scene0707_00=scale @ scenes[0].intrinsics)
    rows = [(707, 0, 15 * a, 15 * b) for a, b in pairs]
    np.savez(root / "test.npz", name=np.array(rows, dtype=np.uint16))
