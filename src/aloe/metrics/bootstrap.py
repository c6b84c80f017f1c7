"""Percentile bootstrap: how far a mean over grids or images would move if others of their kind had been drawn."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from aloe.core.arrays import as_tensor
from aloe.core.errors import UserError

LEVEL = 0.95
SAMPLES = 1000
_DRAWS_AT_A_TIME = 1 << 20


def bootstrap_interval(
    values: Tensor, *, pool: bool = False, samples: int = SAMPLES, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The 95 % percentile interval of the mean over the first axis, NaNs left out of every mean.

    Args:
        values: (G, ...), one row for each thing that was drawn independently.
        pool: average the other axes too, each value with equal weight: the rows are drawn, as a grid with all its maps.
        samples: bootstrap samples of G rows each. seed: of their draws.

    Returns:
        Lower and upper ends (...) float64 on the CPU, () with `pool`; NaN where fewer than two rows have a value: a
        single one says nothing of how much others would differ.

    Raises:
        UserError: no rows, or no samples.
    """
    values = as_tensor(values, "values")
    if samples < 1 or not len(values):
        raise UserError(f"A bootstrap needs values and samples, got {len(values)} values and {samples} samples.")
    rows = values.detach().cpu().double().reshape(len(values), -1).numpy()
    known = ~np.isnan(rows)
    totals, weights = np.where(known, rows, 0.0), known.astype(np.float64)
    if pool:
        totals, weights = totals.sum(1, keepdims=True), weights.sum(1, keepdims=True)
    means = _resampled_means(totals, weights, samples, np.random.default_rng(seed))
    ends = np.full((2, means.shape[1]), np.nan)
    filled = ~np.isnan(means).all(0)
    filled &= (weights > 0).sum(0) > 1
    ends[:, filled] = np.nanquantile(means[:, filled], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    shape = () if pool else values.shape[1:]
    low, high = torch.from_numpy(ends).reshape(2, *shape)
    return low, high


def _resampled_means(
    totals: np.ndarray, weights: np.ndarray, samples: int, generator: np.random.Generator
) -> np.ndarray:
    """(G, K) sums and numbers of values -> (samples, K) means; how often each row was drawn is one factor of a product."""
    count, parts = len(totals), []
    at_a_time = max(1, _DRAWS_AT_A_TIME // count)
    for start in range(0, samples, at_a_time):
        size = min(at_a_time, samples - start)
        drawn = generator.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count).astype(np.float64)
        sums, numbers = times @ totals, times @ weights
        parts.append(np.divide(sums, numbers, out=np.full_like(sums, np.nan), where=numbers > 0))
    return np.concatenate(parts)
