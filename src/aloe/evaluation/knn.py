"""k-nearest-neighbour classification of frozen features (docs/method.md section 6), streamed and exact.

One pass over the training features, however many numbers of neighbours are asked for. Neighbours are ranked by squared
distances computed in float64 from the raw vectors, cosine distance as half the squared distance of the unit vectors. A
float32 matrix product only discards pairs which, its rounding error considered, cannot be among the nearest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from numbers import Integral
from typing import Any, Protocol

import torch
from torch import Tensor

from aloe.core.arrays import as_tensor
from aloe.core.errors import UserError

METRICS = ("cosine", "euclidean")
WEIGHTS = ("uniform", "distance")

# Relative rounding of a product's inputs under `torch.set_float32_matmul_precision`: float32, TensorFloat-32, bfloat16.
_ROUNDING = {"highest": 2.0**-24, "high": 2.0**-11, "medium": 2.0**-8}
_PIECE = 1024  # features, or pairs of them, that are in float64 at a time
_GROUP = 16  # training features whose nearest is compared first


class Chunked(Protocol):
    """Features read a part at a time: `chunks()` yields (n, D) float tensors in order."""

    def chunks(self) -> Iterator[Tensor]: ...


Features = Tensor | Chunked


def knn_predict(
    train: Features,
    labels: Tensor,
    test: Tensor,
    k: int | Sequence[int] = 20,
    *,
    metric: str = "cosine",
    weights: str = "uniform",
    train_rows: int = 4096,
    test_rows: int = 1024,
    device: str | torch.device = "cpu",
) -> Any:
    """The class with most votes among the k nearest training features; equal votes go to the lower class.

    Args:
        train: (N, D), or anything with `chunks()`, which are never all in memory.
        labels: (N,) int64, the classes of the training features.
        test: (M, D).
        k: one number of neighbours, or several.
        metric, train_rows, test_rows, device: as in `nearest_neighbours`.
        weights: of a vote: `uniform`, or `distance`, 1 / distance, where neighbours at distance zero share the whole vote.

    Returns:
        (M,) int64 on the CPU; a dictionary of them by k where several are given.

    Raises:
        UserError: as `nearest_neighbours`, or labels that are missing, too few, too many, or all of one class.
    """
    single = isinstance(k, Integral)
    ks = [int(k)] if single else [int(number) for number in k]  # type: ignore[call-overload, union-attr, arg-type]
    if weights not in WEIGHTS:
        raise UserError(f"There are no {weights!r} votes; votes: {', '.join(WEIGHTS)}.")
    if not ks:
        raise UserError("k-NN needs at least one number of neighbours k.")
    for number in ks:
        if not 1 <= number <= len(labels):
            raise UserError(f"k is {number} but there are {len(labels)} training images.")
    labels, test = as_tensor(labels, "labels").cpu(), as_tensor(test, "test features")
    train = train if hasattr(train, "chunks") else as_tensor(train, "training features")
    if int(labels.min()) < 0:
        raise UserError("k-NN needs a label for every training image: one folder per class.")
    if int(labels.min()) == int(labels.max()):
        raise UserError(f"All training images are of one class ({int(labels[0])}); k-NN needs at least two.")
    if isinstance(train, Tensor):
        _check_count(len(train), labels)
    distances, indices, count = _search(train, test, max(ks), metric, train_rows, test_rows, device)
    _check_count(count, labels)
    by_k = {number: _vote(distances[:, :number], labels[indices[:, :number]], weights) for number in ks}
    return by_k[ks[0]] if single else by_k


def nearest_neighbours(
    train: Features,
    test: Tensor,
    k: int,
    *,
    metric: str = "cosine",
    train_rows: int = 4096,
    test_rows: int = 1024,
    device: str | torch.device = "cpu",
) -> tuple[Tensor, Tensor]:
    """The k nearest training features of every test feature, nearest first; of equal distances the earlier one.

    Args:
        train: (N, D), or anything with `chunks()`, which are never all in memory.
        test: (M, D).
        metric: `cosine`, 1 - cos (a zero vector has cosine 0 with any), or `euclidean`.
        train_rows, test_rows: features compared at a time; they decide speed and memory, not the result.
        device: where the products are computed.

    Returns:
        Distances (M, k) float64 and training indices (M, k) int64, on the CPU.

    Raises:
        UserError: k below 1 or larger than the training set, no test features, widths that differ, or features that are
            not finite.
    """
    test = as_tensor(test, "test features")
    train = train if hasattr(train, "chunks") else as_tensor(train, "training features")
    distances, indices, count = _search(train, test, k, metric, train_rows, test_rows, device)
    if not 1 <= k <= count:
        raise UserError(f"k is {k} but there are {count} training images.")
    return distances, indices


@torch.no_grad()
def _search(
    train: Features, test: Tensor, k: int, metric: str, train_rows: int, test_rows: int, device: str | torch.device
) -> tuple[Tensor, Tensor, int]:
    """Distances (M, k), indices (M, k), and how many training features there were; -1 where they were fewer than k."""
    if metric not in METRICS:
        raise UserError(f"There is no metric {metric!r}; metrics: {', '.join(METRICS)}.")
    if not len(test):
        raise UserError("There are no test images to classify.")
    cosine = metric == "cosine"
    test = _checked(test, test.shape[1], device)
    centre = _Block(test[:test_rows], cosine).exact(slice(None)).mean(0)
    queries = [_Block(rows, cosine, centre) for rows in test.split(test_rows)]
    squares = [torch.full((len(block.rows), max(k, 1)), torch.inf, dtype=torch.float64) for block in queries]
    indices = [torch.full_like(s, -1, dtype=torch.int64) for s in squares]
    count = 0
    for part in _parts(train, train_rows):
        bank = _Block(_checked(part, test.shape[1], device), cosine, centre)
        for i, block in enumerate(queries):
            with torch.autocast(test.device.type, enabled=False):
                row, column = block.candidates(bank, squares[i])
            exact = block.pair_squares(bank, row, column)
            if len(row):
                _merge(squares[i], indices[i], row.cpu(), exact.cpu(), column.cpu() + count)
        count += len(part)
        del part, bank  # before the source makes the next
    square = torch.cat(squares)
    return square / 2 if cosine else square.sqrt_(), torch.cat(indices), count


class _Block:
    """Some features, (n, D), and their shadow: float32 points for the product that only discards.

    The points are the features, of unit length for the cosine, moved by `centre`: distances stay, rounding errors shrink.
    `square` (n, 1) is |p|^2; under the cosine a zero vector's has `extra` 1, so that its squared distance to others is 2.
    """

    def __init__(self, rows: Tensor, cosine: bool, centre: Tensor | None = None) -> None:
        self.rows = rows
        self.length = rows.new_ones(len(rows), 1, dtype=torch.float64)
        self.extra = torch.zeros_like(self.length)
        if cosine:
            self.length = torch.cat([torch.linalg.vector_norm(p.double(), dim=1, keepdim=True) for p in _pieces(rows)])
            self.extra = (self.length == 0).double()
            self.length.masked_fill_(self.length == 0, 1)
        if centre is not None:
            self.points = torch.empty_like(rows, dtype=torch.float32)
            self.square = torch.empty_like(self.length)
            for numbers in _pieces(torch.arange(len(rows), device=rows.device)):
                self.points[numbers] = self.exact(numbers).sub_(centre).float()
                self.square[numbers] = self.points[numbers].double().square_().sum(1, keepdim=True)
            self.norm = self.square.sqrt().float()
            self.square = (self.square + self.extra).float()

    def exact(self, numbers: Any) -> Tensor:
        """Some of the features in float64, of unit length for the cosine."""
        return self.rows[numbers].double().div_(self.length[numbers])

    def candidates(self, bank: _Block, running: Tensor) -> tuple[Tensor, Tensor]:
        """(row, column) of every pair that may be nearer than the last of its row's `running` squares (n, k), in order.

        The product is read once, for the least of every `_GROUP` columns; the columns of few groups are looked at singly.
        """
        product = torch.addmm(bank.square.T, self.points, bank.points.T, alpha=-2)  # squared distance - self.square
        slack = self._error(bank)
        limit = running[:, -1:].to(slack) - self.square + slack
        k, columns = running.shape[1], product.shape[1]
        group = _GROUP if columns % _GROUP == 0 and columns >= 2 * k * _GROUP else 1
        least = product.view(len(product), group, -1).amin(1) if group > 1 else product  # NaN where one of them is
        near = ~(least > limit)  # not <=: where float32 overflows, float64 has to decide
        if k < least.shape[1] and int(near.count_nonzero()) > 2 * k * len(near):
            limit = limit.minimum(least.topk(k, largest=False).values[:, -1:] + 2 * slack)  # of k groups k columns
            near = ~(least > limit)
        row, column = near.nonzero(as_tuple=True)
        if group == 1:
            return row, column
        column = (column[:, None] + least.shape[1] * torch.arange(group, device=column.device)).flatten()
        row = row.repeat_interleave(group)
        near = ~(product[row, column] > limit[row, 0])
        place = (row[near] * columns + column[near]).sort().values
        return place // columns, place % columns

    def pair_squares(self, bank: _Block, row: Tensor, column: Tensor) -> Tensor:
        """Squared distances in float64 of the pairs (row, column); a pair's value does not depend on the others."""
        squares = [self.length.new_empty(0)]
        mine, theirs = (block.all_exact() if len(row) > len(block.rows) else None for block in (self, bank))
        for some, other in zip(_pieces(row, 256), _pieces(column, 256), strict=True):
            point = self.exact(some) if mine is None else mine[some]
            square = point.sub_(bank.exact(other) if theirs is None else theirs[other]).square_().sum(1)
            squares.append(square + self.extra[some, 0] + bank.extra[other, 0])
        return torch.cat(squares)

    def all_exact(self) -> Tensor:
        """The features in float64, where most are asked for, and several times."""
        return torch.cat([self.exact(numbers) for numbers in _pieces(torch.arange(len(self.rows)))])

    def _error(self, bank: _Block) -> Tensor:
        """(n, 1): how far a float32 squared distance can be from the exact one, whatever the order of summation.

        With unit roundoff u: 2 D u |p| |q| for the product (Higham, Accuracy and Stability, section 3.1), a few
        u (|p| + |q|)^2 for rounding the points, their squares and the sums, and the rounding of the product's own inputs.
        """
        relative = (self.points.shape[1] / 2 + 16) * 2.0**-24 + 2 * _input_rounding()
        return relative * (self.norm + bank.norm.max()).square() + 1e-30  # the least where squares underflow


def _input_rounding() -> float:
    try:
        return _ROUNDING[torch.get_float32_matmul_precision()]
    except RuntimeError:  # set by torch.backends' newer switches, which that function refuses to read
        return _ROUNDING["medium"]


def _merge(squares: Tensor, indices: Tensor, row: Tensor, new: Tensor, index: Tensor) -> None:
    """Bring every row's running lists (n, k) up to its new pairs, which are in its order and come later in training order."""
    touched, row = row.unique_consecutive(return_inverse=True)
    count, k = len(touched), squares.shape[1]
    rows = torch.cat([torch.arange(count).repeat_interleave(k), row])
    square, index = torch.cat([squares[touched].flatten(), new]), torch.cat([indices[touched].flatten(), index])
    order = square.argsort(stable=True)
    order = order[rows[order].argsort(stable=True)]
    sizes = rows.bincount(minlength=count)
    keep = order[(sizes.cumsum(0) - sizes)[:, None] + torch.arange(k)]
    squares[touched], indices[touched] = square[keep], index[keep]


def _vote(distances: Tensor, classes: Tensor, weights: str, rows: int = 1024) -> Tensor:
    """(M,): the class with the largest sum of votes, from distances and classes (M, k), nearest first."""
    total = int(classes.max()) + 1
    winners = []
    for distance, label in zip(distances.split(rows), classes.split(rows), strict=True):
        vote = torch.ones_like(distance)
        if weights == "distance":
            vote = distance.reciprocal()
            infinite = vote.isinf()
            vote = torch.where(infinite.any(1, keepdim=True), infinite.double(), vote)
        winners.append(vote.new_zeros(len(vote), total).scatter_add_(1, label, vote).argmax(1))
    return torch.cat(winners)


def _pieces(rows: Tensor, size: int = _PIECE) -> tuple[Tensor, ...]:
    return rows.split(size)


def _parts(train: Features, rows: int) -> Iterator[Tensor]:
    for chunk in [train] if isinstance(train, Tensor) else train.chunks():
        yield from chunk.split(rows)
        del chunk


def _checked(features: Tensor, width: int, device: str | torch.device) -> Tensor:
    if features.ndim != 2 or features.shape[1] != width:
        raise UserError(f"Training and test features differ in width ({features.shape[-1]} and {width}).")
    if not features.isfinite().all():
        raise UserError("Some features are not finite; the model's weights are broken.")
    return features.to(device)


def _check_count(count: int, labels: Tensor) -> None:
    if count != len(labels):
        raise UserError(
            f"There are {count} training images but {len(labels)} labels; k-NN needs a label for every one."
        )
