"""Exported graphs under onnxruntime against PyTorch on this CPU: forward, forward in int8, explanation.

A random student is exported, then both sides run in turn with the same number of threads, round after round; printed are the
medians and the median of the per-round ratios (below 1: onnxruntime is faster):

    python benchmarks/export.py --size S --batch 1 8 --rounds 7 --threads 1
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor

from aloe.apps.export.formats import run_onnx
from aloe.apps.export.run import export_student
from aloe.attribution.inherent import explain
from aloe.models.configuration import BcosViTConfig
from aloe.models.modeling import BcosViTForImageClassification

SIZES = {"Ti": (192, 12, 3), "S": (384, 12, 6), "B": (768, 12, 12)}


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def student(size: str) -> BcosViTForImageClassification:
    width, layers, heads = SIZES[size]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BcosViTConfig(width, layers, heads, 4 * width, num_labels=1000)
        return BcosViTForImageClassification(config).eval()


def graphs(model: BcosViTForImageClassification, folder: Path, images: Tensor, threads: int) -> dict[str, Any]:
    """Name -> a runner of the exported file; says how far each is from PyTorch and how long the export took."""
    wanted: dict[str, dict[str, Any]] = {
        "forward": {},
        "forward int8": {"int8": True, "images": images},
        "explanation": {"what": "explanation"},
    }
    runners = {}
    for name, options in wanted.items():
        start = time.perf_counter()
        done = export_student(model, folder / f"{name}.onnx", **options)
        took = time.perf_counter() - start
        worst = max(done.differences.values())
        print(f"{name}: {done.bytes / 2**20:.1f} MiB, exported in {took:.0f} s, differs by {worst:.1e} at most")
        if done.completeness is not None:
            print(f"  completeness error {done.completeness:.1e}")
        if done.int8:
            print(f"  {done.int8.words()}")
        runners[name] = run_onnx(done.path, threads=threads)
    return runners


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="S", choices=SIZES)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = student(args.size)
    images = torch.rand(max(args.batch), 3, 224, 224, generator=torch.Generator().manual_seed(1))
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"ViT-{args.size}/16, random weights, 224 px, {args.threads} threads, median of {args.rounds} rounds; "
        f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, load {load}"
    )

    def forward(batch: Tensor) -> None:
        with torch.inference_mode():
            model(batch)

    reference = {"forward": forward, "forward int8": forward, "explanation": lambda batch: explain(model, batch)}
    with tempfile.TemporaryDirectory() as folder:
        runners = graphs(model, Path(folder), images, args.threads)
        print(f"{'graph':>14} {'batch':>5} {'PyTorch ms':>11} {'onnxruntime ms':>15} {'ratio':>6}")
        for name, run in runners.items():
            for count in args.batch:
                batch = images[:count]
                feeds = {"image": batch.numpy()}
                rounds = [
                    (seconds(lambda b=batch, n=name: reference[n](b)), seconds(lambda f=feeds, r=run: r(f)))
                    for _ in range(args.rounds + 1)
                ][1:]
                torch_ms, onnx_ms = (1e3 * statistics.median(r[side] for r in rounds) for side in (0, 1))
                ratio = statistics.median(onnx / ours for ours, onnx in rounds)
                print(f"{name:>14} {count:5d} {torch_ms:11.1f} {onnx_ms:15.1f} {ratio:6.2f}")
    print(f"load at the end {' '.join(f'{value:.1f}' for value in os.getloadavg())}")


if __name__ == "__main__":
    main()
