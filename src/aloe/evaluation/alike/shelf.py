"""A set of images with their features, which is searched: a folder, an archive, a data set or shards."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aloe.core import processes
from aloe.core.errors import UserError
from aloe.data.sources import FolderStore, ImageSource, left_out
from aloe.data.subset import open_whole
from aloe.data.transforms import ResizeCenterCrop, to_tensor
from aloe.evaluation.features import FeatureSet, extract
from aloe.evaluation.knn import nearest_neighbours


@dataclass(eq=False)
class Shelf:
    """Images and what a student makes of them. `features` are pooled, in the order of `features.index`."""

    source: ImageSource
    features: FeatureSet
    side: int
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.features)

    @cached_property
    def vectors(self) -> Tensor:
        """All features, (N, D)."""
        return self.features.tensor()

    @property
    def classes(self) -> list[str] | None:
        return self.source.classes

    def nearest(self, queries: Tensor, k: int) -> Tensor:
        """Numbers, in `features`, of the k nearest images by cosine of every query (M, D), nearest first: (M, k).

        Raises:
            UserError: there are fewer than k.
        """
        if not 1 <= k <= len(self):
            raise UserError(f"{k} neighbours were asked for, but there are {len(self)} images to choose from.")
        return nearest_neighbours(self.features, queries.float().cpu(), k)[1]

    def name(self, number: int) -> str:
        return self.source.name(int(self.features.index[number]))

    def pixels(self, numbers: Tensor | list[int]) -> Tensor:
        """(n, 3, side, side) in [0, 1], as the student reads them."""
        crop = ResizeCenterCrop(self.side)
        loaded = [self.source.load(int(self.features.index[int(i)])) for i in numbers]
        return torch.stack([to_tensor(crop(image)) for image in loaded])

    def size(self, number: int) -> tuple[int, int]:
        """(W, H) of an image as it lies there."""
        return self.source.load(int(self.features.index[number])).size

    def file(self, number: int) -> Path | None:
        """The file of an image, where it is one."""
        return file_of(self.source, int(self.features.index[number]))


def shelve(
    student: Any,
    images: Any,
    *,
    resolution: int | None = None,
    batch_size: int = 32,
    device: str = "cpu",
    cache: Path | None = None,
    progress: str | None = None,
) -> Shelf:
    """Features of everything that `images` names (`aloe.data.sources`; of shards, whose images stay in memory, encoded).

    Raises:
        UserError: nothing there, or nothing readable.
    """
    source = processes.after_first(lambda: open_whole(images))
    features = extract(
        student, source, resolution=resolution, batch_size=batch_size, device=device, cache=cache, progress=progress
    )
    lost = [*left_out(source), *(f"unreadable: {name}" for name in features.unreadable)]
    return Shelf(source, features, resolution or student.config.resolution, tuple(lost))


def file_of(source: Any, index: int) -> Path | None:
    """The file behind an image of a folder, its links followed; None for what lies in an archive or is made."""
    while hasattr(source, "indices"):  # a part of another source
        source, index = source.source, int(source.indices[index])
    store = getattr(source, "_store", None)
    return (store.root / source._files[index]).resolve() if isinstance(store, FolderStore) else None
