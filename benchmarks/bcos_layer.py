"""A B-cos unit against nn.Linear of the same shape: forward, and forward plus backward.

The three formulations are timed in turn, round after round, and the median of the per-round ratios is printed:

    python benchmarks/bcos_layer.py --widths 384 768 --tokens 4096 --threads 2
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from aloe.bcos.functional import bcos_linear


def two_products(x: Tensor, weight: Tensor) -> Tensor:
    """The cosine from a second matrix product over normalised operands, gradients by autograd."""
    cosine = F.linear(F.normalize(x, dim=-1), F.normalize(weight, dim=-1))
    return F.linear(x, weight) * cosine.abs()


VARIANTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "linear": F.linear,
    "bcos": bcos_linear,
    "two products": two_products,
}


def seconds(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor, backward: bool) -> float:
    start = time.perf_counter()
    if backward:
        function(x, weight).backward(x.new_ones(()).expand(*x.shape[:-1], weight.shape[0]))
        x.grad = weight.grad = None
    else:
        with torch.no_grad():
            function(x, weight)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[384, 768])
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096])
    parser.add_argument("--expand", type=int, default=4, help="output width over input width")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {args.threads} threads, float32, median of {args.rounds} rounds")
    print(f"{'shape':>22} {'pass':>9} {'linear ms':>10} {'bcos ms':>9} {'bcos/linear':>12} {'two products/bcos':>18}")
    for width in args.widths:
        for tokens in args.tokens:
            x = torch.randn(tokens, width, requires_grad=True)
            weight = torch.randn(args.expand * width, width, requires_grad=True)
            for backward in (False, True):
                rounds = [
                    {name: seconds(f, x, weight, backward) for name, f in VARIANTS.items()}
                    for _ in range(args.rounds + 2)
                ][2:]
                linear, bcos = (statistics.median(r[k] for r in rounds) * 1e3 for k in ("linear", "bcos"))
                ratio = statistics.median(r["bcos"] / r["linear"] for r in rounds)
                other = statistics.median(r["two products"] / r["bcos"] for r in rounds)
                shape = f"{tokens} x {width} -> {args.expand * width}"
                kind = "fwd+bwd" if backward else "fwd"
                print(f"{shape:>22} {kind:>9} {linear:10.1f} {bcos:9.1f} {ratio:12.2f} {other:18.2f}")


if __name__ == "__main__":
    main()
