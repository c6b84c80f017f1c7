"""What the data sets on disk share: files by name with plain errors, matrices, 16-bit depth, colour, and their state."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from aloe.core.errors import UserError
from aloe.core.files import HASHED_BYTES, digest, stamp
from aloe.data.archives import Store
from aloe.data.decode import MAX_BYTES, MAX_PIXELS, UnreadableImage, decode_image
from aloe.data.sources import open_store


class Files:
    """The files of a folder or archive: only what it lists is read, so no name leads outside."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._store: Store = open_store(path)
        self._listed = frozenset(self._store.names())

    def __contains__(self, name: str) -> bool:
        return name in self._listed

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._listed)

    def ending(self, end: str) -> list[str]:
        """The names that are `end` or end with `/end`, the shortest first."""
        return sorted((n for n in self._listed if n == end or n.endswith(f"/{end}")), key=lambda n: (len(n), n))

    def read(self, name: str) -> bytes:
        if name not in self._listed:
            raise UserError(f"{self.path} has no {name}; the data set is not complete.")
        if self._store.size(name) > MAX_BYTES:
            raise UnreadableImage(name, f"a file of more than {MAX_BYTES >> 20} MiB")
        return self._store.read(name)

    def colour(self, name: str) -> Image.Image:
        """Upright 8-bit RGB; raises UnreadableImage."""
        return decode_image(self.read(name), name=f"{name} in {self.path}")

    def depth(self, name: str) -> np.ndarray:
        """(H, W) uint16 as stored in a 16-bit grey PNG; raises UserError."""
        return decode_depth(self.read(name), name=f"{name} in {self.path}")

    def matrix(self, name: str) -> Tensor:
        """The numbers of a text file, a row a line, float64; raises UserError."""
        try:
            rows = [
                [float(x) for x in line.replace(",", " ").split()] for line in self.read(name).decode().splitlines()
            ]
            rows = [row for row in rows if row]
            return torch.tensor(rows, dtype=torch.float64)
        except ValueError as error:  # UnicodeDecodeError, a word that is no number, rows of different lengths
            raise UserError(f"{name} in {self.path} is not a matrix of numbers ({error}).") from error

    def state(self, names: Iterable[str]) -> str:
        """A hash of the files `names`: of their content up to `HASHED_BYTES`, beyond that of names, sizes and times."""
        names = list(names)
        sizes = {name: self._store.size(name) for name in names}
        if sum(sizes.values()) <= HASHED_BYTES:
            return digest(f"{name}\0{hashlib.sha256(self._store.read(name)).hexdigest()}" for name in names)
        store: Any = self._store
        inside = (lambda name: store.root / name) if self.path.is_dir() else (lambda name: self.path)
        return digest(f"{name}\0{sizes[name]}\0{stamp(inside(name))}" for name in names)


def decode_depth(data: bytes, name: str) -> np.ndarray:
    """(H, W) uint16 of a 16-bit grey PNG's bytes; `name` is what to call it in errors.

    Raises:
        UserError: damaged, not such a PNG, or of more than `MAX_PIXELS` pixels.
    """
    try:
        with Image.open(BytesIO(data), formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(name, f"{image.width} x {image.height} pixels, more than {MAX_PIXELS}")
            if not image.mode.startswith("I"):  # I;16, or I in older Pillow
                raise UnreadableImage(name, "depth must be a 16-bit grey PNG, this one is of mode " + image.mode)
            return np.asarray(image).astype(np.uint16)
    except UserError:
        raise
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise UserError(f"{name} is not a readable PNG.") from error


def image_tensor(image: Image.Image) -> Tensor:
    """(3, H, W) float32 in [0, 1] of an RGB image."""
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255


def positive_depth(depth: Tensor, max_depth: float) -> Tensor:
    """`depth` (H, W) metres as float32 with 0 where it is not finite, not positive, or beyond `max_depth`."""
    return torch.where(depth.isfinite() & (depth > 0) & (depth <= max_depth), depth, 0).float()
