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
from aloe.metrics.gridpg import grid_pointing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("probe", help="a probe's folder, of a student")
    parser.add_argument("data", help="the images that the grids are of")
    parser.add_argument("--grids", type=Path, required=True, help="a stored list of grids")
    parser.add_argument("--count", type=int, default=12, help="the first so many of them")
    parser.add_argument("--resolution", type=int, default=112)
    args = parser.parse_args()
    model, images, view = aloe.load(args.probe), open_images(args.data), ResizeCenterCrop(args.resolution)
    grids, classes = stored_grids(args.grids, images).first(args.count), model.config.num_labels

    def load(indices: list[int]) -> Tensor:
        return torch.stack([to_tensor(view(images.load(int(i)))) for i in indices])

    def logit(pixels: Tensor, wanted: Tensor) -> Tensor:
        return aloe.attribute(model, pixels, wanted, "inherent").pixels()

    def contrast(pixels: Tensor, wanted: Tensor) -> Tensor:
        distinct, which = pixels.unique_consecutive(dim=0, return_inverse=True)
        every = logit(distinct.repeat_interleave(classes, 0), torch.arange(classes).repeat(len(distinct)))
        every = every.unflatten(0, (len(distinct), classes))
        return every[which, wanted] - every.mean(1)[which]

    for kind, attribute in {"logit": logit, "logit less the mean of all": contrast}.items():
        found = grid_pointing(attribute, load, grids)
        low, high = found.interval
        print(json.dumps({"explained": kind, "grids": len(grids), "gridpg": found.score, "low": low, "high": high}))


if __name__ == "__main__":
    main()
