"""Images that two sources have in common, told by their content: what is tested on what it was fitted to is no test."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from aloe.data.decode import UnreadableImage

if TYPE_CHECKING:
    from aloe.data.sources import ImageSource


def shared_images(train: ImageSource, test: ImageSource) -> int:
    """How many images of `test` are in `train` too, byte for byte in the form in which each is kept.

    Of files only those are read whose size both have. The same picture in two encodings is not told.
    """
    sizes = [_sizes(source) for source in (train, test)]
    common = None if None in sizes else set(sizes[0] or ()) & set(sizes[1] or ())
    training = set(_contents(train, sizes[0], common))
    return sum(content in training for content in _contents(test, sizes[1], common))


def content_of(source: ImageSource, index: int) -> str | None:
    """A hash of an image as it is kept, else of its pixels; None where it cannot be read."""
    own: Any = getattr(source, "content", None)
    if own is not None:
        return own(index)  # type: ignore[no-any-return]
    try:
        image = source.load(index)
    except UnreadableImage:
        return None
    return hash_of_pixels(image.size, image.tobytes())


def hash_of_pixels(size: tuple[int, ...], pixels: bytes) -> str:
    """What an image is known by where it has no file."""
    return hashlib.sha256(f"{size}".encode() + pixels).hexdigest()


def file_size_of(source: ImageSource, index: int) -> int | None:
    """Bytes of an image's file; None where it is not one."""
    own: Any = getattr(source, "file_size", None)
    return None if own is None else own(index)


def _sizes(source: ImageSource) -> list[int] | None:
    sizes: list[int] = []
    for i in range(len(source)):
        size = file_size_of(source, i)
        if size is None:
            return None
        sizes.append(size)
    return sizes


def _contents(source: ImageSource, sizes: list[int] | None, common: set[int] | None) -> Iterator[str]:
    for i in range(len(source)):
        if common is None or sizes is None or sizes[i] in common:
            content = content_of(source, i)
            if content is not None:
                yield content
