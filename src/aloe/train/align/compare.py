"""How alike are student and teacher: mean cosine per alignment point over a set of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from aloe.models.teachers import Teacher
from aloe.train.align.points import cosines, student_features, teacher_features
from aloe.train.averages import mean_over_images


def mean_cosines(
    student: nn.Module, source: Teacher, loader: Any, blocks: Sequence[int], device: Any
) -> dict[str, float]:
    """Mean cosine after each of `blocks` and pooled, over the images of a loader; the student's mode is kept."""
    config: Any = student.config

    def compare(batch: dict[str, Any]) -> dict[str, Tensor]:
        images = batch["pixel_values"]
        theirs = teacher_features(source, images, config, blocks)
        return cosines(student_features(student, images, blocks), theirs, config, source)

    training = student.training
    student.eval()
    try:
        return mean_over_images(compare, loader, device)
    finally:
        student.train(training)
