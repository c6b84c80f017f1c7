"""Sources whose images and labels stand in lists or arrays, rather than in folders of classes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from aloe.core.errors import UserError
from aloe.core.files import digest
from aloe.core.printable import shown
from aloe.data.archives import Store
from aloe.data.decode import DraftSize
from aloe.data.sources import FolderStore, StoredImages
from aloe.data.splits import Relabelled

Entry = tuple[str, str]
"""A file and its class."""


class _Chosen:
    """Some files of an archive."""

    def __init__(self, store: Any, names: list[str]) -> None:
        self.path, self._store, self._names = store.path, store, names

    def names(self) -> list[str]:
        return self._names

    def size(self, name: str) -> int:
        return int(self._store.size(name))

    def read(self, name: str) -> bytes:
        return bytes(self._store.read(name))


class ListedImages(Relabelled):
    """The images of a list in the order of their names, each with the class that the list gives it.

    Args:
        store: holds the files. entries: (file, class); every file once, and there.
        where: the list, as sentences call it.

    Raises:
        UserError: a file is listed twice, or no image.
    """

    def __init__(self, store: Store, entries: Sequence[Entry], where: str) -> None:
        class_of = dict(entries)
        if len(class_of) < len(entries):
            raise UserError(f"{where} lists {len(entries) - len(class_of)} images twice; it is not the official list.")
        files = sorted(class_of)
        subset: Store = FolderStore(store.root, files) if isinstance(store, FolderStore) else _Chosen(store, files)
        self.source = StoredImages(subset, where=where)
        if len(self.source) < len(class_of):
            raise UserError(f"{where} lists {len(class_of) - len(self.source)} files that are no images.")
        names = [class_of[file] for file in files]
        self.classes: list[str] | None = sorted(set(names))
        number = {name: k for k, name in enumerate(self.classes)}
        self.labels: np.ndarray | None = np.array([number[name] for name in names], dtype=np.int64)

    def state(self) -> str:
        labels = b"" if self.labels is None else self.labels.tobytes()
        return digest([self.source.state(), hashlib.sha256(labels).hexdigest(), json.dumps(self.classes)])


class ArrayImages:
    """Images that stand in one array, (N, H, W, 3) uint8, with labels (N,) and the names of files and classes."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, names: Sequence[str], classes: Sequence[str]) -> None:
        self._pixels, self._names = pixels, [shown(str(name)) for name in names]
        self.labels: np.ndarray | None = labels.astype(np.int64)
        self.classes: list[str] | None = list(classes)

    def __len__(self) -> int:
        return len(self._pixels)

    def load(self, index: int, draft_size: DraftSize | None = None) -> Image.Image:
        return Image.fromarray(self._pixels[index])

    def name(self, index: int) -> str:
        return self._names[index]

    def content(self, index: int) -> str:
        return hashlib.sha256(self._pixels[index].tobytes()).hexdigest()

    def fingerprint(self) -> str:
        return digest([hashlib.sha256(self._pixels.tobytes()).hexdigest(), *self._names])

    def state(self) -> str:
        labels = b"" if self.labels is None else self.labels.tobytes()
        return digest([self.fingerprint(), hashlib.sha256(labels).hexdigest(), json.dumps(self.classes)])
