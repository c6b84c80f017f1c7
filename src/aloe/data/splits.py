"""Labelled images in parts: finds train, validation and test in a folder, an archive or a dataset, and makes them agree.

Parts are folders or splits called train (training), validation (valid, val, dev) and test (testing), at the top or one
level down. Classes are matched by name, so that every label of a `Splits` counts in the order of the training classes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from aloe.core.errors import UserError
from aloe.core.names import first_few
from aloe.core.printable import shown
from aloe.data.archives import Store
from aloe.data.decode import DraftSize, is_image_name
from aloe.data.hub import HubImages, Loader, is_dataset_folder, load_splits
from aloe.data.shared import content_of, file_size_of, shared_images
from aloe.data.sources import (
    PART_OF,
    FolderStore,
    ImageSource,
    StoredImages,
    are_parts,
    class_folder,
    digest,
    folders_in,
    open_images,
    open_store,
    split_inner,
)
from aloe.data.subset import SubsetImages

Metric = Literal["top-1", "mean per class"]
Opener = Callable[[], ImageSource]


@dataclass(frozen=True)
class Splits:
    """Data ready to be evaluated on; all parts have the classes of `train`, in its order; `train` is None where only the
    test images were given.

    Attributes:
        name: the registered name, or what the user gave.
        official: the number of classes and the sizes are those of a registered data set.
        notes: what differs from it, or was done to it; one clause each.
    """

    name: str
    title: str
    train: ImageSource | None
    test: ImageSource
    validation: ImageSource | None = None
    metric: Metric = "top-1"
    official: bool = False
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> list[str]:
        return list(self.test.classes or [])

    @cached_property
    def shared(self) -> int:
        """How many test images are training images too."""
        return 0 if self.train is None else shared_images(self.train, self.test)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of images of each part that is there."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: len(source) for name, source in parts.items() if source is not None}


def alone(test: str | Path) -> Splits:
    """Test images alone, labelled or not, for the tasks that learn nothing."""
    name = shown(str(test))
    return Splits(name, name, None, open_images(test))


class Relabelled:
    """The images of `source` with labels that count in the order of `classes`; -1 for a class that is not among them."""

    def __init__(self, source: ImageSource, classes: Sequence[str]) -> None:
        number = {name: i for i, name in enumerate(classes)}
        new = np.array([*(number.get(name, -1) for name in source.classes or []), -1], dtype=np.int64)
        self.source = source
        self.classes: list[str] | None = list(classes)
        self.labels: np.ndarray | None = new[source.labels]  # -1, no label, stays -1

    def __len__(self) -> int:
        return len(self.source)

    def load(self, index: int, draft_size: DraftSize | None = None) -> Image.Image:
        return self.source.load(index, draft_size)

    def name(self, index: int) -> str:
        return self.source.name(index)

    def content(self, index: int) -> str | None:
        return content_of(self.source, index)

    def file_size(self, index: int) -> int | None:
        return file_size_of(self.source, index)

    def fingerprint(self) -> str:
        return self.source.fingerprint()

    def state(self) -> str:
        return digest([self.source.state(), json.dumps(self.classes)])


def open_parts(
    where: str, *, config: str | None = None, image: str = "", label: str = "", advice: str | None = None
) -> dict[str, Opener]:
    """The parts of what `where` names, by the values of `PART_OF`; other splits by their own name, data without parts by "".

    Args:
        where: a folder, an archive (`ARCHIVE::INNER`), a folder of parquet files or of `save_to_disk`, or
            `hf:NAME[#image_column[,label_column]]`.
        config, image, label: configuration and columns of a dataset, columns only where it has them.
        advice: what to do if a dataset cannot be opened.

    Raises:
        UserError: nothing is there or it cannot be opened.
    """
    path, inner = split_inner(where)
    if not where.startswith("hf:") and not (path.is_dir() and not inner and is_dataset_folder(path)):
        return _tree_parts(path, inner.strip("/"), where)
    name, _, columns = where.removeprefix("hf:").partition("#") if where.startswith("hf:") else (str(path), "", "")
    own_image, _, own_label = columns.partition(",")

    def opened(load: Loader) -> HubImages:
        dataset, files = load()
        usual_image, usual_label = (column if column in dataset.features else None for column in (image, label))
        return HubImages(dataset, own_image or usual_image, own_label or usual_label, where, files)

    splits = load_splits(name, config, advice)
    return {PART_OF.get(split.lower(), split): partial(opened, load) for split, load in splits.items()}


def labelled(source: ImageSource, part: str, where: str, *, left_out: Sequence[str] = ()) -> ImageSource:
    """`source`, without the classes `left_out` (in lower case), if every image has a label and every class an image.

    Raises:
        UserError: otherwise, or there are fewer than two classes.
    """
    if source.classes is None or source.labels is None:
        folders = {class_folder(source.name(i)) for i in range(len(source))}
        if len(folders) > 1 and "" not in folders and are_parts(folders):
            raise UserError(
                f"{where} has the parts {', '.join(sorted(folders))} and no class folders in them: its {part} images have"
                " no labels."
            )
        if len(folders) == 1 and "" not in folders:
            raise UserError(f"All {part} images of {where} are of one class, {folders.pop()}; at least two are needed.")
        raise UserError(
            f"The {part} images are not in class folders (one folder per class) and have no label column, so {where} has"
            " no labels."
        )
    missing = int((source.labels < 0).sum())
    if missing:
        raise UserError(f"{missing} of the {len(source)} {part} images of {where} have no label.")
    kept = [name for name in source.classes if name.lower() not in left_out]
    if len(kept) < 2:
        names = ", ".join(source.classes)
        raise UserError(f"All {part} images of {where} are of one class, {names}; at least two are needed.")
    if len(kept) < len(source.classes):
        rows = np.isin(source.labels, [source.classes.index(name) for name in kept])
        source = Relabelled(SubsetImages(source, np.flatnonzero(rows)), kept)
    labels: Any = source.labels
    empty = [kept[i] for i in np.flatnonzero(np.bincount(labels, minlength=len(kept)) == 0)]
    if empty and part != "validation":
        raise UserError(f"{where} has no {part} images of {first_few(empty)}; every class needs some.")
    return source


def has_labels(source: ImageSource) -> bool:
    """Whether any image has a label."""
    return source.labels is not None and bool((source.labels >= 0).any())


def part_given(where: str, part: str) -> tuple[ImageSource, str]:
    """The images that `where` gives for a part, train or test, and a note: the part of that name if there are several.

    Raises:
        UserError: nothing is there or it cannot be opened.
    """
    has_part = "@" in where if where.startswith("hf:") else where.startswith(("scenes:", "wds:"))
    if not has_part and (where.startswith("hf:") or not is_image_name(split_inner(where)[0].name)):
        parts = open_parts(where)
        name = next((n for n in (part, "validation")[: 2 if part == "test" else 1] if n in parts), None)
        if name is not None and len(parts) > 1:
            return labelled(parts[name](), part, where), f"of {shown(where)} its {name} images"
    return labelled(open_images(where), part, where), ""


def check_classes(train: ImageSource, test: ImageSource) -> None:
    """Raises a `UserError` that names a class which only one of the two has."""
    odd = sorted(set(train.classes or []) ^ set(test.classes or []))
    if odd:
        raise UserError(f"Training and test images differ in their classes: {first_few(odd)} is in one of them only.")


def in_order_of(train: ImageSource, other: ImageSource) -> ImageSource:
    """`other` with labels that count in the order of the training classes; a `UserError` where it has further ones."""
    more = sorted(set(other.classes or []) - set(train.classes or []))
    if more:
        raise UserError(f"There are images of {first_few(more)} but no training images of that name.")
    return other if other.classes == train.classes else Relabelled(other, train.classes or [])


def draw_per_class(source: ImageSource, count: int, where: str) -> tuple[ImageSource, ImageSource]:
    """`count` training images of each class, and the rest; the draw looks at the names of class and file only.

    Raises:
        UserError: a class has too few images to leave one for the test.
    """
    labels: Any = source.labels
    classes = source.classes or []
    short = [classes[i] for i in np.flatnonzero(np.bincount(labels, minlength=len(classes)) <= count)]
    if short:
        raise UserError(f"{where} has {count} images or fewer of {first_few(short)}, which leaves none for the test.")
    names = [f"seed 0/{classes[c]}/{source.name(i).rpartition('/')[2]}" for i, c in enumerate(labels)]
    order = sorted(
        range(len(names)), key=lambda i: hashlib.sha256(names[i].encode("utf-8", "surrogateescape")).digest()
    )
    is_train = np.zeros(len(names), dtype=bool)
    for c in range(len(classes)):
        is_train[[i for i in order if labels[i] == c][:count]] = True
    return SubsetImages(source, np.flatnonzero(is_train)), SubsetImages(source, np.flatnonzero(~is_train))


def _tree_parts(path: Path, inner: str, where: str) -> dict[str, Opener]:
    """The parts of a folder or archive: of its top, else of the only folder in it that has some, else the whole."""
    if path.is_dir():
        path, inner = path / inner, ""
    if not path.is_dir() and (not path.is_file() or is_image_name(path.name)):
        raise UserError(f"There is no folder or archive {path}; give one, or hf:NAME for a dataset on the hub.")
    store = open_store(path)
    layout = _layout(store, inner)
    data_sets: dict[str, dict[str, str]] = {}
    partly: dict[str, str] = {}
    for base, folders in layout.items():
        parts = {PART_OF[f.lower()]: "/".join(filter(None, (inner, base, f))) for f in folders if f.lower() in PART_OF}
        if "train" in parts and len(parts) > 1:
            data_sets[base] = parts
        partly |= {} if partly else parts
        if "" in data_sets:
            break
    if len(data_sets) > 1:
        raise UserError(f"{where} holds several data sets ({', '.join(sorted(data_sets))}); give one of them.")
    part_folders = next(iter(data_sets.values()), None) or partly or {"": inner}
    return {part: partial(_open_tree, store, folder, where) for part, folder in part_folders.items()}


def _layout(store: Store, inner: str) -> dict[str, list[str]]:
    """Names of the folders at the top, under "", and in each of these."""
    tree: dict[str, set[str]] = {"": set()}
    if isinstance(store, FolderStore):
        tree[""] = set(folders_in(store.root))
        tree |= {top: set(folders_in(store.root / top)) for top in tree[""]}
    else:
        start = f"{inner}/" if inner else ""
        for name in filter(is_image_name, store.names()):
            if name.startswith(start):
                top, *below = name[len(start) :].split("/")[:-1][:2] or [""]
                tree[""].add(top)
                tree.setdefault(top, set()).update(below)
    return {base: sorted(filter(None, folders)) for base, folders in tree.items()}


def _open_tree(store: Store, folder: str, where: str) -> ImageSource:
    if not isinstance(store, FolderStore):
        return _one_folder_per_class(StoredImages(store, folder, where=where), where)
    root = store.root / folder
    source = StoredImages(FolderStore(root), where=str(root))
    empty = set(map(shown, folders_in(root))) - {source.name(i).partition("/")[0] for i in range(len(source))}
    if folder and empty:
        raise UserError(f"The class folders {first_few(sorted(empty))} of {root} have no images; fill or remove them.")
    return _one_folder_per_class(source, where)


def _one_folder_per_class(source: ImageSource, where: str) -> ImageSource:
    seen: dict[str, str] = {}
    for i in range(len(source)):
        name = source.name(i)
        folder = name.rpartition("/")[0]
        other = seen.setdefault(class_folder(name), folder)
        if other != folder:
            raise UserError(f"{where} has two folders of one name, {other} and {folder}; give each class its own name.")
    return source
