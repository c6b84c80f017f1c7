"""Class folders of small pictures: each class has a colour of its own, so that a crop tells its class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (30, 30, 230), "green": (30, 200, 30), "red": (220, 30, 30)}


def write_classes(folder: Path, count: int = 12, names: Sequence[str] = tuple(COLOURS), start: int = 0) -> Path:
    """`count` pictures of each class as folder/CLASS/NN.png."""
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(start, start + count):
            shades = np.random.default_rng([i, *COLOURS[name]]).integers(-30, 30, (5, 5, 3))
            blocks = np.clip(np.array(COLOURS[name]) + shades, 0, 255).astype(np.uint8)
            Image.fromarray(blocks).resize((40, 40)).save(folder / name / f"{i:02}.png")
    return folder


def class_shown(pixels) -> list[str]:
    """The class of each image (B, 3, H, W) by its colour."""
    strongest = pixels.mean((2, 3)).argmax(1).tolist()
    return [("red", "green", "blue")[channel] for channel in strongest]
