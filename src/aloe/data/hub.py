"""Hugging Face datasets as an image source: read lazily, decoded like any other file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from aloe.data.decode import DraftSize, decode_image
from aloe.data.sources import digest
from aloe.errors import UserError


class HubImages:
    """A Hugging Face dataset's image column: hub, parquet file, or folder of `save_to_disk`."""

    def __init__(self, dataset: Any, column: str) -> None:
        import datasets

        self.classes: list[str] | None = None
        self.labels: np.ndarray | None = None
        for name, feature in dataset.features.items():
            if isinstance(feature, datasets.ClassLabel):
                self.classes = list(feature.names)
                self.labels = np.asarray(dataset[name], dtype=np.int64)
                break
        self._column = column
        only = dataset.select_columns([column])
        self._dataset = only.cast_column(column, datasets.Image(decode=False))

    @classmethod
    def parse(cls, spec: str) -> HubImages:
        """`hf:NAME_OR_PATH[@split][#image_column]`."""
        match = re.fullmatch(r"hf:(.+?)(?:@([^@#/]+))?(?:#([^#]+))?", spec)
        if match is None:
            raise UserError(f"{spec!r} is not of the form hf:NAME_OR_PATH[@split][#image_column].")
        name, split, column = match.groups()
        dataset = _hub_dataset(name, split)
        import datasets

        images = [k for k, v in dataset.features.items() if isinstance(v, datasets.Image)]
        if not images or (column and column not in images):
            listed = ", ".join(dataset.features)
            raise UserError(f"{spec} has no image column {column or ''}; its columns are {listed}.")
        if not len(dataset):
            raise UserError(f"No images found in {spec}: the dataset has no rows.")
        return cls(dataset, column or images[0])

    def __len__(self) -> int:
        return len(self._dataset)

    def name(self, index: int) -> str:
        return f"row {index}"

    def load(self, index: int, draft_size: DraftSize | None = None) -> Image.Image:
        cell = self._dataset[index][self._column] or {}
        data = cell.get("bytes") or (Path(cell["path"]) if cell.get("path") else b"")
        return decode_image(data, name=self.name(index), draft_size=draft_size)

    def fingerprint(self) -> str:
        import pyarrow.compute as pc

        def lines() -> Iterator[str]:
            for table in self._dataset.with_format("arrow").iter(batch_size=1000):
                data, paths = (pc.struct_field(table[self._column], field) for field in ("bytes", "path"))
                # Lengths come from Arrow's offsets: the images themselves are not read.
                for size, path in zip(pc.binary_length(data).to_pylist(), paths.to_pylist(), strict=True):
                    yield f"{path}\0{_file_size(path)}" if size is None else str(size)

        return digest(lines())


def _file_size(path: str | None) -> int | None:
    try:
        return Path(path).stat().st_size if path else None
    except OSError:  # a file that is gone, or inside an archive or on the hub
        return None


def _hub_dataset(name: str, split: str | None) -> Any:
    """One split of a dataset; `train` when none is named, or the only one there is."""
    try:
        import datasets
    except ImportError as error:
        raise UserError("hf:... needs the package datasets; install aloe-vit[data].") from error
    path = Path(name).expanduser()
    try:
        if path.is_file():
            loaded = datasets.load_dataset("parquet", data_files=str(path))
        elif (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(str(path))
        else:
            loaded = datasets.load_dataset(str(path) if path.is_dir() else name)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"The dataset {name} could not be opened ({reason}); check the name, log in with"
            " `hf auth login` if it is gated, or give a local folder."
        ) from error
    if isinstance(loaded, datasets.Dataset):
        return loaded
    if split is None:
        split = "train" if "train" in loaded else next(iter(loaded))
        if split not in loaded or (split != "train" and len(loaded) > 1):
            raise UserError(f"hf:{name} has the splits {', '.join(loaded)}; add @SPLIT.")
    if split not in loaded:
        raise UserError(f"hf:{name} has no split {split!r}; it has {', '.join(loaded)}.")
    return loaded[split]
