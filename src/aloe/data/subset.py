"""Parts of an image source that are themselves image sources: a choice of its images, or some held in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from aloe.core.files import digest
from aloe.data.decode import DraftSize, decode_image
from aloe.data.shared import content_of, file_size_of
from aloe.data.sources import ImageSource, left_out, open_source


class MemoryImages:
    """Encoded images held in memory, as (name, bytes) pairs; unlabelled."""

    labels = None
    classes = None

    def __init__(self, images: list[tuple[str, bytes]]) -> None:
        self.images = images
        self.left_out: list[str] = []

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int, draft_size: DraftSize | None = None) -> Image.Image:
        name, data = self.images[index]
        return decode_image(data, name=name, draft_size=draft_size)

    def name(self, index: int) -> str:
        return self.images[index][0]

    def content(self, index: int) -> str:
        return hashlib.sha256(self.images[index][1]).hexdigest()

    def fingerprint(self) -> str:
        state = hashlib.sha256()
        for name, data in self.images:
            state.update(name.encode("utf-8", "surrogateescape") + data)
        return state.hexdigest()

    def state(self) -> str:
        return digest(f"{name}\0{hashlib.sha256(data).hexdigest()}" for name, data in self.images)


def open_whole(spec: str | Path | Sequence[str | Path]) -> ImageSource:
    """The images that `spec` names, in an order and with a length: of `wds:` shards all, encoded in memory.

    Raises:
        UserError: as `open_source`; a shard that cannot be read.
    """
    opened: Any = open_source(spec)
    if not hasattr(opened, "in_order"):
        return opened
    images = MemoryImages(list(opened.in_order()))
    images.left_out = list(left_out(opened))
    return images


class SubsetImages:
    """The images of `source` at `indices`, in that order; labels and classes come along."""

    def __init__(self, source: ImageSource, indices: np.ndarray) -> None:
        self.source = source
        self.indices = np.asarray(indices, dtype=np.int64)

    @property
    def classes(self) -> list[str] | None:
        return self.source.classes

    @property
    def labels(self) -> np.ndarray | None:
        labels = self.source.labels
        return None if labels is None else labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, index: int, draft_size: DraftSize | None = None) -> Image.Image:
        return self.source.load(int(self.indices[index]), draft_size)

    def name(self, index: int) -> str:
        return self.source.name(int(self.indices[index]))

    def content(self, index: int) -> str | None:
        return content_of(self.source, int(self.indices[index]))

    def file_size(self, index: int) -> int | None:
        return file_size_of(self.source, int(self.indices[index]))

    def fingerprint(self) -> str:
        return hashlib.sha256(self.source.fingerprint().encode() + self.indices.tobytes()).hexdigest()

    def state(self) -> str:
        return hashlib.sha256(self.source.state().encode() + self.indices.tobytes()).hexdigest()
