"""B-cos units as autograd functions: one matrix product each, the backward pass by hand, one output-sized tensor kept.

With the norms shared out between the operands, a unit is a power of a plain product (docs/method.md section 2):

    y = p |p|^(B-1),    p = x' . w',    x' = x ||x||^-e,    w' = w ||w||^-e,    e = (B-1) / B

so that all it adds to a linear layer is element-wise work. The gate |cos|^(B-1) is |y|^e (||x|| ||w||)^-e, so the backward
pass needs the output alone, which the next layer keeps anyway. With the incoming gradient G and a = G |y|^e,

    h = ||x||^-e a W'       dx = B h - (B-1) x <x, h> / ||x||^2
    k = ||w||^-e a^T X'     dW = B k - (B-1) w <w, k> / ||w||^2

because the sums over outputs and tokens that the norms' own gradients need are <x, h> and <w, k>. With the gate a constant
dx = h and dW = k. On a CPU large layers run in tiles, whose outputs are still in the cache when the element-wise work comes;
on CUDA that work has kernels of its own (`triton`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

NORM_FLOOR = 1e-12
TILE = 3 << 19  # numbers in a tile of outputs, 6 MiB in float32: fits an L3 cache
ALL = slice(None)
TILE_ROWS, TILE_COLUMNS = (256, 1024), 1536  # each tile reads its operands again: it must not be too thin


class BcosLinearFunction(torch.autograd.Function):
    """x (..., D_in), weight (D_out, D_in), b, detach, weight_norm -> (..., D_out); see `functional.bcos_linear`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, b: float, detach: bool, weight_norm: bool) -> Tensor:
        x_norm = norm(x.flatten(0, -2))
        w_norm = norm(weight) if weight_norm else None
        y = _forward(x, weight, x_norm, w_norm, b)
        ctx.save_for_backward(x, weight, y, x_norm, w_norm)
        ctx.settings = b, detach
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y, x_norm, w_norm = ctx.saved_tensors
        b, detach = ctx.settings
        dx, dw = _backward(grad, x, weight, y, x_norm, w_norm, b, detach, *ctx.needs_input_grad[:2])
        return None if dx is None else dx.view_as(x), dw, None, None, None


class BcosConv2dFunction(torch.autograd.Function):
    """x (B, C_in, H, W), weight (C_out, C_in, K, K) -> (B, C_out, H', W'); see `functional.bcos_conv2d`."""

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
        w_norm = norm(weight.flatten(1))[:, :, None, None] if weight_norm else None
        y = F.conv2d(x, _scaled(weight, w_norm, b), stride=stride, padding=padding)
        power = x.to(wide(x.dtype)).square().sum(dim=1, keepdim=True)
        box = power.new_ones(1, 1, *weight.shape[2:])
        with _without_autocast(x.device.type):  # norms stay in float32 whatever the products are in
            total = F.conv2d(power, box, stride=stride, padding=padding).clamp_min_(0)
        x_norm = total.add_(norm_eps).sqrt_().clamp_min_(NORM_FLOOR)
        y.mul_(_power(y, b - 1).mul_(x_norm.pow(1 - b)))
        ctx.save_for_backward(x, weight, y, x_norm, w_norm, box)
        ctx.settings = b, stride, padding, detach
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y, x_norm, w_norm, box = ctx.saved_tensors
        b, stride, padding, detach = ctx.settings
        need_x, need_w = ctx.needs_input_grad[:2]
        a = _power(y, _share(b)).mul_(x_norm.pow(-_share(b))).mul_(grad)
        w = _scaled(weight, w_norm, b)
        dx, dw, _ = torch.ops.aten.convolution_backward(
            a, x, w, None, (stride,) * 2, (padding,) * 2, (1, 1), False, (0, 0), 1, (need_x, need_w, False)
        )
        if need_x and not detach:
            patch = (grad * y).sum(1, keepdim=True, dtype=x_norm.dtype) * (b - 1) / x_norm.square()
            spread = F.conv_transpose2d(
                patch, box, stride=stride, padding=padding, output_padding=_rest(x, patch, box, stride, padding)
            )
            dx = dx.mul_(b).sub_(x * spread.to(x.dtype))
        if need_w:
            flat = w_norm if w_norm is None else w_norm.flatten(1)
            dw = _radial(dw.flatten(1), weight.flatten(1), flat, b, detach).view_as(weight)
        return dx, dw, None, None, None, None, None, None


def norm(x: Tensor) -> Tensor:
    """||x|| of every row, (N, 1), in at least float32; never zero, so that zero rows give zero."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide(x.dtype)).clamp_min_(NORM_FLOOR)


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass
class _Shares:
    """||x||^-e and ||w||^-e, each with the place where it is multiplied at the least cost: an operand or the product."""

    matrix: Tensor
    inputs: Tensor | None
    rows: Tensor | None
    columns: Tensor | None

    @classmethod
    def of(cls, weight: Tensor, x_norm: Tensor, w_norm: Tensor | None, b: float, on_products: bool = False) -> _Shares:
        (outputs, width), tokens = weight.shape, x_norm.shape[0]
        row, column = x_norm.pow(-_share(b)), None
        if w_norm is not None and (on_products or (type(tokens) is int and tokens < 4 * width)):
            column = w_norm.pow(-_share(b)).T
        matrix = weight if column is not None else _scaled(weight, w_norm, b)
        on_products = on_products or outputs < width
        return cls(matrix, None, row, column) if on_products else cls(matrix, row, None, column)

    def operand(self, x: Tensor, r: slice = ALL, space: Tensor | None = None) -> Tensor:
        if self.inputs is None:
            return x
        share = self.inputs[r]
        return (x * share).to(x.dtype) if space is None else torch.mul(x, share, out=_corner(space, x))

    def scale(self, product: Tensor, r: slice = ALL, c: slice = ALL) -> Tensor:
        """In place."""
        product = product if self.rows is None else product.mul_(self.rows[r])
        return product if self.columns is None else product.mul_(self.columns[:, c])


def _forward(x: Tensor, weight: Tensor, x_norm: Tensor, w_norm: Tensor | None, b: float) -> Tensor:
    kernels, (rows, columns) = _kernels(x, weight), _tile(x, weight)
    shares = _Shares.of(weight, x_norm, w_norm, b, kernels is not None)
    if not rows:
        p = F.linear(shares.operand(x.flatten(0, -2)), shares.matrix)
        if kernels is not None:
            return kernels.epilogue_(p, shares.rows, shares.columns, b).view(*x.shape[:-1], -1)
        p = shares.scale(p)
        return p.mul_(_power(p, b - 1)).view(*x.shape[:-1], -1)
    y = x.new_empty(*x.shape[:-1], len(weight))
    x, out = x.flatten(0, -2), y.flatten(0, -2)
    room, space = x.new_empty(rows, columns), x.new_empty(rows, x.shape[1])
    for r in _slices(len(x), rows):
        operand = shares.operand(x[r], r, space)
        for c in _slices(len(weight), columns):
            p = shares.scale(torch.mm(operand, shares.matrix[c].T, out=out[r, c]), r, c)
            p.mul_(_power(p, b - 1, room))
    return y


def _backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    y: Tensor,
    x_norm: Tensor,
    w_norm: Tensor | None,
    b: float,
    detach: bool,
    need_x: bool,
    need_w: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """dx (T, D_in) of the T tokens and dW (D_out, D_in), each where it is needed."""
    kernels, (rows, columns) = _kernels(x, weight), _tile(x, weight)
    shares = _Shares.of(weight, x_norm, w_norm, b, kernels is not None)
    grad, x, y = (t.flatten(0, -2) for t in (grad, x, y))
    done = shares.inputs is None  # then the products hold the tokens' shares already
    h = k = None
    if kernels is not None:
        a = kernels.prologue(grad, y, shares.rows, shares.columns, b)
        h = a @ weight if need_x else None
        h = h if h is None or detach else kernels.radial_(h, x, x_norm, b)
        k = a.T @ x if need_w else None
    elif not rows:
        a = shares.scale(_power(y, _share(b)).mul_(grad))
        h = _radial(a @ shares.matrix, x, x_norm, b, detach, scaled=done) if need_x else None
        k = a.T @ shares.operand(x) if need_w else None
    else:
        h = torch.empty_like(x) if need_x else None
        k = torch.zeros_like(weight, dtype=wide(weight.dtype)) if need_w else None
        room, space = x.new_empty(rows, columns), x.new_empty(rows, x.shape[1])
        for r in _slices(len(x), rows):
            operand = shares.operand(x[r], r, space) if need_w else x[r]
            for c in _slices(len(weight), columns):
                a = shares.scale(_power(y[r, c], _share(b), room).mul_(grad[r, c]), r, c)
                if h is not None:
                    torch.addmm(h[r], a, shares.matrix[c], beta=int(c.start > 0), out=h[r])
                if k is not None:
                    k[c].addmm_(a.T, operand) if k.dtype == a.dtype else k[c].add_(a.T @ operand)
            if h is not None:
                _radial(h[r], x[r], x_norm[r], b, detach, scaled=done, space=space)
    if k is not None:  # the outputs' shares are in the operand or still missing
        k = _radial(k, weight, w_norm, b, detach, scaled=shares.columns is not None).to(weight.dtype)
    return h, k


def _radial(
    h: Tensor,
    x: Tensor,
    length: Tensor | None,
    b: float,
    detach: bool,
    *,
    scaled: bool = False,
    space: Tensor | None = None,
) -> Tensor:
    """In place: h <- ||x||^-e h unless `scaled`; then B h - (B-1) x <x, h> / ||x||^2 unless the gate is a constant."""
    share = None if length is None or scaled else length.pow(-_share(b))
    if detach:
        return h if share is None else h.mul_(share)
    if length is None:
        return h.mul_(b)
    along = torch.mul(h, x, out=_corner(space, h)).sum(-1, keepdim=True, dtype=length.dtype)
    along = along.mul_(b - 1) / length / length  # divided twice: the square may underflow where the norm does not
    if share is None:
        return h.mul_(b).addcmul_(x, along, value=-1)
    return h.mul_(share.mul(b)).addcmul_(x, along.mul_(share), value=-1)


def _scaled(x: Tensor, length: Tensor | None, b: float) -> Tensor:
    return x if length is None else (x * length.pow(-_share(b))).to(x.dtype)


def _power(x: Tensor, exponent: float, space: Tensor | None = None) -> Tensor:
    """|x|^exponent, in the space or in a new tensor."""
    size = torch.abs(x, out=_corner(space, x))
    if exponent == 1:
        return size
    return size.sqrt_() if exponent == 0.5 else size.pow_(exponent)


def _corner(space: Tensor | None, like: Tensor) -> Tensor | None:
    """Memory for a result: to touch new memory costs more than the work itself."""
    return None if space is None else space[: like.shape[0], : like.shape[1]]


def _share(b: float) -> float:
    return (b - 1) / b


def _kernels(x: Tensor, weight: Tensor) -> Any:
    """The Triton kernels where they can do this unit, else None; a compiler that traces the unit writes its own."""
    if not x.is_cuda or torch.compiler.is_compiling() or find_spec("triton") is None:
        return None
    from aloe.bcos import triton

    return triton if triton.takes(x, weight) else None


def _tile(x: Tensor, weight: Tensor) -> tuple[int, int]:
    """Rows and columns of a tile of outputs; 0 where the whole is one, or where a graph is being traced."""
    if x.device.type != "cpu" or torch.compiler.is_compiling() or not all(type(n) is int for n in x.shape):
        return 0, 0
    tokens, outputs = x.shape[:-1].numel(), len(weight)
    if tokens * outputs <= TILE:
        return 0, 0
    columns = -(-outputs // -(-outputs // TILE_COLUMNS))
    low, high = TILE_ROWS
    return min(max(TILE // columns, low), high), columns


def _slices(count: int, step: int) -> Iterator[slice]:
    return (slice(i, min(i + step, count)) for i in range(0, count, step))


def _rest(x: Tensor, patch: Tensor, box: Tensor, stride: int, padding: int) -> list[int]:
    """Rows and columns that a strided convolution leaves over, so that its adjoint has the size of its input."""
    return [x.shape[d] - ((patch.shape[d] - 1) * stride - 2 * padding + box.shape[d]) for d in (2, 3)]


def _without_autocast(kind: str) -> AbstractContextManager[Any]:
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
