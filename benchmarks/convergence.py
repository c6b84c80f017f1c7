"""Crops and processor seconds until a student's held-out pooled cosine reaches 0.90, 0.95 and 0.97, by recipe, in one run.

python benchmarks/convergence.py TEACHER IMAGES -o RUNS [--crops 25600] [--recipes before,default,authors,small] [--seeds 0]

Every recipe sees the same number of crops with its schedule run to the end. Interrupted, the same command goes on; `RUNS`
keeps one alignment per recipe and seed, and `convergence.json` the table. `default` is the recipe `short`, and `before` the
same at 1e-3 whatever the student, as it was at first. The authors' batch of 1024 would be a few steps here: theirs is as
large as leaves 100 steps, at most 1024, at their rate of 3e-4, with the same stem as the others.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from aloe.train.align.run import align
from aloe.train.align.settings import AlignSettings
from aloe.train.progress import read_log

LEVELS = (0.90, 0.95, 0.97)
POINTS = 40  # evaluations in a run
NAME = "convergence.json"


def settings_of(recipe: str, crops: int) -> dict[str, Any]:
    """The settings of one of the four recipes for that many crops."""
    if recipe == "authors":
        batch = min(1024, max(1, crops // 100))
        values = {"learning_rate": 3e-4, "after_block": "paper", "calibrate": False, "warmup": 0.03, "decay": 0.18}
        return {**values, "schedule": "warmup-constant-cosine", "batch_size": batch, "steps": crops // batch}
    recipe, rate = {"default": ("short", {}), "before": ("short", {"learning_rate": 1e-3})}.get(recipe, (recipe, {}))
    batch = AlignSettings.resolve(recipe).batch_size
    return {"recipe": recipe, **rate, "batch_size": batch, "steps": crops // batch}


def measure(
    teacher: str, images: str, home: Path, recipe: str, seed: int, crops: int, more: dict[str, Any]
) -> dict[str, Any]:
    """Align, or read what was aligned, and find where the cosine first reached each level."""
    chosen = settings_of(recipe, crops)
    every = max(1, chosen["steps"] // POINTS)
    begun = crops_logged(home, chosen["batch_size"])
    start = time.process_time()
    align(
        teacher, images, home, seed=seed, evaluate_every=every, save_every=every, log_every=every, workers=0, device="cpu",
        **{**chosen, **more},
    )  # fmt: skip
    done = crops_logged(home, chosen["batch_size"]) - begun
    seconds = (time.process_time() - start) / done if done else None  # per crop, evaluations included
    rows = [row for row in read_log(home) if "eval_cosine_pooled" in row]
    reached = {}
    for level in LEVELS:
        first = next((row["step"] for row in rows if row["eval_cosine_pooled"] >= level), None)
        reached[f"{level:.2f}"] = None if first is None else first * chosen["batch_size"]
    return {
        "recipe": recipe,
        "seed": seed,
        "crops": crops,
        "settings": chosen,
        "cosine": rows[-1]["eval_cosine_pooled"],
        "crops_until": reached,
        "seconds_per_crop": seconds,
    }


def crops_logged(home: Path, batch: int) -> int:
    """How many crops a run has seen."""
    rows = read_log(home)
    return rows[-1]["step"] * batch if rows else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher")
    parser.add_argument("images")
    parser.add_argument("--output-dir", "-o", type=Path, required=True)
    parser.add_argument("--crops", type=int, default=25_600)
    parser.add_argument("--recipes", default="before,default,authors,small")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--holdout", type=int, default=256)
    chosen = parser.parse_args()
    chosen.output_dir.mkdir(parents=True, exist_ok=True)
    table = chosen.output_dir / NAME
    known = json.loads(table.read_text()) if table.is_file() else []
    more = {"crop_scale": (0.35, 1.0), "holdout": chosen.holdout}
    for seed in map(int, chosen.seeds.split(",")):
        for recipe in chosen.recipes.split(","):
            place = {"recipe": recipe, "seed": seed, "crops": chosen.crops}
            if any(all(row[k] == v for k, v in place.items()) for row in known):
                continue
            home = chosen.output_dir / f"{recipe}-{chosen.crops}-seed{seed}"
            known.append(measure(chosen.teacher, chosen.images, home, recipe, seed, chosen.crops, more))
            temporary = table.with_suffix(".tmp")
            temporary.write_text(json.dumps(known, indent=1) + "\n")
            os.replace(temporary, table)
    for row in known:
        until = ", ".join(f"{level} after {n or '-'} crops" for level, n in row["crops_until"].items())
        spent = row["seconds_per_crop"]
        words = "" if spent is None else f"; {1000 * spent:.1f} ms of processor per crop"
        print(f"{row['recipe']:8} seed {row['seed']} {row['crops']} crops: cosine {row['cosine']:.4f}; {until}{words}")


if __name__ == "__main__":
    main()
