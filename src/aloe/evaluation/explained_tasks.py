"""The measures of explanations: the grid pointing game, pixel deletion, the share of attribution inside a mask, and clarity.

Each is prepared once for all models of a run, and then run for every model and method.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, TypeVar

import torch
from torch import Tensor

from aloe.attribution.methods import METHODS
from aloe.attribution.subject import opened
from aloe.core import processes
from aloe.evaluation.explained_cases import Common, Explainer, grids_key
from aloe.evaluation.tasks import Case, Outcome
from aloe.metrics.bootstrap import bootstrap_interval
from aloe.metrics.clarity import fine_share, seams
from aloe.metrics.deletion import FRACTIONS, PAPER_FRACTIONS, Curves, deletion_curves
from aloe.metrics.gridpg import grid_pointing
from aloe.metrics.pointing import inside_share, pointing_hits
from aloe.metrics.windows import window_starts
from aloe.models.teachers import resize

R = TypeVar("R")


@dataclass
class Prepared:
    settings: dict[str, Any]
    run: Callable[[Case, Explainer, Callable[[int, int], None]], Outcome]
    first: dict[str, int] = field(default_factory=dict)

    def of_method(self, method: str) -> dict[str, Any]:
        """The settings, and how many grids a method is measured on where it is not all of them."""
        return {**self.settings, **({"first": self.first[method]} if method in self.first else {})}


def _gridpg(common: Common) -> Prepared:
    grids, settings = common.grids(), common.settings
    shown = {int(c) for c in grids.labels.unique()}
    absent = [name for c, name in enumerate(common.classes) if c not in shown]

    def run(case: Case, explainer: Explainer, advance: Callable[[int, int], None]) -> Outcome:
        side = explainer.side()
        part = grids.first(settings.first_grids.get(explainer.method, len(grids)))
        found = grid_pointing(
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
        notes = [f"no confident image of {', '.join(absent)}: not in any grid"] if absent else []
        notes += [f"{case.name} is wrong on {wrong} of the {len(images)} images of these grids"] if wrong else []
        if not isfinite(found.score):  # told apart from a score of 0 by the maps that were discarded
            notes.append(f"{METHODS[explainer.method].title} gave no map with positive mass")
        notes += _of_one("grid", len(part))
        windows = {"windows": len(window_starts(side, grids.n)) ** 2} if settings.protocol == "windows" else {}
        details = {
            "interval": _interval(*found.interval),
            "per_cell": [100 * x for x in found.per_cell.nan_to_num(0).tolist()],
            "grids": len(part),
            "cells": found.maps,
            "discarded": found.discarded,
            "images": len(images),
            "classes": len(shown),
            "misclassified": wrong,
            "protocol": settings.protocol,
            "pixels": grids.n * side if settings.protocol == "whole" else side,
            **windows,
            "chance": 100 * found.chance,
            "cost": explainer.cost(),
        }
        score = 100 * found.score if isfinite(found.score) else 0.0
        return Outcome(score, {"test": len(images)}, details, tuple(notes))

    rule = {k: v for k, v in grids.rule.items() if k != "models"}
    how = {"protocol": settings.protocol, "smooth": settings.smooth, "resolution": settings.resolution}
    return Prepared({"n": grids.n, **rule, "grids": grids_key(grids), **how}, run, settings.first_grids)


def _deletion(common: Common) -> Prepared:
    settings = common.settings
    chosen = common.images(common.eligible if settings.among == "confident" else common.readable)
    fractions = PAPER_FRACTIONS if settings.fractions == "paper" else FRACTIONS

    def run(case: Case, explainer: Explainer, advance: Callable[[int, int], None]) -> Outcome:
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

        parts = _by_pass(deleted, explainer, chosen, common, advance)
        curves = replace(parts[0], **{k: torch.cat([getattr(p, k) for p in parts]) for k in ("most", "least")})
        summary = curves.summary(seed=settings.seed)
        numbers = {k: v.tolist() if k == "fractions" else (100 * v).tolist() for k, v in vars(summary).items()}
        numbers = {k: v for k, v in numbers.items() if not (isinstance(v, list) and any(x != x for x in v))}
        details = {
            "mode": settings.deletion_mode,
            "fill": settings.fill,
            "block": settings.block,
            "images": len(chosen),
        }
        found = {**details, **numbers, "cost": explainer.cost()}
        return Outcome(numbers["area_most"], {"test": len(chosen)}, found, _of_one("image", len(chosen)))

    names = ("fill", "block", "deletion_mode", "resolution", "seed", "fractions", "among")
    rule = common.rule if settings.among == "confident" else {}
    return Prepared({**{n: getattr(settings, n) for n in names}, **rule, **_of_images(chosen)}, run)


def _inside(common: Common) -> Prepared:
    settings, source, chosen = common.settings, common.source, common.images(common.correct)

    def run(case: Case, explainer: Explainer, advance: Callable[[int, int], None]) -> Outcome:
        side = settings.resolution or case.model.side()

        def inside(part: Tensor, _: Tensor, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            masks = torch.stack([_mask(source, int(i), side) for i in part])
            seen = masks.flatten(1).any(1)
            maps, masks = maps[seen], masks[seen]
            if not len(masks):
                return torch.empty(0, dtype=torch.float64), torch.empty(0), torch.empty(0)
            return inside_share(maps, masks), pointing_hits(maps, masks), masks.flatten(1).double().mean(1)

        parts = _by_pass(inside, explainer, chosen, common, advance)
        shares, hits, areas = (torch.cat(each) for each in zip(*parts, strict=True))
        none = not bool(shares.isfinite().any())
        notes = (f"{METHODS[explainer.method].title} gave no map with positive mass",) if none else ()
        shares = torch.zeros_like(shares) if none else shares
        low, high = bootstrap_interval(shares, seed=settings.seed)
        details = {
            "interval": _interval(low, high),
            "pointing": 100 * float(hits.double().mean()),
            "area": 100 * float(areas.mean()),
            "images": len(areas),
            "discarded": len(areas) if none else int(shares.isnan().sum()),
            "cost": explainer.cost(),
        }
        return Outcome(
            100 * float(shares.nanmean()), {"test": len(areas)}, details, (*notes, *_of_one("image", len(areas)))
        )

    return Prepared({"resolution": settings.resolution, "seed": settings.seed, **_of_images(chosen)}, run)


def _clarity(common: Common) -> Prepared:
    settings, chosen = common.settings, common.images(common.correct)

    def run(case: Case, explainer: Explainer, advance: Callable[[int, int], None]) -> Outcome:
        patch = case.model.patch_size
        parts = _by_pass(
            lambda part, images, maps: (fine_share(maps), seams(maps, patch)), explainer, chosen, common, advance
        )
        shares, jumps = (torch.cat(each) for each in zip(*parts, strict=True))
        none = not bool(shares.isfinite().any())
        notes = (f"{METHODS[explainer.method].title} gave constant maps only",) if none else ()
        shares = torch.zeros_like(shares) if none else shares
        low, high = bootstrap_interval(shares, seed=settings.seed)
        details = {
            "interval": _interval(low, high),
            "seams": float(jumps[jumps.isfinite()].median()) if bool(jumps.isfinite().any()) else None,
            "patch": patch,
            "images": len(shares),
            "discarded": len(shares) if none else int(shares.isnan().sum()),
            "cost": explainer.cost(),
        }
        return Outcome(
            100 * float(shares.nanmean()), {"test": len(shares)}, details, (*notes, *_of_one("image", len(shares)))
        )

    return Prepared({"resolution": settings.resolution, "seed": settings.seed, **_of_images(chosen)}, run)


def _by_pass(
    measure: Callable[[Tensor, Tensor, Tensor], R],
    explainer: Explainer,
    chosen: Tensor,
    common: Common,
    advance: Callable[[int, int], None],
) -> list[R]:
    """What `measure` gives for the chosen images, some at a time: of their numbers (B,), the images (B, 3, H, W), and the
    maps for the class of each (B, H, W). Passes are dealt out to the processes, each pass the same whoever makes it."""

    def measured(start: int) -> R:
        part = chosen[start : start + _IMAGES_PER_PASS]
        images = explainer.load(part.tolist())
        found = measure(part, images, explainer(images, common.labels[part]))
        advance(min(start + _IMAGES_PER_PASS, len(chosen)), len(chosen))
        return found

    return list(processes.shared(measured, range(0, len(chosen), _IMAGES_PER_PASS)))


def _interval(low: Any, high: Any) -> list[float] | None:
    """The ends in percent, None where there is no interval."""
    ends = [100 * float(low), 100 * float(high)]
    return ends if all(map(isfinite, ends)) else None


def _of_one(unit: str, count: int) -> tuple[str, ...]:
    """Why there is no interval, where there is a single unit."""
    return (f"one {unit} alone has no interval: it says nothing of how much others would differ",) if count == 1 else ()


def _of_images(chosen: Tensor) -> dict[str, Any]:
    return {"images": hashlib.sha256(chosen.numpy().tobytes()).hexdigest()[:8]}


def _mask(source: Any, index: int, side: int) -> Tensor:
    mask = torch.from_numpy(source.mask(index).copy()).float()
    return resize(mask[None, None].expand(1, 3, -1, -1), side)[0, 0] >= 0.5


_IMAGES_PER_PASS = 32
PREPARE: dict[str, Callable[[Common], Prepared]] = {
    "gridpg": _gridpg,
    "deletion": _deletion,
    "inside": _inside,
    "clarity": _clarity,
}
