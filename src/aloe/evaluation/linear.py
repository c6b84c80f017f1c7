"""Linear probe on frozen features (method.md, 6): AdamW, one cycle, a grid of learning rates, one validation split.

The heads of the grid see the same batches, each with matrix products of its own: the same bits whichever heads are beside it,
also where several processes share the rates. Features are preconditioned only in ways that fold back exactly into the head
that is kept: a plain head takes standardised features, a B-cos head, which is homogeneous of degree 1, features divided by
one number. The rate with the best validation accuracy is trained again on all images; test images are never seen here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import isfinite

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aloe.bcos.losses import LOSSES, logit_bias
from aloe.core import processes
from aloe.core.arrays import as_tensor
from aloe.core.errors import UserError
from aloe.core.progress import tracked
from aloe.evaluation.heads import ROWS, Probe, head_outputs
from aloe.evaluation.stored import StoredRows

HEADS = ("bcos", "linear")
Rows = Tensor | StoredRows


@dataclass(frozen=True)
class ProbeSettings:
    """How a probe is trained.

    Args:
        epochs, weight_decay: of AdamW with a one-cycle schedule.
        learning_rates: largest of the cycle; each trains one head. The paper's 1e-2, 3e-3, 1e-3 and two larger ones, which
            are best for a B-cos head on few images or on features with a large common part (converted, not aligned).
        batch_size: None: 8192, or what gives 128 steps per epoch if that is less (8192 gives 157 on ImageNet), at least 128.
        loss: `cross-entropy`, or `bce` with off-targets 1/C and logit bias -log(C-1) (docs/method.md section 4).
        head: `bcos`, a B-cos unit of exponent `b` without bias, or `linear` with bias.
        validation_fraction: of every class's images, held out to choose the learning rate.
        refit: train the chosen rate again on all images, validation included.
        seed: of the split and the batches.

    Raises:
        UserError: a value outside its range.
    """

    epochs: int = 50
    learning_rates: tuple[float, ...] = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)
    weight_decay: float = 1e-4
    batch_size: int | None = None
    loss: str = "cross-entropy"
    head: str = "bcos"
    b: float = 2.0
    validation_fraction: float = 0.1
    refit: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, allowed in (("head", self.head, HEADS), ("loss", self.loss, tuple(LOSSES))):
            if value not in allowed:
                raise UserError(f"There is no {name} {value!r}; choose from {', '.join(allowed)}.")
        if not self.learning_rates or not all(isfinite(lr) and lr > 0 for lr in self.learning_rates):
            raise UserError(f"Learning rates must be positive numbers, got {list(self.learning_rates)}.")
        if self.epochs < 1 or (self.batch_size is not None and self.batch_size < 1):
            raise UserError("A linear probe needs at least one epoch and one image per batch.")
        if not (0 < self.validation_fraction < 1 and self.weight_decay >= 0 and self.b >= 1):
            raise UserError("A linear probe needs 0 < validation_fraction < 1, weight_decay >= 0 and b >= 1.")


def fit_probe(
    features: Rows,
    labels: Tensor,
    num_classes: int,
    settings: ProbeSettings | None = None,
    *,
    validation: tuple[Rows, Tensor] | None = None,
    device: str | torch.device = "cpu",
    progress: str | None = None,
) -> Probe:
    """Train a head on frozen features and choose its learning rate.

    Args:
        features: (N, D), or `StoredRows`, which need not fit in memory; float64 is trained in float64, everything else in
            float32.
        labels: (N,) int64 in 0 .. num_classes - 1.
        settings: default: `ProbeSettings()`.
        validation: features (M, D) and labels (M,) to choose by; default: a stratified part of the training images.
        progress: a title shows a progress bar on standard error.

    Returns:
        The `Probe`, on the CPU.

    Raises:
        UserError: features that are not finite, labels that do not fit, a class without training images, only one class,
            no image to validate with, or no learning rate at which training converges.
    """
    settings = settings or ProbeSettings()
    features = features if isinstance(features, StoredRows) else as_tensor(features, "features")
    labels = as_tensor(labels, "labels")
    _check(features, labels, num_classes, "training", features.shape[-1])
    absent = (torch.bincount(labels, minlength=num_classes) == 0).nonzero()[:, 0].tolist()
    if absent:
        raise UserError(f"Class {absent[0]} has no training images; {len(absent)} of {num_classes} classes have none.")
    if validation is None:
        train, held_out = _split(labels, settings)
    else:
        _check(*validation, num_classes, "validation", features.shape[-1])
        train, held_out = torch.arange(len(features)), torch.arange(len(validation[0])) + len(features)
        features, labels = _joined(features, validation[0]), torch.cat([labels, validation[1]])
    training = _Training(features, labels, num_classes, settings, torch.device(device), progress)
    own = processes.dealt(settings.learning_rates)
    trained = processes.in_order(training.heads(train, own) if own else [])
    heads = {head.learning_rate: head for head in trained if head is not None}
    scores = {rate: _score(head, features, labels, held_out) for rate, head in heads.items()}
    scores = {rate: score for rate, score in scores.items() if isfinite(score[1])}
    if not scores:
        raise UserError(
            f"Training diverged at every learning rate of {list(settings.learning_rates)}; give smaller ones."
        )
    best_rate = max(scores, key=lambda rate: scores[rate])
    best: Probe | None = heads[best_rate]
    if settings.refit:
        (best,) = processes.of_first(lambda: training.heads(torch.cat([train, held_out]), (best_rate,)))
    if best is None:
        raise UserError(f"Training diverged at the chosen learning rate {best_rate}; give smaller ones.")
    return replace(best, validation={rate: accuracy for rate, (accuracy, _) in scores.items()})


@dataclass
class _Training:
    """Trains heads on rows of the features, several learning rates at once."""

    features: Rows
    labels: Tensor
    num_classes: int
    settings: ProbeSettings
    device: torch.device
    progress: str | None

    def __post_init__(self) -> None:
        self.dtype = torch.float64 if self.features.dtype == torch.float64 else torch.float32
        self.logit_bias = logit_bias(self.settings.loss, self.num_classes)

    def heads(self, rows: Tensor, rates: Sequence[float]) -> list[Probe | None]:
        """One head per learning rate, folded; None where training diverged."""
        settings, plain = self.settings, self.settings.head == "linear"
        shift, scale = self._preconditioning(rows)
        first = self._first(rows, shift, scale).to(self.device, self.dtype)
        shift, scale = shift.to(self.device, self.dtype), scale.to(self.device, self.dtype)
        weights: list[Tensor] = [nn.Parameter(first.clone()) for _ in rates]
        biases: list[Tensor] = [nn.Parameter(first.new_zeros(self.num_classes)) for _ in rates] if plain else []
        groups = [[w, *b] for w, *b in zip(weights, *([biases] if plain else []), strict=True)]
        optimizer = torch.optim.AdamW(
            [{"params": g, "lr": lr} for g, lr in zip(groups, rates, strict=True)],
            weight_decay=settings.weight_decay,
        )
        size = settings.batch_size or min(ROWS, max(128, len(rows) // 128))
        total = settings.epochs * -(-len(rows) // size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, list(rates), total_steps=total)
        for batch in self._batches(rows, size, total):
            x = (self.features[batch].to(self.device, self.dtype) - shift) / scale
            target = self.labels[batch].to(self.device)
            optimizer.zero_grad()
            for group in groups:  # every head descends its own mean loss, and leaves its memory to the next
                self._loss(x, target, *group).backward()
            optimizer.step()
            schedule.step()
        return [self._folded(lr, shift, scale, *group) for lr, group in zip(rates, groups, strict=True)]

    def _loss(self, x: Tensor, target: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The mean loss of one head on features x (B, D): a product of its own, so that the heads beside it change no bit."""
        outputs = head_outputs(x, weight, bias, self.settings.head, self.settings.b)
        return LOSSES[self.settings.loss](outputs + self.logit_bias, target)

    def _preconditioning(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(shift, scale), float64: per feature for a plain head, no shift and the root mean square for a B-cos head."""
        power = self._mean(rows, torch.square)
        if self.settings.head == "bcos":
            scale = power.mean().sqrt()
            return torch.zeros_like(power), scale if scale > 0 else torch.ones_like(scale)
        mean = self._mean(rows, torch.clone)
        spread = self._mean(rows, lambda x: (x - mean).square()).sqrt()
        return mean, spread.masked_fill(spread <= 1e-6 * power.sqrt(), 1.0)  # of a constant only rounding varies

    def _mean(self, rows: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Mean over rows of a function of the features, (D,) float64."""
        return torch.stack([function(self.features[p].double()).sum(0) for p in rows.split(ROWS)]).sum(0) / len(rows)

    def _first(self, rows: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """First weights (C, D): the directions from the centre of the classes' means to each; zero is no start for B-cos."""
        means = torch.zeros(self.num_classes, self.features.shape[1], dtype=torch.float64)
        for part in rows.split(ROWS):
            means.index_add_(0, self.labels[part], (self.features[part].double() - shift) / scale)
        means /= self.labels[rows].bincount(minlength=self.num_classes)[:, None]
        return F.normalize(means - means.mean(0), dim=1)

    def _batches(self, rows: Tensor, size: int, total: int) -> Iterable[Tensor]:
        draws = torch.Generator().manual_seed(self.settings.seed)
        epochs = range(self.settings.epochs)
        batches = (b for _ in epochs for b in rows[torch.randperm(len(rows), generator=draws)].split(size))
        return tracked(batches, self.progress, total)

    def _folded(
        self, rate: float, shift: Tensor, scale: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> Probe | None:
        wide = weight.detach().double() / scale.double()
        offset = None if bias is None else bias.detach().double() - wide @ shift.double() + self.logit_bias
        if not (wide.isfinite().all() and (offset is None or offset.isfinite().all())):
            return None
        kept = None if offset is None else offset.to("cpu", self.dtype)
        apart = self.logit_bias if bias is None else 0.0
        return Probe(wide.to("cpu", self.dtype), kept, apart, self.settings.head, self.settings.b, rate, {})


def _split(labels: Tensor, settings: ProbeSettings) -> tuple[Tensor, Tensor]:
    """(training, validation) rows: of every class a seeded sample, at least one of two or more images is held out."""
    draws = torch.Generator().manual_seed(settings.seed)
    train, held_out = [], []
    for label in labels.unique():
        rows = (labels == label).nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=draws)]
        count = min(max(1, round(settings.validation_fraction * len(rows))), len(rows) - 1)
        held_out.append(rows[:count])
        train.append(rows[count:])
    validation = torch.cat(held_out).sort().values
    if not len(validation):
        raise UserError("Every class has a single image, so none can be held out; give a validation set.")
    return torch.cat(train).sort().values, validation


def _joined(features: Rows, more: Rows) -> Rows:
    if isinstance(features, Tensor) and isinstance(more, Tensor):
        return torch.cat([features, more.to(features)])
    parts = [part for rows in (features, more) for part in (rows.parts if isinstance(rows, StoredRows) else [rows])]
    return StoredRows(parts)


def _score(head: Probe, features: Rows, labels: Tensor, rows: Tensor) -> tuple[float, float]:
    """(accuracy, minus mean cross-entropy): of equal accuracies, few validation images give many, the surer head's."""
    right, loss = 0.0, 0.0
    for part in rows.split(ROWS):
        logits, label = head.logits(features[part]), labels[part]
        right += float((logits.argmax(1) == label).sum())
        loss += float(F.cross_entropy(logits, label, reduction="sum"))
    return right / len(rows), -loss / len(rows)


def _check(features: Rows, labels: Tensor, num_classes: int, part: str, width: int) -> None:
    if features.ndim != 2 or len(features) != len(labels):
        raise UserError(f"There are {len(features)} {part} features but {len(labels)} labels; every image needs one.")
    if features.shape[1] != width:
        raise UserError(f"Training and {part} features differ in width ({width}, {features.shape[1]}).")
    if not len(labels):
        raise UserError(f"There are no {part} images.")
    if not all(features[rows].isfinite().all() for rows in torch.arange(len(features)).split(ROWS)):
        raise UserError(f"Some {part} features are not finite; the model's weights are broken.")
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= num_classes:
        raise UserError(f"The {part} labels run from {least} to {most}, the classes from 0 to {num_classes - 1}.")
    if least == most:
        raise UserError(f"All {part} images are of one class ({least}); a linear probe needs at least two.")
