"""Zip and tar archives read in place: an index of members once, then any member by name.

Nothing is ever extracted to disk. A compressed tar cannot be read at random, so it is decompressed
once into the cache (`$ALOE_CACHE`, else `~/.cache/aloe/archives`), whole or not at all.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import mmap
import os
import re
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any, Protocol

from aloe.core.errors import UserError
from aloe.core.files import expanded, open_regular
from aloe.data.decode import UnreadableImage
from aloe.data.tars import BROKEN, is_tar, open_tar

# How a compressed file begins, and what opens it.
COMPRESSED = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ\x00": lzma.open, b"BZh": bz2.open}


RATIO = 100
"""How many times its own size a compressed archive may inflate to,"""
SMALL = 1 << 28
"""or bytes that it may inflate to in any case."""


class Store(Protocol):
    """Named files with their sizes in bytes, readable by name in any order and from any process."""

    def names(self) -> list[str]: ...

    def size(self, name: str) -> int: ...

    def read(self, name: str) -> bytes: ...


class TarStore:
    """The regular files of an uncompressed tar by offset; of members of one name the last wins."""

    def __init__(self, path: Path, shown: Path | None = None) -> None:
        self.path = path
        self._members: dict[str, tuple[int, int]] = {}
        self._map: mmap.mmap | None = None
        shown = shown or path
        try:
            with open_tar(path, "r:") as archive:
                for member in archive:
                    if member.isdir():
                        continue
                    kind = "" if member.isreg() and not member.issparse() else "a link or a device"
                    name = _checked(member.name, shown, kind)
                    self._members[name] = (member.offset_data, member.size)
                    archive.members = []  # keeps memory flat
                tail_at = archive.offset
            with open_regular(path) as file:
                file.seek(tail_at)
                tail = file.read(512)
        except BROKEN as error:
            if isinstance(error, UserError):
                raise
            raise _incomplete(shown, "tar", error) from error
        # What follows the last member is zeros; tarfile takes a cut or damaged header for the end.
        if len(tail) % 512 or tail.strip(b"\0"):
            raise UserError(f"{shown} is damaged or cut off; copy or download it again.")

    def names(self) -> list[str]:
        return list(self._members)

    def size(self, name: str) -> int:
        return self._members[name][1]

    def read(self, name: str) -> bytes:
        offset, size = self._members[name]
        if self._map is None:
            with open_regular(self.path) as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        # A map has no file position, so forks and threads may share it.
        return self._map[offset : offset + size]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}


class ZipStore:
    """The files of a zip archive."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sizes: dict[str, tuple[str, int]] = {}
        self._zip: zipfile.ZipFile | None = None
        self._owner = 0
        try:
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    if info.is_dir():
                        continue
                    mode = info.external_attr >> 16
                    kind = "" if stat.S_IFMT(mode) in (0, stat.S_IFREG) else "a link or a device"
                    if info.flag_bits & 1:
                        raise UserError(f"{path} is encrypted; unpack it and give the folder.")
                    name = _checked(info.filename, path, kind)
                    self._sizes[name] = (info.filename, info.file_size)
        except _BAD_ZIP as error:
            if isinstance(error, UserError):
                raise
            raise _incomplete(path, "zip", error) from error

    def names(self) -> list[str]:
        return list(self._sizes)

    def size(self, name: str) -> int:
        return self._sizes[name][1]

    def read(self, name: str) -> bytes:
        # Opened once per process: a fork must not share the file position.
        if self._zip is None or self._owner != os.getpid():
            self._zip, self._owner = zipfile.ZipFile(self.path), os.getpid()
        try:
            inner, size = self._sizes[name]
            with self._zip.open(inner) as member:  # never more than the directory declares
                data = member.read(size)
            if len(data) != size:
                raise UnreadableImage(name, "shorter than the archive's directory says")
            return data
        except _BAD_ZIP as error:
            if isinstance(error, UserError):
                raise
            raise UnreadableImage(name, str(error) or "damaged in the archive") from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_zip": None, "_owner": 0}


def open_archive(path: Path) -> Store | None:
    """The archive at `path`, recognised by content, or None when it is neither a zip nor a tar.

    Raises:
        UserError: Damaged or encrypted, or a member is a link, a device, or lies outside (absolute
            or `..`).
    """
    if not path.is_file():
        raise UserError(f"{path} is no regular file; give an archive or a folder.")
    if path.stat().st_size == 0:  # so have the files of /proc, which may go on without end
        raise UserError(f"{path} is an empty file; give an archive or a folder.")
    with open_regular(path) as file:
        head = file.read(6)
    for magic, opener in COMPRESSED.items():
        if head.startswith(magic):
            return TarStore(_decompressed(path, opener), shown=path)
    if zipfile.is_zipfile(path):
        return ZipStore(path)
    try:
        tar = is_tar(path)
    except BROKEN as error:  # a header that tarfile trusts too far
        raise _incomplete(path, "tar", error) from error
    return TarStore(path) if tar else None


# What zipfile raises on damaged input: of offsets and sizes that lie outside, and of methods and names that it does not know.
_BAD_ZIP = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError),
    *(ValueError, LookupError, OverflowError, struct.error, MemoryError),
)


def _incomplete(path: Path, kind: str, error: BaseException) -> UserError:
    return UserError(f"{path} is not a complete {kind} archive ({error or type(error).__name__}).")


def inner_archive(path: Path, name: str, opener: Any) -> Store:
    """The compressed tar `name` within the archive at `path`; `opener` gives its decompressed stream.

    Raises:
        UserError: as `open_archive`.
    """
    return TarStore(_decompressed(path, opener, name), shown=path)


_CHOSEN: ContextVar[Path | None] = ContextVar("folder of decompressed archives", default=None)


@contextmanager
def decompressing_into(folder: Path | None) -> Iterator[None]:
    """Decompressed archives are kept in `folder` meanwhile; None leaves things as they are."""
    token = _CHOSEN.set(folder or _CHOSEN.get())
    try:
        yield
    finally:
        _CHOSEN.reset(token)


def cache_folder() -> Path:
    """Where decompressed archives are kept."""
    if (folder := _CHOSEN.get()) is not None:
        return folder
    root = os.environ.get("ALOE_CACHE")
    return Path(root) if root else expanded("~/.cache/aloe/archives")


def _decompressed(path: Path, opener: Any, member: str = "") -> Path:
    """The copy in the cache, keyed by path, size and modification time, and the member within; made if missing."""
    facts = path.stat()
    key = f"{path.resolve()}\0{facts.st_size}\0{facts.st_mtime_ns}" + (f"\0{member}" if member else "")
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    target = cache_folder() / f"{path.name.split('.')[0]}-{digest}.tar"
    if target.exists():
        return target
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".part", delete=False) as copy:
            temporary = Path(copy.name)
            stream: IO[bytes]
            with opener(path, "rb") as stream:
                _copy(stream, copy, path, facts.st_size)
        os.utime(temporary, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # the archive's, whenever it was decompressed
        os.replace(temporary, target)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        if isinstance(error, OSError) and error.strerror:  # the system's, not the decompressor's
            raise UserError(
                f"{path} could not be decompressed into {target.parent} ({error.strerror});"
                " give another --cache, or set ALOE_CACHE, to a writable folder with room."
            ) from error
        raise UserError(f"{path} is damaged or incomplete ({error}).") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return target


def _copy(stream: IO[bytes], copy: IO[bytes], path: Path, size: int) -> None:
    """Copy a decompressed stream, but no more than honest archives of images inflate to."""
    total, most = 0, max(SMALL, RATIO * size)
    while part := stream.read(1 << 20):
        total += len(part)
        if total > most:
            raise UserError(
                f"{path} is refused: its {size / 1e6:.1f} MB inflate to more than {RATIO} times as much;"
                " archives of images do not. Unpack it and give the folder if it is sound."
            )
        copy.write(part)


def _checked(name: str, archive: Path, kind: str) -> str:
    """The member's name without leading `./`; refuses what no honest archive of images holds."""
    parts = name.replace("\\", "/").split("/")
    if parts[0] == "" or ".." in parts or re.match("[A-Za-z]:", parts[0]):
        kind = "outside the archive"
    if kind:
        raise UserError(f"{archive} is refused: its member {name!r} is {kind}.")
    return "/".join(part for part in parts if part not in ("", "."))
