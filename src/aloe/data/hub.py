"""Hugging Face datasets as image sources: read lazily, decoded like any other file."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from aloe.core.errors import UserError
from aloe.core.files import digest, expanded, stamp
from aloe.data.decode import DraftSize, decode_image
from aloe.data.states import UNREAD, are_read, as_before, hash_of, is_large, pieces, sampled, second

Loader = Callable[[], tuple[Any, list[str]]]


class HubImages:
    """The image column of a `datasets.Dataset`, with the classes of a label column where it has one.

    Args:
        column: the image column; default: the only one.
        label: the label column: a `ClassLabel`, whole numbers or strings; default: the first `ClassLabel`, else a column
            of that kind called "label", else none; several are told in `left_out`.
        where: what to call the dataset in errors.
        files: those that the rows were read from, as far as they are here.

    Raises:
        UserError: no rows, no such column, several image columns and none chosen, or labels of another kind.
    """

    def __init__(
        self,
        dataset: Any,
        column: str | None = None,
        label: str | None = None,
        where: str = "dataset",
        files: Sequence[str] = (),
    ) -> None:
        import datasets

        features, listed = dataset.features, ", ".join(dataset.features)
        images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
        if not images or (column and column not in images):
            raise UserError(f"{where} has no image column {column or ''}; its columns are {listed}.")
        if not column and len(images) > 1:
            raise UserError(
                f"{where} has the image columns {', '.join(images)}; choose one by adding #{images[0]} to it."
            )
        if label and label not in features:
            raise UserError(f"{where} has no label column {label}; its columns are {listed}.")
        if not len(dataset):
            raise UserError(f"No images found in {where}: the dataset has no rows.")
        if label and not _holds_labels(features[label]):
            raise UserError(f"Column {label} of {where} holds no labels: give whole numbers, strings or a ClassLabel.")
        classed = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
        usual = [name for name in ("label",) if name in features and _holds_labels(features[name])]
        self.left_out: list[str] = []
        if not label and len(classed) > 1:
            others = f"#{column or images[0]},{classed[1]}"
            self.left_out.append(
                f"{where} has the label columns {', '.join(classed)}; the first is used, {others} after its name chooses"
            )
        label = label or next(iter([*classed, *usual]), None)
        self.classes: list[str] | None = None
        self.labels: np.ndarray | None = None
        if label:
            self.classes, self.labels = _labels(dataset, label)
        self._column = column or images[0]
        only = dataset.select_columns([self._column])
        self._dataset = only.cast_column(self._column, datasets.Image(decode=False))
        self._files = [Path(file) for file in files]

    @classmethod
    def parse(cls, spec: str) -> HubImages:
        """`hf:NAME_OR_PATH[@split][#image_column[,label_column]]`; the split is `train`, or the only one, by default."""
        match = re.fullmatch(r"hf:(.+?)(?:@([^@#/]+))?(?:#([^#,]+)(?:,([^#,]+))?)?", spec)
        if match is None:
            raise UserError(f"{spec!r} is not of the form hf:NAME_OR_PATH[@split][#image_column[,label_column]].")
        name, split, column, label = match.groups()
        if expanded(spec[3:]).exists():  # a path with @ or # in it
            name, split, column, label = spec[3:], None, None, None
        dataset, files = _one_split(name, load_splits(name), split)
        return cls(dataset, column, label, spec, files)

    def __len__(self) -> int:
        return len(self._dataset)

    def name(self, index: int) -> str:
        return f"row {index}"

    def load(self, index: int, draft_size: DraftSize | None = None) -> Image.Image:
        cell = self._dataset[index][self._column] or {}
        data = cell.get("bytes") or (Path(cell["path"]) if cell.get("path") else b"")
        return decode_image(data, name=self.name(index), draft_size=draft_size)

    def content(self, index: int) -> str | None:
        """A hash of the encoded image; None where there is none, or it cannot be read."""
        content_hash = _content(self._dataset[index][self._column])
        return None if content_hash is None or content_hash.startswith(UNREAD) else content_hash

    def fingerprint(self) -> str:
        sizes = self._sizes()
        return digest(f"{path}\0{_file_size(path)}" if size is None else str(size) for size, path in sizes)

    def state(self) -> str:
        return self._states[as_before()]

    @cached_property
    def _states(self) -> tuple[str, str]:
        """The state by the rule of `aloe.data.states`, with rows for files, and what it was once."""
        labels = b"" if self.labels is None else self.labels.tobytes()
        head = [json.dumps(self.classes), "" if self.labels is None else hashlib.sha256(labels).hexdigest()]
        rows = list(self._sizes())
        sizes = [size if size is not None else _file_size(path) if path else 0 for size, path in rows]
        known_sizes = [n or 0 for n in sizes]
        if None not in sizes and are_read(known_sizes):
            return (digest([*head, *self._hashes()]),) * 2
        files = [f"{file.name}\0{_file_size(file)} {second(file)}" for file in self._files]
        facts = (_fact(path) if size is None else str(size) for size, path in rows)

        def sample(i: int) -> str:
            size, path = rows[i]
            if size is None and is_large(known_sizes[i]):
                return pieces(Path(path or ""), len(rows))
            return _content(self._dataset[i][self._column]) or ""

        now = digest([*head, *files, *facts, *map(sample, sampled(known_sizes, in_pieces=True))])
        tables = [stamp(Path(file["filename"])) for file in self._dataset.cache_files]
        stamps = (stamp(Path(path or "")) if size is None else str(size) for size, path in rows)
        return now, digest([*head, self._dataset._fingerprint, *tables, *stamps])

    def _sizes(self) -> Iterator[tuple[int | None, str | None]]:
        """Length of the encoded image, None where it is not in the table, and its path, row by row."""
        import pyarrow.compute as pc

        for table in self._dataset.with_format("arrow").iter(batch_size=1000):
            data, paths = (pc.struct_field(table[self._column], field) for field in ("bytes", "path"))
            # Lengths come from Arrow's offsets: the images themselves are not read.
            yield from zip(pc.binary_length(data).to_pylist(), paths.to_pylist(), strict=True)

    def _hashes(self) -> Iterator[str]:
        for table in self._dataset.with_format("arrow").iter(batch_size=100):
            for cell in table[self._column].to_pylist():
                yield _content(cell) or str(Path((cell or {}).get("path") or ""))


def load_splits(name: str, config: str | None = None, advice: str | None = None) -> dict[str, Loader]:
    """The splits of a dataset by name, each a function that loads it; one without splits has the one split "".

    It gives the files as well that the split was read from, where they are known.

    Args:
        name: a hub id, a parquet file, or a folder: of parquet files (see `parquet_files`), written by `save_to_disk`, or
            of another kind that `datasets` reads.
        advice: what to do if it cannot be opened.

    Raises:
        UserError: `datasets` is not installed, or the dataset cannot be opened.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"{name} needs the package datasets; pip install 'aloe-vit[data]'.") from error

    def told(load: Callable[[], Any]) -> Any:
        try:
            return load()
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise UserError(f"The dataset {name} could not be opened ({reason}); {advice or _ADVICE}.") from error

    def parquet(split: str, files: list[str]) -> Loader:
        return lambda: (told(lambda: datasets.load_dataset("parquet", data_files={split: files}, split=split)), files)

    path = expanded(name)
    files = {"train": [str(path)]} if path.is_file() else parquet_files(path)
    if files:
        return {split: parquet(split, of_split) for split, of_split in files.items()}
    saved = is_dataset_folder(path)
    if saved:
        loaded = told(lambda: datasets.load_from_disk(str(path)))
    else:
        loaded = told(lambda: datasets.load_dataset(str(path) if path.is_dir() else name, config))
    splits = {"": loaded} if isinstance(loaded, datasets.Dataset) else loaded

    def opened(split: str) -> tuple[Any, list[str]]:
        return splits[split], [file["filename"] for file in splits[split].cache_files if saved]

    return {split: partial(opened, split) for split in splits}


def is_dataset_folder(path: Path) -> bool:
    """Whether a folder holds a dataset's files, rather than images."""
    return any((path / name).is_file() for name in ("state.json", "dataset_dict.json")) or bool(parquet_files(path))


def parquet_files(path: Path) -> dict[str, list[str]]:
    """The parquet files in a folder or the folders in it by split, as the hub lays them out.

    `data/train-00000-of-00002.parquet` and `train/0000.parquet` are of the split "train".

    Raises:
        UserError: several folders hold files of one split, so that they are different configurations.
    """
    files: dict[str, list[str]] = {}
    folders: dict[str, set[Path]] = {}
    for file in sorted([*path.glob("*.parquet"), *path.glob("*/*.parquet")]):
        split = re.sub(r"-\d+-of-\d+.*", "", file.stem)
        if split.isdigit():
            split = file.parent.name
        files.setdefault(split, []).append(str(file))
        folders.setdefault(split, set()).add(file.parent)
        if len(folders[split]) > 1:
            names = " and ".join(sorted(folder.name for folder in folders[split]))
            raise UserError(f"{path} holds several configurations ({names}); give the folder of one of them.")
    return files


_ADVICE = "check the name, log in with `hf auth login` if it is gated, or give a local folder"


def _one_split(name: str, splits: Mapping[str, Loader], split: str | None) -> tuple[Any, list[str]]:
    if "" in splits:
        return splits[""]()
    if split is None:
        split = "train" if "train" in splits else next(iter(splits))
        if split != "train" and len(splits) > 1:
            raise UserError(f"hf:{name} has the splits {', '.join(splits)}; add @SPLIT.")
    if split not in splits:
        raise UserError(f"hf:{name} has no split {split!r}; it has {', '.join(splits)}.")
    return splits[split]()


def _holds_labels(kind: Any) -> bool:
    import datasets

    dtype = str(getattr(kind, "dtype", ""))
    return isinstance(kind, datasets.Value | datasets.ClassLabel) and bool(
        re.match("u?int|bool|(large_)?string", dtype)
    )


def _labels(dataset: Any, column: str) -> tuple[list[str], np.ndarray]:
    """Class names and (N,) int64 indices into them, -1 where a row has no label."""
    import datasets

    kind = dataset.features[column]
    values = dataset.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    if isinstance(kind, datasets.ClassLabel):
        return list(kind.names), np.array([-1 if v is None else v for v in values], dtype=np.int64)
    classes = sorted({v for v in values if v is not None})
    number: dict[Any, int] = {value: i for i, value in enumerate(classes)}
    return [str(value) for value in classes], np.array([number.get(v, -1) for v in values], dtype=np.int64)


def _content(cell: dict[str, Any] | None) -> str | None:
    """A hash of a row's encoded image, or why its file cannot be read; None where there is none."""
    data, path = (cell or {}).get("bytes"), (cell or {}).get("path") or ""
    if data is not None:
        return hashlib.sha256(data).hexdigest()
    return hash_of(Path(path)) if os.path.isfile(path) else None


def _fact(path: str | None) -> str:
    """What a row's file is known by."""
    size = _file_size(path)
    return str(path) if size is None else f"{size} {second(Path(path or ''))}"


def _file_size(path: str | Path | None) -> int | None:
    try:
        return Path(path).stat().st_size if path else None
    except OSError:  # a file that is gone, or inside an archive or on the hub
        return None
