"""Each data set's official layout: the files by which it is recognised, and how its lists are read.

Sources: the read-me files and development kits that the authors publish with their images. Written from their descriptions:
no official archive was at hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aloe.core.errors import UserError
from aloe.data.official import readers
from aloe.data.official.readers import Parts, Reader
from aloe.data.official.tree import Tree
from aloe.data.sources import StoredImages

CALTECH, CALTECH_ARCHIVE = "101_ObjectCategories", "101_ObjectCategories.tar.gz"


@dataclass(frozen=True)
class Layout:
    """`marks`: any of these files, at most three folders down, shows the layout; a name that ends with / is a folder."""

    title: str
    marks: tuple[str, ...]
    read: Reader


def _caltech(tree: Tree, title: str) -> Parts:
    """A folder for each class; the published zip has them in an archive of its own."""
    if (folder := tree.find(f"{CALTECH}/")) is not None:
        return {"": StoredImages(tree.store, folder, where=str(tree.path))}
    store = tree.archive(tree.needed(CALTECH_ARCHIVE, title))
    return {"": StoredImages(store, CALTECH, where=str(tree.path))}


LAYOUTS = {
    "imagenet": Layout("ImageNet-1k", readers.IMAGENET_FIRST, readers.imagenet),
    "caltech101": Layout("Caltech-101", (f"{CALTECH}/", CALTECH_ARCHIVE), _caltech),
    "flowers102": Layout("Oxford Flowers-102", ("setid.mat", "jpg/image_00001.jpg"), readers.flowers),
    "food101": Layout(
        "Food-101",
        ("meta/train.txt", "meta/test.txt", "meta/classes.txt"),
        readers.lines(
            {"train": "meta/train.txt", "test": "meta/test.txt"}, "images", readers.class_above_without_ending
        ),
    ),
    "aircraft": Layout(
        "FGVC-Aircraft",
        ("images_variant_train.txt", "images_variant_test.txt"),
        readers.lines(
            {
                "train": "images_variant_train.txt",
                "validation": "images_variant_val.txt",
                "test": "images_variant_test.txt",
            },
            "images",
            readers.class_behind,
        ),
    ),
    "dtd": Layout(
        "Describable Textures",
        ("labels/train1.txt", "labels/test1.txt"),
        readers.lines(
            {"train": "labels/train1.txt", "validation": "labels/val1.txt", "test": "labels/test1.txt"},
            "images",
            readers.class_above,
        ),
    ),
    "cars": Layout("Stanford Cars", ("cars_train_annos.mat", "cars_train/00001.jpg"), readers.cars),
    "sun397": Layout(
        "SUN397",
        ("Training_01.txt", "Testing_01.txt"),
        readers.lines({"train": "Training_01.txt", "test": "Testing_01.txt"}, "", readers.class_above),
    ),
    "cifar10": Layout(
        "CIFAR-10",
        ("data_batch_1", "batches.meta"),
        readers.pickles(
            {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]},
            "batches.meta",
            "labels",
            "label_names",
        ),
    ),
    "cifar100": Layout(
        "CIFAR-100",
        ("cifar-100-python/train", "cifar-100-python/meta"),
        readers.pickles(
            {"train": ["cifar-100-python/train"], "test": ["cifar-100-python/test"]},
            "cifar-100-python/meta",
            "fine_labels",
            "fine_label_names",
        ),
    ),
}


def official_parts(name: str, path: Path, inner: str) -> Parts | None:
    """The parts of a data set by name if it lies at `path` as its authors publish it; None where it does not.

    Raises:
        UserError: a list is missing or damaged, or names images that are not there.
    """
    layout = LAYOUTS.get(name)
    if layout is None:
        return None
    tree = Tree(path, inner)
    if not any(tree.find(mark) for mark in layout.marks):
        return None
    return layout.read(tree, layout.title)


def recognised(path: Path, inner: str) -> Iterator[str]:
    """Names of the data sets whose official layout lies at `path`."""
    try:
        tree = Tree(path, inner)
    except UserError:
        return
    yield from (name for name, layout in LAYOUTS.items() if any(tree.find(mark) for mark in layout.marks))
