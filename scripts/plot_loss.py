"""Loss and held-out cosine per alignment point of one or more runs, as one picture.

python scripts/plot_loss.py RUN [RUN ...] --output docs/images/loss.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from aloe.train.align.trainer import COSINE_PREFIX, LOSS_PREFIX
from aloe.train.progress import read_log


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    figure, axes = plt.subplots(len(args.runs), 2, figsize=(9, 3 * len(args.runs)), squeeze=False)
    for (left, right), run in zip(axes, args.runs, strict=True):
        rows = read_log(run)
        for axis, prefix, title in (
            (left, LOSS_PREFIX, "loss"),
            (right, COSINE_PREFIX, "held-out cosine"),
        ):
            names = sorted(sorted({key for row in rows for key in row if key.startswith(prefix)}), key=len)
            for name in names:
                points = [(row["step"], row[name]) for row in rows if name in row]
                label = name.removeprefix(prefix).replace("_", " ")
                axis.plot(*zip(*points, strict=True), label=label, marker="." if prefix == COSINE_PREFIX else None)
            axis.set(xlabel="step", title=f"{run.name}: {title}")
            axis.grid(alpha=0.3)
            axis.legend(fontsize=8)
    figure.tight_layout()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output, dpi=90)


if __name__ == "__main__":
    main()
