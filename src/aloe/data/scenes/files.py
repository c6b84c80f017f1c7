"""Rendered scenes as a class-per-folder tree of PNG files, drawn by several processes."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from PIL import Image

from aloe.data.scenes import CLASSES, SceneDataset


def write_scenes(folder: Path, count: int, seed: int, resolution: int = 64) -> Path:
    """`count` scenes as folder/CLASS/INDEX.png; a folder that exists is complete and is left as it is.

    The folder appears only when its last picture is written.
    """
    if folder.is_dir():
        return folder
    staging = folder.with_name(f".{folder.name}")
    shutil.rmtree(staging, ignore_errors=True)
    for name in CLASSES:
        (staging / name).mkdir(parents=True)
    write = partial(_write_scene, staging, count, seed, resolution)
    with ProcessPoolExecutor(min(8, os.cpu_count() or 1), mp_context=get_context("spawn")) as pool:
        list(pool.map(write, range(count), chunksize=max(1, min(50, count // 16))))
    os.replace(staging, folder)
    return folder


def _write_scene(folder: Path, count: int, seed: int, resolution: int, index: int) -> None:
    scene = SceneDataset(count, seed=seed, resolution=resolution)[index]
    Image.fromarray(scene.image).save(folder / CLASSES[scene.label] / f"{index:05}.png")
