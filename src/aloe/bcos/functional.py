"""B-cos units as functions, with the norms and gates around them.

For an input x and a weight row w (no bias) a B-cos unit computes (docs/method.md section 2)

    y = |cos(x, w)|^(B-1) (w . x),        cos(x, w) = (w . x) / (||x|| ||w||).

The product w . x is computed once; the gate g = |cos|^(B-1) is an element-wise function of it and two norms (`units`). In
explanation mode the gate is a constant, so that y is linear in x with W(x) = diag(g) W.
`weight_norm=False` leaves ||w|| out of the gate, |w . x / ||x|| |^(B-1), and its term out of dW: the older form of the unit,
which one family of the published checkpoints has.
Norms are taken in at least float32. They are never zero by a floor of 1e-12: a zero input or weight row gives zero.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from aloe.bcos import plain
from aloe.bcos.dynamic import in_plain_operations
from aloe.bcos.units import BcosConv2dFunction, BcosLinearFunction, wide


def encode(images: Tensor) -> Tensor:
    """Append 1 - x to an RGB image, so that dark and bright pixels have comparable norm (docs/method.md section 3).

    Args:
        images: (B, 3, H, W) or (3, H, W), values in [0, 1].

    Returns:
        (B, 6, H, W) or (6, H, W): (r, g, b, 1-r, 1-g, 1-b).

    Raises:
        ValueError: if the channel axis does not hold three channels.
    """
    if images.ndim < 3 or images.shape[-3] != 3:
        raise ValueError(f"encode expects (..., 3, H, W) images in [0, 1], got shape {tuple(images.shape)}.")
    return torch.cat((images, 1 - images), dim=-3)


def bcos_linear(x: Tensor, weight: Tensor, b: float = 2.0, *, detach: bool = False, weight_norm: bool = True) -> Tensor:
    """B-cos linear unit: `|cos(x, w)|^(b-1) (w . x)` for every row w of the weight.

    Args:
        x: (..., D_in).
        weight: (D_out, D_in), not normalised.
        b: exponent B >= 1; 1 is a plain bias-free linear layer.
        detach: explanation mode, the gate |cos|^(b-1) is a constant of the backward pass.
        weight_norm: whether the gate divides by ||w|| (the cosine) or not (|w . x / ||x|| |^(b-1)).

    Returns:
        (..., D_out), in the dtype of `x` (or the autocast dtype).

    Source: B-cos Networks (Boehle et al., CVPR 2022), eq. 3; docs/method.md section 2.
    """
    _check_exponent(b)
    x, weight = _autocast(x, weight)
    if b == 1:
        return F.linear(x, weight)
    if detach and in_plain_operations():
        return plain.linear(x, weight, b, weight_norm)
    if x.ndim == 1:
        return BcosLinearFunction.apply(x[None], weight, b, detach, weight_norm)[0]
    return BcosLinearFunction.apply(x, weight, b, detach, weight_norm)


def bcos_conv2d(
    x: Tensor,
    weight: Tensor,
    b: float = 2.0,
    *,
    stride: int = 1,
    padding: int = 0,
    detach: bool = False,
    weight_norm: bool = True,
    norm_eps: float = 0.0,
) -> Tensor:
    """B-cos convolution: the B-cos linear unit over every patch; the patch norm is the root of a box sum of x^2.

    Args:
        x: (B, C_in, H, W).
        weight: (C_out, C_in, K, K), square kernel.
        b: exponent B >= 1.
        stride, padding: as in `torch.nn.functional.conv2d`.
        detach, weight_norm: see `bcos_linear`.
        norm_eps: added to the box sum under the root of the patch norm.

    Returns:
        (B, C_out, H', W').
    """
    _check_exponent(b)
    x, weight = _autocast(x, weight)
    if b == 1:
        return F.conv2d(x, weight, stride=stride, padding=padding)
    if detach and in_plain_operations():
        return plain.conv2d(x, weight, b, stride, padding, weight_norm, norm_eps)
    return BcosConv2dFunction.apply(x, weight, b, stride, padding, detach, weight_norm, norm_eps)


def layer_norm(x: Tensor, weight: Tensor, eps: float, *, detach: bool = False) -> Tensor:
    """LayerNorm without bias over the last axis.

    In explanation mode the variance is a constant; subtracting the mean is linear and stays (docs/method.md section 2).
    Shapes: x (..., D), weight (D,).
    """
    if detach and in_plain_operations():
        return plain.layer_norm(x, weight, eps)
    if detach:
        return _FrozenLayerNorm.apply(x, weight, eps)
    return F.layer_norm(x, x.shape[-1:], weight, None, eps)


def scale_norm(x: Tensor, weight: Tensor, eps: float, *, centred: bool = False, detach: bool = False) -> Tensor:
    """Uncentred norm x / sqrt(mean x^2 + eps) * weight, the mean over channels and positions (the conv stem's norm).

    `centred` takes the variance about the mean for the divisor (the numerator stays as it is). Shapes: x (B, C, H, W),
    weight (C,). In explanation mode the divisor is a constant.
    """
    full = x.to(wide(x.dtype))
    source = full.detach() if detach else full
    if centred:
        source = source - source.mean(dim=(1, 2, 3), keepdim=True)
    power = source.square().mean(dim=(1, 2, 3), keepdim=True)
    return (full * (power + eps).rsqrt()).to(x.dtype) * weight[:, None, None]


def gate(x: Tensor, activation: str) -> Tensor:
    """The factor of an activation a(x) = x * gate(x): Phi(x), its tanh form, sigmoid(x), sigmoid(1.702 x) or 1[x > 0]."""
    return _GATES[activation](x)


def gated_activation(x: Tensor, activation: str, *, detach: bool = False) -> Tensor:
    """a(x) = x * gate(x) for `gelu`, `gelu_pytorch_tanh`, `quick_gelu`, `silu`, `relu`; explanation mode freezes the gate."""
    if detach and in_plain_operations():
        return x * gate(x.detach(), activation)
    return _FrozenGate.apply(x, activation) if detach else _ACTIVATIONS[activation](x)


class _FrozenLayerNorm(torch.autograd.Function):
    """LayerNorm whose standard deviation is a constant of the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        y, mean, inverse_std = torch.native_layer_norm(x, x.shape[-1:], weight, None, eps)
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight, mean, inverse_std)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse_std = ctx.saved_tensors
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx = (grad * weight).to(inverse_std.dtype).mul_(inverse_std)
            dx = dx.sub_(dx.mean(dim=-1, keepdim=True)).to(grad.dtype)
        if x is not None:
            dw = (grad * (x - mean) * inverse_std).flatten(0, -2).sum(0).to(weight.dtype)
        return dx, dw, None


class _FrozenGate(torch.autograd.Function):
    """An activation x * gate(x) whose gate is a constant of the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.activation = activation
        return _ACTIVATIONS[activation](x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return gate(ctx.saved_tensors[0], ctx.activation).mul_(grad), None


def _gelu_gate(x: Tensor) -> Tensor:
    return torch.erf(x * 0.5**0.5).add_(1).mul_(0.5)  # as F.gelu has it; torch.special.ndtr is ten times slower


def _gelu_tanh_gate(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


_GATES = {
    "gelu": _gelu_gate,
    "gelu_pytorch_tanh": _gelu_tanh_gate,
    "quick_gelu": lambda x: torch.sigmoid(1.702 * x),
    "silu": torch.sigmoid,
    "relu": lambda x: (x > 0).to(x.dtype),
}
_ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
    "relu": F.relu,
}
ACTIVATIONS = tuple(_ACTIVATIONS)


def _autocast(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """What autocast does for F.linear, done before the autograd function so that its backward sees one dtype."""
    kind = x.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
        return x.to(dtype), weight.to(dtype)
    return x, weight


def _check_exponent(b: float) -> None:
    if not b >= 1:
        raise ValueError(f"The B-cos exponent must be at least 1, got b={b}.")
