"""Images per second of a full alignment step per model size, on random weights and images.

python benchmarks/alignment.py --sizes Ti S B --batch 8 --steps 3 --threads 2
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import transformers

from aloe.alignment.points import default_blocks, teacher_features
from aloe.alignment.settings import AlignSettings
from aloe.alignment.trainer import AlignmentModel
from aloe.models.convert import bcosify
from aloe.models.teachers import Teacher

SIZES = {"Ti": (192, 3, 12), "S": (384, 6, 12), "B": (768, 12, 12)}  # width, heads, blocks


def build(size: str) -> Teacher:
    width, heads, blocks = SIZES[size]
    config = transformers.ViTConfig(
        hidden_size=width, num_attention_heads=heads, num_hidden_layers=blocks, intermediate_size=4 * width
    )
    return Teacher(transformers.ViTModel(config, add_pooling_layer=False), name=size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {args.threads} threads, float32, 224 px, patch 16, batch {args.batch}")
    for size in args.sizes:
        teacher = build(size)
        student = bcosify(teacher)
        model = AlignmentModel(student, teacher, AlignSettings(), default_blocks(teacher.num_layers))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0)
        images = torch.rand(args.batch, 3, 224, 224)
        times = {"teacher": [], "student and update": []}  # type: ignore[var-annotated]
        for _ in range(args.steps + 1):
            start = time.perf_counter()
            features = teacher_features(teacher, images, student.config, model.blocks)
            middle = time.perf_counter()
            torch.stack(list(model(images, features).values())).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            times["teacher"].append(middle - start)
            times["student and update"].append(time.perf_counter() - middle)
        parts = {name: statistics.median(values[1:]) for name, values in times.items()}
        rate = args.batch / sum(parts.values())
        shown = ", ".join(f"{name} {value / args.batch * 1e3:.0f} ms/image" for name, value in parts.items())
        print(f"ViT-{size}/16: {rate:.2f} images/s ({shown})")


if __name__ == "__main__":
    main()
