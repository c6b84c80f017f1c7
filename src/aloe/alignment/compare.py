"""How alike are student and teacher: mean cosine per alignment point over a set of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from aloe.alignment.points import cosines, student_features, teacher_features
from aloe.errors import UserError
from aloe.models.teachers import Teacher


def mean_cosines(
    student: nn.Module, source: Teacher, loader: Any, blocks: Sequence[int], device: Any
) -> dict[str, float]:
    """Mean cosine after each of `blocks` and pooled, over the images of a loader; the student's mode is kept."""
    config: Any = student.config

    def compare(images: Tensor) -> dict[str, Tensor]:
        theirs = teacher_features(source, images, config, blocks)
        return cosines(student_features(student, images, blocks), theirs, config, source)

    training = student.training
    student.eval()
    try:
        return mean_over_images(compare, loader, device)
    finally:
        student.train(training)


@torch.no_grad()
def mean_over_images(
    compare: Callable[[Tensor], dict[str, Tensor]], loader: Any, device: Any, accelerator: Any = None
) -> dict[str, float]:
    """Means of what `compare` gives per batch, weighted by images; every rank gets the same numbers.

    Raises:
        UserError: no image of the loader is readable.
    """
    sums: dict[str, Tensor] = {}
    count = torch.zeros((), device=device)
    for batch in loader:
        images = batch["pixel_values"].to(device)
        if not len(images):  # none of them readable
            continue
        for name, value in compare(images).items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + value * len(images)
        count += len(images)
    stacked = torch.stack([*sums.values(), count])
    if accelerator is not None:
        stacked = accelerator.reduce(stacked, reduction="sum")
    *totals, images_seen = stacked.tolist()
    if not images_seen:
        raise UserError("None of the images could be read.")
    return {name: total / images_seen for name, total in zip(sums, totals, strict=True)}
