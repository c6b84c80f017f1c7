"""A folder or archive in which files are found by the end of their path, since downloads unpack into folders of any name."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from aloe.core.errors import UserError
from aloe.core.printable import shown
from aloe.data.archives import Store, inner_archive
from aloe.data.frames.pickles import read_arrays
from aloe.data.matlab import load_matlab
from aloe.data.sources import FolderStore, folders_in, open_store

DEPTH = 3  # folders above what is looked for
MANY = 500  # folders on one level, beyond which none of them is looked into
LIST_BYTES = 1 << 28  # of one pickle, MATLAB file or archive within an archive
TEXT_BYTES = 1 << 24  # of one list of lines; ImageNet's is the longest, with 50 000


class Tree:
    """Files by the end of their path, at most three folders down; `inner` is a folder to begin in."""

    def __init__(self, path: Path, inner: str = "") -> None:
        self.path = path
        self.store: Store = open_store(path)
        self._start = f"{inner.strip('/')}/" if inner.strip("/") else ""
        self._names = frozenset() if isinstance(self.store, FolderStore) else frozenset(self.store.names())

    def __contains__(self, name: str) -> bool:
        if isinstance(self.store, FolderStore):
            return (self.store.root / name).is_file()
        return name in self._names

    def find(self, end: str) -> str | None:
        """The file that is `end` or ends with `/end`, the least deep; None if there is none. `a/` finds a folder."""
        is_there = self._has_folder if end.endswith("/") else self.__contains__
        return next((base + end for base in self._bases(end) if is_there(base + end)), None)

    def needed(self, end: str, title: str) -> str:
        """As `find`; a `UserError` that names the file where there is none."""
        name = self.find(end)
        if name is None:
            raise UserError(f"{shown(str(self.path))} holds {title} without its list {end}; put it beside the images.")
        return name

    def bytes(self, name: str, most: int = LIST_BYTES) -> bytes:
        if self.store.size(name) > most:
            raise UserError(f"{self.where(name)} has more than {most >> 20} MiB, which no list has.")
        return self.store.read(name)

    def lines(self, name: str) -> list[tuple[int, str]]:
        """The lines of a text file that say something, with their numbers."""
        try:
            text = self.bytes(name, TEXT_BYTES).decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{self.where(name)} is not a text file in UTF-8.") from error
        return [(i, line.strip()) for i, line in enumerate(text.splitlines(), 1) if line.strip()]

    def matlab(self, name: str, *fields: str) -> list[Any]:
        """The fields of a MATLAB file, squeezed, as arrays; raises UserError."""
        content = load_matlab(BytesIO(self.bytes(name)), self.where(name), fields, squeeze=True)
        return [content[field] for field in fields]

    def arrays(self, name: str) -> Any:
        """What a pickle of arrays holds; raises UserError."""
        data = self.bytes(name)
        return read_arrays(BytesIO(data), self.where(name))

    def archive(self, name: str) -> Store:
        """The gzipped tar `name` within."""
        if isinstance(self.store, FolderStore):
            return open_store(self.store.root / name)
        return inner_archive(self.path, name, lambda path, mode: gzip.open(BytesIO(self.bytes(name))))

    def where(self, name: str) -> str:
        return f"{shown(name)} in {shown(str(self.path))}"

    def _has_folder(self, name: str) -> bool:
        if isinstance(self.store, FolderStore):
            return (self.store.root / name).is_dir()
        return any(other.startswith(name) for other in self._names)

    def _bases(self, end: str) -> Iterator[str]:
        """Where `end` may stand, "" or "folder/" or "folder/folder/", the least deep first."""
        if not isinstance(self.store, FolderStore):
            starts = {name[: name.find(f"/{end}") + 1] for name in self._names if f"/{end}" in name}
            yield self._start
            deepest = self._start.count("/") + DEPTH
            near = (s for s in starts if s.startswith(self._start) and s.count("/") <= deepest)
            yield from sorted(near, key=lambda s: (s.count("/"), s))
            return
        level = [self._start]
        for depth in range(DEPTH + 1):
            yield from level
            if depth < DEPTH:
                root = self.store.root
                level = [] if len(level) > MANY else level
                level = [f"{base}{name}/" for base in level for name in sorted(folders_in(root / base))]
