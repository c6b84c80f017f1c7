"""Alignment on `DrawTrainer`: the loss is the distance to a frozen teacher.

The trained module is the student plus the objective's own parameters; the teacher stands beside it, never wrapped, never
saved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aloe.models.backbone import Features
from aloe.models.modeling import BcosViTModel
from aloe.models.teachers import Teacher, resize
from aloe.train.align.gather import gathered
from aloe.train.align.objectives import (
    CONTRASTIVE,
    TOKENWISE,
    SiglipLoss,
    cosine,
    infonce,
    mse,
    smooth_l1,
)
from aloe.train.align.points import (
    CENTRED,
    POOLED,
    cosines,
    match_tokens,
    point_name,
    student_features,
)
from aloe.train.align.settings import AlignSettings
from aloe.train.align.statistics import Statistics
from aloe.train.align.teaching import Teaching
from aloe.train.progress import EVAL_PREFIX, ProgressBar
from aloe.train.sharding import shard
from aloe.train.trainer import DrawTrainer

LOSS_PREFIX, COSINE_PREFIX = "loss_", f"{EVAL_PREFIX}cosine_"


class AlignmentModel(nn.Module):
    """The student and the loss: images and the teacher's features in, one loss per alignment point out."""

    _no_split_modules = BcosViTModel._no_split_modules  # what FSDP wraps

    def __init__(self, student: nn.Module, source: Teacher, settings: AlignSettings, blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.student = student
        config: Any = student.config
        self.config = config
        self.blocks = blocks if settings.objective in TOKENWISE else ()
        self.pooled = settings.pooled
        self.contrasts = settings.objective in CONTRASTIVE
        self._source = (source,)  # in a tuple: not a submodule, so neither trained, wrapped nor saved
        self.loss = SiglipLoss() if settings.objective == "siglip" else None
        self._objective = {"cosine": cosine, "mse": mse, "standardized": smooth_l1, "infonce": infonce}.get(
            settings.objective
        )
        standardises = settings.objective == "standardized"
        self.statistics = Statistics.of(config, source, self.blocks) if standardises else None

    def forward(self, images: Tensor, teacher: Features, measure: str = "loss") -> dict[str, Tensor]:
        """The loss of every point, or with `measure="cosine"` the cosine similarity of every point."""
        features = student_features(self.student, images, self.blocks)
        if measure == "cosine":
            numbers = cosines(features, teacher, self.config, self._source[0])
            if self.statistics is not None:
                mean = self.statistics.mean(POOLED)
                pairs = (features.pooled - mean).float(), (teacher.pooled - mean).float()
                numbers[CENTRED] = F.cosine_similarity(*pairs, dim=-1).mean()
            return numbers
        compare: Any = self.loss or self._objective
        losses = {}
        for k in self.blocks:
            ours, theirs = match_tokens(features.states[k], teacher.states[k], self.config, self._source[0])
            losses[point_name(k)] = compare(*self._standardised(point_name(k), ours, theirs))
        if self.pooled:
            ours, theirs = features.pooled, teacher.pooled
            if self.contrasts:  # with the images of every process
                ours, theirs = gathered(ours), gathered(theirs)
            losses[POOLED] = compare(*self._standardised(POOLED, ours, theirs))
        return losses

    def _standardised(self, name: str, *features: Tensor) -> tuple[Tensor, ...]:
        if self.statistics is None:
            return features
        return tuple(self.statistics.standardise(name, part) for part in features)


class AlignmentTrainer(DrawTrainer):
    """Trainer whose loss is the distance to a frozen teacher; the other arguments are `DrawTrainer`'s.

    `teach` gives the teacher's features for a batch of images; it is asked once per batch. `sample`, images (B, 3, H, W) in
    [0, 1], is what the teacher's statistics are measured on, where a run that begins needs them. Under `fsdp` the teacher is
    split as the student is, and stays so.
    """

    def __init__(
        self,
        model: AlignmentModel,
        source: Teacher,
        *,
        settings: AlignSettings,
        sample: Tensor | None = None,
        **parts: Any,
    ) -> None:
        super().__init__(model, settings=settings, draw_side=max(settings.resolutions or [0]) or None, **parts)
        source, self.alignment = source.to(self.args.device), settings
        if settings.fsdp:
            shard(source, source.blocks)
        compiled = settings.compile_teacher
        self.teach: Callable[[Tensor], Features] = Teaching(
            source, model.config, model.blocks, settings.precision, compiled=compiled
        )
        if model.statistics is not None and sample is not None:
            config: Any = model.config
            model.statistics.measure(self.teach, sample, config, source, self.args.eval_batch_size)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        images = self.faults.take(inputs)["pixel_values"]
        images = resize(images, self.alignment.resolution_at(self.state.global_step, images.shape[-1]))
        losses = model(images, self.teach(images))
        self.tally({f"{LOSS_PREFIX}{name}": loss for name, loss in losses.items()})
        total = torch.stack(list(losses.values())).sum()
        return (total, losses) if return_outputs else total

    def measure(self, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Cosine per alignment point, student against teacher."""
        images = batch["pixel_values"]
        cosines = model(images, self.teach(images), "cosine")
        return {f"cosine_{name}": value for name, value in cosines.items()}


def alignment_bar() -> ProgressBar:
    """The loss per point and, once there is one, the held-out cosine."""

    def words(logs: dict[str, Any]) -> str:
        cosine = _per_point(logs, COSINE_PREFIX)
        return f"loss {_per_point(logs, LOSS_PREFIX)}" + (f"  cosine {cosine}" if cosine else "")

    return ProgressBar("aligning", words)


def _per_point(logs: dict[str, Any], prefix: str) -> str:
    names = {k.removeprefix(prefix): v for k, v in logs.items() if k.startswith(prefix)}
    return " ".join(f"{k.removeprefix('after_block_')}:{v:.3f}" for k, v in names.items())
