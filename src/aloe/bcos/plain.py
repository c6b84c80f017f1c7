"""The frozen units in PyTorch's own operations, written from their equations: gate times product, the gate a constant.

`units` and `functional` have them faster, with backward passes by hand that stop there. These differentiate any number of
times and batch over gradients, which W(x) as an operator needs; `explanation_mode(plain=True)` chooses them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from aloe.bcos.units import NORM_FLOOR, norm, wide


def linear(x: Tensor, weight: Tensor, b: float, weight_norm: bool) -> Tensor:
    """`functional.bcos_linear` with its gate a constant: x (..., D_in), weight (D_out, D_in) -> (..., D_out)."""
    product = F.linear(x, weight)
    length = norm(x.detach().flatten(0, -2)).view(*x.shape[:-1], 1) if x.ndim > 1 else norm(x.detach()[None])[0]
    return product * _gate(product, length, norm(weight.detach())[:, 0] if weight_norm else None, b)


def conv2d(
    x: Tensor, weight: Tensor, b: float, stride: int, padding: int, weight_norm: bool, norm_eps: float
) -> Tensor:
    """`functional.bcos_conv2d` with its gate a constant: x (B, C_in, H, W) -> (B, C_out, H', W')."""
    product = F.conv2d(x, weight, stride=stride, padding=padding)
    power = x.detach().to(wide(x.dtype)).square().sum(1, keepdim=True)
    box = power.new_ones(1, 1, *weight.shape[2:])
    total = F.conv2d(power, box, stride=stride, padding=padding).clamp_min(0)
    length = (total + norm_eps).sqrt().clamp_min(NORM_FLOOR)
    return product * _gate(product, length, norm(weight.detach().flatten(1))[:, :, None] if weight_norm else None, b)


def layer_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """LayerNorm without bias over the last axis, its standard deviation a constant."""
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.detach().to(wide(x.dtype)).square().mean(-1, keepdim=True)
    return centred * (variance + eps).rsqrt().to(x.dtype) * weight


@torch.no_grad()
def _gate(product: Tensor, x_norm: Tensor, w_norm: Tensor | None, b: float) -> Tensor:
    cosine = product.abs() / x_norm
    return (cosine if w_norm is None else cosine / w_norm).pow(b - 1).to(product.dtype)
