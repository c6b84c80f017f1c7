"""Measures of explanations: the grid pointing game, pixel deletion, the share of attribution inside a mask, and clarity."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from aloe.attribution.subject import opened
from aloe.core import processes
from aloe.core.progress import Bar
from aloe.evaluation.explained_cases import Explainer, MapCase, check_grids, check_maps, check_masks, grids_key
from aloe.evaluation.task import VIEW, Outcome, Task
from aloe.metrics.bootstrap import bootstrap_interval
from aloe.metrics.clarity import fine_share, seams
from aloe.metrics.deletion import FRACTIONS, PAPER_FRACTIONS, Curves, deletion_curves
from aloe.metrics.gridpg import grid_pointing
from aloe.metrics.pointing import inside_share, pointing_hits
from aloe.metrics.windows import window_starts
from aloe.models.teachers import resize

R = TypeVar("R")
Advance = Callable[[int, int], None]
Measure = Callable[[MapCase, Explainer, Advance], Outcome]


def _gridpg(case: MapCase, explainer: Explainer, advance: Advance) -> Outcome:
    common, settings = case.common, case.settings
    grids, side = common.grids, explainer.side()
    part = grids.first(settings.first_grids.get(case.method, len(grids)))
    pointing = grid_pointing(
        explainer,
        explainer.load,
        part,
        protocol=settings.protocol,
        smooth=settings.smooth,
        seed=grids.rule.get("seed", 0),
        progress=advance,
        share=processes.shared,
    )
    images = part.indices.unique()
    wrong = int((~common.right[case.name][images]).sum())
    shown = {int(c) for c in grids.labels.unique()}
    absent = [name for c, name in enumerate(common.classes) if c not in shown]
    notes = [f"no confident image of {', '.join(absent)}: not in any grid"] if absent else []
    notes += [f"{case.name} is wrong on {wrong} of the {len(images)} images of these grids"] if wrong else []
    if not isfinite(pointing.score):  # told apart from a score of 0 by the maps that were discarded
        notes.append(f"{case.title} gave no map with positive mass")
    windows = {"windows": len(window_starts(side, grids.n)) ** 2} if settings.protocol == "windows" else {}
    details = {
        "interval": _interval(*pointing.interval),
        "per_cell": [100 * x for x in pointing.per_cell.nan_to_num(0).tolist()],
        "grids": len(part),
        "cells": pointing.maps,
        "discarded": pointing.discarded,
        "images": len(images),
        "classes": len(shown),
        "misclassified": wrong,
        "protocol": settings.protocol,
        "pixels": grids.n * side if settings.protocol == "whole" else side,
        **windows,
        "chance": 100 * pointing.chance,
    }
    score = 100 * pointing.score if isfinite(pointing.score) else 0.0
    return Outcome(score, {"test": len(images)}, details, (*notes, *_of_one("grid", len(part))))


def _gridpg_settings(case: MapCase) -> dict[str, Any]:
    grids, settings = case.common.grids, case.settings
    rule = {k: v for k, v in grids.rule.items() if k != "models"}
    how = {"protocol": settings.protocol, "smooth": settings.smooth, "resolution": settings.resolution}
    first = {"first": settings.first_grids[case.method]} if case.method in settings.first_grids else {}
    return {"n": grids.n, **rule, "grids": grids_key(grids), **how, **first}


def _deletion(case: MapCase, explainer: Explainer, advance: Advance) -> Outcome:
    common, settings, indices = case.common, case.settings, case.common.deleted
    fractions = PAPER_FRACTIONS if settings.fractions == "paper" else FRACTIONS
    told: Callable[[Any], Tensor] = case.model.probabilities

    def deleted(part: Tensor, images: Tensor, maps: Tensor) -> Curves:
        with opened(case.model) as subject:
            return deletion_curves(
                maps,
                images,
                explainer.logit[common.labels[part]],
                prepare=lambda x: subject.prepare(x.to(subject.device, subject.dtype)),
                probability=lambda x, y: told(subject.forward(x).logits).gather(1, y[:, None])[:, 0],
                block=settings.block,
                fractions=fractions,
                fill=settings.fill,
                mode=settings.deletion_mode,
            )

    parts = _by_pass(deleted, explainer, indices, advance)
    curves = replace(parts[0], **{k: torch.cat([getattr(p, k) for p in parts]) for k in ("most", "least")})
    summary = curves.summary(seed=settings.seed)
    numbers = {k: v.tolist() if k == "fractions" else (100 * v).tolist() for k, v in vars(summary).items()}
    numbers = {k: v for k, v in numbers.items() if not (isinstance(v, list) and any(x != x for x in v))}
    details = {
        "mode": settings.deletion_mode,
        "fill": settings.fill,
        "block": settings.block,
        "images": len(indices),
    }
    notes = _of_one("image", len(indices))
    return Outcome(numbers["area_most"], {"test": len(indices)}, {**details, **numbers}, notes)


def _deletion_settings(case: MapCase) -> dict[str, Any]:
    names = ("fill", "block", "deletion_mode", "resolution", "seed", "fractions", "among")
    rule = case.common.rule if case.settings.among == "confident" else {}
    return {**{n: getattr(case.settings, n) for n in names}, **rule, **_of_images(case.common.deleted)}


def _inside(case: MapCase, explainer: Explainer, advance: Advance) -> Outcome:
    source, side = case.common.source, explainer.side()

    def inside(part: Tensor, _: Tensor, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        masks = torch.stack([_mask(source, int(i), side) for i in part])
        seen = masks.flatten(1).any(1)
        maps, masks = maps[seen], masks[seen]
        if not len(masks):
            return torch.empty(0, dtype=torch.float64), torch.empty(0), torch.empty(0)
        return inside_share(maps, masks), pointing_hits(maps, masks), masks.flatten(1).double().mean(1)

    parts = _by_pass(inside, explainer, case.common.explained, advance)
    shares, hits, areas = (torch.cat(each) for each in zip(*parts, strict=True))
    more = {"pointing": 100 * float(hits.double().mean()), "area": 100 * float(areas.mean())}
    return _mean_share(case, shares, more, "no map with positive mass")


def _clarity(case: MapCase, explainer: Explainer, advance: Advance) -> Outcome:
    patch = case.model.patch_size
    parts = _by_pass(
        lambda part, images, maps: (fine_share(maps), seams(maps, patch)), explainer, case.common.explained, advance
    )
    shares, jumps = (torch.cat(each) for each in zip(*parts, strict=True))
    median = float(jumps[jumps.isfinite()].median()) if bool(jumps.isfinite().any()) else None
    return _mean_share(case, shares, {"seams": median, "patch": patch}, "constant maps only")


def _mean_share(case: MapCase, shares: Tensor, more: dict[str, Any], nothing: str) -> Outcome:
    """The mean of shares, NaN for a map that has none, over images; `nothing` is what a method gave that has none at all."""
    count, none = len(shares), not bool(shares.isfinite().any())
    notes = (f"{case.title} gave {nothing}",) if none else ()
    filled = torch.zeros_like(shares) if none else shares
    details = {
        "interval": _interval(*bootstrap_interval(filled, seed=case.settings.seed)),
        **more,
        "images": count,
        "discarded": count if none else int(shares.isnan().sum()),
    }
    notes = (*notes, *_of_one("image", count))
    return Outcome(100 * float(filled.nanmean()), {"test": count}, details, notes)


def _explained_settings(case: MapCase) -> dict[str, Any]:
    settings = case.settings
    return {"resolution": settings.resolution, "seed": settings.seed, **_of_images(case.common.explained)}


def _by_pass(
    measure: Callable[[Tensor, Tensor, Tensor], R],
    explainer: Explainer,
    indices: Tensor,
    advance: Advance,
) -> list[R]:
    """What `measure` gives for the chosen images, some at a time: of their numbers (B,), the images (B, 3, H, W), and the
    maps for the class of each (B, H, W). Passes are dealt out to the processes, each pass the same whoever makes it."""

    labels = explainer.case.common.labels

    def measured(start: int) -> R:
        part = indices[start : start + _IMAGES_PER_PASS]
        images = explainer.load(part.tolist())
        outcome = measure(part, images, explainer(images, labels[part]))
        advance(min(start + _IMAGES_PER_PASS, len(indices)), len(indices))
        return outcome

    return list(processes.shared(measured, range(0, len(indices), _IMAGES_PER_PASS)))


def _interval(low: Any, high: Any) -> list[float] | None:
    """The ends in percent, None where there is no interval."""
    ends = [100 * float(low), 100 * float(high)]
    return ends if all(map(isfinite, ends)) else None


def _of_one(unit: str, count: int) -> tuple[str, ...]:
    """Why there is no interval, where there is a single unit."""
    return (f"one {unit} alone has no interval: it says nothing of how much others would differ",) if count == 1 else ()


def _of_images(images: Tensor) -> dict[str, Any]:
    return {"images": hashlib.sha256(images.numpy().tobytes()).hexdigest()[:8]}


def _mask(source: Any, index: int, side: int) -> Tensor:
    mask = torch.from_numpy(source.mask(index).copy()).float()
    return resize(mask[None, None].expand(1, 3, -1, -1), side)[0, 0] >= 0.5


def _task(name: str, measure: Measure, settings: Callable[[MapCase], dict[str, Any]], metric: str, **more: Any) -> Task:
    """A measure of one method's maps, with what they cost; of the settings, the method's own enter the key as well."""

    def run(case: MapCase, facts: dict[str, Any]) -> Outcome:
        explainer = Explainer(case)
        with Bar(f"{Path(case.name).name} {name} {case.title}" if case.progress else None) as bar:
            outcome = measure(case, explainer, bar.update)
        return replace(outcome, details={"method": case.method, **outcome.details, "cost": explainer.cost()})

    # captum, which perturbations once ran on, stays part of the key, so that rows of then are found again
    versions = ("captum", "scikit-learn")
    return Task(
        run, lambda case: {**settings(case), **case.asked()}, ("test",), metric, on="maps", versions=versions, **more
    )


_IMAGES_PER_PASS = 32
_MAPS = (*VIEW, "methods", "preset", "options")
_CONFIDENT = (*_MAPS, "confidence", "share", "seed")
_OF_GRIDS = ("grid_size", "grids", "grids_file", "first_grids", "protocol", "grid_input", "smooth")
_OF_DELETION = ("images", "block", "fill", "deletion_mode", "fractions", "among")
_OF_IMAGES = (*_MAPS, "images", "seed")

OF_MAPS = {
    "gridpg": _task("gridpg", _gridpg, _gridpg_settings, "GridPG", reads=(*_CONFIDENT, *_OF_GRIDS), check=check_grids),
    "deletion": _task(
        "deletion", _deletion, _deletion_settings, "area", reads=(*_CONFIDENT, *_OF_DELETION), check=check_maps
    ),
    "inside": _task("inside", _inside, _explained_settings, "inside", reads=_OF_IMAGES, check=check_masks),
    "clarity": _task("clarity", _clarity, _explained_settings, "fine", reads=_OF_IMAGES, check=check_maps),
}
"""The measures of explanations by name."""
