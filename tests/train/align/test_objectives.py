"""Every objective against a slow, literal twin of docs/method.md section 5, and where its gradients go."""

from __future__ import annotations

import math

import pytest
import torch

from aloe.train.align.objectives import SiglipLoss, cosine, infonce, mse, smooth_l1

OBJECTIVES = {"cosine": cosine, "mse": mse, "smooth_l1": smooth_l1, "infonce": infonce, "siglip": SiglipLoss()}


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def cos(a, b):
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def slow_cosine(s, t):
    return sum(1 - cos(a, b) for a, b in zip(s, t, strict=True)) / len(s)


def slow_mse(s, t):
    squares = [(x - y) ** 2 for a, b in zip(s, t, strict=True) for x, y in zip(a, b, strict=True)]
    return sum(squares) / len(squares)


def slow_smooth_l1(s, t):
    gaps = [abs(x - y) for a, b in zip(s, t, strict=True) for x, y in zip(a, b, strict=True)]
    assert min(gaps) < 1 < max(gaps)
    return sum(d * d / 2 if d < 1 else d - 0.5 for d in gaps) / len(gaps)


def slow_infonce(s, t):
    def one_way(a, b):
        total = 0.0
        for i, x in enumerate(a):
            scores = [cos(x, y) / 0.1 for y in b]
            total -= scores[i] - math.log(sum(map(math.exp, scores)))
        return total / len(a)

    return (one_way(s, t) + one_way(t, s)) / 2


def slow_siglip(s, t):
    total = 0.0
    for i, a in enumerate(s):
        for j, b in enumerate(t):
            score = 10.0 * cos(a, b) - 10.0
            total += math.log(1 + math.exp(-score if i == j else score))
    return total / len(s)


SLOW = {
    "cosine": slow_cosine,
    "mse": slow_mse,
    "smooth_l1": slow_smooth_l1,
    "infonce": slow_infonce,
    "siglip": slow_siglip,
}


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 7, generator=generator), torch.randn(5, 7, generator=generator)


@pytest.mark.parametrize("name", SLOW)
def test_equals_the_literal_formula(name, pair):
    expected = SLOW[name](*(x.tolist() for x in pair))
    assert OBJECTIVES[name](*pair).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["cosine", "mse"])
def test_tokens_are_rows_and_identical_features_cost_nothing(name, pair):
    student, teacher = (x.repeat(3, 2, 1) for x in pair)
    rows = student.flatten(0, 1).tolist(), teacher.flatten(0, 1).tolist()
    assert OBJECTIVES[name](student, teacher).item() == pytest.approx(SLOW[name](*rows), rel=1e-5)
    assert OBJECTIVES[name](student, student).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["infonce", "siglip"])
def test_contrastive_losses_prefer_the_matching_pairs(name, pair):
    student, _ = pair
    assert OBJECTIVES[name](student, student) < OBJECTIVES[name](student, student.roll(1, 0))


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_reach_the_student(name, dtype, pair):
    student, teacher = pair[0].to(dtype).requires_grad_(), pair[1].to(dtype)
    loss = OBJECTIVES[name](student, teacher)
    assert loss.dtype == torch.float32
    loss.backward()
    assert student.grad.isfinite().all()
    assert student.grad.abs().sum() > 0


def test_siglip_learns_its_scale_and_bias(pair):
    loss = SiglipLoss()
    assert loss.log_scale.exp().item() == pytest.approx(10)
    assert loss.bias.item() == -10
    loss(*pair).backward()
    assert loss.log_scale.grad.abs() > 0
    assert loss.bias.grad.abs() > 0
