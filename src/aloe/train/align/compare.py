"""How alike are student and teacher: mean cosine per alignment point over a set of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aloe.models.teachers import Teacher
from aloe.train.align.points import CENTRED, cosines, student_features, teacher_features
from aloe.train.averages import mean_over_images


def mean_cosines(
    student: nn.Module, source: Teacher, loader: Any, blocks: Sequence[int], device: Any
) -> dict[str, float]:
    """Mean cosine after each of `blocks` and pooled, over the images of a loader; the student's mode is kept.

    `pooled_centred` is that of the pooled outputs less the teacher's mean over these images, which raw cosines mostly show.
    """
    config: Any = student.config
    pairs: list[tuple[Tensor, Tensor]] = []

    def compare(batch: dict[str, Any]) -> dict[str, Tensor]:
        images = batch["pixel_values"]
        theirs = teacher_features(source, images, config, blocks)
        ours = student_features(student, images, blocks)
        pairs.append((ours.pooled.float(), theirs.pooled.float()))
        return cosines(ours, theirs, config, source)

    training = student.training
    student.eval()
    try:
        found = mean_over_images(compare, loader, device)
    finally:
        student.train(training)
    ours, theirs = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    mean = theirs.mean(0)
    return {**found, CENTRED: F.cosine_similarity(ours - mean, theirs - mean, dim=-1).mean().item()}
