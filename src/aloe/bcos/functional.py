"""B-cos units as functions: one matrix product each, with the backward pass written by hand.

For an input x and a weight row w (no bias) a B-cos unit computes (METHOD.md section 2)

    y = |cos(x, w)|^(B-1) (w . x),        cos(x, w) = (w . x) / (||x|| ||w||).

The product o = w . x is computed once; the gate g = |cos|^(B-1) is an element-wise function of o and two norms.
With the incoming gradient G and a = G g the gradients are

    dx = B a W   - (B-1) x rowsum(G y) / ||x||^2
    dW = B a^T x - (B-1) W colsum(G y) / ||w||^2

In explanation mode the gate is a constant: dx = a W and dW = a^T x, so that y is linear in x with W(x) = diag(g) W.
`weight_norm=False` leaves ||w|| out of the gate, |w . x / ||x|| |^(B-1), and its term out of dW: the older form of the unit,
which one family of the published checkpoints has.
Norms are taken in at least float32. They are never zero by a floor of 1e-12: a zero input or weight row gives zero.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

NORM_FLOOR = 1e-12


def encode(images: Tensor) -> Tensor:
    """Append 1 - x to an RGB image, so that dark and bright pixels have comparable norm (METHOD.md section 3).

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

    Source: B-cos Networks (Boehle et al., CVPR 2022), eq. 3; METHOD.md section 2.
    """
    _check_exponent(b)
    x, weight = _autocast(x, weight)
    if b == 1:
        return F.linear(x, weight)
    if x.ndim == 1:
        return _BcosLinear.apply(x[None], weight, b, detach, weight_norm)[0]
    return _BcosLinear.apply(x, weight, b, detach, weight_norm)


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
    return _BcosConv2d.apply(x, weight, b, stride, padding, detach, weight_norm, norm_eps)


def layer_norm(x: Tensor, weight: Tensor, eps: float, *, detach: bool = False) -> Tensor:
    """LayerNorm without bias over the last axis.

    In explanation mode the variance is a constant; subtracting the mean is linear and stays (METHOD.md section 2).
    Shapes: x (..., D), weight (D,).
    """
    if not detach:
        return F.layer_norm(x, x.shape[-1:], weight, None, eps)
    wide = x.to(_wide(x.dtype))
    centred = wide - wide.mean(dim=-1, keepdim=True)
    inverse_std = (centred.detach().square().mean(dim=-1, keepdim=True) + eps).rsqrt()
    return (centred * inverse_std).to(x.dtype) * weight


def scale_norm(x: Tensor, weight: Tensor, eps: float, *, centred: bool = False, detach: bool = False) -> Tensor:
    """Uncentred norm x / sqrt(mean x^2 + eps) * weight, the mean over channels and positions (the conv stem's norm).

    `centred` takes the variance about the mean for the divisor (the numerator stays as it is). Shapes: x (B, C, H, W),
    weight (C,). In explanation mode the divisor is a constant.
    """
    wide = x.to(_wide(x.dtype))
    source = wide.detach() if detach else wide
    if centred:
        source = source - source.mean(dim=(1, 2, 3), keepdim=True)
    power = source.square().mean(dim=(1, 2, 3), keepdim=True)
    return (wide * (power + eps).rsqrt()).to(x.dtype) * weight[:, None, None]


def gate(x: Tensor, activation: str) -> Tensor:
    """The factor of an activation a(x) = x * gate(x): Phi(x), its tanh form, sigmoid(x), sigmoid(1.702 x) or 1[x > 0]."""
    return _GATES[activation](x)


def gated_activation(x: Tensor, activation: str, *, detach: bool = False) -> Tensor:
    """a(x) = x * gate(x) for `gelu`, `gelu_pytorch_tanh`, `quick_gelu`, `silu`, `relu`; explanation mode freezes the gate."""
    if detach:
        return x * gate(x.detach(), activation)
    return _ACTIVATIONS[activation](x)


def _gelu_tanh_gate(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


_GATES = {
    "gelu": torch.special.ndtr,
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


class _BcosLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, b: float, detach: bool, weight_norm: bool) -> Tensor:
        out = F.linear(x, weight)
        x_norm = _norm(x, dim=-1)
        w_norm = _norm(weight, dim=-1) if weight_norm else None
        y, factor = _epilogue(out, x_norm, None if w_norm is None else w_norm.squeeze(-1), b)
        ctx.save_for_backward(x, weight, factor, None if detach else y, x_norm, w_norm)
        ctx.b, ctx.detach = b, detach
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, factor, y, x_norm, w_norm = ctx.saved_tensors
        b = ctx.b
        need_x, need_w = ctx.needs_input_grad[:2]
        a = grad * factor if ctx.detach else (grad * factor).mul_(b)
        dx = a @ weight if need_x else None
        dw = a.flatten(0, -2).T @ x.flatten(0, -2) if need_w else None
        if not ctx.detach:
            s = grad * y
            if dx is not None:
                dx -= x * _ratio(s.sum(-1, keepdim=True, dtype=x_norm.dtype), x_norm, b, x.dtype)
            if dw is not None and w_norm is not None:
                column = s.flatten(0, -2).sum(0, dtype=w_norm.dtype).unsqueeze(-1)
                dw -= weight * _ratio(column, w_norm, b, weight.dtype)
        return dx, dw, None, None, None


class _BcosConv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        b: float,
        stride: int,
        padding: int,
        detach: bool,
        weight_norm: bool,
        norm_eps: float,
    ) -> Tensor:
        out = F.conv2d(x, weight, stride=stride, padding=padding)
        power = x.to(_wide(x.dtype)).square().sum(dim=1, keepdim=True)
        box = power.new_ones(1, 1, *weight.shape[2:])
        with _without_autocast(x.device.type):  # norms stay in float32 whatever the products are in
            total = F.conv2d(power, box, stride=stride, padding=padding).clamp_min_(0)
        x_norm = total.add_(norm_eps).sqrt_().clamp_min_(NORM_FLOOR)
        w_norm = _norm(weight.flatten(1), dim=-1) if weight_norm else None
        y, factor = _epilogue(out, x_norm, None if w_norm is None else w_norm[:, :, None], b)
        ctx.save_for_backward(x, weight, factor, None if detach else y, x_norm, w_norm, box)
        ctx.settings = b, stride, padding, detach
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, factor, y, x_norm, w_norm, box = ctx.saved_tensors
        b, stride, padding, detach = ctx.settings
        need_x, need_w = ctx.needs_input_grad[:2]
        a = grad * factor if detach else (grad * factor).mul_(b)
        dx, dw, _ = torch.ops.aten.convolution_backward(
            a, x, weight, None, (stride,) * 2, (padding,) * 2, (1, 1), False, (0, 0), 1, (need_x, need_w, False)
        )
        if not detach:
            s = grad * y
            if need_x:
                patch = s.sum(1, keepdim=True, dtype=x_norm.dtype) * (b - 1) / x_norm.square()
                spread = F.conv_transpose2d(
                    patch, box, stride=stride, padding=padding, output_padding=_rest(x, patch, box, stride, padding)
                )
                dx -= x * spread.to(x.dtype)
            if need_w and w_norm is not None:
                column = s.sum((0, 2, 3), dtype=w_norm.dtype).unsqueeze(-1)
                dw -= weight * _ratio(column, w_norm, b, weight.dtype)[:, :, None, None]
        return dx, dw, None, None, None, None, None, None


def _epilogue(out: Tensor, x_norm: Tensor, w_norm: Tensor | None, b: float) -> tuple[Tensor, Tensor]:
    """(y, gate) from the product and the norms that broadcast against it; the product is not needed afterwards."""
    factor = out.abs().mul_(x_norm.reciprocal())  # stays in the dtype of `out`
    if w_norm is not None:
        factor.mul_(w_norm.reciprocal())
    if b != 2:
        factor.pow_(b - 1)
    return out * factor, factor


def _norm(x: Tensor, dim: int) -> Tensor:
    return torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=_wide(x.dtype)).clamp_min_(NORM_FLOOR)


def _ratio(total: Tensor, norm: Tensor, b: float, dtype: torch.dtype) -> Tensor:
    """(B-1) total / norm^2, divided twice because norm^2 may underflow where the norm does not."""
    return ((b - 1) * total / norm / norm).to(dtype)


def _rest(x: Tensor, patch: Tensor, box: Tensor, stride: int, padding: int) -> list[int]:
    """Rows and columns that a strided convolution leaves over, so that its adjoint has the size of its input."""
    return [x.shape[d] - ((patch.shape[d] - 1) * stride - 2 * padding + box.shape[d]) for d in (2, 3)]


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _autocast(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """What autocast does for F.linear, done before the autograd function so that its backward sees one dtype."""
    kind = x.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
        return x.to(dtype), weight.to(dtype)
    return x, weight


def _without_autocast(kind: str) -> AbstractContextManager[Any]:
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def _check_exponent(b: float) -> None:
    if not b >= 1:
        raise ValueError(f"The B-cos exponent must be at least 1, got b={b}.")
