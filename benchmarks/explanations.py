"""What explanations cost: images per second explained against forward passes alone, and every attribution method beside them.

    python benchmarks/explanations.py throughput --sizes S B --batch 8 --rounds 5 --threads 1
    python benchmarks/explanations.py methods --size S --threads 1

on students with random weights and 1000 classes. Times are the CPU time of this process (`--clock wall` for a machine of
one's own, or several threads). Memory is the peak of all tensors beyond the model and the image, watched in a run of its own
where that could show in the time. A method of many passes needs memory for the images that pass together.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor

from aloe.attribution.inherent import explain
from aloe.attribution.methods import METHODS, attribute
from aloe.models.configuration import BcosViTConfig
from aloe.models.modeling import BcosViTForImageClassification

SIZES = {"Ti": (192, 3, 12), "S": (384, 6, 12), "B": (768, 12, 12)}  # width, heads, blocks
LONG = 10  # seconds
CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    throughput = verbs.add_parser("throughput")
    throughput.add_argument("--sizes", nargs="+", default=["S", "B"], choices=list(SIZES))
    throughput.add_argument("--batch", type=int, default=8)
    methods = verbs.add_parser("methods")
    methods.add_argument("--size", default="S", choices=list(SIZES))
    methods.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    for verb, rounds in ((throughput, 5), (methods, 3)):
        verb.add_argument("--rounds", type=int, default=rounds)
        verb.add_argument("--image-size", type=int, default=224)
        verb.add_argument("--threads", type=int, default=torch.get_num_threads())
        verb.add_argument("--clock", choices=CLOCKS, default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {args.threads} threads, float32, {args.image_size} px, {args.clock} time")
    measure_throughput(args) if args.verb == "throughput" else measure_methods(args)


def measure_throughput(args: argparse.Namespace) -> None:
    clock = CLOCKS[args.clock]
    for size in args.sizes:
        model, images = build(size, args.image_size), draw(args.batch, args.image_size)
        rounds = []
        for _ in range(args.rounds + 1):
            start = clock()
            with torch.inference_mode():
                model(images)
            middle = clock()
            explain(model, images, batch_size=args.batch)
            rounds.append((middle - start, clock() - middle))
        forward, explaining = (args.batch / statistics.median(r[i] for r in rounds[1:]) for i in (0, 1))
        share = statistics.median(f / e for f, e in rounds[1:])
        print(
            f"ViT-{size}/16, batch {args.batch}: forward {forward:.2f} images/s, explained {explaining:.2f} images/s; "
            f"explained / forward {share:.2f} (median of {args.rounds} rounds)"
        )


def measure_methods(args: argparse.Namespace) -> None:
    """Seconds and peak memory of one image's explanation: the median of the rounds, one run of methods that take long."""
    clock = CLOCKS[args.clock]
    model, image = build(args.size, args.image_size), draw(1, args.image_size)
    attribute(model, image, 0, "inherent")
    print(f"ViT-{args.size}/16, one image")
    print(f"{'method':>22} {'seconds':>8} {'peak MiB':>9} {'forward':>8} {'backward':>9}")
    for name in args.methods:
        start = clock()
        cost = attribute(model, image, 0, name, memory=True).cost
        taken = [clock() - start]
        if taken[0] < LONG:  # where watching the memory may show in the time
            taken = []
            for _ in range(args.rounds):
                start = clock()
                attribute(model, image, 0, name)
                taken.append(clock() - start)
        peak = (cost.peak_bytes or 0) / 2**20
        print(
            f"{METHODS[name].title:>22} {statistics.median(taken):8.2f} {peak:9.0f} {cost.forward:8.0f} {cost.backward:9.0f}",
            flush=True,
        )


def build(size: str, image_size: int) -> BcosViTForImageClassification:
    width, heads, blocks = SIZES[size]
    torch.manual_seed(0)
    config = BcosViTConfig(
        hidden_size=width,
        num_attention_heads=heads,
        num_hidden_layers=blocks,
        intermediate_size=4 * width,
        image_size=image_size,
        num_labels=1000,
    )
    return BcosViTForImageClassification(config).eval()


def draw(count: int, image_size: int) -> Tensor:
    return torch.rand(count, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))


if __name__ == "__main__":
    main()
