"""Features by their numbers, from parts in memory or in the files of the cache: what is larger than memory may be drawn from.

Rows are read, not mapped: pages of a mapping that random draws touch count as the process's own until the system
wants them back. Numbers next to each other are read at once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aloe.core.errors import UserError


class StoredRows:
    """Float32 features (N, D) that are read where they are indexed by a tensor of numbers (n,), as (n, D).

    Args:
        parts: (n, D) tensors, or files of a feature cache, in order; none of them empty.

    Raises:
        UserError: here or where rows are read, a file that is not there any more or is damaged.
    """

    dtype = torch.float32

    def __init__(self, parts: Sequence[Tensor | Path]) -> None:
        self.parts = list(parts)
        self._parts = [part if isinstance(part, Tensor) else _File(part) for part in parts]
        self._starts = np.array([0, *accumulate(int(part.shape[0]) for part in self._parts)])
        self.shape = torch.Size([int(self._starts[-1]), int(self._parts[0].shape[1])])
        self.ndim = 2

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, numbers: Tensor) -> Tensor:
        indices = numbers.numpy()
        features = torch.empty(len(indices), self.shape[1])
        where = np.searchsorted(self._starts, indices, side="right") - 1
        for i in np.unique(where):
            places, part = np.flatnonzero(where == i), self._parts[i]
            inside = indices[places] - self._starts[i]
            rows = part[torch.from_numpy(inside)].float() if isinstance(part, Tensor) else part.rows(inside)
            features[torch.from_numpy(places)] = rows
        return features


class _File:
    """One part of a feature cache; opened where it is read, so that any number of them may be known."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                facts = json.loads(file.read(size))["features"]
            self.shape, self._start = tuple(facts["shape"]), 8 + size + facts["data_offsets"][0]
        except (OSError, ValueError, KeyError) as error:
            raise self._lost(error) from error
        if facts["dtype"] != "F32":
            raise self._lost(ValueError(f"its features are {facts['dtype']}"))

    def rows(self, numbers: np.ndarray) -> Tensor:
        """(n, D) of numbers within the part."""
        order = np.argsort(numbers, kind="stable")
        ordered = numbers[order]
        runs = np.split(ordered, np.flatnonzero(np.diff(ordered) != 1) + 1)
        width = 4 * self.shape[1]
        read = bytearray(len(numbers) * width)
        view, done = memoryview(read), 0
        try:
            with self.path.open("rb", buffering=0) as file:
                for run in runs:
                    end = done + len(run) * width
                    file.seek(self._start + int(run[0]) * width if len(run) else 0)
                    if file.readinto(view[done:end]) != end - done:
                        raise ValueError("it is cut off")
                    done = end
        except (OSError, ValueError) as error:
            raise self._lost(error) from error
        features = torch.empty(len(numbers), self.shape[1])
        features[torch.from_numpy(order)] = torch.frombuffer(read, dtype=torch.float32).view(-1, self.shape[1])
        return features

    def _lost(self, error: Exception) -> UserError:
        return UserError(f"The cached features {self.path} cannot be read ({error}); run the same command again.")
