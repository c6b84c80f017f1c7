"""What a user may name as images, behind one small protocol: a length, `load(i)` and names.

`open_source` understands

    photos/   photo.jpg   'photos/**/*.png'   [list of those]     files
    images.zip   images.tar   images.tar.xz                       archives, read in place
    cifar10.tar.xz::cifar10/train                                 a part of an archive or folder
    hf:NAME_OR_PATH[@split][#image_column[,label_column]]         a Hugging Face dataset, hub or local
    scenes:LENGTH[@SEED[@RESOLUTION]]                             rendered scenes
    wds:shards-{000..099}.tar                                     WebDataset shards (a stream, see shards.py)

Images of a source are ordered by name, so the same files give the same source wherever they lie.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from aloe.core.errors import UserError
from aloe.core.files import digest, expanded, read_bytes, stamp
from aloe.core.names import first_few
from aloe.core.printable import shown
from aloe.data.archives import Store, open_archive
from aloe.data.decode import (
    EXTENSIONS,
    MAX_BYTES,
    DraftSize,
    UnreadableImage,
    decode_image,
    is_image_name,
    is_read_name,
)
from aloe.data.scene_images import SceneImages
from aloe.data.states import UNREAD, FileState, holder, size_of

if TYPE_CHECKING:
    from aloe.data.shards import ShardSource


class ImageSource(Protocol):
    """Images that load in any order, from any process (picklable; files are opened where read)."""

    @property
    def labels(self) -> np.ndarray | None:
        """(N,) int64 class indices, or None when unlabelled."""

    @property
    def classes(self) -> list[str] | None:
        """Class names in the order of the labels, or None when unlabelled."""

    def __len__(self) -> int: ...

    def load(self, index: int, draft_size: DraftSize | None = None) -> Image.Image:
        """Image `index` as upright RGB, see `decode_image`; raises `UnreadableImage`."""

    def name(self, index: int) -> str: ...

    def fingerprint(self) -> str:
        """A hash of the names and sizes: equal for equal content, wherever it lies."""

    def state(self) -> str:
        """A hash of the images, their names, order, labels and classes: the key of what is computed from them.

        It is found by the rule of `aloe.data.states`, once for each source object.
        """


LARGEST = 1 << 30
"""Bytes of the largest file that is read at all."""


def open_source(spec: str | Path | Sequence[str | Path]) -> ImageSource | ShardSource:
    """The source that `spec` names (see the head of this module).

    Raises:
        UserError: Nothing there, no images in it, or an archive that is damaged or not safe to
            read.
    """
    if isinstance(spec, str) and spec.startswith("wds:"):
        from aloe.data.shards import ShardSource

        return ShardSource(spec.removeprefix("wds:"))
    return open_images(spec)


def open_images(spec: str | Path | Sequence[str | Path]) -> ImageSource:
    """Like `open_source`, but only sources with a length and random access: no shards."""
    if not isinstance(spec, str | Path):
        return StoredImages(FolderStore.of_files(spec), where=f"the {len(spec)} given paths")
    text = str(spec)
    if text.startswith("wds:"):
        raise UserError(f"{text} is a stream of shards; give a folder, an archive or hf:... here.")
    if text.startswith("hf:"):
        from aloe.data.hub import HubImages

        return HubImages.parse(text)
    if text.startswith("scenes:"):
        return SceneImages.parse(text)
    path, inner = split_inner(text)
    if path.is_dir() or (path.is_file() and not is_image_name(path.name)):
        return StoredImages(open_store(path), inner, where=str(path))
    return StoredImages(FolderStore.of_files([path]), inner, where=text)


def split_inner(text: str) -> tuple[Path, str]:
    """`PATH::INNER` in its two parts; what exists as it stands is a path alone, with "" inside."""
    path = expanded(text)
    outer, separator, inner = text.partition("::")
    return (expanded(outer), inner) if separator and not path.exists() else (path, "")


def open_store(path: Path) -> Store:
    """The files of the folder or archive at `path`.

    Raises:
        UserError: neither, or an archive that is damaged or not safe to read.
    """
    archive = FolderStore(path) if path.is_dir() else open_archive(path)
    if archive is None:
        raise UserError(f"{path} is neither an image ({_EXTENSIONS}) nor a readable zip or tar archive.")
    return archive


PART_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def are_parts(folders: Iterable[str]) -> bool:
    """Whether folders are all named as the parts of a data set (train, val, test), which are no classes."""
    return all(folder.lower() in PART_OF for folder in folders)


def left_out(source: Any) -> list[str]:
    """What a source read over, in sentences: folders that cannot be listed, members of shards that are no samples."""
    lines = list(getattr(source, "left_out", ()))
    inner = getattr(source, "source", None)  # of a part of a source
    return lines if inner is None else [*lines, *left_out(inner)]


def parts_taken(source: Any) -> str:
    """A sentence where the images are those of all parts of a data set, which nobody may have meant; else ""."""
    if not isinstance(source, StoredImages):
        return ""
    tops = {source.name(i).partition("/")[0] if "/" in source.name(i) else "" for i in range(len(source))}
    if len(tops) < 2 or not are_parts(tops):
        return ""
    return f"The images are of all the parts {', '.join(sorted(tops))}; give one of these folders to use it alone."


def class_folder(name: str) -> str:
    """The name of the folder that an image lies in, which is its class; "" at the top."""
    return name.rpartition("/")[0].rpartition("/")[2]


def folders_in(root: Path) -> list[str]:
    """Names of the folders in a folder, without hidden ones."""
    try:
        with os.scandir(root) as entries:
            return [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except PermissionError:  # such as lost+found: as for the walk over images, nothing is in there
        return []


class FolderStore:
    """The files under a folder, or chosen ones of them; links are followed, a folder only once."""

    def __init__(self, root: Path, names: list[str] | None = None, lost: Iterable[str] = ()) -> None:
        self.root = root
        self._names = names
        self.lost = list(lost)  # folders that cannot be listed, and why

    @classmethod
    def of_files(cls, paths: Iterable[str | Path]) -> FolderStore:
        """Files, folders and glob patterns, named from their common folder."""
        lost: list[str] = []
        files = sorted({file for path in paths for file in _expanded(path, lost)})
        if not files:
            return cls(Path(), [], lost)
        root = Path(os.path.commonpath([file.parent for file in files]))
        return cls(root, [file.relative_to(root).as_posix() for file in files], lost)

    def names(self) -> list[str]:
        if self._names is not None:
            return self._names
        self.lost.clear()
        return list(_walk(self.root, self.lost))

    def size(self, name: str) -> int:
        """Bytes of a regular file; anything else (a link to nowhere, a pipe, a device) is unreadable and never opened."""
        try:
            facts = (self.root / name).stat()
        except OSError as error:
            raise UnreadableImage(shown(name), error.strerror or str(error)) from error
        if not stat.S_ISREG(facts.st_mode):
            raise UnreadableImage(shown(name), "not a regular file")
        return facts.st_size

    def read(self, name: str) -> bytes:
        self.size(name)
        try:
            return read_bytes(self.root / name, LARGEST)
        except OSError as error:
            raise UnreadableImage(shown(name), error.strerror or str(error)) from error


class StoredImages:
    """The images of a folder or archive in the order of their names; `inner` is a path inside."""

    def __init__(self, store: Store, inner: str = "", *, where: str) -> None:
        self._store = store
        everything = [name for name in store.names() if is_image_name(name)]
        inner = inner.strip("/")
        start = f"{inner}/" if inner else ""
        files = sorted(name for name in everything if name.startswith(start) or name == inner)
        if not files and everything:
            tops = sorted({name.rpartition("/")[0] or "." for name in everything})
            raise UserError(f"No images under {inner!r} in {where}; its images are in: {first_few(tops, 8)}.")
        self.left_out: list[str] = [f"{line} (this folder is left out)" for line in getattr(store, "lost", ())]
        if not files:
            why = "".join(f"; {line}" for line in self.left_out)
            raise UserError(f"No images found in {where}: looked, hidden files aside, for {_EXTENSIONS}{why}.")
        read = {os.path.splitext(name)[0] for name in files if is_read_name(name)}
        beside = [name for name in files if not is_read_name(name) and os.path.splitext(name)[0] in read]
        if beside:  # a camera's raw file and its JPEG, for one
            some = first_few([shown(name) for name in beside], 3)
            self.left_out.append(f"{len(beside)} files of other formats beside an image of the same name: {some}")
            files = sorted(set(files) - set(beside))
        self._files = files
        self._start = 0 if files == [inner] else len(start)
        self._known = FileState(store, files, self._start)

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        return shown(self._raw(index))

    def _raw(self, index: int) -> str:
        return self._files[index][self._start :]

    def load(self, index: int, draft_size: DraftSize | None = None) -> Image.Image:
        file = self._files[index]
        if self._store.size(file) > MAX_BYTES:
            raise UnreadableImage(self.name(index), f"a file of more than {MAX_BYTES >> 20} MiB")
        return decode_image(self._store.read(file), name=self.name(index), draft_size=draft_size)

    def content(self, index: int) -> str | None:
        """A hash of the file's bytes; None if it cannot be read."""
        content_hash = self._known.content(index)
        return None if content_hash.startswith(UNREAD) else content_hash

    def file_size(self, index: int) -> int:
        """Bytes of the file."""
        return size_of(self._store, self._files[index])

    @cached_property
    def classes(self) -> list[str] | None:
        parents = {class_folder(self.name(i)) for i in range(len(self))}
        if len(parents) < 2 or "" in parents or are_parts(parents):
            return None
        return sorted(parents)

    @cached_property
    def labels(self) -> np.ndarray | None:
        if self.classes is None:
            return None
        number = {name: k for k, name in enumerate(self.classes)}
        parents = (class_folder(self.name(i)) for i in range(len(self)))
        return np.array([number[parent] for parent in parents], dtype=np.int64)

    def fingerprint(self) -> str:
        return digest(f"{self._raw(i)}\0{size}" for i, size in enumerate(self._known.sizes))

    def state(self) -> str:
        return self._known.state(self._stamped)  # labels and classes are part of the names

    def _stamped(self, file: str) -> str:
        holder_stamp = stamp(holder(self._store, file))
        return holder_stamp if isinstance(self._store, FolderStore) else f"{self._store.size(file)} in {holder_stamp}"


_EXTENSIONS = ", ".join(EXTENSIONS)


def _expanded(path: str | Path, lost: list[str]) -> Iterator[Path]:
    """The image files a path or a glob pattern stands for, absolute; folders that cannot be listed go to `lost`."""
    text = str(expanded(path))
    exists = os.path.exists(text)
    if not exists and not glob.has_magic(text):
        raise UserError(f"{shown(text)} does not exist; give images, a folder, an archive or a pattern.")
    for match in [text] if exists else glob.iglob(text, recursive=True):
        file = Path(os.path.abspath(match))
        if file.is_dir():
            yield from (file / name for name in _walk(file, lost) if is_image_name(name))
        elif is_image_name(file.name):
            yield file
        elif exists:
            raise UserError(f"{text} is not an image ({_EXTENSIONS}); give archives one at a time.")


_SYSTEM = ("/proc", "/sys", "/dev")


def _walk(root: Path, lost: list[str]) -> Iterator[str]:
    """Names of the files under `root`, relative to it, following links once; folders that cannot be listed go to `lost`."""

    def failed(error: OSError) -> None:
        lost.append(f"{shown(str(error.filename))}: {error.strerror or error}")

    seen, top = set(), os.path.realpath(root)
    for folder, below, files in os.walk(root, onerror=failed, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        if real.startswith(_SYSTEM) and not str(top).startswith(_SYSTEM):
            lost.append(f"{shown(folder)}: a folder of the system, not of files")
            below.clear()
            continue
        below[:] = [name for name in below if not name.startswith(".")]
        inner = Path(folder).relative_to(root)
        yield from ((inner / name).as_posix() for name in files)
