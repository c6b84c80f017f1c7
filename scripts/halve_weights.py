"""Write a student with its weights in half the bytes: `python scripts/halve_weights.py STUDENT OUTPUT`.

Every number is rounded to float16. The configuration still says float32, so a loaded student computes in float32 with the
rounded weights, and what is measured of it holds to the bit wherever it is loaded.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from aloe.models.saving import load, save_student

NAME = "model.safetensors"


def halve(student: str, output_dir: Path) -> float:
    """The largest change of a weight, relative to the largest of its tensor."""
    save_student(load(student).float(), output_dir)
    weights = load_file(output_dir / NAME)
    halves = {name: weight.half() for name, weight in weights.items()}
    if not all(torch.isfinite(half).all() for half in halves.values()):
        raise SystemExit("A weight is beyond float16's largest number.")
    save_file(halves, output_dir / NAME, metadata={"format": "pt"})
    return max(
        float((half.float() - weights[name]).abs().max() / weights[name].abs().max().clamp_min(1e-30))
        for name, half in halves.items()
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("student")
    parser.add_argument("output_dir", type=Path)
    given = parser.parse_args()
    change = halve(given.student, given.output_dir)
    print(f"{given.output_dir}: weights changed by at most {change:.1e} of their tensor's largest")
