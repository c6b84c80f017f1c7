"""B-cos layers as modules over `functional`: every layer is linear in its input once its dynamic factors are frozen.

No layer has a bias. Each asks `is_explaining()` whether its factors are constants of the backward pass; shapes follow
transformers: B batch, N tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from aloe.bcos import functional as F
from aloe.bcos.dynamic import freezes_products, is_explaining

# query, key, value (B, heads, N, D/heads) -> (output (B, N, heads, D/heads), attention weights or None)
AttentionFunction = Callable[[nn.Module, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor | None]]


class BcosLinear(nn.Module):
    """B-cos unit (..., D_in) -> (..., D_out); see `functional.bcos_linear`."""

    def __init__(self, in_features: int, out_features: int, b: float = 2.0, weight_norm: bool = True) -> None:
        super().__init__()
        self.b, self.weight_norm = b, weight_norm
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return F.bcos_linear(x, self.weight, self.b, detach=is_explaining(), weight_norm=self.weight_norm)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, b={self.b:g}"


class BcosConv2d(nn.Module):
    """B-cos convolution (B, C_in, H, W) -> (B, C_out, H', W'); see `functional.bcos_conv2d`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        b: float = 2.0,
        weight_norm: bool = True,
        norm_eps: float = 0.0,
    ) -> None:
        super().__init__()
        self.stride, self.padding, self.b = stride, padding, b
        self.weight_norm, self.norm_eps = weight_norm, norm_eps
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return F.bcos_conv2d(
            x,
            self.weight,
            self.b,
            stride=self.stride,
            padding=self.padding,
            detach=is_explaining(),
            weight_norm=self.weight_norm,
            norm_eps=self.norm_eps,
        )


class LayerNorm(nn.Module):
    """LayerNorm without bias; explanation mode freezes the variance."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight, self.eps, detach=is_explaining())


class ScaleNorm2d(nn.Module):
    """Uncentred norm of the convolutional stem, one group per image; explanation mode freezes the divisor."""

    def __init__(self, channels: int, eps: float = 1e-6, centred: bool = False) -> None:
        super().__init__()
        self.eps, self.centred = eps, centred
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.scale_norm(x, self.weight, self.eps, centred=self.centred, detach=is_explaining())


class LayerScale(nn.Module):
    """A constant diagonal on a residual branch (DINOv2, DINOv3)."""

    def __init__(self, width: int, value: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), value))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class GatedActivation(nn.Module):
    """x * gate(x): GELU, its tanh and quick forms, SiLU or ReLU; explanation mode freezes the gate."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        if activation not in F.ACTIVATIONS:
            raise ValueError(f"Unknown activation {activation!r}; known: {', '.join(F.ACTIVATIONS)}.")
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return F.gated_activation(x, self.activation, detach=is_explaining())


class BcosMLP(nn.Module):
    """B-cos unit, gated activation, B-cos unit: (B, N, D) -> (B, N, D)."""

    def __init__(self, width: int, hidden: int, activation: str, b: float, weight_norm: bool = True) -> None:
        super().__init__()
        self.up = BcosLinear(width, hidden, b, weight_norm)
        self.act = GatedActivation(activation)
        self.down = BcosLinear(hidden, width, b, weight_norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x)))


class BcosSwiGLU(nn.Module):
    """SwiGLU: a plain linear path, through its activation, gates a B-cos path (larger DINO models).

    Explanation mode freezes the whole gate, as it does queries and keys, so its path needs no B-cos unit.
    """

    def __init__(self, width: int, hidden: int, activation: str, b: float, weight_norm: bool = True) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = BcosLinear(width, hidden, b, weight_norm)
        self.act = GatedActivation(activation)
        self.down = BcosLinear(hidden, width, b, weight_norm)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.act(self.gate(x))
        return self.down((gate.detach() if freezes_products() else gate) * self.up(x))


class BcosAttention(nn.Module):
    """Self-attention: plain bias-free Q, K, V in one product, and a B-cos output projection.

    Explanation mode detaches Q and K, so the attention matrix is a frozen factor and the value path stays linear.
    `rope` is (cos, sin), each (N_patches, D/heads), applied to the last N_patches tokens of Q and K.
    """

    def __init__(self, width: int, heads: int, b: float, weight_norm: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.scaling = (width // heads) ** -0.5
        self.is_causal = False  # read by transformers' attention functions
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = BcosLinear(width, width, b, weight_norm)

    def forward(
        self, x: Tensor, attend: AttentionFunction, rope: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        if freezes_products():
            q, k = q.detach(), k.detach()
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        mixed, weights = attend(self, q, k, v, self.scaling)
        return self.out(mixed.reshape(batch, tokens, width)), weights


class BcosAttentionPooling(nn.Module):
    """SigLIP's pooling head: a learned probe attends over the patch tokens, then a residual MLP. (B, N, D) -> (B, D).

    The key path is frozen in explanation mode, the value path is linear, the output projection and the MLP are B-cos.
    """

    def __init__(
        self, width: int, heads: int, hidden: int, activation: str, eps: float, b: float, weight_norm: bool = True
    ) -> None:
        super().__init__()
        self.heads = heads
        self.scaling = (width // heads) ** -0.5
        self.is_causal = False
        self.probe = nn.Parameter(torch.zeros(1, 1, width))
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.out = BcosLinear(width, width, b, weight_norm)
        self.norm = LayerNorm(width, eps)
        self.mlp = BcosMLP(width, hidden, activation, b, weight_norm)

    def forward(self, tokens: Tensor, attend: AttentionFunction) -> Tensor:
        batch, count, width = tokens.shape
        q = self.q(self.probe).expand(batch, -1, -1).view(batch, 1, self.heads, -1).transpose(1, 2)
        k, v = self.kv(tokens).view(batch, count, 2, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        if freezes_products():
            q, k = q.detach(), k.detach()
        mixed, _ = attend(self, q, k, v, self.scaling)
        pooled = self.out(mixed.reshape(batch, 1, width))
        return (pooled + self.mlp(self.norm(pooled)))[:, 0]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of the last tokens of x (B, heads, N, D/heads); cos and sin are (N_patches, D/heads).

    Prefix tokens (CLS, registers) are not rotated. Source: DINOv3, as in transformers.
    """
    prefix = x.shape[-2] - cos.shape[-2]
    head, tail = x[..., :prefix, :], x[..., prefix:, :]
    first, second = tail.chunk(2, dim=-1)
    turned = tail * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((head, turned.to(x.dtype)), dim=-2) if prefix else turned.to(x.dtype)
