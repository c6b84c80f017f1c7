"""Attribution methods measured on labelled images: the grid pointing game, pixel deletion and, where object masks are known,
the share of the attribution inside the object. One row for each model and method.

All models of a run are compared on the same images: those that every one of them classifies correctly and with confidence.
The grids are kept in the results folder and named in every row, so that a later model can be measured on them as well.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aloe.attribution.methods import METHODS, Cost, attribute, check_options, find_method, find_methods, unsupported
from aloe.attribution.subject import opened
from aloe.core.errors import UserError
from aloe.data.transforms import ResizeCenterCrop, to_tensor
from aloe.evaluation.backbones import native_pixels
from aloe.evaluation.features import classify
from aloe.evaluation.results import ResultLog, Row, row_key
from aloe.evaluation.tasks import Case, Outcome, class_of_logit
from aloe.metrics.bootstrap import bootstrap_interval
from aloe.metrics.deletion import deletion_curves
from aloe.metrics.gridpg import grid_pointing
from aloe.metrics.grids import GridList, choose_grids, confident
from aloe.metrics.pointing import inside_share, pointing_hits
from aloe.models.teachers import resize

EXPLAINING = ("gridpg", "deletion", "inside")


def measure_explanations(
    cases: Sequence[Case],
    tasks: Sequence[str],
    facts_of: Callable[[Case, str, dict[str, Any], tuple[str, ...]], dict[str, Any]],
    row_of: Callable[[Case, dict[str, Any], Outcome, float], Row],
    log: ResultLog | None,
) -> list[Row]:
    """Rows of `tasks` (of `EXPLAINING`) for all models, one case each, on one data set.

    Raises:
        UserError: a model without a classifier of these classes, too few images that all of them classify with confidence,
            images without masks, or a method that no model can be explained with.
    """
    chosen = cases[0].settings
    methods = find_methods(chosen.methods)
    reasons = [unsupported(case.model, method.key) for case in cases for method in methods]
    if all(reasons):
        raise UserError(f"Nothing can be explained: {'; '.join(str(r) for r in dict.fromkeys(reasons))}.")
    common = _Common(cases)
    rows = []
    for task in tasks:
        prepared = _PREPARE[task](common)
        for case in cases:
            for method in methods:
                if unsupported(case.model, method.key) is not None:
                    continue
                options = method.resolved(chosen.options.get(method.key, {}), case.model)
                settings = {**prepared.settings, "method": method.key, "options": options}
                facts = facts_of(case, task, settings, ("test",))
                row = log.get(row_key(facts)) if log is not None else None
                if row is None:
                    start = time.perf_counter()
                    title = f"{Path(case.name).name} {task} {method.title}" if case.progress else None
                    with _progress(title) as advance:
                        outcome = prepared.run(case, _Explainer(case, method.key), advance)
                    outcome = replace(outcome, details={"method": method.key, **outcome.details})
                    row = row_of(case, facts, outcome, time.perf_counter() - start)
                    if log is not None:
                        log.add(row)
                rows.append(row)
    return rows


def check_explanations(case: Case, tasks: Sequence[str]) -> None:
    """What can be said before any work is done.

    Raises:
        UserError: labels, masks, the classifier or the method is missing.
    """
    find_methods(case.settings.methods)
    for name, options in case.settings.options.items():
        check_options(find_method(name), options)
    if case.splits.test.labels is None:
        raise UserError(f"{case.splits.name} has no labels (one folder per class), which {', '.join(tasks)} need.")
    if "gridpg" in tasks and case.settings.grids_file is not None:
        _stored_grids(case.settings.grids_file, case.splits.test)
    if "inside" in tasks and not hasattr(case.splits.test, "mask"):
        raise UserError(f"{case.splits.name} has no object masks, which task inside needs; rendered scenes have them.")
    classifier = getattr(case.model, "classifier", None)
    if classifier is None:
        raise UserError(
            f"{case.name} has no classifier to explain: fit one (aloe evaluate linear) and name its folder under probes/."
        )
    if class_of_logit(case.model.config, len(next(classifier.parameters())), case.classes) is None:
        raise UserError(f"The classifier of {case.name} does not know all classes of {case.splits.name} by name.")


@dataclass
class _Prepared:
    settings: dict[str, Any]
    run: Callable[[Case, _Explainer, Callable[[int, int], None]], Outcome]


class _Common:
    """What all models share: the images' labels, the confident ones, and each model's logit of each class."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self.cases, first = cases, cases[0]
        self.settings, self.source, self.classes = first.settings, first.splits.test, first.classes
        self.labels = torch.as_tensor(self.source.labels, dtype=torch.int64)
        tables = [_probabilities(case, len(self.labels)) for case in cases]
        self.right = {c.name: confident([t], self.labels, threshold=0.0) for c, t in zip(cases, tables, strict=True)}
        threshold = {} if self.settings.share is not None else {"threshold": self.settings.confidence}
        self.rule = {"share": self.settings.share} if self.settings.share is not None else threshold
        self.eligible = confident(tables, self.labels, **self.rule)
        self.correct = confident(tables, self.labels, threshold=0.0)
        self.state = self.source.state()[:16]

    def grids(self) -> GridList:
        """The stored list of these models, or the one that was named."""
        s = self.settings
        if s.grids_file is not None:
            return _stored_grids(s.grids_file, self.source)
        models = sorted(Path(c.name).name if Path(c.name).exists() else c.name for c in self.cases)
        rule = {**self.rule, "seed": s.seed, "count": s.grids, "models": models}
        indices, labels = choose_grids(
            self.eligible, self.labels, n=s.grid_size, count=s.grids, seed=s.seed, classes=self.classes
        )
        rule["images"] = len(indices.unique())
        grids = GridList(s.grid_size, indices, labels, rule, self.cases[0].splits.name, self.state)
        folder = self.cases[0].output_dir
        if folder is not None:
            grids.save(folder / "grids" / f"{_plain(grids.data)}-{grids_key(grids)}.json")
        return grids

    def images(self, among: Tensor) -> Tensor:
        """Up to `settings.images` of them, classes in turn, the same for all models."""
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(self.settings.seed))
        by_class = [[int(i) for i in order if among[i] and self.labels[i] == c] for c in self.labels.unique()]
        turns = [queue[k] for k in range(max(map(len, by_class), default=0)) for queue in by_class if k < len(queue)]
        if not turns:
            raise UserError(
                f"No image of {self.cases[0].splits.name} is classified correctly and confidently by every model; lower "
                "--confidence, or give --share."
            )
        return torch.tensor(sorted(turns[: self.settings.images]))


class _Explainer:
    """A model and a method as a function of images and the data's classes; adds up what its maps cost."""

    def __init__(self, case: Case, method: str) -> None:
        self.case, self.method = case, method
        self.options = case.settings.options.get(method, {})
        self.logit = _logit_of_class(case)
        self.costs: list[tuple[int, Cost]] = []
        self.peak: int | None = None
        case.model.to(case.device)

    def __call__(self, images: Tensor, classes: Tensor) -> Tensor:
        if self.peak is None:  # of one image, apart from the timed maps
            one = attribute(
                self.case.model, images[:1], self.logit[classes[:1]], self.method, memory=True, **self.options
            )
            self.peak = one.cost.peak_bytes
        found = attribute(self.case.model, images, self.logit[classes], self.method, **self.options)
        self.costs.append((len(images), found.cost))
        return found.pixels().cpu()

    def load(self, indices: Sequence[int]) -> Tensor:
        side = self.case.settings.resolution or native_pixels(self.case.model)
        crop = ResizeCenterCrop(side)
        return torch.stack([to_tensor(crop(self.case.splits.test.load(int(i)))) for i in indices])

    def cost(self) -> dict[str, float | int | None]:
        """Passes and seconds per image, over all maps so far; peak memory of a single image."""
        count = sum(n for n, _ in self.costs)
        mean = {k: sum(n * getattr(c, k) for n, c in self.costs) / count for k in ("forward", "backward", "seconds")}
        return {**mean, "peak_bytes": self.peak}


def _stored_grids(path: Path, source: Any) -> GridList:
    grids = GridList.load(path, state=source.state()[:16])
    labels = torch.as_tensor(source.labels, dtype=torch.int64)
    if int(grids.indices.max()) >= len(labels) or not torch.equal(labels[grids.indices], grids.labels):
        raise UserError(f"The grids {path} do not fit their images; delete the file to have grids chosen again.")
    return grids


def _gridpg(common: _Common) -> _Prepared:
    grids, settings = common.grids(), common.settings
    images = grids.indices.unique()
    shown = {int(c) for c in grids.labels.unique()}
    absent = [name for c, name in enumerate(common.classes) if c not in shown]

    def run(case: Case, explainer: _Explainer, advance: Callable[[int, int], None]) -> Outcome:
        side = settings.resolution or native_pixels(case.model)
        found = grid_pointing(
            explainer,
            explainer.load,
            grids,
            side=side if settings.grid_input == "resized" else None,
            grids_per_pass=max(1, 32 // grids.n**2),
            seed=grids.rule.get("seed", 0),
            progress=advance,
        )
        wrong = int((~common.right[case.name][images]).sum())
        notes = [f"no confident image of {', '.join(absent)}: not in any grid"] if absent else []
        notes += [f"{case.name} is wrong on {wrong} of the {len(images)} images of these grids"] if wrong else []
        if not isfinite(found.score):  # told apart from a score of 0 by the maps that were discarded
            notes.append(f"{METHODS[explainer.method].title} gave no map with positive mass")
        details = {
            "interval": [100 * x if isfinite(x) else 0.0 for x in found.interval],
            "per_cell": [100 * x for x in found.per_cell.nan_to_num(0).tolist()],
            "grids": len(grids),
            "cells": found.maps,
            "discarded": found.discarded,
            "images": len(images),
            "classes": len(shown),
            "misclassified": wrong,
            "grid_input": settings.grid_input,
            "pixels": side if settings.grid_input == "resized" else grids.n * side,
            "chance": 100 * found.chance,
            "cost": explainer.cost(),
        }
        score = 100 * found.score if isfinite(found.score) else 0.0
        return Outcome(score, {"test": len(images)}, details, tuple(notes))

    rule = {k: v for k, v in grids.rule.items() if k != "models"}
    key = grids_key(grids)
    return _Prepared(
        {"n": grids.n, **rule, "grids": key, "grid_input": settings.grid_input, "resolution": settings.resolution}, run
    )


def _deletion(common: _Common) -> _Prepared:
    settings, chosen = common.settings, common.images(common.eligible)

    def run(case: Case, explainer: _Explainer, advance: Callable[[int, int], None]) -> Outcome:
        labels, parts = common.labels[chosen], []
        for i in range(0, len(chosen), _IMAGES_PER_PASS):
            images, classes = (
                explainer.load(chosen[i : i + _IMAGES_PER_PASS].tolist()),
                labels[i : i + _IMAGES_PER_PASS],
            )
            maps = explainer(images, classes)
            with opened(case.model) as subject:
                parts.append(
                    deletion_curves(
                        maps,
                        images,
                        explainer.logit[classes],
                        prepare=lambda x, s=subject: s.prepare(x.to(s.device, s.dtype)),  # type: ignore[misc]
                        probability=lambda x, y, s=subject: s.forward(x).logits.softmax(1).gather(1, y[:, None])[:, 0],  # type: ignore[misc]
                        block=settings.block,
                        fill=settings.fill,
                        mode=settings.deletion_mode,
                    )
                )
            advance(min(i + _IMAGES_PER_PASS, len(chosen)), len(chosen))
        curves = replace(parts[0], **{k: torch.cat([getattr(p, k) for p in parts]) for k in ("most", "least")})
        summary = curves.summary(seed=settings.seed)
        numbers = {k: v.tolist() if k == "fractions" else (100 * v).tolist() for k, v in vars(summary).items()}
        details = {
            "mode": settings.deletion_mode,
            "fill": settings.fill,
            "block": settings.block,
            "images": len(chosen),
        }
        return Outcome(numbers["area_most"], {"test": len(chosen)}, {**details, **numbers, "cost": explainer.cost()})

    names = ("fill", "block", "deletion_mode", "resolution", "seed")
    return _Prepared({**{n: getattr(settings, n) for n in names}, **common.rule, **_of_images(chosen)}, run)


def _inside(common: _Common) -> _Prepared:
    settings, source, chosen = common.settings, common.source, common.images(common.correct)

    def run(case: Case, explainer: _Explainer, advance: Callable[[int, int], None]) -> Outcome:
        side = settings.resolution or native_pixels(case.model)
        masks = torch.stack([_mask(source, int(i), side) for i in chosen])
        seen = masks.flatten(1).any(1)
        maps = []
        for i in range(0, len(chosen), _IMAGES_PER_PASS):
            part = chosen[i : i + _IMAGES_PER_PASS]
            maps.append(explainer(explainer.load(part.tolist()), common.labels[part]))
            advance(min(i + _IMAGES_PER_PASS, len(chosen)), len(chosen))
        found, masks = torch.cat(maps)[seen], masks[seen]
        shares, hits = inside_share(found, masks), pointing_hits(found, masks)
        none = not bool(shares.isfinite().any())
        notes = (f"{METHODS[explainer.method].title} gave no map with positive mass",) if none else ()
        shares = torch.zeros_like(shares) if none else shares
        low, high = bootstrap_interval(shares, seed=settings.seed)
        details = {
            "interval": [100 * float(low), 100 * float(high)],
            "pointing": 100 * float(hits.double().mean()),
            "area": 100 * float(masks.double().mean()),
            "images": len(masks),
            "discarded": len(masks) if none else int(shares.isnan().sum()),
            "cost": explainer.cost(),
        }
        return Outcome(100 * float(shares.nanmean()), {"test": len(masks)}, details, notes)

    return _Prepared({"resolution": settings.resolution, "seed": settings.seed, **_of_images(chosen)}, run)


def grids_key(grids: GridList) -> str:
    """A hash of what the grids show."""
    data = grids.indices.numpy().tobytes() + grids.labels.numpy().tobytes() + grids.state.encode()
    return hashlib.sha256(data).hexdigest()[:8]


def _of_images(chosen: Tensor) -> dict[str, Any]:
    return {"images": hashlib.sha256(chosen.numpy().tobytes()).hexdigest()[:8]}


def _probabilities(case: Case, count: int) -> Tensor:
    """The probability of every class of the data for every image, (N, C); zero for images that could not be read."""
    features = case.features("test", "pooled")
    logits = classify(case.model, features.tensor())
    assert logits is not None
    table = torch.zeros(count, len(case.classes))
    table[features.index] = logits.softmax(1)[:, _logit_of_class(case)]
    return table


def _logit_of_class(case: Case) -> Tensor:
    """The index of the logit that stands for each of the data's classes, (C,)."""
    meant = class_of_logit(case.model.config, len(next(case.model.classifier.parameters())), case.classes)
    assert meant is not None
    return torch.stack([(meant == c).nonzero()[0, 0] for c in range(len(case.classes))])


def _mask(source: Any, index: int, side: int) -> Tensor:
    mask = torch.from_numpy(source.mask(index).copy()).float()
    return resize(mask[None, None].expand(1, 3, -1, -1), side)[0, 0] >= 0.5


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in Path(name).name)


@contextmanager
def _progress(title: str | None) -> Iterator[Callable[[int, int], None]]:
    if title is None:
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


_IMAGES_PER_PASS = 32
_PREPARE: dict[str, Callable[[_Common], _Prepared]] = {"gridpg": _gridpg, "deletion": _deletion, "inside": _inside}
