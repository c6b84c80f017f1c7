"""The grids of the grid pointing game: one stored list for all models and methods that are compared.

Each grid joins n x n images of distinct classes which every compared model classifies correctly and with confidence, so no
model is measured on images that suit it better than another. The list is a JSON file that knows the data it belongs to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aloe.core.arrays import as_tensor
from aloe.core.errors import UserError
from aloe.core.files import read_json, write_json
from aloe.core.names import first_few
from aloe.metrics.maps import in_unit_interval

THRESHOLD = 0.95


@dataclass(frozen=True, eq=False)
class GridList:
    """G grids of n x n images in row-major order.

    Shapes: `indices` (G, n*n) int64, images of the source; `labels` (G, n*n) int64, their classes, distinct within a grid.
    `rule` is how they were chosen (threshold or share, seed, models: JSON values), `data` the source's name and `state` the
    hash of its content.

    Raises:
        UserError: shapes or values that are no such list.
    """

    n: int
    indices: Tensor
    labels: Tensor
    rule: dict[str, Any]
    data: str
    state: str

    def __post_init__(self) -> None:
        shape = (len(self.indices), _cells(self.n))
        for name, table in (("indices", self.indices), ("labels", self.labels)):
            if table.dtype != torch.int64 or table.shape != shape or not len(table) or int(table.min()) < 0:
                raise UserError(f"The {name} of {self.n} x {self.n} grids must be int64 (G, {shape[1]}), 0 or more.")
        ordered = self.labels.sort(1).values
        if bool((ordered[:, 1:] == ordered[:, :-1]).any()):
            raise UserError("A grid holds two images of one class; their cells could not be told apart.")

    def __len__(self) -> int:
        return len(self.indices)

    def first(self, count: int) -> GridList:
        """The first grids of the list, all where it has no more."""
        return replace(self, indices=self.indices[:count], labels=self.labels[:count])

    def save(self, path: Path) -> None:
        """Write the list as JSON, whole or not at all.

        Raises:
            UserError: the file cannot be written.
        """
        facts = {"n": self.n, "data": self.data, "state": self.state, "rule": self.rule}
        tables = {"indices": self.indices.tolist(), "labels": self.labels.tolist()}
        write_json(path, {**facts, **tables}, indent=None)

    @classmethod
    def load(cls, path: Path, *, state: str | None, earlier: str = "") -> GridList:
        """Read a list that was made for the data whose hash is `state`, or once was `earlier`; None: for any data.

        Raises:
            UserError: no such file, a damaged one, or one that belongs to other data.
        """
        try:
            record = read_json(path)
            facts = {name: record[name] for name in ("n", "rule", "data", "state")}
            facts["rule"] = dict(facts["rule"])
            grids = cls(indices=_table(record["indices"]), labels=_table(record["labels"]), **facts)
        except OSError as error:
            raise UserError(f"The grids {path} cannot be read: {error.strerror or error}.") from error
        except (ValueError, TypeError, KeyError) as error:  # UserError is a ValueError
            raise UserError(f"The grids {path} are damaged; delete the file to have grids chosen again.") from error
        if state is not None and grids.state not in (state, earlier or state):
            raise UserError(
                f"The grids {path} were chosen from other images ({grids.data}); name the same data, or another file."
            )
        return grids


def confident(
    probabilities: Sequence[Tensor], labels: Tensor, *, threshold: float = THRESHOLD, share: float | None = None
) -> Tensor:
    """The images that every model classifies correctly and with confidence.

    Correct is a label's probability above that of every other class. With `share` instead of a threshold, for models that
    are seldom confident or on different scales: of each class's images that all models classify correctly, this share has
    the largest probability, the smallest over models; at least one image, of equal ones the earlier.

    Args:
        probabilities: (N, C) of each model. labels: (N,) int64.
        threshold: least probability of the label. share: above 0 and up to 1.

    Returns:
        (N,) bool on the CPU.

    Raises:
        UserError: no models, shapes that differ, values that are no probabilities, labels without a column, or a
            threshold or share out of range.
    """
    if not 0 <= threshold <= 1:
        raise UserError(f"A threshold of confidence is a probability from 0 to 1, got {threshold}.")
    if share is not None and not 0 < share <= 1:
        raise UserError(f"A share of each class's images is above 0 and at most 1, got {share}.")
    if not probabilities:
        raise UserError("Confident images need the probabilities of at least one model.")
    labels = as_tensor(labels, "labels").cpu()
    probabilities = [as_tensor(table, "probabilities") for table in probabilities]
    least = torch.stack([_of_label(table.detach().cpu().double(), labels) for table in probabilities]).amin(0)
    if share is None:
        return least >= threshold
    eligible = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        images = ((labels == label) & (least >= 0)).nonzero()[:, 0]
        best = images[least[images].argsort(descending=True, stable=True)]
        eligible[best[: math.ceil(share * len(best) - 1e-9)]] = True
    return eligible


def choose_grids(
    eligible: Tensor, labels: Tensor, *, n: int = 2, count: int, seed: int = 0, classes: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Grids of n x n eligible images of distinct classes; the same arguments give the same grids.

    Classes are used evenly, at random among the least used, and so are a class's images: none a second time before all
    were used once. Where there are fewer eligible images than cells, images return in several grids.

    Args:
        eligible: (N,) bool. labels: (N,) int64.
        count: how many grids, G. seed: of the draws.
        classes: names in the order of the labels.

    Returns:
        Indices and labels, both (G, n*n) int64.

    Raises:
        UserError: fewer classes with an eligible image than cells, n below 2, count below 1, or labels that do not fit
            the images or the classes.
    """
    cells = _cells(n)
    if count < 1:
        raise UserError(f"At least one grid must be asked for, got {count}.")
    if eligible.dtype != torch.bool or eligible.ndim != 1 or labels.shape != eligible.shape:
        raise UserError(
            f"Grids need one flag (bool) and one label per image, got {eligible.dtype} {tuple(eligible.shape)} and "
            f"{tuple(labels.shape)}."
        )
    of_class, flags = labels.cpu().numpy(), eligible.cpu().numpy()
    if len(of_class) and not 0 <= of_class.min() <= of_class.max() < len(classes):
        raise UserError(f"There are labels from {of_class.min()} to {of_class.max()}, but {len(classes)} classes.")
    images = {label: np.flatnonzero(flags & (of_class == label)) for label in range(len(classes))}
    candidates = np.array([label for label, members in images.items() if len(members)], dtype=np.int64)
    if len(candidates) < cells:
        raise UserError(_too_few(n, candidates, classes))
    generator = np.random.default_rng(seed)
    walks = {int(label): _walk(images[int(label)], generator) for label in candidates}
    used = np.zeros(len(candidates), dtype=np.int64)
    indices, grid_classes = [], []
    for _ in range(count):
        order = generator.permutation(len(candidates))
        places = generator.permutation(order[np.argsort(used[order], kind="stable")[:cells]])
        used[places] += 1
        grid_classes.append(candidates[places].tolist())
        indices.append([next(walks[label]) for label in grid_classes[-1]])
    return torch.tensor(indices), torch.tensor(grid_classes)


def compose(images: Tensor) -> Tensor:
    """Images side by side, in row-major cells: (G, n*n, C, S, S) -> (G, C, n*S, n*S).

    Raises:
        UserError: another shape.
    """
    n = math.isqrt(images.shape[1]) if images.ndim == 5 else 0
    if n < 1 or n * n != images.shape[1] or images.shape[3] != images.shape[4]:
        raise UserError(f"A grid is composed of (G, n*n, C, S, S) square images, got {tuple(images.shape)}.")
    count, _, channels, side, _ = images.shape
    cells = images.reshape(count, n, n, channels, side, side)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(count, channels, n * side, n * side)


def _cells(n: int) -> int:
    if type(n) is not int or n < 2:
        raise UserError(f"A grid has at least 2 x 2 cells, got n = {n}.")
    return n * n


def _of_label(table: Tensor, labels: Tensor) -> Tensor:
    """(N, C) -> (N,) the label's probability, or -1 where another class has as much."""
    if table.ndim != 2 or labels.shape != table.shape[:1]:
        raise UserError(
            f"Probabilities must be (N, C) for labels (N,), got {tuple(table.shape)}, {tuple(labels.shape)}."
        )
    if not len(labels):
        return torch.empty(0, dtype=table.dtype)
    if not 0 <= int(labels.min()) <= int(labels.max()) < table.shape[1]:
        raise UserError(f"There are labels from {labels.min()} to {labels.max()}, but {table.shape[1]} probabilities.")
    if not in_unit_interval(table):
        raise UserError(
            "Confidence is told by probabilities from 0 to 1; apply the softmax or sigmoid to logits first."
        )
    own = table.gather(1, labels[:, None])
    others = table.scatter(1, labels[:, None], -1.0).amax(1)
    return torch.where(own[:, 0] > others, own[:, 0], -1.0)


def _walk(images: np.ndarray, generator: np.random.Generator) -> Iterator[int]:
    """All images in random order, again and again."""
    while True:
        yield from generator.permutation(images).tolist()


def _too_few(n: int, candidates: np.ndarray, classes: Sequence[str]) -> str:
    missing = [name for label, name in enumerate(classes) if label not in candidates]
    lacking = f" (none for {first_few(missing, 8, ' and {} more')})" if missing else ""
    return (
        f"{n} x {n} grids need confident images of {n * n} classes, but there are some for {len(candidates)}{lacking};"
        " lower the threshold (--confidence 0.5), take a share of each class instead (--share 0.2), or give more images."
    )


def _table(rows: Any) -> Tensor:
    """Integers (G, K) from JSON; ValueError for anything else."""
    array = np.asarray(rows)
    if array.dtype.kind != "i":
        raise ValueError("not a table of integers")
    return torch.from_numpy(array.astype(np.int64))
