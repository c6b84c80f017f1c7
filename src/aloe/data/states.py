"""What files are known by, so that what was computed from them is found again: one rule for all data.

Up to `HASHED_BYTES` every file is read, so that equal states mean equal files and a copy elsewhere has the same state.
Beyond, files are known by the name, the size and the second of the last write of each (or of the archive it is in), and by
the bytes of `SAMPLED` of them: a copy that keeps times, as rsync -a, cp -p and tar do, has the same state; a file that was
changed without another size or time has it too, unless those bytes were. Files are taken not to change while in use.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from aloe.core.errors import UserError
from aloe.core.files import digest, file_digest, open_regular
from aloe.data.decode import UnreadableImage

HASHED_BYTES = 1 << 30
"""Files of up to so many bytes together are all read."""
SAMPLED = 1024
"""Of more bytes so many files are read, evenly among all."""
SAMPLED_BYTES = 1 << 28
"""Those files hold at most so many bytes together; one that alone has more is read in `SAMPLED` / files pieces, or not."""
PIECE = 1 << 16
"""A piece of a file has so many bytes."""
UNREAD = "unreadable: "

_as_before: ContextVar[bool] = ContextVar("_as_before", default=False)


@contextmanager
def earlier_states() -> Iterator[None]:
    """Within the block data have the state that was theirs once, of inodes and times: what was computed then is found."""
    token = _as_before.set(True)
    try:
        yield
    finally:
        _as_before.reset(token)


def as_before() -> bool:
    """Whether this is within `earlier_states`."""
    return _as_before.get()


class FileState:
    """The state of `files` of a folder or archive, in their order; the first `start` letters of their names do not count.

    Args:
        in_pieces: read pieces of files above `SAMPLED_BYTES`, or of the archive they are in; else none of their bytes.
    """

    def __init__(self, store: Any, files: Sequence[str], start: int = 0, *, in_pieces: bool = False) -> None:
        self._store, self._files, self._start, self._in_pieces = store, files, start, in_pieces
        self._earlier = ""

    def state(self, stamped: Callable[[str], str]) -> str:
        """The state; within `earlier_states` that of many bytes is of what `stamped` says of each file."""
        if not as_before() or are_read(self.sizes.tolist()):
            return self.now
        self._earlier = self._earlier or digest(f"{file[self._start :]}\0{stamped(file)}" for file in self._files)
        return self._earlier

    @cached_property
    def now(self) -> str:
        """The state by the rule of this module."""
        names = (file[self._start :] for file in self._files)
        if are_read(self.sizes.tolist()):
            return digest(f"{name}\0{self.content(i)}" for i, name in enumerate(names))
        facts = (
            f"{name}\0{size} {second(holder(self._store, file))}"
            for name, size, file in zip(names, self.sizes, self._files, strict=True)
        )
        of_large = cache(lambda path: pieces(path, len(self._files)))  # once for an archive, however many are in it
        samples = (
            of_large(holder(self._store, self._files[i])) if is_large(self.sizes[i]) else self.content(i)
            for i in sampled(self.sizes, self._in_pieces)
        )
        return digest(chain(facts, samples))

    @cached_property
    def sizes(self) -> np.ndarray:
        """(N,) int64 bytes; 0 of a file that cannot be read, such as a link to nowhere."""
        return np.array([size_of(self._store, file) for file in self._files], dtype=np.int64)

    def content(self, index: int) -> str:
        """A hash of a file's bytes, or why it cannot be read."""
        try:
            return hashlib.sha256(self._store.read(self._files[index])).hexdigest()
        except UnreadableImage as error:
            return f"{UNREAD}{error.reason}"


def are_read(sizes: Iterable[int]) -> bool:
    """Whether files of these sizes are all read."""
    return sum(sizes) <= HASHED_BYTES


def is_large(size: int) -> bool:
    """Whether a file of this size is not read whole where many bytes are not."""
    return size > SAMPLED_BYTES


def sampled(sizes: Sequence[int] | np.ndarray, in_pieces: bool) -> Iterator[int]:
    """Numbers of the files that are read of many; with `in_pieces` large ones as well."""
    count, left = len(sizes), SAMPLED_BYTES
    for k in range(min(SAMPLED, count)):
        i = k * count // min(SAMPLED, count)
        if sizes[i] <= left:
            left -= int(sizes[i])
            yield i
        elif in_pieces and is_large(sizes[i]):
            yield i


def holder(store: Any, file: str) -> Path:
    """A file of a folder, or the archive that it is in."""
    return store.root / file if hasattr(store, "root") else store.path  # type: ignore[no-any-return]


def second(path: Path) -> int:
    """When a file was last written; 0 of one that cannot be read."""
    try:
        return int(os.stat(path).st_mtime)
    except OSError:
        return 0


def size_of(store: Any, file: str) -> int:
    """Bytes of a file; 0 of one that cannot be read: `load` says so."""
    try:
        return int(store.size(file))
    except UnreadableImage:
        return 0


def hash_of(path: Path, read: Callable[[Path], str] = file_digest) -> str:
    """What `read` makes of a file, by default the hash of its bytes, or why it cannot be read."""
    try:
        return read(path)
    except OSError as error:
        return f"{UNREAD}{error.strerror}"
    except UserError:
        return f"{UNREAD}not a regular file"


def pieces(path: Path, files: int) -> str:
    """A hash of a file's share of `SAMPLED` pieces where so many `files` make the set, or why it cannot be read."""
    return hash_of(path, partial(_pieces, count=max(SAMPLED // files, 1)))


def _pieces(path: Path, count: int) -> str:
    """A hash of pieces of a file, from its first byte to its last."""
    hasher = hashlib.sha256()
    with open_regular(path) as file:
        last = max(os.fstat(file.fileno()).st_size - PIECE, 0)
        for k in range(count):
            file.seek(k * last // max(count - 1, 1))
            hasher.update(file.read(PIECE))
    return hasher.hexdigest()
