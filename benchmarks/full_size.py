"""A Table A1 teacher at full size with random weights: convert, one forward and backward, one explanation.

python benchmarks/full_size.py google/vit-base-patch16-224 google/siglip2-so400m-patch14-384 --stem conv
"""

from __future__ import annotations

import argparse
import time

import torch

from aloe.attribution.inherent import explain
from aloe.models.convert import bcosify
from aloe.models.teachers import Teacher
from aloe.models.zoo import TEACHERS, build_random
from aloe.train.align.calibrate import calibrate
from aloe.train.align.points import check_pair, cosines, default_blocks, student_features, teacher_features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ids", nargs="+", choices=[t.id for t in TEACHERS])
    parser.add_argument("--stem", default="conv", choices=["patch", "conv"])
    args = parser.parse_args()
    torch.manual_seed(0)
    for row in (t for t in TEACHERS if t.id in args.ids):
        teacher = Teacher(build_random(row), name=row.id)
        student = bcosify(teacher, args.stem)
        side = student.config.resolution
        check_pair(student.config, teacher, side)
        images = torch.rand(1, 3, side, side)
        calibrate(student, images)
        blocks = default_blocks(teacher.num_layers)
        start = time.perf_counter()
        ours = student_features(student.base_model, images, blocks)
        theirs = teacher_features(teacher, images, student.config, blocks)
        found = cosines(ours, theirs, student.config, teacher)
        sum(1 - c for c in found.values()).backward()
        seconds = time.perf_counter() - start
        finite = all(p.grad is None or bool(p.grad.isfinite().all()) for p in student.parameters())
        error = float(explain(student, images).completeness_error().max())
        print(
            f"{row.id}: student {side} px, {student.config.grid_size}x{student.config.grid_size} tokens, "
            f"{student.num_parameters() / 1e6:.1f} M parameters; forward and backward {seconds:.1f} s, "
            f"gradients finite: {finite}, completeness error {error:.1e}"
        )


if __name__ == "__main__":
    main()
