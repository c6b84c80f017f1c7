"""A B-cos ViT against transformers' ViTModel (sdpa) of the same size: forward, and a training step.

Both have random weights and see the same images. They take turns, round after round, timed in the CPU time of this process
(`--clock wall` for a machine of one's own, or several threads); medians of the per-round ratios:

    python benchmarks/whole_model.py --sizes S B --batch 4 --rounds 5 --threads 1
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import transformers
from torch import Tensor, nn

from aloe.models.configuration import BcosViTConfig
from aloe.models.modeling import BcosViTModel

SIZES = {"Ti": (192, 3, 12), "S": (384, 6, 12), "B": (768, 12, 12)}  # width, heads, blocks
CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["S", "B"], choices=list(SIZES))
    parser.add_argument("--stem", default="patch", choices=["patch", "conv"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="cpu")
    parser.add_argument("--profile", action="store_true", help="where the student's step spends its time, instead")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    shown = f"{args.image_size} px, patch 16, {args.stem} stem, batch {args.batch}, {args.clock} time"
    print(f"torch {torch.__version__}, {args.threads} threads, float32, {shown}, median of {args.rounds} rounds")
    for size in args.sizes:
        plain, student = build_plain(size, args.image_size), build_student(size, args.image_size, args.stem)
        images = torch.rand(args.batch, 3, args.image_size, args.image_size, generator=torch.Generator().manual_seed(0))
        if args.profile:
            profile(student, images)
            continue
        compare(size, {"plain": plain, "student": student}, images, args.rounds, CLOCKS[args.clock])


def build_plain(size: str, image_size: int) -> nn.Module:
    width, heads, blocks = SIZES[size]
    config = transformers.ViTConfig(
        hidden_size=width,
        num_attention_heads=heads,
        num_hidden_layers=blocks,
        intermediate_size=4 * width,
        image_size=image_size,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    return transformers.ViTModel(config, add_pooling_layer=False)


def build_student(size: str, image_size: int, stem: str) -> nn.Module:
    width, heads, blocks = SIZES[size]
    torch.manual_seed(0)
    return BcosViTModel(
        BcosViTConfig(
            hidden_size=width,
            num_attention_heads=heads,
            num_hidden_layers=blocks,
            intermediate_size=4 * width,
            image_size=image_size,
            stem=stem,
        )
    )


def compare(size: str, models: dict[str, nn.Module], images: Tensor, rounds: int, clock: Callable[[], float]) -> None:
    optimizers = {name: torch.optim.AdamW(m.parameters(), lr=1e-5) for name, m in models.items()}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for _ in range(rounds + 1):
        for name, model in models.items():
            forward = seconds(lambda model=model: predict(model, images), clock)
            step = seconds(lambda name=name, model=model: train(model, images, optimizers[name]), clock)
            taken[name].append((forward, step))
    for i, what in enumerate(("forward", "training step")):
        plain, student = ([t[i] for t in taken[name][1:]] for name in ("plain", "student"))
        ratio = statistics.median(s / p for s, p in zip(student, plain, strict=True))
        times = " and ".join(f"{statistics.median(t) / len(images) * 1e3:.0f}" for t in (plain, student))
        print(f"ViT-{size}/16, {what}: {times} ms per image, plain and B-cos; ratio {ratio:.3f}")


def predict(model: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        model.eval()(images)


def train(model: nn.Module, images: Tensor, optimizer: torch.optim.Optimizer) -> None:
    model.train()(images).last_hidden_state.square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def seconds(work: Callable[[], None], clock: Callable[[], float]) -> float:
    start = clock()
    work()
    return clock() - start


def profile(model: nn.Module, images: Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
    train(model, images, optimizer)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        train(model, images, optimizer)
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=48))


if __name__ == "__main__":
    main()
