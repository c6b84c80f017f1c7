"""The loss of vanilla B-cosification against a slow twin, written from the statement: BCE, off-targets 1/C, bias."""

from __future__ import annotations

import math

import pytest
import torch

from aloe.bcos.losses import LOSSES, bce_uniform_off_targets, logit_bias


def slow(logits, labels) -> float:
    total, images, classes = 0.0, len(logits), len(logits[0])
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        for c, z in enumerate(row):
            target = 1.0 if c == label else 1.0 / classes
            p = 1.0 / (1.0 + math.exp(-z))
            total += -(target * math.log(p) + (1 - target) * math.log(1 - p))
    return total / (images * classes)


@pytest.mark.parametrize(("images", "classes"), [(1, 2), (5, 3), (7, 10), (2, 100)])
def test_the_fast_loss_is_the_slow_one(images, classes):
    generator = torch.Generator().manual_seed(classes)
    logits = 3 * torch.randn(images, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (images,), generator=generator)
    assert bce_uniform_off_targets(logits, labels).item() == pytest.approx(slow(logits, labels), rel=1e-12)
    assert LOSSES["bce"] is bce_uniform_off_targets


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_a_model_that_sees_nothing_is_on_the_off_targets(classes):
    """At the logit bias alone every off-class has gradient 0 and only the image's own class pulls."""
    bias = logit_bias("bce", classes)
    assert bias == pytest.approx(-math.log(classes - 1))
    logits = torch.full((1, classes), bias, dtype=torch.float64, requires_grad=True)
    bce_uniform_off_targets(logits, torch.tensor([1])).backward()
    others = [c for c in range(classes) if c != 1]
    assert logits.grad[0, others].abs().max() < 1e-15
    assert logits.grad[0, 1] == pytest.approx((1 / classes - 1) / classes)


def test_cross_entropy_is_the_usual_one_without_a_bias():
    logits = torch.tensor([[1.0, 2.0, 0.5]])
    expected = -math.log(math.exp(2.0) / (math.exp(1.0) + math.exp(2.0) + math.exp(0.5)))
    assert LOSSES["cross-entropy"](logits, torch.tensor([1])).item() == pytest.approx(expected, rel=1e-6)
    assert logit_bias("cross-entropy", 3) == 0
