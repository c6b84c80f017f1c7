"""The best rate by width: short alignments at several rates, and how close each comes to the teacher on held-out images.

python benchmarks/widths.py TEACHER IMAGES TEST -o RUNS --trials cosine:adamw:5e-4,... [--steps 150] [--batch 16]

A trial is objective:optimizer:rate. `RUNS` keeps one alignment per trial, and `widths.jsonl` the cosine of the pooled outputs
and the same less the teacher's mean, on test images.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch.nn.functional as F

from aloe.data.sources import open_images
from aloe.data.subset import SubsetImages
from aloe.evaluation.features import extract
from aloe.models.saving import load
from aloe.models.teachers import load_teacher
from aloe.train.align.run import align


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher")
    parser.add_argument("images", help="to align on")
    parser.add_argument("test", help="to compare on")
    parser.add_argument("--output-dir", "-o", type=Path, required=True)
    parser.add_argument("--trials", required=True)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--resolution", type=int)
    parser.add_argument("--count", type=int, default=500, help="test images")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    source = open_images(args.test)
    test = SubsetImages(source, range(0, len(source), max(1, len(source) // args.count)))
    teacher = load_teacher(args.teacher)
    wanted = extract(teacher, test, resolution=args.resolution).tensor()
    mean = wanted.mean(0)
    for trial in args.trials.split(","):
        objective, optimizer, rate = trial.split(":")
        home = args.output_dir / f"{objective}-{optimizer}-{rate}-{args.steps}x{args.batch}-{args.seed}"
        begun = time.process_time()
        if not (home / "model.safetensors").is_file():
            align(
                args.teacher, args.images, home, objective=objective, optimizer=optimizer, learning_rate=float(rate),
                steps=args.steps, batch_size=args.batch, resolution=args.resolution, crop_scale=(0.35, 1.0), seed=args.seed,
                workers=0, device="cpu", evaluate_every=10**6, save_every=10**6, holdout=0,
            )  # fmt: skip
        ours = extract(load(home), test, resolution=args.resolution).tensor()
        row = {
            "teacher": Path(args.teacher).name, "objective": objective, "optimizer": optimizer, "rate": float(rate),
            "steps": args.steps, "batch": args.batch, "seed": args.seed,
            "cosine": float(F.cosine_similarity(ours, wanted).mean()),
            "centred": float(F.cosine_similarity(ours - mean, wanted - mean).mean()),
            "seconds": time.process_time() - begun,
        }  # fmt: skip
        print(json.dumps(row), flush=True)
        with (args.output_dir / "widths.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
