"""Bootstrap intervals against a loop that draws rows one sample at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from aloe.core.errors import UserError
from aloe.metrics import bootstrap
from aloe.metrics.bootstrap import bootstrap_interval

NAN = math.nan


def literal(values, samples, seed):
    """Ends for the mean of all values of the drawn rows, by definition; `values` is a list of lists."""
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(samples):
        drawn = [
            v for row in generator.integers(len(values), size=len(values)) for v in values[row] if not math.isnan(v)
        ]
        if drawn:
            means.append(sum(drawn) / len(drawn))
    means.sort()

    def quantile(share):
        place = share * (len(means) - 1)
        low = math.floor(place)
        high = min(low + 1, len(means) - 1)
        return means[low] + (place - low) * (means[high] - means[low])

    return quantile(0.025), quantile(0.975)


TABLE = torch.tensor([[0.1, 0.9, NAN], [0.4, NAN, NAN], [0.7, 0.3, NAN], [0.2, 0.8, NAN], [0.9, 0.1, NAN]])


def test_each_column_is_the_literal_bootstrap():
    low, high = bootstrap_interval(TABLE, samples=200, seed=3)
    for column in (0, 1):
        expected = literal(TABLE[:, [column]].double().tolist(), 200, 3)
        assert (float(low[column]), float(high[column])) == pytest.approx(expected, abs=1e-12)
    assert low[2].isnan()
    assert high[2].isnan()
    assert low.dtype == torch.float64


def test_pooled_values_weigh_the_same_however_many_a_row_has():
    ends = bootstrap_interval(TABLE, pool=True, samples=200, seed=3)
    assert [float(e) for e in ends] == pytest.approx(literal(TABLE.double().tolist(), 200, 3), abs=1e-12)
    assert all(e.shape == () for e in ends)


def test_parts_of_the_draws_and_further_axes(monkeypatch):
    values = torch.rand(6, 2, 3, generator=torch.Generator().manual_seed(0))
    whole = bootstrap_interval(values, samples=50)
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_A_TIME", 7)  # one sample at a time
    for one, other in zip(whole, bootstrap_interval(values, samples=50), strict=True):
        assert one.shape == (2, 3)
        assert torch.equal(one, other)


def test_the_interval_holds_the_mean_as_often_as_it_says():
    generator = torch.Generator().manual_seed(1)
    held = 0
    for seed in range(200):
        low, high = bootstrap_interval(torch.rand(50, generator=generator), samples=200, seed=seed)
        held += bool(low <= 0.5 <= high)
    assert 180 <= held <= 198


def test_seeds():
    values = torch.rand(20, generator=torch.Generator().manual_seed(2))
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


@pytest.mark.parametrize(("values", "samples"), [(torch.empty(0, 3), 10), (torch.ones(3), 0)])
def test_nothing_to_draw(values, samples):
    with pytest.raises(UserError, match="needs values and samples"):
        bootstrap_interval(values, samples=samples)
