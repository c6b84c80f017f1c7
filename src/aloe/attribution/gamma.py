"""The generalised gamma rule of LRP (Montavon et al. 2019, Andeol et al. 2021) on linear layers and convolutions.

A layer y = w x + b passes the relevance R = y g of an output on in proportion to contributions in which weights of the
output's own sign count (1 + gamma) times. With w+ = w + gamma max(w, 0) and w- = w + gamma min(w, 0):

    y > 0:  z = x+ w+  +  x- w-  +  b+        y < 0:  z = x+ w-  +  x- w+  +  b-

where x+, x- are the positive and negative parts of the input. The bias keeps its own share. gamma = 0 is LRP-0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input

_TINY = 1e-10


def gamma_linear(x: Tensor, weight: Tensor, bias: Tensor | None, gamma: float) -> Tensor:
    """`F.linear` whose backward pass follows the gamma rule; the parameters receive no gradient."""
    return _Gamma.apply(x, weight, bias, gamma, F.linear, lambda s, w: s @ w)


def gamma_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, gamma: float, stride: Any = 1, padding: Any = 0, *rest: Any
) -> Tensor:
    """`F.conv2d` whose backward pass follows the gamma rule; the parameters receive no gradient."""
    padding = 0 if padding == "valid" else padding

    def forward(a: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return F.conv2d(a, w, b, stride, padding, *rest)

    def adjoint(s: Tensor, w: Tensor) -> Tensor:
        return conv2d_input(x.shape, w, s, stride, padding, *rest)

    return _Gamma.apply(x, weight, bias, gamma, forward, adjoint)


class _Gamma(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, gamma: float, forward: Callable, adjoint: Callable
    ) -> Tensor:
        y = forward(x, weight, bias)
        ctx.save_for_backward(x, weight, bias, y)
        ctx.rest = gamma, forward, adjoint
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, y = ctx.saved_tensors
        dtype = weight.dtype
        with torch.autocast(x.device.type, enabled=False):  # what autocast made narrow is shared out in full precision
            gradient = _gradient(x.to(dtype), weight, bias, y.to(dtype), grad.to(dtype), *ctx.rest)
        return gradient.to(x.dtype), *(None,) * 5


def _gradient(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    y: Tensor,
    grad: Tensor,
    gamma: float,
    forward: Callable,
    adjoint: Callable,
) -> Tensor:
    """What the relevance y * grad of the outputs leaves for the inputs, divided by the inputs."""
    up, down = weight + gamma * weight.clamp_min(0), weight + gamma * weight.clamp_max(0)
    above = None if bias is None else bias + gamma * bias.clamp_min(0)
    below = None if bias is None else bias + gamma * bias.clamp_max(0)
    positive, negative = x.clamp_min(0), x.clamp_max(0)
    relevance = y * grad
    rising = _share(relevance, forward(positive, up, above) + forward(negative, down, None), y > 0)
    falling = _share(relevance, forward(positive, down, below) + forward(negative, up, None), y < 0)
    of_positive = adjoint(rising, up) + adjoint(falling, down)
    of_negative = adjoint(rising, down) + adjoint(falling, up)
    return torch.where(x > 0, of_positive, of_negative) * (x != 0)


def _share(relevance: Tensor, total: Tensor, where: Tensor) -> Tensor:
    """relevance / total, where the output has the sign in question and there is anything to share."""
    safe = where & (total.abs() > _TINY)
    return torch.where(safe, relevance / torch.where(safe, total, torch.ones_like(total)), torch.zeros_like(total))
