"""Seconds of a call, the rate of a plain matrix product beside it, FLOPs of a call, and the largest size that fits."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from aloe.train.stopping import is_out_of_memory

PEAK_SIDE = {"cpu": 1024, "cuda": 8192}


def synchronize(device: torch.device) -> None:
    """Wait for what the device was asked to do."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Wall time of one call, the device's work included."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def median_seconds(calls: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, float]:
    """Medians of every call, taken in turns so that a machine whose speed drifts does not bend the comparison.

    The first round, in which libraries load and buffers grow, is not counted.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            taken[name].append(seconds(call, device))
    return {name: statistics.median(values[1:]) for name, values in taken.items()}


def matmul(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], Any], int]:
    """A product of two square matrices as a call, and its FLOPs: what the utilisation of a network is measured against."""
    side = PEAK_SIDE.get(device.type, 4096)
    a, b = (torch.randn(side, side, generator=torch.Generator().manual_seed(k)).to(device, dtype) for k in (0, 1))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out), 2 * side**3


def count_flops(call: Callable[[], Any]) -> int:
    """FLOPs of the matrix products, convolutions and attentions in a call, forward and backward (2 per multiply-add)."""
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    def forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    def backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_backward_flop_count(grad, query, key, value)

    def product(total: Any, a: Any, b: Any, *_: Any, **__: Any) -> int:
        return 2 * a[0] * a[1] * b[1]

    aten = torch.ops.aten
    also = {  # what torch's own table lacks
        aten.addmm_: product,
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    counter = FlopCounterMode(display=False, custom_mapping=also)
    with torch.compiler.set_stance("force_eager"), counter:  # compiled graphs would hide their products
        call()
    return counter.get_total_flops()


def largest(fits: Callable[[int], bool], start: int, limit: int = 1 << 14) -> int:
    """The largest number for which `fits` holds, 0 if none: doubled until it does not, then by bisection."""
    good, bad = 0, start
    while fits(bad):
        good, bad = bad, 2 * bad
        if bad > limit:
            return good
    while bad - good > max(1, good // 16):  # to a sixteenth: the allocator is not more exact
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def fits_in_memory(call: Callable[[], Any]) -> bool:
    """Whether a call ends without an allocation failing."""
    try:
        call()
        return True
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()
    return False
