"""How the authors of the data sets write down which image belongs to which class and part; one function for each way.

A reader takes the tree and gives the parts, each an image source. What a list names must be there: no image is left out in
silence.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from aloe.core.errors import UserError
from aloe.data.listed import ArrayImages, Entry, ListedImages
from aloe.data.official.tree import Tree
from aloe.data.sources import ImageSource, StoredImages

NAME_BYTES, MOST_FOLDERS = 255, 8  # of a file's name, and folders that it lies in

Parts = dict[str, ImageSource]
Reader = Callable[[Tree, str], Parts]
"""(tree, title of the data set) -> its parts."""


def lines(lists: Mapping[str, str], images: str, entry: Callable[[str], Entry | None]) -> Reader:
    """A text file for each part; `entry` makes a line into the file, below `images`, and its class."""

    def read(tree: Tree, title: str) -> Parts:
        parts: Parts = {}
        for part, end in lists.items():
            name = tree.needed(end, title)
            entries: list[Entry] = []
            for number, line in tree.lines(name):
                one = entry(line)
                if one is None or not all(one):
                    raise UserError(f"{tree.where(name)}, line {number}: {line[:60]!r} names no image and class.")
                entries.append(one)
            parts[part] = listed(tree, entries, images, name)
        return parts

    return read


def listed(tree: Tree, entries: Sequence[Entry], images: str, name: str) -> ImageSource:
    """The images of the list `name`, whose files lie below a folder `images`.

    Raises:
        UserError: the list is empty, names a file outside the folder, or one that is not there.
    """
    if not entries:
        raise UserError(f"{tree.where(name)} lists no images.")
    if outside := next((file for file, _ in entries if not _is_below(file)), None):
        raise UserError(f"{tree.where(name)} names {outside[:60]!r}, which is no file below its folder of images.")
    folder = f"{images}/" if images else ""
    first = tree.find(folder + entries[0][0])
    base = "" if first is None else first[: len(first) - len(entries[0][0])]
    files = [(base + file, kind) for file, kind in entries]
    absent = [file for file, _ in files if file not in tree] if first is not None else [folder + entries[0][0]]
    if absent:
        count = len(absent) if first is not None else len(entries)
        raise UserError(f"{tree.where(name)} lists {count} images that are not there, first {absent[0]}.")
    return ListedImages(tree.store, files, tree.where(name))


def _is_below(file: str) -> bool:
    """Whether a name is that of a plain file below a folder."""
    parts = file.split("/")
    named = all(part and len(part.encode()) <= NAME_BYTES and not part.startswith(".") for part in parts)
    return named and len(parts) <= MOST_FOLDERS and "\0" not in file


def class_above(line: str) -> Entry | None:
    """`banded/banded_0002.jpg`: the folder is the class; `/b/balcony/interior/x.jpg`: of SUN397, without the letter."""
    file = line.lstrip("/")
    folders = file.split("/")[:-1]
    return (file, "_".join(folders[1:] if line.startswith("/") else folders)) if folders else None


def class_above_without_ending(line: str) -> Entry | None:
    """`apple_pie/1005649`, of Food-101."""
    entry = class_above(line)
    return entry and (f"{entry[0]}.jpg", entry[1])


def class_behind(line: str) -> Entry | None:
    """`1025794 707-320`, of FGVC-Aircraft."""
    stem, _, kind = line.partition(" ")
    return (f"{stem}.jpg", kind.strip()) if kind else None


def flowers(tree: Tree, title: str) -> Parts:
    """`imagelabels.mat`, a class from 1 for each image, and `setid.mat`, the numbers of the images of each part."""
    name, splits = tree.needed("imagelabels.mat", title), tree.needed("setid.mat", title)
    labels = _numbers(tree.matlab(name, "labels")[0], tree, name)
    if not labels.size or labels.min() < 1:
        raise UserError(f"{tree.where(name)} has no classes from 1; it is not the official list.")
    parts: Parts = {}
    fields = {"train": "trnid", "validation": "valid", "test": "tstid"}
    for (part, _), ids in zip(fields.items(), tree.matlab(splits, *fields.values()), strict=True):
        numbers = _numbers(ids, tree, splits)
        if not numbers.size:
            raise UserError(f"{tree.where(splits)} lists no {part} images.")
        if numbers.min() < 1 or numbers.max() > len(labels):
            raise UserError(f"{tree.where(splits)} names images beyond the {len(labels)} of imagelabels.mat.")
        entries = [(f"image_{i:05d}.jpg", f"{labels[i - 1]:03d}") for i in numbers.tolist()]
        parts[part] = listed(tree, entries, "jpg", splits)
    return parts


def cars(tree: Tree, title: str) -> Parts:
    """The development kit's annotations of training images, and those of test images with labels."""
    meta = tree.needed("cars_meta.mat", title)
    names = [str(name) for name in np.atleast_1d(tree.matlab(meta, "class_names")[0])]
    parts: Parts = {}
    for part, end in {"train": "cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}.items():
        name = tree.needed(end, title)
        rows = np.atleast_1d(tree.matlab(name, "annotations")[0])
        if not {"fname", "class"} <= set(rows.dtype.names or ()):
            raise UserError(f"{tree.where(name)} has no fname and class; it is not the official list.")
        kinds = _numbers([row["class"] for row in rows], tree, name)
        if kinds.size and (kinds.min() < 1 or kinds.max() > len(names)):
            raise UserError(f"{tree.where(name)} has a class beyond the {len(names)} of cars_meta.mat.")
        entries = [(str(row["fname"]), names[kind - 1]) for row, kind in zip(rows, kinds.tolist(), strict=True)]
        parts[part] = listed(tree, entries, f"cars_{part}", name)
    return parts


def pickles(batches: Mapping[str, Sequence[str]], meta: str, labels: str, names: str) -> Reader:
    """CIFAR's batches: rows of 3072 bytes, a colour after the other."""

    def read(tree: Tree, title: str) -> Parts:
        classes = _words(_field(tree, tree.needed(meta, title), names), tree, meta)
        parts: Parts = {}
        for part, ends in batches.items():
            triples = [_batch(tree, tree.needed(end, title), labels, len(classes)) for end in ends]
            pixels, kinds, files = zip(*triples, strict=True)
            whole = [name for batch in files for name in batch]
            parts[part] = ArrayImages(np.concatenate(pixels), np.concatenate(kinds), whole, classes)
        return parts

    return read


def imagenet(tree: Tree, title: str) -> Parts:
    """Training images in folders of synsets, flat validation images with one of the lists of their synsets."""
    first = next(path for end in IMAGENET_FIRST if (path := tree.find(end)) is not None)
    base = first.removesuffix(IMAGENET_FIRST[0])
    count = len(_IMAGENET_NAME)
    files = [name for name in tree.store.names() if name.startswith(f"{base}val/{_IMAGENET_NAME}")]
    number = {int(name.rpartition("/")[2][count : count + 8]): name for name in sorted(files)}
    for end, read in _IMAGENET_LISTS.items():
        if (name := tree.find(end)) is not None:
            synsets = read(tree, name)
            break
    else:
        raise UserError(f"{tree.path} holds {title} whose val/ needs one of the lists {', '.join(_IMAGENET_LISTS)}.")
    if absent := sorted(set(number) - set(synsets)):
        raise UserError(f"{tree.where(name)} has no synset of {number[absent[0]]} and {len(absent) - 1} others.")
    entries = [(file, synsets[i]) for i, file in number.items()]
    train = StoredImages(tree.store, f"{base}train", where=str(tree.path))
    return {"train": train, "validation": ListedImages(tree.store, entries, tree.where(name))}


IMAGENET_FIRST = ("val/ILSVRC2012_val_00000001.JPEG", "Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG")
_IMAGENET_NAME = "ILSVRC2012_val_"


def _solution(tree: Tree, name: str) -> dict[int, str]:
    """`ILSVRC2012_val_00048981,n03995372 85 1 499 272`, with a heading."""
    try:
        rows = list(csv.reader(line for _, line in tree.lines(name)))[1:]
        return {int(row[0].rpartition("_")[2]): row[1].split()[0] for row in rows}
    except (ValueError, IndexError, csv.Error) as error:
        raise UserError(f"{tree.where(name)} is not the official list: a line without image and synset.") from error


def _synset_lines(tree: Tree, name: str) -> dict[int, str]:
    """A synset a line, in the order of the images."""
    return dict(enumerate((line for _, line in tree.lines(name)), 1))


def _ground_truth(tree: Tree, name: str) -> dict[int, str]:
    """The development kit's numbers, a line for each image, with `meta.mat`, which says whose they are."""
    rows = np.atleast_1d(tree.matlab(tree.needed("meta.mat", "ImageNet's ground truth"), "synsets")[0])
    try:
        synset = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows}
        return {i: synset[int(line)] for i, (_, line) in enumerate(tree.lines(name), 1)}
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"{tree.where(name)} and meta.mat do not agree on the numbers of the synsets.") from error


_IMAGENET_LISTS = {
    "LOC_val_solution.csv": _solution,
    "imagenet_2012_validation_synset_labels.txt": _synset_lines,
    "ILSVRC2012_validation_ground_truth.txt": _ground_truth,
}


def _numbers(values: Any, tree: Tree, name: str) -> np.ndarray:
    """A vector of whole numbers; raises UserError."""
    try:
        numbers = np.atleast_1d(np.asarray(values))
    except ValueError:  # lists of different lengths
        numbers = np.empty(0, dtype=object)
    numeric = numbers.ndim == 1 and numbers.dtype.kind in "iuf" and bool(np.isfinite(numbers).all())
    if not numeric or (numbers != np.round(numbers)).any() or (np.abs(numbers) > 1 << 31).any():
        raise UserError(f"{tree.where(name)} holds no list of whole numbers; it is not the official list.")
    return numbers.astype(np.int64)


def _words(values: Any, tree: Tree, name: str) -> list[str]:
    """A list of names; raises UserError."""
    if not isinstance(values, list) or not values or not all(isinstance(word, str) for word in values):
        raise UserError(f"{tree.where(name)} holds no list of names; it is not an official batch.")
    return values


def _field(tree: Tree, name: str, key: str) -> Any:
    arrays = tree.arrays(name)
    if not isinstance(arrays, dict) or key not in arrays:
        raise UserError(f"{tree.where(name)} has no {key}; it is not an official batch.")
    return arrays[key]


def _batch(tree: Tree, name: str, labels: str, classes: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    arrays = tree.arrays(name)
    pixels = arrays.get("data") if isinstance(arrays, dict) else None
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (3072,):
        raise UserError(f"{tree.where(name)} has no rows of 3072 bytes; it is not an official batch.")
    kinds = _numbers(arrays.get(labels, []), tree, name)
    files = _words(arrays.get("filenames") or [str(i) for i in range(len(pixels))], tree, name)
    if not len(kinds) == len(pixels) == len(files) > 0 or kinds.min() < 0 or kinds.max() >= classes:
        raise UserError(f"{tree.where(name)} has {len(pixels)} images and labels that do not fit them.")
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), kinds, files
