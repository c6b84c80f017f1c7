"""Depth and normal probes on a frozen backbone: trained and measured as in Probe3D (El Banani et al. 2024).

A frame is cut to its central square; the image goes into the backbone at `side` pixels, the ground truth keeps the square's
own resolution (or `target_side`), and predictions are resized to it for the loss and the metrics. Without augmentation,
features are computed once and kept in memory. Frames without one valid pixel are left out and named. Deviations from
Probe3D's code: the frames are shuffled, images are not augmented unless asked for, and they are resized to the backbone's
own resolution, as the paper says. Of several learning rates the one with the least error on held-out training frames is
taken, for every backbone its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import cos, inf, isfinite, pi
from typing import Any, Literal

import torch
from torch import Tensor, nn

from aloe.core import processes
from aloe.core.errors import UserError
from aloe.core.progress import tracked
from aloe.data.frames.frame import Frame, FrameSource, NoTruth
from aloe.evaluation.dense.depth import DepthTask
from aloe.evaluation.dense.features import choose_blocks, dense_features
from aloe.evaluation.dense.heads import DPTHead, LinearHead, Standardized
from aloe.evaluation.dense.normals import NormalsTask
from aloe.evaluation.dense.samples import FeaturesOf, Samples, View, viewed
from aloe.evaluation.dense.settings import DenseSettings

TaskName = Literal["depth", "normals"]
FLOOR = 0.01  # of the learning rate: the first step's and the last's


@dataclass(frozen=True, eq=False)
class DenseProbe:
    """Trained heads, `repeats` of them, with what they stand on."""

    task: DepthTask | NormalsTask
    heads: tuple[nn.Module, ...]
    features_of: FeaturesOf
    side: int
    settings: DenseSettings
    losses: tuple[tuple[float, ...], ...]
    """The means of the epochs, for every head."""
    learning_rate: float
    held_out: dict[float, float]
    """The errors by which the learning rate was chosen; empty where one was given."""
    left_out: tuple[str, ...]
    """Training frames without ground truth."""

    def predict(self, frame: Frame) -> tuple[Frame, Tensor]:
        """The frame as the probe sees it (square, at the ground truth's resolution) and the first head's prediction at that
        size: depth in metres (H, W) or unit normals (3, H, W)."""
        view = viewed(frame.cropped_square(), self.side, self.settings)
        prediction = self.task.prediction(self._outputs([view])[0], view.size)[0]
        if isinstance(self.task, DepthTask):
            return view.seen, prediction[0]
        return view.seen, nn.functional.normalize(prediction[:3], dim=0)

    @torch.no_grad()
    def _outputs(self, views: Sequence[View]) -> list[Tensor]:
        """Every head's outputs (B, C, h, w) on the CPU."""
        device = next(self.heads[0].parameters()).device
        images = torch.stack([view.image for view in views]).to(device)
        maps = [x.float() for x in self.features_of(images)]
        return [head(maps).cpu() for head in self.heads]


@dataclass(frozen=True)
class DenseResult:
    """`metrics` are the means over images, and then over heads, of `per_image`, whose lists (of the means over heads) follow
    `names`, the frames; `spread` is the standard deviation between the heads; `left_out` are frames without ground truth."""

    metrics: dict[str, float]
    per_image: dict[str, list[float]]
    names: tuple[str, ...]
    spread: dict[str, float]
    left_out: tuple[str, ...]


def backbone_features(
    model: Any, settings: DenseSettings, device: str | torch.device = "cpu"
) -> tuple[FeaturesOf, int]:
    """A teacher's or student's dense features as `fit_probe` reads them, and the side of its images in pixels.

    Raises:
        UserError: a block that the model lacks, `cls` of a model without it, or a resolution that its patches do not divide.
    """
    blocks, side = choose_blocks(model, settings.blocks), model.side(settings.resolution)
    model = model.to(device).eval()
    return lambda images: dense_features(model, images, blocks, cls=settings.cls), side


def fit_probe(
    features_of: FeaturesOf,
    train: FrameSource,
    task: TaskName,
    settings: DenseSettings | None = None,
    *,
    side: int,
    max_depth: float,
    device: str | torch.device = "cpu",
    progress: str | None = None,
) -> DenseProbe:
    """Train heads on a frozen backbone: AdamW, warm-up, quarter-cosine; the same numbers give the same heads.

    Args:
        features_of: the backbone, from images (B, 3, S, S) with S = `side` (see `backbone_features`).
        max_depth: metres; deeper is not valid, and depth's last bin.
        progress: a title shows a progress bar on standard error.

    Raises:
        UserError: no frame with valid ground truth, frames of several sizes without `target_side`, a head that does not fit
            the blocks, too few frames to hold some out, or a training that diverges.
    """
    settings = settings or DenseSettings.of()
    goal = dense_task(task, settings, max_depth)
    samples = Samples(features_of, train, goal, settings, side, torch.device(device), progress)
    every = list(range(len(samples)))
    rates = settings.learning_rates
    errors: dict[float, float] = {}
    if len(rates) > 1:
        # The last ones: neighbours in a film are nearly the same picture.
        cut = len(every) - max(1, round(settings.held_out * len(every)))
        if cut < 1:
            raise UserError("One training frame is too few to choose a learning rate with; give a single one.")

        def error(rate: float) -> float:
            title = progress and f"{progress}: rate {rate:g}"
            head, losses = _trained(samples, every[:cut], settings, rate, settings.seed, title)
            return _error(head, samples, every[cut:]) if isfinite(losses[-1]) else inf

        errors = dict(zip(rates, processes.shared(error, rates), strict=True))
    best = min(rates, key=lambda rate: errors.get(rate, 0.0))

    def repeat(k: int) -> tuple[nn.Module, tuple[float, ...]]:
        title = progress and f"{progress}: epochs"
        head, losses = _trained(samples, every, settings, best, settings.seed + k, title)
        return head.cpu(), losses

    trained = [(h.to(samples.device), losses) for h, losses in processes.shared(repeat, range(settings.repeats))]
    if not all(isfinite(losses[-1]) for _, losses in trained):
        raise UserError(f"Training the {task} probe diverged; give a smaller learning rate or check the features.")
    heads, losses_of = zip(*trained, strict=True)
    return DenseProbe(goal, heads, features_of, side, settings, losses_of, best, errors, tuple(samples.left_out))


def evaluate_probe(probe: DenseProbe, test: FrameSource, progress: str | None = None) -> DenseResult:
    """Metrics of every frame with ground truth, and their means.

    Raises:
        UserError: no frame, or none with valid ground truth.
    """
    if not len(test):
        raise UserError("There are no test frames.")
    parts = torch.arange(len(test)).split(probe.settings.batch_size)
    batches = list(
        tracked(
            processes.shared(partial(_measured, probe, test), parts, rounds=True),
            progress and f"{progress}: test",
            len(parts),
        )
    )
    frames = [metrics for measured, _ in batches for _, metrics in measured]
    names = [name for measured, _ in batches for name, _ in measured]
    left_out = [name for _, without in batches for name, _ in without]
    if not frames:
        reason = next(reason for _, without in batches for _, reason in without)
        raise UserError(f"None of the {len(test)} test frames can be used. {reason}")
    numbers = {name: torch.tensor([[h[name] for h in f] for f in frames], dtype=torch.float64) for name in frames[0][0]}
    return DenseResult(
        metrics={name: float(x.mean()) for name, x in numbers.items()},
        per_image={name: x.mean(dim=1).tolist() for name, x in numbers.items()},
        names=tuple(names),
        spread={name: float(x.mean(dim=0).std()) if x.shape[1] > 1 else 0.0 for name, x in numbers.items()},
        left_out=tuple(left_out),
    )


def _measured(
    probe: DenseProbe, test: FrameSource, rows: Tensor
) -> tuple[list[tuple[str, list[dict[str, float]]]], list[tuple[str, str]]]:
    """Of some frames: (name, metrics of every head) of those with ground truth, and (name, reason) of the others."""
    views, targets, without = [], [], []
    for i in rows.tolist():
        view = viewed(test[i].cropped_square(), probe.side, probe.settings)
        try:
            targets.append(probe.task.target(view.seen))
        except NoTruth as error:
            without.append((view.seen.name, str(error)))
            continue
        views.append(view)
    scores = []
    outputs = probe._outputs(views) if views else []
    for k, (view, (truth, valid)) in enumerate(zip(views, targets, strict=True)):
        predictions = [probe.task.prediction(of_head[k : k + 1], view.size)[0] for of_head in outputs]
        scores.append((view.seen.name, [probe.task.metrics(prediction, truth, valid) for prediction in predictions]))
    return scores, without


def dense_task(task: TaskName, settings: DenseSettings, max_depth: float) -> DepthTask | NormalsTask:
    """What a head's outputs mean, its loss and its metrics.

    Raises:
        UserError: no such task.
    """
    if task == "depth":
        return DepthTask(max_depth, settings.bins, settings.loss)
    if task == "normals":
        return NormalsTask(max_depth, settings.uncertainty, settings.missing_normals)
    raise UserError(f"There is no dense probe for {task!r}; choose depth or normals.")


def rate_factor(step: int, steps: int, warmup: float) -> float:
    """The learning rate's factor: linear from 0.01 to 1 over `warmup` of the steps, then 0.99 cos(pi/2 x progress) + 0.01."""
    start = warmup * steps
    if step < start:
        return FLOOR + (1 - FLOOR) * step / start
    return FLOOR + (1 - FLOOR) * cos(pi / 2 * min(1.0, (step - start) / (steps - start)))


def _trained(
    samples: Samples, rows: Sequence[int], settings: DenseSettings, rate: float, seed: int, progress: str | None
) -> tuple[nn.Module, tuple[float, ...]]:
    """A head trained on these samples, and the mean losses of the epochs, of which the last is not finite if it diverged."""
    goal, draws = samples.task, torch.Generator().manual_seed(seed)
    head = _head(samples.widths, goal.outputs, settings, draws)
    if settings.standardize:
        head = Standardized(head, *samples.moments(rows))
    head = head.to(samples.device)
    steps = settings.epochs * -(-len(rows) // settings.batch_size)
    optimizer = torch.optim.AdamW(head.parameters(), rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: rate_factor(s, steps, settings.warmup))
    losses = []
    for _ in tracked(range(settings.epochs), progress):
        total = torch.zeros((), device=samples.device)
        batches = torch.randperm(len(rows), generator=draws).split(settings.batch_size)
        for places in batches:
            maps, truth, valid = samples.batch([rows[i] for i in places.tolist()], draws)
            loss = goal.loss(goal.prediction(head(maps), (truth.shape[-2], truth.shape[-1])), truth, valid)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()
        losses.append(float(total) / len(batches))
        if not isfinite(losses[-1]):
            break
    return head.eval(), tuple(losses)


@torch.no_grad()
def _error(head: nn.Module, samples: Samples, rows: Sequence[int]) -> float:
    """The task's error on these samples: the mean over images."""
    goal, total = samples.task, 0.0
    for i in rows:
        maps, truth, valid = samples.batch([i], None)
        outputs = goal.prediction(head(maps), (truth.shape[-2], truth.shape[-1]))
        total += goal.metrics(outputs[0].cpu(), truth[0].cpu(), valid[0].cpu())[goal.error]
    return total / len(rows)


def _head(widths: Sequence[int], outputs: int, settings: DenseSettings, draws: torch.Generator) -> nn.Module:
    if settings.head == "dpt":
        return DPTHead(widths, outputs, draws, settings.hidden)
    return LinearHead(widths, outputs, draws, settings.kernel)
