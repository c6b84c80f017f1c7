"""How well explanations of similarity hold: regions and their true counterparts, grids by similarity, deletion.

    python benchmarks/alike.py region rendered:1,120@3 zoo:scenes-vit zoo:scenes-aloe
    python benchmarks/alike.py gridpg cifar10.tar.xz::cifar10/test zoo:cifar10-vit zoo:cifar10-aloe
    python benchmarks/alike.py deletion cifar10.tar.xz::cifar10/test zoo:cifar10-vit zoo:cifar10-aloe

`region`: a square of a quarter of the side in one view; of the map that it gives on another view, the positive part's share
on the pixels that show the same surface, which depth and cameras tell. The region's direction is what the method itself
attributes to it of each number of the feature; of token maps the mean token. `gridpg`: 2 x 2 grids of images of four classes,
explained in windows; the query is another image of one cell's class, the score the positive part's share in that cell;
`--against`: the query's direction less the mean of the four. `deletion`: blocks are taken from an image, most attributed
first; the area under its cosine with another image of its class, measured by the same model: lower is better.
Every line has the mean, its 95 % bootstrap interval over pairs or grids, and the `chance`: what a
map that is the same everywhere gives, or of deletion the mean cosine before.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aloe.attribution.alike.regions import shares
from aloe.attribution.alike.similarity import similarity
from aloe.attribution.methods import attribute
from aloe.data.frames.geometry import SAME_DEPTH, back_project, project, relative_pose, transform
from aloe.data.frames.named import open_pairs
from aloe.data.sources import open_images
from aloe.data.transforms import ResizeCenterCrop, to_tensor
from aloe.evaluation.backbones import load_any
from aloe.metrics.bootstrap import bootstrap_interval
from aloe.metrics.deletion import deletion_curves
from aloe.metrics.gridpg import cell_scores
from aloe.metrics.grids import choose_grids, compose
from aloe.metrics.windows import windowed_maps
from aloe.models.teachers import Teacher, resize

STUDENTS, TEACHERS = ("inherent", "attnlrp", "tokens", "random"), ("inputxgrad", "attnlrp", "tokens", "random")
LEAST, MOST = 1 / 64, 1 / 3  # of the image, what a region's counterpart may be


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("task", choices=("region", "gridpg", "deletion"))
    parser.add_argument("data")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--count", type=int, default=100, help="pairs or grids")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resolution", type=int, help="pixels; default: each model's own")
    parser.add_argument("--methods", nargs="+", help="default: all that the model has")
    parser.add_argument("--against", action="store_true", help="gridpg: each query less the mean of the four")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.models:
        model: Any = load_any(name).eval()
        side = model.side(given.resolution)
        methods = given.methods or (TEACHERS if isinstance(model, Teacher) else STUDENTS)
        for method in methods:
            start = time.process_time()
            options = {"against": True} if given.against else {}
            values, chance = TASKS[given.task](model, side, method, given.data, given.count, given.seed, **options)
            low, high = bootstrap_interval(values)
            row = {
                "task": given.task,
                "data": given.data,
                **options,
                "model": name,
                "method": method,
                "of": len(values),
            }
            numbers = {"mean": values.nanmean(), "low": low, "high": high, "chance": chance}
            row |= {key: round(float(value), 4) for key, value in numbers.items()}
            print(json.dumps({**row, "seconds": round(time.process_time() - start)}), flush=True)


def features(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Pooled features (B, D) and normed patch tokens (B, N, D) of images at the model's own size."""
    with torch.no_grad():
        if isinstance(model, Teacher):
            out = model(resize(images, model.input_size(images.shape[-1] // model.patch_size)))
            return out.pooled, out.tokens[:, model.use_cls_token + model.num_register_tokens :]
        out = model.base_model(images)
        return out.pooler_output, out.last_hidden_state[:, model.config.num_prefix_tokens :]


def maps_of(model: Any, method: str, images: Tensor, directions: Tensor, **options: Any) -> Tensor:
    """Maps (B, H, W) of the products of unit features with directions (B, D); of `tokens` the patch tokens' cosines."""
    pooled, tokens = features(model, images)
    side = images.shape[-1]
    if method == "tokens":
        near = F.cosine_similarity(tokens, directions[:, None], dim=-1)
        grid = near.unflatten(1, (int(near.shape[1] ** 0.5), -1))
        return F.interpolate(grid[:, None], (side, side), mode="bilinear", align_corners=False)[:, 0]
    target = directions / pooled.norm(dim=1, keepdim=True)
    return attribute(model, images, target, method, batch_size=len(images), **options).pixels()


def regions(model: Any, side: int, method: str, data: str, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """For each pair of views the share on the counterpart, and the counterparts' mean area."""
    found, areas = [], []
    for image_a, image_b, box, counterpart in views(data, side, count, seed):
        mask = shares([box], side, side)
        if method == "inherent":
            maps = similarity(model, image_a, image_b).masked(mask).in_a.contributions
        else:
            maps = maps_of(model, method, image_a[None], region_direction(model, method, image_b[None], mask[0]))
        positive = maps[0].clamp_min(0).double()
        found.append(float(positive[counterpart].sum() / positive.sum().clamp_min(1e-30)))
        areas.append(float(counterpart.double().mean()))
    return torch.tensor(found), torch.tensor(areas).mean()


def region_direction(model: Any, method: str, image: Tensor, mask: Tensor) -> Tensor:
    """The part of the feature (1, D) that a method attributes to a region (H, W) of an image (1, 3, H, W)."""
    pooled, tokens = features(model, image)
    if method == "random":  # its map depends on nothing
        return pooled
    if method == "tokens":
        rows = int(tokens.shape[1] ** 0.5)
        weights = F.adaptive_avg_pool2d(mask[None, None], (rows, rows)).flatten()
        return (weights @ tokens[0] / weights.sum())[None]
    every = torch.eye(pooled.shape[1])
    maps = attribute(model, image.expand(len(every), -1, -1, -1), every, method, batch_size=len(every)).pixels()
    return (maps * mask).sum((1, 2))[None]


def views(data: str, side: int, count: int, seed: int) -> Iterator[tuple[Tensor, Tensor, Any, Tensor]]:
    """Two views, a square box of the second, and the pixels (side, side) of the first that show what is in it."""
    pairs, generator = open_pairs(data), np.random.default_rng(seed)
    used: set[int] = set()  # first views: no two pairs share one
    for at in generator.permutation(len(pairs.pairs)):
        if pairs.pairs[at][0] in used or len(used) == count:
            continue
        a, b = (pairs.frames[i].cropped_square().resized(side) for i in pairs.pairs[at])
        wide = side // 4
        for _ in range(20):
            known = torch.nonzero(b.depth > 0)
            y, x = (known[generator.integers(len(known))] - wide // 2).clamp(0, side - wide).tolist()
            seen = counterpart_of(a, b, (x, y, wide, wide))
            if LEAST <= float(seen.double().mean()) <= MOST:
                yield a.image, b.image, (x, y, wide, wide), seen
                used.add(pairs.pairs[at][0])
                break


def counterpart_of(a: Any, b: Any, box: tuple[int, int, int, int]) -> Tensor:
    """The pixels of view a (H, W) whose surface view b shows inside the box, at the same depth."""
    moved = transform(relative_pose(a.camera_to_world, b.camera_to_world), back_project(a.depth, a.intrinsics))
    u, v = project(moved, b.intrinsics)
    x, y, w, h = box
    inside = (a.depth > 0) & (moved[2] > 0) & (u >= x) & (u < x + w) & (v >= y) & (v < y + h)
    depth = torch.zeros_like(moved[2])
    depth[inside] = b.depth[v[inside].long(), u[inside].long()].double()
    return inside & ((depth - moved[2]).abs() <= SAME_DEPTH * moved[2])


def gridpg(
    model: Any, side: int, method: str, data: str, count: int, seed: int, against: bool = False
) -> tuple[Tensor, Tensor]:
    """The share in the right cell, by grid the mean over its four queries; and the area of a cell."""
    source: Any = open_images(data)
    labels = torch.as_tensor(source.labels)
    every = torch.ones_like(labels, dtype=torch.bool)
    grids, classes = choose_grids(every, labels, count=count, seed=seed, classes=source.classes)
    generator, scores = np.random.default_rng(seed + 1), []
    for indices, kinds in zip(grids, classes, strict=True):
        queries = [another(labels, int(c), int(i), generator) for i, c in zip(indices, kinds, strict=True)]
        directions = F.normalize(features(model, load(source, queries, side))[0], dim=1)
        directions = directions - directions.mean(0) if against else directions
        explained = partial(by_index, model, method, directions)
        maps = windowed_maps(explained, compose(load(source, indices, side)[None]), torch.arange(4)[None], side)
        scores.append(cell_scores(maps[0], 2).diagonal().nanmean())
    return torch.stack(scores), torch.tensor(0.25)


def by_index(model: Any, method: str, directions: Tensor, images: Tensor, which: Tensor) -> Tensor:
    """Maps (B, H, W) of the queries (B,); the random ones of an image, which know no query, are drawn anew for each."""
    if method != "random":
        return maps_of(model, method, images, directions[which])
    found = images.new_empty(len(images), *images.shape[-2:])
    for query in which.unique():
        mine = which == query
        found[mine] = maps_of(model, method, images[mine], directions[which[mine]], seed=int(query))
    return found


def deletion(model: Any, side: int, method: str, data: str, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """The area under the cosine with another image of the class, while blocks are deleted; and the mean cosine before."""
    source: Any = open_images(data)
    labels, generator = torch.as_tensor(source.labels), np.random.default_rng(seed)
    chosen = generator.choice(len(source), count, replace=False)
    others = [another(labels, int(labels[i]), int(i), generator) for i in chosen]
    images, directions = load(source, chosen, side), F.normalize(features(model, load(source, others, side))[0], dim=1)
    maps = torch.cat(
        [maps_of(model, method, x, d) for x, d in zip(images.split(32), directions.split(32), strict=True)]
    )
    prepare = model.normalize if isinstance(model, Teacher) else model.base_model.encode

    def cosine(inputs: Tensor, pair: Tensor) -> Tensor:
        pooled = model.features(inputs).pooled if isinstance(model, Teacher) else model.base_model(inputs).pooler_output
        return (1 + F.cosine_similarity(pooled, directions[pair], dim=1)) / 2

    block = model.patch_size if isinstance(model, Teacher) else model.config.patch_size
    steps = [k / 10 for k in range(11)]
    curves = deletion_curves(
        maps, images, torch.arange(count), prepare=prepare, probability=cosine, block=block, fractions=steps
    )
    cosines = 2 * curves.most.double() - 1
    areas = torch.trapezoid(cosines, curves.fractions, dim=1) / (curves.fractions[-1] - curves.fractions[0])
    return areas, cosines[:, 0].mean()


def another(labels: Tensor, label: int, index: int, generator: np.random.Generator) -> int:
    same = torch.nonzero(labels == label)[:, 0]
    return int(generator.choice(same[same != index].numpy()))


def load(source: Any, indices: Any, side: int) -> Tensor:
    crop = ResizeCenterCrop(side)
    return torch.stack([to_tensor(crop(source.load(int(i)))) for i in indices])


TASKS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {"region": regions, "gridpg": gridpg, "deletion": deletion}

if __name__ == "__main__":
    main()
