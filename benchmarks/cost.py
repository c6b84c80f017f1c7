"""Images per second and memory of teacher, student and explanation against width, depth, resolution and batch.

python benchmarks/cost.py --threads 1 --rounds 2 --output cost.json --figures docs/images
python benchmarks/cost.py --drawn-from cost.json --figures docs/images
"""

from __future__ import annotations

import argparse
import gc
import json
from pathlib import Path
from typing import Any

import torch

from aloe.apps.bench.sizes import Size, vit_teacher
from aloe.apps.bench.timing import median_seconds
from aloe.attribution.inherent import explain
from aloe.attribution.memory import peak_memory
from aloe.core.files import write_whole
from aloe.draw.figures import STYLE, drawn, load_matplotlib
from aloe.models.convert import bcosify
from aloe.train.align.points import default_blocks
from aloe.train.align.teaching import Teaching

BASE = {"width": 192, "depth": 12, "resolution": 224, "batch": 1}
AXES = {
    "width": [96, 192, 384, 576, 768],
    "depth": [3, 6, 12, 24],
    "resolution": [224, 320, 448, 576, 768],
    "batch": [1, 2, 4, 8, 16],
}
UNITS = {"width": "width", "depth": "blocks", "resolution": "pixels on a side", "batch": "images in a batch"}
COLOURS = {"teacher": "#8c8c8c", "student": "#0072b2", "explanation": "#cc79a7"}


def cost(width: int, depth: int, resolution: int, batch: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """A plain ViT with heads of 64 and patches of 16, its B-cos student (patch stem), and the student's explanations."""
    size = Size(width, depth, max(1, width // 64), 4 * width)
    teacher = vit_teacher(size, resolution, "ViT").to(device)
    student: Any = bcosify(teacher).to(device).eval()
    images = torch.rand(batch, 3, resolution, resolution, generator=torch.Generator().manual_seed(0)).to(device)
    teach = Teaching(teacher, student.config, default_blocks(depth))

    def forward() -> None:
        with torch.inference_mode():
            student(images)

    calls = {
        "teacher": lambda: teach(images),
        "student": forward,
        "explanation": lambda: explain(student, images, batch_size=batch),
    }
    found: dict[str, Any] = {}
    for name, call in calls.items():
        with peak_memory(device) as peak:
            call()
        found[name] = {"mebibytes": peak.bytes / 2**20}
    for name, taken in median_seconds(calls, rounds, device).items():
        found[name]["images_per_second"] = batch / taken
    return found


def draw(rows: list[dict[str, Any]], axis: str) -> bytes:
    with load_matplotlib().rc_context(STYLE):
        return _draw(rows, axis)


def _draw(rows: list[dict[str, Any]], axis: str) -> bytes:
    """Speed on the left, memory on the right, both axes logarithmic."""
    figure = load_matplotlib().figure.Figure(figsize=(6.4, 2.6), layout="constrained")
    for place, (key, words) in enumerate(
        {"images_per_second": "images per second", "mebibytes": "MiB beyond the weights"}.items(), 1
    ):
        axes = figure.add_subplot(1, 2, place)
        for name, colour in COLOURS.items():
            points = [(row[axis], row[name][key]) for row in rows if row["axis"] == axis]
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3.5, color=colour, label=name)
        axes.set(xscale="log", yscale="log", xlabel=UNITS[axis], ylabel=words)
        axes.set_xticks(AXES[axis], [str(value) for value in AXES[axis]])
        axes.minorticks_off()
        axes.grid(alpha=0.25)
        ticks = load_matplotlib().ticker
        axes.yaxis.set_major_locator(ticks.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ticks.FuncFormatter(lambda value, _: f"{value:g}"))
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, ncols=3, loc="outside lower center")
    fixed = ", ".join(f"{name} {value}" for name, value in BASE.items() if name != axis)
    figure.suptitle(f"Against {axis} ({fixed})", fontsize=8)
    return drawn(figure, "png", dpi=160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=list(AXES))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--figures", type=Path)
    parser.add_argument("--drawn-from", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = json.loads(args.drawn_from.read_text()) if args.drawn_from else []
    if not rows:
        print(f"torch {torch.__version__}, {args.device}, {args.threads} threads, float32, medians of {args.rounds}")
        print("| against | value | images/s: teacher | student | explanation | MiB: teacher | student | explanation |")
    for axis in args.axes if not rows else []:
        for value in AXES[axis]:
            where = BASE | {axis: value}
            found = cost(**where, rounds=args.rounds, device=torch.device(args.device))
            gc.collect()
            rows.append({"axis": axis, **where, **found})
            rates = " | ".join(f"{found[name]['images_per_second']:.2f}" for name in COLOURS)
            sizes = " | ".join(f"{found[name]['mebibytes']:.0f}" for name in COLOURS)
            print(f"| {axis} | {value} | {rates} | {sizes} |", flush=True)
            if args.output:
                args.output.write_text(json.dumps(rows, indent=1) + "\n")
    for axis in args.axes if args.figures else []:
        write_whole(args.figures / f"cost-{axis}.png", draw(rows, axis))


if __name__ == "__main__":
    main()
