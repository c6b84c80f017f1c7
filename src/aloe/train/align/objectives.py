"""Alignment objectives (docs/method.md section 5; paper, Table B8): cosine, MSE, SigLIP, InfoNCE, and smooth L1.

All but SigLIP and InfoNCE compare token by token, at every alignment point and at the pooled output. Those two are
image-level: they contrast the pooled outputs of a batch, over all processes, and use no other point.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TOKENWISE = ("cosine", "mse", "standardized")
CONTRASTIVE = ("siglip", "infonce")
INFONCE_TEMPERATURE = 0.1


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of 1 - cos over all rows; (..., D) each -> scalar."""
    return 1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1).mean()


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error over all entries; (..., D) each -> scalar."""
    return F.mse_loss(student.float(), teacher.float())


def smooth_l1(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all entries of d^2 / 2 where |d| < 1, else |d| - 1/2; (..., D) each -> scalar.

    With features that the teacher's statistics have standardised this is the objective `standardized`."""
    return F.smooth_l1_loss(student.float(), teacher.float())


def infonce(student: Tensor, teacher: Tensor) -> Tensor:
    """Symmetric cross-entropy of matching images within the batch, temperature 0.1; (B, D) each -> scalar."""
    scores = _unit(student) @ _unit(teacher).T / INFONCE_TEMPERATURE
    match = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, match) + F.cross_entropy(scores.T, match)) / 2


class SiglipLoss(nn.Module):
    """Pairwise sigmoid loss with a learnable scale (from ln 10) and bias (from -10); (B, D) each -> scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor([math.log(10.0)]))  # with an axis, which FSDP needs
        self.bias = nn.Parameter(torch.tensor([-10.0]))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        scores = _unit(student) @ _unit(teacher).T * self.log_scale.exp() + self.bias
        signs = 2 * torch.eye(len(scores), device=scores.device) - 1
        return -F.logsigmoid(signs * scores).sum() / len(scores)


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x.float(), dim=-1)
