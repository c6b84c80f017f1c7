"""AttnLRP (Achtibat et al. 2024): relevance as input x gradient, with the backward rules of attention models.

Rules, in their gradient form (docs/attribution.md): a norm's divisor and an activation's gate f(x)/x are constants
(identity rule), and so are an RMSNorm's root and a soft cap's tanh(x)/x; a product of two paths halves the gradient
(uniform rule), which in attention divides those of queries and keys by 4 and of values by 2, the softmax keeping its own;
linear layers keep theirs (epsilon rule with epsilon -> 0) or take the generalised gamma rule. The `cp` variant detaches
queries and keys instead (Ali et al. 2022) and loses no relevance. A B-cos unit is linear with its gate as a constant factor,
which explanation mode makes it; so the cp variant on a student is its own W(x)x.

The rules act on PyTorch's functions within a block of code, in any model; no module is touched. Weights narrower than the
activations are widened for the moment that they are used, so that relevance can be float32 where weights are bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aloe.attribution.gamma import gamma_conv2d, gamma_linear
from aloe.attribution.options import Strength
from aloe.attribution.subject import Subject
from aloe.attribution.taps import AttentionTap
from aloe.attribution.targets import Target
from aloe.bcos.dynamic import explanation_mode
from aloe.bcos.functional import gate
from aloe.core.errors import UserError

VARIANTS = ("full", "cp")
# Of teachers; in the middle of the grids of LXT's ViT example (docs/attribution.md).
GAMMA, CONV_GAMMA = 0.05, 0.25
_PRODUCTS = (torch.mul, torch.multiply, Tensor.mul, Tensor.multiply, Tensor.__mul__, Tensor.__rmul__)
_MATRIX_PRODUCTS = (torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__)


class LrpRules(AttentionTap):
    """Within the block, the backward pass propagates relevance; outputs are unchanged.

    Args:
        variant: `full`, or `cp` with queries, keys and the gates of SwiGLU detached.
        gamma, conv_gamma: of the gamma rule on linear and convolution layers; 0: the epsilon rule.
    """

    def __init__(self, variant: str = "full", gamma: float = 0.0, conv_gamma: float = 0.0) -> None:
        super().__init__()
        self.cp, self.gamma, self.conv_gamma = variant == "cp", gamma, conv_gamma
        self.rules: dict[Any, Callable[..., Tensor]] = {
            F.layer_norm: _layer_norm,
            F.gelu: lambda x, approximate="none": _gated(x, "gelu" if approximate == "none" else "gelu_pytorch_tanh"),
            F.silu: lambda x, inplace=False: _gated(x, "silu"),
            F.relu: lambda x, inplace=False: _gated(x, "relu"),
            torch.sigmoid: lambda x: x.detach().sigmoid(),  # the gate of a quick GELU, x sigmoid(1.702 x)
            **dict.fromkeys((torch.tanh, Tensor.tanh), lambda x: x * _bend(x.detach())),
            **dict.fromkeys((torch.rsqrt, Tensor.rsqrt), lambda x: x.detach().rsqrt()),
            F.linear: self.linear,
            F.conv2d: self.conv2d,
            **dict.fromkeys(_PRODUCTS, partial(self.product, torch.mul)),
            **dict.fromkeys(_MATRIX_PRODUCTS, partial(self.product, torch.matmul)),
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rule = self.rules.get(func)
        if rule is None:
            return super().__torch_function__(func, types, args, kwargs)
        return rule(*args, **(kwargs or {}))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.cp:
            return super().attend(q.detach(), k.detach(), v, *args, **kwargs)
        return super().attend(_scaled(q, 0.25), _scaled(k, 0.25), _scaled(v, 0.5), *args, **kwargs)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if self.gamma:
            return gamma_linear(x, _as(weight, x), _as(bias, x), self.gamma)
        if weight.dtype == x.dtype or torch.is_autocast_enabled(x.device.type):
            return F.linear(x, weight, bias)
        return _WideLinear.apply(x, weight, bias)

    def conv2d(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
        weight, bias = _as(weight, x), _as(bias, x)
        if not self.conv_gamma:
            return F.conv2d(x, weight, bias, *args, **kwargs)
        return gamma_conv2d(x, weight, bias, self.conv_gamma, *args, **kwargs)

    def product(self, multiply: Callable[..., Tensor], a: Any, b: Any, **kwargs: Any) -> Tensor:
        if not (_carries(a) and _carries(b)):
            return multiply(a, b, **kwargs)
        return multiply(a.detach(), b) if self.cp else _scaled(multiply(a, b), 0.5)


def attnlrp(
    subject: Subject,
    images: Tensor,
    target: Target,
    *,
    variant: str = "full",
    gamma: Strength | None = None,
    conv_gamma: Strength | None = None,
) -> tuple[Tensor, Tensor]:
    """Relevance of every pixel, (B, H, W), summed over channels in float32, and the explained value, (B,).

    Args:
        variant: `full` or `cp`, see above.
        gamma, conv_gamma: of linear layers and of convolutions; default `GAMMA` and `CONV_GAMMA` on teachers. Students take
            none: a B-cos unit has its own rule.

    Raises:
        UserError: an unknown variant, or a gamma on a B-cos student.
    """
    is_student = subject.config.model_type == "bcos_vit"
    defaults = default_gammas(is_student)
    gamma = defaults["gamma"] if gamma is None else gamma
    conv_gamma = defaults["conv_gamma"] if conv_gamma is None else conv_gamma
    if variant not in VARIANTS:
        raise UserError(f"AttnLRP takes variant {' or '.join(VARIANTS)}, got {variant!r}.")
    if is_student and (gamma or conv_gamma):
        raise UserError("The gamma rule is for plain linear layers: a B-cos unit has its own, leave gamma at 0.")
    inputs = subject.prepare(images).requires_grad_()
    with LrpRules(variant, gamma, conv_gamma), explanation_mode(products=variant == "cp"):
        outputs = subject.forward(inputs)
        fixed = subject.resolve(outputs, target)
        value = subject.value(outputs, fixed)
        (gradient,) = subject.gradient(value, inputs)
    return (gradient.float() * inputs.detach().float()).sum(1), value.detach()


def default_gammas(is_student: bool) -> dict[str, float]:
    """What `gamma` and `conv_gamma` are where they are not given."""
    return {"gamma": 0.0 if is_student else GAMMA, "conv_gamma": 0.0 if is_student else CONV_GAMMA}


def _layer_norm(
    x: Tensor, shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """LayerNorm with its divisor a constant of the backward pass."""
    dims = tuple(range(-len(shape), 0))
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    centred = wide - wide.mean(dims, keepdim=True)
    y = (centred * (centred.detach().square().mean(dims, keepdim=True) + eps).rsqrt()).to(x.dtype)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _gated(x: Tensor, activation: str) -> Tensor:
    return x * gate(x.detach(), activation)


def _bend(x: Tensor) -> Tensor:
    """tanh(x) / x, which is 1 at 0."""
    safe = torch.where(x == 0, torch.ones_like(x), x)
    return torch.where(x == 0, torch.ones_like(x), safe.tanh() / safe)


def _as(parameter: Any, like: Tensor) -> Any:
    """A parameter, or None, in the activations' precision where its own is narrower."""
    return parameter if parameter is None or torch.is_autocast_enabled(like.device.type) else parameter.to(like.dtype)


class _WideLinear(torch.autograd.Function):
    """`F.linear` in the precision of x; the graph keeps the weight as it is stored."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return grad @ weight.to(grad.dtype), None, None


def _carries(x: Any) -> bool:
    return isinstance(x, Tensor) and x.requires_grad and not isinstance(x, nn.Parameter)


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None


def _scaled(x: Tensor, factor: float) -> Tensor:
    """x, whose gradient is multiplied by a factor."""
    return _Scale.apply(x, factor)
