"""The range test of rates: what it proposes, that it is repeatable, and that nothing is kept of it."""

from __future__ import annotations

import math

import pytest
import torch

from aloe.core.errors import UserError
from aloe.train.align.rates import HIGH, LOW, STEPS, RateTest, find_rate
from conftest import build_teacher
from pictures import write_pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("images"), 12)


def test_a_third_of_the_first_rate_that_is_nearly_best_is_proposed():
    test = RateTest([1e-4, 3e-4, 9e-4, 2.7e-3, 8.1e-3], [4.0, 2.0, 1.005, 1.0, 3.0])
    assert test.proposed == pytest.approx(3e-4)
    assert RateTest([1e-4, 3e-4], [2.0, 1.0]).proposed == pytest.approx(1e-4)
    assert test.thinned(2) == [(1e-4, 4.0), (9e-4, 1.005), (8.1e-3, 3.0)]
    assert test.summary()["learning_rate"] == test.proposed


@pytest.mark.parametrize(
    "change", [{}, {"objective": "standardized"}, {"objective": "siglip"}, {"optimizer": "muon"}], ids=str
)
def test_it_is_repeatable_and_keeps_nothing(folder, change):
    teacher = build_teacher("vit")
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    first, second = (find_rate(teacher, folder, batch_size=4, holdout=0, **change) for _ in range(2))
    assert first == second
    assert all(map(math.isfinite, first.losses))
    assert 2 < len(first.rates) <= STEPS
    ratio = (HIGH / LOW) ** (1 / (STEPS - 1))
    assert first.rates == pytest.approx([LOW * ratio**i for i in range(len(first.rates))])
    assert min(first.losses) < first.losses[0]
    assert LOW / 3 <= first.proposed <= HIGH / 3
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_mistakes_are_those_of_align(folder):
    with pytest.raises(UserError, match="32 is"):
        find_rate(build_teacher("vit"), folder, resolution=33)
    with pytest.raises(UserError, match="did you mean objective"):
        find_rate(build_teacher("vit"), folder, objectives="mse")
