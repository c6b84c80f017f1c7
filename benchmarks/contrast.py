"""GridPG by windows of W(x)x for a class's logit, and for its logit less the mean of all logits.

A softmax fixes only differences of logits: the same evidence may stand under every class. W(x)x is linear in what it
explains, so the map of the difference is the difference of the maps.

python benchmarks/contrast.py PROBE DATA --grids results/grids/NAME.json --count 12
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

import aloe
from aloe.data.sources import open_images
from aloe.data.transforms import ResizeCenterCrop, to_tensor
from aloe.evaluation.explained_cases import stored_grids
from aloe.metrics.bootstrap import bootstrap_interval
from aloe.metrics.windows import windowed_maps


def share(table: Tensor, cell: int, side: int) -> float:
    """The share of a map's positive part, (2 side, 2 side), that lies in one of four cells."""
    top, left = side * (cell // 2), side * (cell % 2)
    positive = table.clamp_min(0)
    return float(positive[top : top + side, left : left + side].sum() / positive.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("probe", help="a probe's folder, of a student")
    parser.add_argument("data", help="the images that the grids are of")
    parser.add_argument("--grids", type=Path, required=True, help="a stored list of 2 x 2 grids")
    parser.add_argument("--count", type=int, default=12, help="the first so many of them")
    parser.add_argument("--resolution", type=int, default=112)
    args = parser.parse_args()
    model, images, side = aloe.load(args.probe), open_images(args.data), args.resolution
    view, grids = ResizeCenterCrop(side), stored_grids(args.grids, images).first(args.count)
    scores: dict[str, list[float]] = {"logit": [], "logit less the mean of all": []}
    for indices, labels in zip(grids.indices.tolist(), grids.labels.tolist(), strict=True):
        cells = [to_tensor(view(images.load(i))) for i in indices]
        grid = torch.cat([torch.cat(cells[:2], 2), torch.cat(cells[2:], 2)], 1)[None]
        every = torch.arange(model.config.num_labels)[None]
        maps = windowed_maps(lambda x, k: aloe.attribute(model, x, k, "inherent").pixels(), grid, every, side)[0]
        for kind, shown in zip(scores, (maps, maps - maps.mean(0)), strict=True):
            shares = [share(shown[label], cell, side) for cell, label in enumerate(labels)]
            scores[kind].append(sum(shares) / len(shares))
    for kind, values in scores.items():
        found = torch.tensor(values, dtype=torch.float64)
        low, high = bootstrap_interval(found)
        interval = {"mean": float(found.mean()), "low": float(low), "high": float(high)}
        print(json.dumps({"explained": kind, "grids": len(found), **interval}))


if __name__ == "__main__":
    main()
