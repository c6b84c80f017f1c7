"""The element-wise work of a B-cos unit on CUDA: one Triton kernel each for output, incoming gradient and input gradient.

They do what `units` does on a CPU, each in one pass: `epilogue_` turns the product o = x . w into y = p |p|^(B-1) where it
lies, `prologue` turns the incoming gradient G into a = G |y|^e times the norms' shares, `radial_` finishes h = a W. The
products themselves are the library's. Imported only where a CUDA tensor and Triton are at hand; with TRITON_INTERPRET=1 the
kernels run on the CPU, which is how they are tested without a GPU. Numbers narrower than float32 are computed in float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # outputs of one row that a program takes
WIDEST = 1 << 14  # inputs of one row that a program of `radial_` holds at once


def takes(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernels can do this unit: float64 would lose digits, and a row must fit a program."""
    return x.dtype == weight.dtype != torch.float64 and weight.shape[1] <= WIDEST


def epilogue_(o: Tensor, row: Tensor, column: Tensor | None, b: float) -> Tensor:
    """In place: o (T, N) -> p |p|^(b-1) with p = o row column; row (T, 1), column (1, N), contiguous."""
    _epilogue[_grid(o)](
        o, row, row if column is None else column, o.shape[1], o.stride(0), b - 1, column is not None, b == 2, BLOCK
    )
    return o


def prologue(grad: Tensor, y: Tensor, row: Tensor, column: Tensor | None, b: float) -> Tensor:
    """grad |y|^((b-1)/b) row column, (T, N); a gradient that is expanded is read as it lies."""
    a = torch.empty_like(y)
    _prologue[_grid(y)](
        a,
        grad,
        y,
        row,
        row if column is None else column,
        y.shape[1],
        y.stride(0),
        *grad.stride(),
        (b - 1) / b,
        column is not None,
        b == 2,
        BLOCK,
    )
    return a


def radial_(h: Tensor, x: Tensor, x_norm: Tensor, b: float) -> Tensor:
    """In place: h -> b h - (b-1) x <x, h> / ||x||^2; h and x (T, D), x_norm (T, 1)."""
    _radial[(h.shape[0],)](
        h, x, x_norm, h.shape[1], h.stride(0), x.stride(0), x.stride(1), b, triton.next_power_of_2(h.shape[1])
    )
    return h


def _grid(y: Tensor) -> tuple[int, int]:
    return y.shape[0], triton.cdiv(y.shape[1], BLOCK)


@triton.jit
def _power(size, exponent, LINEAR: tl.constexpr, ROOT: tl.constexpr):  # type: ignore[no-untyped-def]
    if LINEAR:
        return size
    elif ROOT:
        return tl.sqrt(size)
    else:
        return tl.where(size > 0, tl.exp2(exponent * tl.log2(tl.where(size > 0, size, 1.0))), 0.0)


@triton.jit
def _epilogue(  # type: ignore[no-untyped-def]
    o, row, column, outputs, stride, exponent, COLUMN: tl.constexpr, SQUARE: tl.constexpr, WIDTH: tl.constexpr
):
    r = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = c < outputs
    p = tl.load(o + r * stride + c, mask=inside, other=0.0).to(tl.float32) * tl.load(row + r)
    if COLUMN:
        p *= tl.load(column + c, mask=inside, other=0.0)
    tl.store(o + r * stride + c, p * _power(tl.abs(p), exponent, SQUARE, False), mask=inside)


@triton.jit
def _prologue(  # type: ignore[no-untyped-def]
    a,
    grad,
    y,
    row,
    column,
    outputs,
    stride,
    grad_stride,
    grad_step,
    exponent,
    COLUMN: tl.constexpr,
    SQUARE: tl.constexpr,
    WIDTH: tl.constexpr,
):
    r = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = c < outputs
    size = tl.abs(tl.load(y + r * stride + c, mask=inside, other=0.0).to(tl.float32))
    g = tl.load(grad + r * grad_stride + c * grad_step, mask=inside, other=0.0).to(tl.float32)
    product = g * _power(size, exponent, False, SQUARE) * tl.load(row + r)
    if COLUMN:
        product *= tl.load(column + c, mask=inside, other=0.0)
    tl.store(a + r * stride + c, product, mask=inside)


@triton.jit
def _radial(h, x, x_norm, inputs, stride, x_stride, x_step, b, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    r = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, WIDTH)
    inside = c < inputs
    along = tl.load(h + r * stride + c, mask=inside, other=0.0).to(tl.float32)
    line = tl.load(x + r * x_stride + c * x_step, mask=inside, other=0.0).to(tl.float32) / tl.load(x_norm + r)
    tl.store(h + r * stride + c, b * along - (b - 1) * tl.sum(line * along) * line, mask=inside)
