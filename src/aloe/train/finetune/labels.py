"""Labelled images to learn from and to validate on: what fine-tuning asks of them before anything is computed or written."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aloe.core.errors import UserError
from aloe.core.names import first_few
from aloe.core.printable import shown
from aloe.data.decode import UnreadableImage
from aloe.data.sources import ImageSource, class_folder, open_images, split_inner
from aloe.data.splits import in_order_of, labelled

Images = str | Path | Sequence[str | Path]


def open_labelled(images: Images, part: str = "training") -> ImageSource:
    """A source whose every image has a label; one folder per class, or a data set or scenes with labels.

    Raises:
        UserError: shards, images without labels, one class only, a class without images, a class in two places.
    """
    where = str(images) if isinstance(images, str | Path) else "the given paths"
    source = labelled(open_images(images), part, where)
    if isinstance(images, str | Path) and (empty := _empty_folders(str(images), source)):
        raise UserError(f"{where} has no {part} images of {_some(empty)}; add some, or remove the folder.")
    folder_of: dict[str, str] = {}
    for folder in sorted({source.name(i).rpartition("/")[0] for i in range(len(source))}):
        other = folder_of.setdefault(class_folder(f"{folder}/"), folder)
        if other != folder:
            raise UserError(f"{where} has two folders of one class, {other} and {folder}; give one of its parts.")
    return source


def validation_for(images: Images, train: ImageSource) -> ImageSource:
    """A labelled source under the class indices of `train`; it need not have images of all of them.

    Raises:
        UserError: as `open_labelled`, or a class that is not in `train`.
    """
    return in_order_of(train, open_labelled(images, "validation"))


def check_readable_classes(source: ImageSource) -> None:
    """Raises UserError unless at least one image of every class is readable."""
    labels, classes = source.labels, source.classes
    assert labels is not None
    assert classes is not None
    ends = np.cumsum(np.bincount(labels, minlength=len(classes)))
    members = np.split(np.argsort(labels, kind="stable"), ends[:-1])
    broken = [name for name, images in zip(classes, members, strict=True) if not _any_readable(source, images)]
    if broken:
        raise UserError(f"No training image of {_some(broken)} is readable; mend them, or take the class out.")


def labels_fingerprint(source: ImageSource) -> str:
    """A hash of the class names and every image's label."""
    assert source.labels is not None
    names = "\0".join(source.classes or []).encode()
    return hashlib.sha256(names + source.labels.astype(np.int64).tobytes()).hexdigest()[:16]


def _any_readable(source: ImageSource, images: np.ndarray) -> bool:
    for index in images.tolist():
        try:
            source.load(index, draft_size=1)
        except UnreadableImage:
            continue
        return True
    return False


def _empty_folders(where: str, source: ImageSource) -> list[str]:
    """Folders beside those of the classes that hold no image at any depth: a download that failed, mostly."""
    path, inner = split_inner(where)
    root = path / inner
    if not root.is_dir():
        return []
    full = {source.name(i).partition("/")[0] for i in range(len(source))}
    folders = {shown(p.name) for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")}
    return sorted(folders - full)


def _some(names: Sequence[str]) -> str:
    return f"{'class' if len(names) == 1 else 'the classes'} {first_few(names, more=' and {} more')}"
