"""What the data sets on disk share: files by name with plain errors, matrices, 16-bit depth, colour, and their state."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from aloe.core.errors import UserError
from aloe.core.files import stamp
from aloe.data.archives import Store
from aloe.data.decode import BROKEN, MAX_BYTES, UnreadableImage, check_size, decode_image, quiet, reason_of
from aloe.data.sources import open_store
from aloe.data.states import FileState, size_of

MATRIX_BYTES = 1 << 16
"""Of a text file of a matrix."""
MAX_FRAME = 1 << 24
"""Pixels of a frame; the normals of one take some 80 times as many bytes."""


class Files:
    """The files of a folder or archive: only what it lists is read, so no name leads outside."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._store: Store = open_store(path)
        self._listed = frozenset(self._store.names())
        self._known: dict[tuple[str, ...], FileState] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._listed

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._listed)

    def ending(self, end: str) -> list[str]:
        """The names that are `end` or end with `/end`, the shortest first."""
        return sorted((n for n in self._listed if n == end or n.endswith(f"/{end}")), key=lambda n: (len(n), n))

    def read(self, name: str, limit: int = MAX_BYTES) -> bytes:
        """The content of a file of at most `limit` bytes; raises UserError."""
        if name not in self._listed:
            raise UserError(f"{self.path} has no {name}; the data set is not complete.")
        if self._store.size(name) > limit:
            most = f"{limit >> 20} MiB" if limit >> 20 else f"{limit >> 10} KiB"
            raise UserError(f"{name} in {self.path} has more than the {most} that are read.")
        return self._store.read(name)

    def colour(self, name: str) -> Image.Image:
        """Upright 8-bit RGB; raises UnreadableImage, or UserError for more pixels than frames have."""
        image = decode_image(self.read(name), name=f"{name} in {self.path}")
        check_frame_size(*image.size, f"{name} in {self.path}")
        return image

    def depth(self, name: str) -> np.ndarray:
        """(H, W) uint16 as stored in a 16-bit grey PNG; raises UserError."""
        return decode_depth(self.read(name), name=f"{name} in {self.path}")

    def matrix(self, name: str) -> Tensor:
        """The numbers of a text file, a row a line, float64; raises UserError."""
        try:
            text = self.read(name, MATRIX_BYTES).decode("ascii")
            if "_" in text:
                raise ValueError("it has an underscore")
            rows = [[float(x) for x in line.replace(",", " ").split()] for line in text.splitlines()]
            rows = [row for row in rows if row]
            return torch.tensor(rows, dtype=torch.float64)
        except ValueError as error:  # UnicodeDecodeError, a word that is no number, rows of different lengths
            if isinstance(error, UserError):
                raise
            raise UserError(f"{name} in {self.path} is not a matrix of numbers ({error}).") from error

    def state(self, names: Iterable[str]) -> str:
        """The state of the files `names`, by the rule of `aloe.data.states`; found once."""
        files = tuple(names)
        return self._known.setdefault(files, FileState(self._store, files, in_pieces=True)).state(self._stamped)

    def _stamped(self, name: str) -> str:
        return f"{size_of(self._store, name)}\0{stamp(self.path / name if self.path.is_dir() else self.path)}"


def decode_depth(data: bytes, name: str) -> np.ndarray:
    """(H, W) uint16 of a 16-bit grey PNG's bytes; `name` is what to call it in errors.

    Raises:
        UserError: damaged, not such a PNG, or of more than `MAX_FRAME` pixels.
    """
    try:
        with quiet(), Image.open(BytesIO(data), formats=("PNG",)) as image:
            check_size(image)
            check_frame_size(*image.size, name)
            if not image.mode.startswith("I"):  # I;16, or I in older Pillow
                raise UnreadableImage(name, "depth must be a 16-bit grey PNG, this one is of mode " + image.mode)
            return np.asarray(image).astype(np.uint16)
    except UserError:
        raise
    except BROKEN as error:
        raise UserError(f"{name} is not a readable PNG ({reason_of(error)}).") from error


def check_frame_size(width: int, height: int, name: str) -> None:
    """Raises UserError for more pixels than the geometry of frames, in float64, is made for."""
    if width * height > MAX_FRAME:
        raise UserError(f"{name} has {width} x {height} pixels; frames of at most {MAX_FRAME} are read, so shrink it.")


def image_tensor(image: Image.Image) -> Tensor:
    """(3, H, W) float32 in [0, 1] of an RGB image."""
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255


def positive_depth(depth: Tensor, max_depth: float) -> Tensor:
    """`depth` (H, W) metres as float32 with 0 where it is not finite, not positive, or beyond `max_depth`."""
    return torch.where(depth.isfinite() & (depth > 0) & (depth <= max_depth), depth, 0).float()
