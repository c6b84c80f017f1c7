"""Muon for the matrices of the blocks, AdamW for everything else, as one optimiser.

Muon gives every direction of a matrix the same weight: the update is the nearest orthogonal matrix to the averaged gradient.
Its size is that of AdamW's updates, so that one learning rate serves both. Source: Jordan et al., "Muon" (2024); the size
from Liu et al., "Muon is scalable for LLM training" (arXiv 2502.16982, section 2.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from aloe.train.settings import TrainSettings

MATRICES = "matrices"  # the mark of a group that Muon updates
MOMENTUM = 0.95
STEPS, COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)
SIZE = 0.2  # root mean square of an update at a rate of 1, about that of AdamW's


class Muon(torch.optim.AdamW):
    """AdamW, but for groups with `matrices: True`: their parameters (rows, columns) are Muon's, with Nesterov momentum.

    The products are made in the parameters' own precision, as `torch.set_float32_matmul_precision` says (torch's own Muon
    makes them in bfloat16, which is slow on most processors). Split parameters are gathered for their update.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float) -> None:
        super().__init__([{MATRICES: False, **group} for group in groups], lr=lr, weight_decay=0.0)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        matrices = [(group, p) for group in self.param_groups if group[MATRICES] for p in group["params"]]
        gradients = [p.grad for _, p in matrices]
        for group, p in matrices:
            if p.grad is not None:
                self._turn(p, p.grad, group["lr"], group["weight_decay"])
            p.grad = None  # AdamW passes over what has no gradient
        super().step()
        for (_, p), gradient in zip(matrices, gradients, strict=True):
            p.grad = gradient

    def _turn(self, p: Tensor, gradient: Tensor, rate: float, decay: float) -> None:
        state = self.state[p]
        if not state:
            state["step"], state["momentum"] = torch.zeros(()), torch.zeros_like(p)  # AdamW reads a step of every state
        state["step"] += 1
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        update = _whole(orthogonal, gradient.lerp(momentum, MOMENTUM))
        p.mul_(1 - rate * decay).add_(update, alpha=-rate * SIZE * math.sqrt(max(p.shape)))


def orthogonal(x: Tensor) -> Tensor:
    """U V' of the singular value decomposition U S V' of a matrix (R, C), about: singular values come to lie around 1.

    Five steps of a quintic Newton-Schulz iteration, X <- a X + b (X X') X + c (X X')^2 X, with Jordan's coefficients.
    """
    a, b, c = COEFFICIENTS
    tall = x.shape[0] > x.shape[1]
    matrix = x.T if tall else x
    matrix = matrix / (matrix.norm() + 1e-7)
    for _ in range(STEPS):
        square = matrix @ matrix.T
        matrix = a * matrix + (b * square + c * square @ square) @ matrix
    return matrix.T if tall else matrix


def muon_of(model: Any, settings: TrainSettings, decaying: Iterable[str]) -> Muon:
    """Muon for the matrices of a student's blocks, AdamW for whatever else of the model is not frozen.

    `model` has the student under `student`; `decaying` are the names of its parameters that take `weight_decay`.
    """
    blocks, names = {id(p) for p in model.student.base_model.layers.parameters()}, set(decaying)
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            groups.setdefault((p.ndim == 2 and id(p) in blocks, name in names), []).append(p)
    return Muon(
        (
            {"params": parameters, MATRICES: matrices, "weight_decay": settings.weight_decay if decays else 0.0}
            for (matrices, decays), parameters in groups.items()
        ),
        settings.learning_rate,
    )


def _whole(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A function of a whole matrix, also of one that is split over the processes: every one of them computes all of it."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(x, DTensor):
        return function(x)
    return distribute_tensor(function(x.full_tensor()), x.device_mesh, x.placements, src_data_rank=None)
