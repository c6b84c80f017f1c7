"""Draws docs/images/zeroshot-scenes.png: held-out scenes explained by an aligned student for the text that names their object
and for a text that does not. From a checkout with the package installed, after `scripts/train_scene_siglip.py TEACHER` and
`aloe align TEACHER ... -o STUDENT`: python scripts/zeroshot_picture.py STUDENT TEACHER OUTPUT.png."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from train_scene_teacher import RESOLUTION, TEST_SEED

import aloe
from aloe.data.scenes import CLASSES, render
from aloe.draw.explanations import over_white, signed_map
from aloe.draw.gallery import row, save_png, stack
from aloe.evaluation.zeroshot import text_targets
from aloe.models.text import text_tower_for


def main() -> None:
    """Parse the command line, explain, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student", type=Path)
    parser.add_argument("teacher", type=Path, help="folder with the text tower")
    parser.add_argument("output", type=Path)
    parser.add_argument("--scenes", default="3,1,2,6,9,8", help="numbers of held-out scenes, as NUMBER or NUMBER:CLASS")
    args = parser.parse_args()
    student = aloe.load(args.student)
    targets = text_targets(text_tower_for(student, args.teacher), CLASSES, "single")
    lines = []
    for wanted in args.scenes.split(","):
        number, _, wrong = wanted.partition(":")
        scene = render(TEST_SEED, int(number), RESOLUTION)
        image = torch.from_numpy(scene.image.astype(np.float32) / 255).permute(2, 0, 1)
        found = {name: aloe.explain(student, image, target) for name, target in targets.items()}
        right = CLASSES[scene.label]
        ranked = sorted(CLASSES, key=lambda name: -float(found[name].logit))
        wrong = wrong or next(name for name in ranked if name != right)
        both = [found[right], found[wrong]]
        signed = signed_map(torch.cat([one.contributions for one in both], 1))[0].chunk(2)  # on one scale
        pictures, captions = [scene.image], [right if ranked[0] == right else f"{right}, taken for a {ranked[0]}"]
        for name, one, sign in zip((right, wrong), both, signed, strict=True):
            pictures += [over_white(one.to_rgba())[0].numpy(), sign.numpy()]
            captions += [f'"a photo of a {name}"', f"logit {float(one.logit):.1f}"]
        lines.append(row(pictures, captions, side=3 * RESOLUTION))
    save_png(stack(lines), args.output)


if __name__ == "__main__":
    main()
