"""A B-cos unit against nn.Linear of the same shape: forward, forward plus backward, and the bytes kept for the backward pass.

Beside them the formulation with two matrix products and, where it is installed (`pip install --no-deps bcos`), the linear
layer of the `bcos` package, whose weights are normalised. All are timed in turn, round after round, in the CPU time of this
process (`--clock wall` for a machine of one's own, or several threads), and the median of the per-round ratios is printed:

    python benchmarks/bcos_layer.py --shapes 384x1536 768x3072 --tokens 4096 --threads 1
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
import types
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aloe.bcos.layers import BcosLinear

CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}


class TwoProducts(nn.Linear):
    """The cosine from a second matrix product over normalised operands, gradients by autograd."""

    def forward(self, x: Tensor) -> Tensor:
        cosine = F.linear(F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1))
        return F.linear(x, self.weight) * cosine.abs()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["384x1536", "768x3072"], help="input width x output width")
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="cpu")
    parser.add_argument("--only", nargs="+", help="of the layers beside linear: bcos, two products, package")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        f"torch {torch.__version__}, {args.threads} threads, float32, {args.clock} time, median of {args.rounds} rounds"
    )
    print("ratios to linear of the same round, forward and forward + backward; kept: bytes for backward, of linear's")
    for shape in args.shapes:
        width, outputs = (int(n) for n in shape.split("x"))
        for tokens in args.tokens:
            measure(tokens, width, outputs, args.rounds, CLOCKS[args.clock], args.only)


def measure(
    tokens: int, width: int, outputs: int, rounds: int, clock: Callable[[], float], only: list[str] | None
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, width, generator=generator, requires_grad=True)
    gradient = torch.randn(tokens, outputs, generator=generator)
    layers = {k: v for k, v in build(width, outputs).items() if not only or k in ("linear", *only)}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in layers}
    for _ in range(rounds + 1):
        for name, layer in layers.items():
            times[name].append((seconds(layer, x, None, clock), seconds(layer, x, gradient, clock)))
    linear = times["linear"][1:]
    plain = kept_bytes(layers["linear"], x)
    print(f"{tokens} x {width} -> {outputs}")
    for name, layer in layers.items():
        taken = times[name][1:]
        spent = [statistics.median(t[i] for t in taken) * 1e3 for i in (0, 1)]
        ratio = [statistics.median(t[i] / base[i] for t, base in zip(taken, linear, strict=True)) for i in (0, 1)]
        kept = kept_bytes(layer, x)
        allowed = 1.1 * plain + 4 * tokens * outputs
        print(
            f"  {name:>12}: forward {spent[0]:8.1f} ms, {ratio[0]:5.2f}; both {spent[1]:8.1f} ms, {ratio[1]:5.2f}; "
            f"kept {kept / 2**20:7.1f} MiB, {kept / plain:5.2f}, of the allowance {kept / allowed:4.2f}"
        )


def build(width: int, outputs: int) -> dict[str, nn.Module]:
    """The layers, all with the same weight."""
    torch.manual_seed(0)
    layers: dict[str, nn.Module] = {
        "linear": nn.Linear(width, outputs, bias=False),
        "bcos": BcosLinear(width, outputs),
        "two products": TwoProducts(width, outputs, bias=False),
    }
    if (package := package_layer(width, outputs)) is not None:
        layers["package"] = package
    for layer in layers.values():
        weight = layer.linear.weight if hasattr(layer, "linear") else layer.weight
        weight.data.copy_(layers["linear"].weight.data)
    return layers


def package_layer(width: int, outputs: int) -> nn.Module | None:
    """`BcosLinear` of the `bcos` package, where that is installed."""
    module = package_module()
    return None if module is None else module.BcosLinear(width, outputs, b=2, max_out=1)


@cache
def package_module() -> Any:
    """The layer's file, loaded alone: the package's `__init__` needs torchvision, which the layer does not."""
    found = importlib.util.find_spec("bcos")
    if found is None or not found.submodule_search_locations:
        return None
    root = Path(found.submodule_search_locations[0])
    for name, folder in (("bcos", root), ("bcos.modules", root / "modules")):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(folder)]
    common = types.ModuleType("bcos.modules.common")
    common.DetachableModule = type("DetachableModule", (nn.Module,), {"detach": False})  # type: ignore[attr-defined]
    sys.modules[common.__name__] = common
    spec = importlib.util.spec_from_file_location("bcos.modules.bcoslinear", root / "modules" / "bcoslinear.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def seconds(layer: nn.Module, x: Tensor, gradient: Tensor | None, clock: Callable[[], float]) -> float:
    start = clock()
    if gradient is None:
        with torch.no_grad():
            layer(x)
    else:
        layer(x).backward(gradient)
        for tensor in (x, *layer.parameters()):
            tensor.grad = None
    return clock() - start


def kept_bytes(layer: nn.Module, x: Tensor) -> int:
    """Bytes of the storages that autograd keeps from the forward pass, the weights left out, each counted once."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x)
    del y
    own = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    return sum(size for address, size in kept.items() if address not in own)


if __name__ == "__main__":
    main()
