"""Memory and time of exact k-NN: training features are generated chunk by chunk from a seed and never all in memory.

python benchmarks/knn.py --train 1280000 --test 1000 --width 1152 --threads 1
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from aloe.evaluation.knn import METRICS, WEIGHTS, knn_predict


class Generated:
    """Gaussian features around one centre per class, the same at every reading."""

    def __init__(self, labels: Tensor, width: int, seed: int, chunk: int) -> None:
        self.labels, self.chunk = labels, chunk
        self.draws = torch.Generator().manual_seed(seed)
        self.centres = torch.randn(int(labels.max()) + 1, width, generator=torch.Generator().manual_seed(0))

    def chunks(self) -> Iterator[Tensor]:
        for labels in self.labels.split(self.chunk):
            noise = torch.randn(len(labels), self.centres.shape[1], generator=self.draws)
            yield noise.mul_(4).add_(self.centres[labels])


def peak() -> float:
    """Largest resident set of this process so far, MiB."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=int, default=40_000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--width", type=int, default=1152)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--k", type=int, nargs="+", default=[20])
    parser.add_argument("--metric", default="cosine", choices=METRICS)
    parser.add_argument("--weights", default="uniform", choices=WEIGHTS)
    parser.add_argument("--chunk", type=int, default=8192, help="features that the source yields at a time")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {args.threads} threads, {args.metric}, k = {args.k}")
    torch.randn(256, 256) @ torch.randn(256, 256)  # the matrix library loads itself at its first product
    before = peak()
    generator = torch.Generator().manual_seed(1)
    labels, expected = (torch.randint(args.classes, (n,), generator=generator) for n in (args.train, args.test))
    (test,) = Generated(expected, args.width, 2, args.test).chunks()
    train = Generated(labels, args.width, 3, args.chunk)
    start = time.perf_counter()
    found = knn_predict(train, labels, test, args.k, metric=args.metric, weights=args.weights)
    seconds = time.perf_counter() - start
    rate = 2 * args.train * args.test * args.width / seconds / 1e9
    print(
        f"train {args.train} x test {args.test} x width {args.width}: {seconds:.1f} s ({rate:.1f} GFLOP/s of products), "
        f"peak {peak() - before:.0f} MiB beyond {before:.0f} MiB after imports, test features and labels included"
    )
    for k in args.k:
        print(f"k = {k}: {100 * (found[k] == expected).double().mean():.2f} % correct")


if __name__ == "__main__":
    main()
