"""Why GridPG by windows and on whole grids differ: what is calibration of the logit, what is localisation.

    python benchmarks/windows.py zoo:cifar10-vit zoo:cifar10-aloe --data cifar10=cifar10.tar.xz --grids-file GRIDS.json

For every model the mean logit and softmax probability of a class in windows that show its cell whole, by half, by a quarter
and not at all; and GridPG of some methods by windows as they are, and by windows whose positive parts are scaled to sum 1
each, so that a window without the class weighs as much as one with it. What a method that is exact in every window would have
then is the `ceiling`: a window without the class has to put its share somewhere.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aloe.attribution.methods import attribute, find_method, unsupported
from aloe.data.transforms import ResizeCenterCrop, to_tensor
from aloe.evaluation.backbones import load_any
from aloe.evaluation.evaluate import open_data
from aloe.evaluation.tasks import class_of_logit
from aloe.metrics.gridpg import cell_scores, grid_pointing
from aloe.metrics.grids import GridList, compose
from aloe.metrics.windows import window_starts, windowed_maps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+")
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--data", help="as for aloe evaluate")
    data.add_argument("--test", help="as for aloe evaluate")
    parser.add_argument("--grids-file", type=Path, required=True)
    parser.add_argument("--methods", default="inherent,attnlrp", help="whose GridPG is taken apart")
    parser.add_argument("--limit", type=int, default=40, help="grids, the first of the list")
    given = parser.parse_args()
    torch.set_num_threads(1)
    test: Any = open_data(given.data or (None, given.test)).test
    grids = GridList.load(given.grids_file, state=test.state()[:16]).first(given.limit)
    print(json.dumps({"ceiling with each window scaled to sum 1": ceiling(grids.n)}))
    for name in given.models:
        model: Any = load_any(name).eval()
        crop = ResizeCenterCrop(model.side())

        def load(indices: Any, crop: ResizeCenterCrop = crop) -> Tensor:
            return torch.stack([to_tensor(crop(test.load(int(i)))) for i in indices])

        meant = class_of_logit(model.config, len(next(model.classifier.parameters())), list(test.classes))
        assert meant is not None
        logit = torch.stack([(meant == c).nonzero()[0, 0] for c in range(len(test.classes))])
        found = {"model": name, "grids": len(grids), "logit": logits(model, load, grids, logit)}
        for method in given.methods.split(","):
            if unsupported(model, method) is None:
                found[find_method(method).key] = parts(model, load, grids, logit, method)
        print(json.dumps(found))


@torch.no_grad()
def cut_windows(images: Tensor, side: int, n: int) -> Tensor:
    """All windows of square images, row by row: (G, C, n * side, n * side) -> (G, (2n - 1)^2, C, side, side)."""
    starts = window_starts(side, n)
    rows = torch.stack([images[..., y : y + side, :] for y in starts], 1)
    return torch.stack([rows[..., x : x + side] for x in starts], 2).flatten(1, 2)


def logits(model: Any, load: Callable[[Any], Tensor], grids: GridList, logit: Tensor) -> dict[str, float]:
    """Mean logit and mean probability of a class by the share of its cell that a window shows."""
    kinds: dict[float, list[tuple[float, float]]] = {}
    for indices, labels in zip(grids.indices, grids.labels, strict=True):
        images = load(indices.tolist())
        side = images.shape[-1]
        out = model(cut_windows(compose(images[None]), side, grids.n)[0]).logits
        starts = window_starts(side, grids.n)
        for cell, label in enumerate(labels.tolist()):
            for window in range(len(out)):
                offsets = (starts[window // len(starts)], starts[window % len(starts)])
                corner = (cell // grids.n * side, cell % grids.n * side)
                shares = [max(0, side - abs(a - b)) / side for a, b in zip(offsets, corner, strict=True)]
                value = float(out[window, logit[label]])
                kinds.setdefault(shares[0] * shares[1], []).append((value, float(out[window].softmax(0)[logit[label]])))
    mean = {share: torch.tensor(values).mean(0).tolist() for share, values in sorted(kinds.items(), reverse=True)}
    return {f"{share:g}": {"logit": round(a, 4), "probability": round(b, 4)} for share, (a, b) in mean.items()}


def parts(
    model: Any, load: Callable[[Any], Tensor], grids: GridList, logit: Tensor, method: str
) -> dict[str, dict[str, Any]]:
    """GridPG by windows as they are, and with each window's positive part scaled to sum 1."""

    def maps(images: Tensor, classes: Tensor) -> Tensor:
        return attribute(model, images, logit[classes], method).pixels()

    def even(images: Tensor, classes: Tensor) -> Tensor:
        found = maps(images, classes)
        mass = found.clamp_min(0).sum((1, 2), keepdim=True)
        return found / mass.clamp_min(torch.finfo(found.dtype).tiny)

    found = {}
    for name, explained in (("windows", maps), ("each window scaled to sum 1", even)):
        game = grid_pointing(explained, load, grids, seed=0)
        found[name] = {"gridpg": 100 * game.score, "interval": [100 * end for end in game.interval]}
    return found


def ceiling(n: int, side: int = 8) -> float:
    """The score of a map that is the class's part of each window, or even where a window has none of it, scaled to sum 1."""
    cells = torch.arange(n * n).view(n, n).repeat_interleave(side, 0).repeat_interleave(side, 1)

    def exact(windows: Tensor, classes: Tensor) -> Tensor:
        shown = (windows[:, 0] == classes[:, None, None]).float()
        shown = torch.where(shown.sum((1, 2), keepdim=True) > 0, shown, torch.ones_like(shown))
        return shown / shown.sum((1, 2), keepdim=True)

    maps = windowed_maps(exact, cells.float().expand(1, 3, -1, -1), torch.arange(n * n)[None], side)[0]
    return 100 * float(cell_scores(maps, n).diagonal().mean())


if __name__ == "__main__":
    main()
