"""A learning rate for this teacher, these images and this batch: a range test, as `aloe align --find-rate` makes it.

The best rate of a narrow network is too large for a wide one. The test takes a few dozen steps with a rate that grows
geometrically. Where the loss, smoothed, has nearly reached its least value, steps begin to be too large; a third of that
rate is proposed. Source of the test: Smith, "Cyclical Learning Rates" (2017); the share is this project's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from aloe.core.errors import UserError
from aloe.core.torch_state import in_plain_torch
from aloe.data.draws import FaultLog, collate_draws
from aloe.models.convert import Student
from aloe.train.align.calibrate import IMAGES as CALIBRATED
from aloe.train.align.calibrate import calibrate
from aloe.train.align.run import Parts, check_given
from aloe.train.align.settings import OF_CONVERSION, AlignSettings
from aloe.train.align.statistics import COUNT
from aloe.train.align.teaching import Teaching
from aloe.train.align.trainer import AlignmentModel
from aloe.train.muon import muon_of
from aloe.train.runs import sample_images, training_draws

STEPS, LOW, HIGH = 60, 3e-5, 1e-1
MEMORY = 0.8  # of the smoothed loss
CLOSE, SHARE = 1.01, 1 / 3  # the first rate with a loss this close to the least, and the share of it that is proposed
LOST = 2.0  # the test ends where the smoothed loss is this many times the least


@dataclass
class RateTest:
    """The loss after a step at each rate, smoothed."""

    rates: list[float]
    losses: list[float]

    @property
    def proposed(self) -> float:
        """A third of the first rate at which the loss is within 1 % of its least, to two digits."""
        least = min(self.losses)
        first = next(rate for rate, loss in zip(self.rates, self.losses, strict=True) if loss <= CLOSE * least)
        return float(f"{SHARE * first:.1e}")

    def thinned(self, count: int) -> list[tuple[float, float]]:
        """About `count` of the rates with their losses, evenly."""
        every = max(1, len(self.rates) // count)
        return list(zip(self.rates, self.losses, strict=True))[::every]

    def summary(self) -> dict[str, Any]:
        return {"learning_rate": self.proposed, "rates": self.rates, "losses": self.losses}


@in_plain_torch
def find_rate(
    teacher: Any,
    images: Any,
    *,
    recipe: str = "short",
    config: str | Path | None = None,
    student: Student | None = None,
    device: str = "cpu",
    **settings: Any,
) -> RateTest:
    """Train for at most 60 steps at growing rates and throw the result away; the arguments are those of `align`.

    Returns:
        The rates and the smoothed losses, from which a rate is proposed. One process, float32; a given rate is not used.

    Raises:
        UserError: as `align`; or a loss that is not finite at the lowest rate.
    """
    check_given(student, settings, (*OF_CONVERSION, "stem", "stem_steps"))
    changes = {"steps": STEPS, "learning_rate": LOW}
    resolved = AlignSettings.resolve(recipe, config, settings).model_copy(update=changes)
    parts = Parts.of(teacher, images, resolved, student, progress=False)
    count = COUNT if resolved.objective == "standardized" else CALIBRATED
    sample = sample_images(parts.train, parts.resolution, resolved.seed, count)
    if resolved.calibrate and student is None:
        calibrate(parts.student, sample[:CALIBRATED])
    source = parts.teacher.to(device)
    model = AlignmentModel(parts.student.base_model, source, resolved, parts.blocks).to(device).train()
    teach = Teaching(source, parts.student.config, model.blocks)
    if model.statistics is not None:
        model.statistics.measure(teach, sample, parts.student.config, source, resolved.batch_size)
    optimizer = _optimizer(model, resolved)
    rates: list[float] = []
    losses: list[float] = []
    average = 0.0
    for step, batch in enumerate(islice(_batches(parts, resolved), STEPS)):
        rate = LOW * (HIGH / LOW) ** (step / (STEPS - 1))
        for group in optimizer.param_groups:
            group["lr"] = rate
        pixels = batch["pixel_values"].to(device)
        loss = torch.stack(list(model(pixels, teach(pixels)).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), resolved.max_grad_norm)
        optimizer.step()
        average = MEMORY * average + (1 - MEMORY) * loss.item()
        smoothed = average / (1 - MEMORY ** (step + 1))
        if not isfinite(smoothed) or (losses and smoothed > LOST * min(losses)):
            break
        rates.append(rate)
        losses.append(smoothed)
    if not losses:
        raise UserError(
            f"The loss is not finite at a rate of {LOW:g}; the teacher or the images are not usable as they are."
        )
    return RateTest(rates, losses)


def _optimizer(model: AlignmentModel, settings: AlignSettings) -> torch.optim.Optimizer:
    if settings.optimizer == "muon":
        return muon_of(model, settings, [name for name, _ in model.named_parameters()])
    return torch.optim.AdamW(model.parameters(), weight_decay=settings.weight_decay)


def _batches(parts: Parts, settings: AlignSettings) -> Iterator[dict[str, Any]]:
    """The batches with which a run of these settings begins."""
    draws = training_draws(parts.train, settings, parts.resolution, world_size=1)
    faults = FaultLog(None if isinstance(draws, IterableDataset) else len(parts.train), settings.max_bad_fraction, None)
    for batch in DataLoader(draws, settings.batch_size * settings.gradient_accumulation, collate_fn=collate_draws):
        yield faults.take(batch)
