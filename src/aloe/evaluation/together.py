"""Several models of one resolution on the same images: each image is decoded once; the features go to every model's cache.

Without a cache there is nowhere to put them, and each model reads the images by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aloe.core.progress import Bar
from aloe.core.torch_state import compiled
from aloe.data.subset import SubsetImages
from aloe.evaluation import features
from aloe.evaluation.cache import PartFolder
from aloe.evaluation.case import ImageCase
from aloe.evaluation.feeding import Fitting
from aloe.evaluation.tasks import TASKS

_POOLED = ("zeroshot", "classifier")  # read the pooled output whatever `feature` says
_READ = ("knn", "linear", *_POOLED)


def extract_together(wanted: Sequence[tuple[ImageCase, Sequence[str]]]) -> None:
    """Bring features into the cache that two or more models need of the same images at the same resolution.

    Args:
        wanted: cases of one data set, each with the tasks that are to be measured of it.
    """
    groups: dict[tuple[str, str, int], list[ImageCase]] = {}
    for case, tasks in wanted:
        for task in (task for task in tasks if task in _READ):
            kind = "pooled" if task in _POOLED else str(case.settings.feature)
            side = case.settings.resolution or case.model.side()
            for part in TASKS[task].parts:
                if getattr(case.splits, part) is not None:
                    group = groups.setdefault((part, kind, side), [])
                    group += [] if any(case is one for one in group) else [case]
    for (part, kind, side), cases in groups.items():
        if len(cases) > 1 and cases[0].cache is not None:
            _fill(cases, cases[0].cache, part, kind, side)


def _fill(cases: Sequence[ImageCase], cache: Path, part: str, kind: str, side: int) -> None:
    source, settings, device = getattr(cases[0].splits, part), cases[0].settings, cases[0].device
    view = features.view_of(kind, side, settings.precision, device, settings.compile)
    for case in cases:
        features.check_view(case.model, kind, settings.precision, side)
    folders = {
        features.part_folder(cache, case.model, source, view).folder.name: case.model.to(device).eval()
        for case in cases
    }
    starts = range(0, len(source), features.PART_IMAGES)
    lacking = {i: [k for k in folders if not PartFolder(cache / k).has(i)] for i in range(len(starts))}
    todo = {i: keys for i, keys in lacking.items() if len(keys) > 1}
    images = sum(min(features.PART_IMAGES, len(source) - starts[i]) for i in todo)
    title = f"{len(cases)} models {cases[0].splits.name} {part}" if cases[0].progress else None
    batch_size, fitting = settings.batch_on(device), Fitting()
    with Bar(title, -(-images // batch_size)) as bar, ExitStack() as stack:
        for model in folders.values():
            stack.enter_context(compiled(model, settings.compile))
        for i, keys in todo.items():
            numbers = np.arange(starts[i], min(starts[i] + features.PART_IMAGES, len(source)))
            together = _Together([folders[key] for key in keys], kind)
            whole, unreadable = features.extract_part(
                *(together, SubsetImages(source, numbers), "pooled", side, batch_size, device),
                *(settings.precision, settings.workers, fitting),
                together=False,
                advance=bar.advance,
            )
            whole["index"] += starts[i]
            widths = together.widths or [0] * len(keys)  # of a part without a readable image
            for key, own in zip(keys, whole["features"].split(widths, dim=1), strict=True):
                PartFolder(cache / key).write(i, {**whole, "features": own.contiguous()}, unreadable)


@dataclass
class _Read:
    pooled: Tensor


class _Together:
    """Models side by side, whose pooled output is the features of all of them."""

    def __init__(self, models: Sequence[Any], kind: str) -> None:
        self.models, self.kind, self.widths = models, kind, []  # type: ignore[var-annotated]

    def read(self, images: Tensor) -> _Read:
        outputs = [features.features_of(model, images, self.kind).float() for model in self.models]
        self.widths = [one.shape[1] for one in outputs]
        return _Read(torch.cat(outputs, dim=1))
