"""Depth and normal probes on a frozen backbone: trained and measured as in Probe3D (El Banani et al. 2024).

A frame is cut to its central square; the image goes into the backbone at `side` pixels, the ground truth keeps the square's
own resolution (or `target_side`), and predictions are resized to it for the loss and the metrics. Without augmentation,
features are computed once and kept in memory. Deviations from Probe3D's code: the frames are shuffled, images are not
augmented unless asked for, and they are resized to the backbone's own resolution, as the paper says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cos, pi
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from aloe.dense.augment import augmented
from aloe.dense.depth import DepthTask
from aloe.dense.features import choose_blocks, dense_features, feature_side
from aloe.dense.frames import Frame, FrameSource
from aloe.dense.heads import DPTHead, LinearHead, Standardized
from aloe.dense.normals import NormalsTask
from aloe.dense.settings import DenseSettings
from aloe.errors import UserError

FeaturesOf: TypeAlias = Callable[[Tensor], Sequence[Tensor]]
"""Images (B, 3, S, S) in [0, 1] to maps (B, D_i, h, w), one for every block."""
TaskName = Literal["depth", "normals"]
_Sample: TypeAlias = tuple[list[Tensor], Tensor, Tensor]  # maps (D_i, h, w), truth (C, H, W), valid (H, W)
FLOOR = 0.01  # of the learning rate: the first step's and the last's


@dataclass(frozen=True, eq=False)
class DenseProbe:
    """A trained head with what it stands on; `losses` are the means of the epochs."""

    task: DepthTask | NormalsTask
    head: nn.Module
    features_of: FeaturesOf
    side: int
    settings: DenseSettings
    losses: tuple[float, ...]

    def predict(self, frame: Frame) -> tuple[Frame, Tensor]:
        """The frame as the probe sees it (square, at the ground truth's resolution) and the prediction at that size: depth in
        metres (H, W) or unit normals (3, H, W)."""
        view = _viewed(frame.cropped_square(), self.side, self.settings)
        prediction = self.task.prediction(self._outputs([view]), view.size)[0]
        if isinstance(self.task, DepthTask):
            return view.seen, prediction[0]
        return view.seen, nn.functional.normalize(prediction[:3], dim=0)

    @torch.no_grad()
    def _outputs(self, views: Sequence[_View]) -> Tensor:
        """The head's outputs (B, C, h, w) on the CPU."""
        device = next(self.head.parameters()).device
        images = torch.stack([view.image for view in views]).to(device)
        return self.head([x.float() for x in self.features_of(images)]).cpu()


@dataclass(frozen=True)
class DenseResult:
    """`metrics` are the means over images of `per_image`, whose lists follow `names`, the frames."""

    metrics: dict[str, float]
    per_image: dict[str, list[float]]
    names: tuple[str, ...]


def backbone_features(
    model: Any, settings: DenseSettings, device: str | torch.device = "cpu"
) -> tuple[FeaturesOf, int]:
    """A teacher's or student's dense features as `fit_probe` reads them, and the side of its images in pixels.

    Raises:
        UserError: a block that the model lacks, `cls` of a model without it, or a resolution that its patches do not divide.
    """
    blocks, side = choose_blocks(model, settings.blocks), feature_side(model, settings.resolution)
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
    """Train a head on a frozen backbone: AdamW, warm-up, quarter-cosine; the same numbers give the same head.

    Args:
        features_of: the backbone, from images (B, 3, S, S) with S = `side` (see `backbone_features`).
        max_depth: metres; deeper is not valid, and depth's last bin.
        progress: a title shows a progress bar on standard error.

    Raises:
        UserError: no frame, a frame without valid ground truth, frames of several sizes without `target_side`, a head that
            does not fit the blocks, or a training that diverges.
    """
    settings = settings or DenseSettings.of()
    if not len(train):
        raise UserError("There are no training frames.")
    goal = dense_task(task, settings, max_depth)
    draws = torch.Generator().manual_seed(settings.seed)
    samples = _Samples(features_of, train, goal, settings, side, torch.device(device), progress)
    head = _head(samples.widths, goal.outputs, settings, draws)
    if settings.standardize:
        head = Standardized(head, *samples.moments())
    head = head.to(device)
    steps = settings.epochs * -(-len(train) // settings.batch_size)
    optimizer = torch.optim.AdamW(head.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: rate_factor(s, steps, settings.warmup))
    losses = []
    for _ in _tracked(range(settings.epochs), progress and f"{progress}: epochs"):
        total = torch.zeros((), device=device)
        batches = torch.randperm(len(train), generator=draws).split(settings.batch_size)
        for rows in batches:
            maps, truth, valid = samples.batch(rows.tolist(), draws)
            loss = goal.loss(goal.prediction(head(maps), (truth.shape[-2], truth.shape[-1])), truth, valid)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()
        losses.append(float(total) / len(batches))
        if not total.isfinite():
            raise UserError(f"Training the {task} probe diverged; give a smaller learning rate or check the features.")
    return DenseProbe(goal, head.eval(), features_of, side, settings, tuple(losses))


def evaluate_probe(probe: DenseProbe, test: FrameSource, progress: str | None = None) -> DenseResult:
    """Metrics of every frame, and their means.

    Raises:
        UserError: no frame, or a frame without valid ground truth.
    """
    if not len(test):
        raise UserError("There are no test frames.")
    found: list[dict[str, float]] = []
    names = []
    for rows in _tracked(torch.arange(len(test)).split(probe.settings.batch_size), progress and f"{progress}: test"):
        views = [_viewed(test[i].cropped_square(), probe.side, probe.settings) for i in rows.tolist()]
        for view, outputs in zip(views, probe._outputs(views), strict=True):
            truth, valid = probe.task.target(view.seen)
            found.append(probe.task.metrics(probe.task.prediction(outputs[None], view.size)[0], truth, valid))
            names.append(view.seen.name)
    per_image = {name: [values[name] for values in found] for name in probe.task.names}
    means = {name: float(torch.tensor(values, dtype=torch.float64).mean()) for name, values in per_image.items()}
    return DenseResult(means, per_image, tuple(names))


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


class _Samples:
    """Training frames as batches of features and ground truth: kept from the first reading, or augmented anew every time."""

    def __init__(
        self,
        features_of: FeaturesOf,
        source: FrameSource,
        task: DepthTask | NormalsTask,
        settings: DenseSettings,
        side: int,
        device: torch.device,
        progress: str | None,
    ) -> None:
        self.features_of, self.source, self.task, self.settings = features_of, source, task, settings
        self.side, self.device = side, device
        self.kept: list[_Sample] = []
        if not settings.augment:
            parts = torch.arange(len(source)).split(settings.batch_size)
            for rows in _tracked(parts, progress and f"{progress}: features"):
                self.kept += self._read([source[i].cropped_square() for i in rows.tolist()])
        first = self.kept[:1] or self._read([source[0].cropped_square()])
        self.widths = [len(x) for x in first[0][0]]

    def batch(self, rows: Sequence[int], draws: torch.Generator) -> tuple[list[Tensor], Tensor, Tensor]:
        """Maps (B, D_i, h, w), truth (B, C, H, W) and valid (B, H, W) of these frames, on the device."""
        samples = [self.kept[i] for i in rows] if self.kept else self._read([self._augmented(i, draws) for i in rows])
        sizes = sorted({tuple(valid.shape) for _, _, valid in samples})
        if len(sizes) > 1:
            words = " and ".join(f"{h} x {w}" for h, w in sizes)
            raise UserError(f"The training frames have squares of {words} pixels; give target_side.")
        blocks = range(len(self.widths))
        maps = [torch.stack([maps[k] for maps, _, _ in samples]).to(self.device) for k in blocks]
        truth = torch.stack([truth for _, truth, _ in samples]).to(self.device)
        return maps, truth, torch.stack([valid for _, _, valid in samples]).to(self.device)

    def moments(self) -> tuple[list[Tensor], list[Tensor]]:
        """Mean and deviation of every channel (D_i,), over the tokens of all frames as they are; 1 where it never varies."""
        sums = [torch.zeros(2, width, dtype=torch.float64) for width in self.widths]
        for i in range(len(self.source)):
            maps, _, _ = self.kept[i] if self.kept else self._read([self.source[i].cropped_square()])[0]
            for total, x in zip(sums, maps, strict=True):
                total += torch.stack([x.double(), x.double().square()]).mean(dim=(2, 3)) / len(self.source)
        spreads = [(square - mean.square()).clamp_min(0).sqrt() for mean, square in sums]
        # Of a channel that never varies only rounding is left.
        deviations = [
            s.masked_fill(s <= 1e-6 * square.sqrt(), 1.0) for s, (_, square) in zip(spreads, sums, strict=True)
        ]
        return [mean.float() for mean, _ in sums], [deviation.float() for deviation in deviations]

    @torch.no_grad()
    def _read(self, squares: Sequence[Frame]) -> list[_Sample]:
        views = [_viewed(square, self.side, self.settings) for square in squares]
        targets = [self.task.target(view.seen) for view in views]
        images = torch.stack([view.image for view in views]).to(self.device)
        # Copies: the maps are views that would keep every token of every block alive.
        maps = [x.to("cpu", torch.float32, copy=True).contiguous() for x in self.features_of(images)]
        return [([x[i] for x in maps], truth, valid) for i, (truth, valid) in enumerate(targets)]

    def _augmented(self, index: int, draws: torch.Generator) -> Frame:
        """The frame augmented; as it is where the part that was drawn has no valid pixel."""
        square = self.source[index].cropped_square()
        new = augmented(square, draws)
        try:
            self.task.target(new)
        except UserError:
            return square
        return new


def _head(widths: Sequence[int], outputs: int, settings: DenseSettings, draws: torch.Generator) -> nn.Module:
    if settings.head == "dpt":
        return DPTHead(widths, outputs, draws, settings.hidden)
    return LinearHead(widths, outputs, draws, settings.kernel)


@dataclass(frozen=True, eq=False)
class _View:
    """A square as the backbone sees it, (3, S, S), and with the ground truth at its own resolution."""

    image: Tensor
    seen: Frame

    @property
    def size(self) -> tuple[int, int]:
        return self.seen.image.shape[-2], self.seen.image.shape[-1]


def _viewed(square: Frame, side: int, settings: DenseSettings) -> _View:
    seen = square if settings.target_side is None else square.resized(settings.target_side)
    return _View(Frame(square.image).resized(side).image, seen)


def _tracked(items: Sequence[Any] | range, title: str | None) -> Any:
    if not title:
        return items
    from rich.console import Console
    from rich.progress import track

    return track(items, description=title, console=Console(stderr=True))
