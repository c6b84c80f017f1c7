"""Losses of classifiers: binary cross-entropy with uniform off-targets (docs/method.md section 4), and cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def bce_uniform_off_targets(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy over images and classes; the target is 1 for an image's class, 1/C for the others.

    Shapes: logits (B, C), labels (B,) int64 -> scalar. The logit bias of `logit_bias` puts a model that sees nothing
    exactly on the off-targets: sigmoid(-log(C - 1)) = 1/C.
    """
    off_target = logits.new_full(logits.shape, 1 / logits.shape[1])
    targets = off_target.scatter(1, labels[:, None], 1.0)
    return F.binary_cross_entropy_with_logits(logits, targets)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bce": bce_uniform_off_targets,
    "cross-entropy": F.cross_entropy,
}


def logit_bias(loss: str, classes: int) -> float:
    """The constant added to every logit: -log(C - 1) for `bce`; cross-entropy knows no constant."""
    return -math.log(classes - 1) if loss == "bce" else 0.0
