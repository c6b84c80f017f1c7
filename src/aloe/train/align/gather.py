"""Features of all processes side by side, for objectives that contrast the images of a whole batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gathered(x: Tensor) -> Tensor:
    """(B, D) of every process -> (W B, D), in the order of the ranks; itself where there is one process.

    Every process must compute the same value from it. Its gradient is then the same everywhere too, and is handed back W
    times: averaged over the W processes, as data-parallel training does, the weights' gradient is that of one process with
    the whole batch. No gradient is communicated here.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    return _Gather.apply(x)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        start = dist.get_rank() * ctx.rows
        return grad[start : start + ctx.rows] * dist.get_world_size()
