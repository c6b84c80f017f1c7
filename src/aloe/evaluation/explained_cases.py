"""Models and methods whose explanations are compared: on which images, what they are asked before any work, and a model with
a method as one function of images and classes.

All models of a run are compared on the same images: those that every one of them classifies correctly and with confidence.
The grids are kept in the results folder and named in every row, so that a later model can be measured on them as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aloe.attribution.methods import METHODS, Cost, attribute, check_options, find_method, find_methods, unsupported
from aloe.attribution.presets import preset_options
from aloe.core import processes
from aloe.core.errors import UserError
from aloe.data.states import earlier_states
from aloe.data.transforms import ResizeCenterCrop, to_tensor
from aloe.evaluation.case import ImageCase, class_of_logit
from aloe.evaluation.features import classify
from aloe.metrics.gridpg import check_smooth
from aloe.metrics.grids import GridList, choose_grids, confident


class Common:
    """What all models share: the images' labels, the confident ones, and each model's logit of each class."""

    def __init__(self, cases: Sequence[ImageCase]) -> None:
        self.cases, first = cases, cases[0]
        self.settings, self.source, self.classes = first.settings, first.splits.test, first.classes
        self.labels = torch.as_tensor(self.source.labels, dtype=torch.int64)
        tables = [_probabilities(case, len(self.labels)) for case in cases]
        self.right = {c.name: confident([t], self.labels, threshold=0.0) for c, t in zip(cases, tables, strict=True)}
        threshold = {} if self.settings.share is not None else {"threshold": self.settings.confidence}
        self.rule = {"share": self.settings.share} if self.settings.share is not None else threshold
        self.eligible = confident(tables, self.labels, **self.rule)
        self.correct = confident(tables, self.labels, threshold=0.0)
        self.readable = torch.stack([table.sum(1) > 0 for table in tables]).all(0)
        self.state = self.source.state()[:16]

    @cached_property
    def grids(self) -> GridList:
        """The stored list of these models, or the one that was named."""
        s = self.settings
        if s.grids_file is not None:
            return processes.of_first(partial(stored_grids, s.grids_file, self.source))
        models = sorted(Path(c.name).name if Path(c.name).exists() else c.name for c in self.cases)
        rule = {**self.rule, "seed": s.seed, "count": s.grids, "models": models}
        indices, labels = choose_grids(
            self.eligible, self.labels, n=s.grid_size, count=s.grids, seed=s.seed, classes=self.classes
        )
        rule["images"] = len(indices.unique())
        grids = GridList(s.grid_size, indices, labels, rule, self.cases[0].splits.name, self.state)
        folder = self.cases[0].output_dir
        if folder is not None:
            path = folder / "grids" / f"{_plain(grids.data)}-{grids_key(grids)}.json"
            processes.of_first(lambda: grids.save(path))
        return grids

    @cached_property
    def explained(self) -> Tensor:
        """Numbers of images that every model is right on."""
        return self._images(self.correct)

    @cached_property
    def deleted(self) -> Tensor:
        """Numbers of the images of pixel deletion."""
        return self._images(self.eligible if self.settings.among == "confident" else self.readable)

    def _images(self, among: Tensor) -> Tensor:
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


@dataclass(kw_only=True)
class MapCase(ImageCase):
    """A model and a method, with what all models share."""

    common: Common
    method: str

    @property
    def title(self) -> str:
        return METHODS[self.method].title

    @property
    def options(self) -> dict[str, Any]:
        """The method's own, by the preset and what was given."""
        return preset_options(self.settings.preset, self.method, self.settings.options.get(self.method))

    def asked(self) -> dict[str, Any]:
        """What of the method enters a row's key."""
        options = METHODS[self.method].resolved(self.options, self.model)
        return {"preset": self.settings.preset, "method": self.method, "options": options}


def map_cases(cases: Sequence[ImageCase]) -> list[MapCase]:
    """Every model with every method that is asked for and explains it; one case each, on one data set.

    Raises:
        UserError: a method that there is not, or none that explains any of the models.
    """
    methods = find_methods(cases[0].settings.methods)
    reasons = {(case.name, method.key): unsupported(case.model, method.key) for case in cases for method in methods}
    if all(reasons.values()):
        raise UserError(f"Nothing can be explained: {'; '.join(dict.fromkeys(map(str, reasons.values())))}.")
    common = Common(cases)
    return [
        MapCase(**vars(case), common=common, method=method.key)
        for case in cases
        for method in methods
        if reasons[case.name, method.key] is None
    ]


def check_maps(case: ImageCase, task: str) -> None:
    """What can be said before any work is done.

    Raises:
        UserError: the classifier or a method is missing.
    """
    find_methods(case.settings.methods)
    for name, options in case.settings.options.items():
        check_options(find_method(name), options)
    if getattr(case.model, "classifier", None) is None:
        raise UserError(
            f"{case.name} has no classifier to explain: fit one (aloe evaluate linear) and name its folder under probes/."
        )
    if _meant(case) is None:
        raise UserError(
            f"{task}: the classifier of {case.name} does not know all classes of {case.splits.name} by name; leave {task}"
            " out, or fit a classifier on them (aloe evaluate linear)."
        )


def check_grids(case: ImageCase, task: str) -> None:
    """As `check_maps`, and what GridPG's settings ask of the stored grids and of the model's own size."""
    settings = case.settings
    for name in settings.first_grids:
        find_method(name)
    n = settings.grid_size
    if settings.grids_file is not None:
        n = stored_grids(settings.grids_file, case.splits.test).n
    side = settings.resolution or case.model.side()
    check_smooth(settings.smooth, side // n if settings.protocol == "resized" else side)
    check_maps(case, task)


def check_masks(case: ImageCase, task: str) -> None:
    """As `check_maps`, and that there are masks."""
    if not hasattr(case.splits.test, "mask"):
        raise UserError(f"{case.splits.name} has no object masks, which task {task} needs; rendered scenes have them.")
    check_maps(case, task)


class Explainer:
    """A model and a method as a function of images and the data's classes; adds up what its maps cost."""

    def __init__(self, case: MapCase) -> None:
        self.case, self.method = case, case.method
        self.options = case.options
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
        attribution = attribute(self.case.model, images, self.logit[classes], self.method, **self.options)
        self.costs.append((len(images), attribution.cost))
        return attribution.pixels().cpu()

    def load(self, indices: Sequence[int]) -> Tensor:
        side = self.side()
        crop = ResizeCenterCrop(side)
        return torch.stack([to_tensor(crop(self.case.splits.test.load(int(i)))) for i in indices])

    def side(self) -> int:
        """Pixels of the images: the model's own size, or that of the settings."""
        return self.case.settings.resolution or self.case.model.side()

    def cost(self) -> dict[str, float | int | None]:
        """Passes and seconds per image, over all maps so far, of every process; peak memory of a single image."""
        costs = [cost for part in processes.gathered(self.costs) for cost in part]
        count = sum(n for n, _ in costs)
        mean = {k: sum(n * getattr(c, k) for n, c in costs) / count for k in ("forward", "backward", "seconds")}
        return {**mean, "peak_bytes": processes.gathered(self.peak)[0]}


def stored_grids(path: Path, source: Any) -> GridList:
    """A list that was made for these images; raises UserError for another.

    The first process alone holds their states against each other: a copy elsewhere has other inodes, so no earlier state.
    """
    state = source.state()[:16] if processes.is_first() else None
    with earlier_states():
        earlier = source.state()[:16]
    grids = GridList.load(path, state=state, earlier=earlier)
    labels = torch.as_tensor(source.labels, dtype=torch.int64)
    if int(grids.indices.max()) >= len(labels) or not torch.equal(labels[grids.indices], grids.labels):
        raise UserError(f"The grids {path} do not fit their images; delete the file to have grids chosen again.")
    return grids


def grids_key(grids: GridList) -> str:
    """A hash of what the grids show."""
    data = grids.indices.numpy().tobytes() + grids.labels.numpy().tobytes() + grids.state.encode()
    return hashlib.sha256(data).hexdigest()[:8]


def _probabilities(case: ImageCase, count: int) -> Tensor:
    """The probability of every class of the data for every image, (N, C); zero for images that could not be read."""
    features = case.features("test", "pooled")
    logits = classify(case.model, features.tensor())
    assert logits is not None
    table = torch.zeros(count, len(case.classes))
    table[features.index] = case.model.probabilities(logits)[:, _logit_of_class(case)]
    return table


def _logit_of_class(case: ImageCase) -> Tensor:
    """The index of the logit that stands for each of the data's classes, (C,)."""
    meant = _meant(case)
    assert meant is not None
    return torch.stack([(meant == c).nonzero()[0, 0] for c in range(len(case.classes))])


def _meant(case: ImageCase) -> Tensor | None:
    return class_of_logit(case.model.config, len(next(case.model.classifier.parameters())), case.classes)


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in Path(name).name)
