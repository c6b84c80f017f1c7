"""Small generated pictures on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, side: int = 40) -> Image.Image:
    """Coarse coloured blocks, enlarged."""
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((side, side))


def write_pictures(folder: Path, count: int = 12, start: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        picture(i).save(folder / f"{i:02}.png")
    return folder
