"""A model on labelled images: what the tasks of recognition and of explanations are run on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aloe.core.arrays import as_tensor
from aloe.core.errors import UserError
from aloe.data.sources import left_out
from aloe.data.splits import Splits
from aloe.evaluation.features import FeatureSet, extract
from aloe.evaluation.settings import EvaluateSettings
from aloe.evaluation.task import Case, Outcome, Task


@dataclass(kw_only=True)
class ImageCase(Case):
    """One model on labelled images; features are extracted when first asked for and shared by the tasks."""

    splits: Splits
    settings: EvaluateSettings
    models: tuple[str, ...] = ()
    _features: dict[tuple[str, str], FeatureSet] = field(default_factory=dict)

    def features(self, part: str, feature: str | None = None) -> FeatureSet:
        """Features of `train`, `validation` or `test`.

        Raises:
            UserError: a class is left without a readable image.
        """
        settings = self.settings
        kind = feature or settings.feature
        if (part, kind) not in self._features:
            source = getattr(self.splits, part)
            features = extract(
                self.model,
                source,
                feature=kind,
                resolution=settings.resolution,
                batch_size=settings.batch_on(self.device),
                device=self.device,
                precision=settings.precision,
                compile=settings.compile,
                workers=settings.workers,
                cache=self.cache,
                progress=f"{Path(self.name).name} {self.splits.name} {part}" if self.progress else None,
            )
            if part != "validation" and source.classes is not None and source.labels is not None:
                needed = set(range(len(source.classes)) if part == "train" else source.labels.tolist())
                if absent := [source.classes[i] for i in sorted(needed - set(features.labels.tolist()))]:
                    word = "training" if part == "train" else part
                    raise UserError(f"Class {absent[0]!r} of {self.splits.name} has no readable {word} image.")
            self._features[part, kind] = features
        return self._features[part, kind]

    def unreadable(self, parts: Sequence[str]) -> tuple[str, ...]:
        """One clause for each of the parts from whose features images are missing, and for what the data leave out."""
        missing = {part: features.unreadable for (part, _), features in self._features.items() if part in parts}
        lost = [f"{len(n)} {part} images could not be read, first {n[0]}" for part, n in missing.items() if n]
        lines = [line for part in parts for line in left_out(getattr(self.splits, part, None))]
        return tuple(dict.fromkeys([*lost, *lines]))

    @property
    def classes(self) -> list[str]:
        return list(self.splits.test.classes or [])

    @property
    def metric(self) -> str:  # type: ignore[override]
        return self.splits.metric

    def data(self, parts: Sequence[str]) -> str:
        return self.splits.name

    def state(self, part: str) -> str | None:
        source = getattr(self.splits, part)
        return None if source is None else source.state()[:16]

    def check(self, name: str, task: Task) -> None:
        if "train" in task.parts and self.splits.train is None:
            data = self.splits.name
            raise UserError(
                f"Task {name} needs training images besides {data}: --train FOLDER with one folder per class."
            )
        if task.labelled and self.splits.test.labels is None:
            raise UserError(f"{self.splits.name} has no labels (one folder per class), which task {name} needs.")

    def standing(self, parts: Sequence[str], outcome: Outcome) -> tuple[bool, list[str]]:
        """Official is a number of all images of official data of which there is nothing else to say."""
        lost = (*self.unreadable(parts), *outcome.notes)
        shared = self.splits.shared if {"train", "test"} <= set(parts) else 0
        leak = (f"{shared} of the {len(self.splits.test)} test images are training images too",) if shared else ()
        return self.splits.official and not lost, [*self.splits.notes, *leak, *lost]


def score(predicted: Tensor, labels: Tensor, metric: str) -> float:
    """Percent correct: `top-1` over images, or `mean per class`."""
    right = (as_tensor(predicted, "predictions") == as_tensor(labels, "labels")).double()
    if metric == "top-1":
        return 100 * float(right.mean())
    return 100 * float(torch.stack([right[labels == c].mean() for c in labels.unique()]).mean())


def class_of_logit(config: Any, count: int, classes: list[str]) -> Tensor | None:
    """Which of the data's classes each of `count` logits stands for by its name in `id2label`, upper and lower case alike.

    (count,) int64, -1 for a class that the data lack; None when the classifier lacks one of the data's classes. Classes that
    share a name (ImageNet has two cranes) are told apart by their order.
    """
    named: dict[str, list[int]] = {}
    for i, name in enumerate(classes):
        named.setdefault(name.lower(), []).append(i)
    queues = [named.get(str(config.id2label.get(i)).lower(), [-1]) for i in range(count)]
    meant = [queue.pop(0) if len(queue) > 1 else queue[0] for queue in queues]
    return torch.tensor(meant) if set(range(len(classes))) <= set(meant) else None
