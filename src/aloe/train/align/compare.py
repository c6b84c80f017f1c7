"""How alike are student and teacher: mean cosine per alignment point over a set of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aloe.core import processes
from aloe.models.teachers import Teacher
from aloe.train.align.points import CENTRED, cosines, student_features, teacher_features
from aloe.train.averages import mean_over_images


def mean_cosines(
    student: nn.Module, source: Teacher, loader: Any, blocks: Sequence[int], device: Any
) -> dict[str, float]:
    """Mean cosine after each of `blocks` and pooled, over the images of a loader; the student's mode is kept. Of several
    processes that share a command each gives the loader of its own `dealt` batches.

    `pooled_centred` is that of the pooled outputs less the teacher's mean over these images, which raw cosines mostly show.
    """
    config: Any = student.config

    @torch.no_grad()
    def compared(images: Tensor) -> dict[str, Any]:
        """What a batch gives, on the CPU; where none of its images is readable nothing."""
        if not len(images):
            return {"pixel_values": ()}
        images = images.to(device)
        theirs = teacher_features(source, images, config, blocks)
        ours = student_features(student, images, blocks)
        numbers = {name: value.cpu() for name, value in cosines(ours, theirs, config, source).items()}
        pooled = ours.pooled.float().cpu(), theirs.pooled.float().cpu()
        return {"pixel_values": range(len(images)), "numbers": numbers, "pooled": pooled}

    training = student.training
    student.eval()
    try:
        batches = processes.in_order([compared(batch["pixel_values"]) for batch in loader])
    finally:
        student.train(training)
    means = mean_over_images(lambda batch: batch["numbers"], batches, "cpu")
    ours, theirs = (
        torch.cat(parts) for parts in zip(*(b["pooled"] for b in batches if b["pixel_values"]), strict=True)
    )
    mean = theirs.mean(0)
    return {**means, CENTRED: F.cosine_similarity(ours - mean, theirs - mean, dim=-1).mean().item()}
