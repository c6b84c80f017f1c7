"""Tiny labelled data in every layout; the colour of an image tells its class."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from aloe.core.errors import UserError
from aloe.data.benchmarks import open_benchmark
from aloe.data.splits import Splits

ANIMALS = {"cat": 10, "dog": 20, "eel": 30}  # the red of a class; image k has it plus k


def picture(red: int) -> Image.Image:
    return Image.new("RGB", (4, 4), (red, 0, 0))


def tree(root: Path, **parts: int) -> Path:
    """`parts` folders of class folders with so many images each."""
    for part, count in parts.items():
        for name, red in ANIMALS.items():
            folder = root / part / name
            folder.mkdir(parents=True)
            for k in range(count):
                picture(red + k).save(folder / f"{k}.png")
    return root


def hub(counts: dict[str, int], label: str = "class", order: tuple[str, ...] = tuple(ANIMALS)) -> Any:
    """A `DatasetDict`; labels are a `ClassLabel`, an "integer" or a "string"."""
    datasets = pytest.importorskip("datasets")
    splits = {}
    for part, count in counts.items():
        names = [name for name in order for _ in range(count)]
        rows = {
            "image": [picture(ANIMALS[name] + k % count) for k, name in enumerate(names)],
            "label": names if label == "string" else [order.index(name) for name in names],
        }
        kind = {
            "class": datasets.ClassLabel(names=list(order)),
            "integer": datasets.Value("int32"),
            "string": datasets.Value("string"),
        }[label]
        features = datasets.Features({"image": datasets.Image(), "label": kind})
        splits[part] = datasets.Dataset.from_dict(rows, features=features)
    return datasets.DatasetDict(splits)


def archive(kind: str, folder: Path, target: Path, top: str) -> Path:
    if kind == "zip":
        with zipfile.ZipFile(target, "w") as out:
            for file in sorted(folder.rglob("*.png")):
                out.write(file, f"{top}{file.relative_to(folder).as_posix()}")
    else:
        with tarfile.open(target, f"w:{kind}") as out:
            out.add(folder, top.strip("/") or ".")
    return target


def check(splits: Splits, train: int = 3, test: int = 2, names: tuple[str, ...] = tuple(ANIMALS)) -> None:
    """Every image carries the label of its colour, in the order of the training classes."""
    assert splits.sizes == {"train": 3 * train, "test": 3 * test}
    assert splits.classes == splits.test.classes == list(names)
    for source in (splits.train, splits.test):
        reds = [source.load(i).getpixel((0, 0))[0] // 10 * 10 for i in range(len(source))]
        assert [list(ANIMALS.values())[label] for label in source.labels] == reds


def refused(spec: str | Path, match: str) -> None:
    """The data cannot be opened, and one sentence says why."""
    with pytest.raises(UserError, match=match) as caught:
        open_benchmark(str(spec))
    assert "\n" not in str(caught.value)
