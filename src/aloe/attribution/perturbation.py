"""Integrated Gradients (Sundararajan et al. 2017) and LIME (Ribeiro et al. 2016), equal to captum's.

What does not depend on the target is shared: equal images that follow each other in a batch, as those of a grid that is
explained for each of its classes, pass through the network once, and so do equal samples of LIME.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aloe.attribution.options import Count, Penalty, Seed, Side
from aloe.attribution.subject import Outputs, Subject
from aloe.attribution.targets import Target, TextTarget
from aloe.core.errors import UserError

REGRESSIONS = {"ridge": 1.0, "lasso": 0.01}  # and their alpha by default, that of the lasso as in captum


def integrated_gradients(
    subject: Subject,
    images: Tensor,
    target: Target,
    *,
    steps: Count = 50,
    baseline: str = "zero",
    internal_batch_size: Count | None = 64,
) -> tuple[Tensor, Tensor]:
    """Integrated Gradients along the line from a baseline, summed over channels, (B, H, W), and the explained value, (B,).

    Args:
        steps: of the Gauss-Legendre quadrature (captum's default).
        baseline: `zero`, all network inputs 0 (captum's default: a teacher's mean colour, a student's empty input), or
            `black`, the black image.
        internal_batch_size: images per pass; None: all steps of an image.
    """
    if baseline not in ("zero", "black"):
        raise UserError(f"Integrated Gradients takes a baseline zero or black, got {baseline!r}.")
    inputs = subject.prepare(images).detach()
    start = torch.zeros_like(inputs) if baseline == "zero" else subject.prepare(torch.zeros_like(images)).detach()
    fixed, value = _fixed(subject, inputs, target)
    nodes, weights = (torch.as_tensor(v / 2, dtype=inputs.dtype) for v in np.polynomial.legendre.leggauss(steps))
    nodes, weights = (nodes + 0.5).to(inputs.device), weights.to(inputs.device)
    at_a_time = steps if internal_batch_size is None else max(1, internal_batch_size)
    total = torch.zeros_like(inputs)
    for first, last in _equal_runs(images):
        line = inputs[first] - start[first]
        for part in torch.arange(steps).split(at_a_time):
            on_line = (start[first] + nodes[part, None, None, None] * line).requires_grad_()
            outputs = subject.forward(on_line)
            for i in range(first, last):  # one forward pass for all targets of an image
                score = subject.value(outputs, _rows_of(fixed, torch.full((len(part),), i), len(images))).sum()
                (gradient,) = torch.autograd.grad(score, on_line, retain_graph=i < last - 1)
                subject.backwards += len(part)
                total[i] += (weights[part, None, None, None] * gradient).sum(0)
    return (total * (inputs - start)).float().sum(1), value


def lime(
    subject: Subject,
    images: Tensor,
    target: Target,
    *,
    samples: Count = 200,
    segments: Side = 8,
    square: Side | None = None,
    regression: str = "ridge",
    alpha: Penalty | None = None,
    seed: Seed = 0,
    internal_batch_size: Count = 64,
) -> tuple[Tensor, Tensor]:
    """LIME on square segments set to 0 at network input, (B, H, W), and the explained value, (B,).

    Samples are drawn, weighted (exponential kernel of width 1 on the cosine distance) and fitted as captum's `Lime` does.

    Args:
        samples: perturbed images per image.
        segments: per side; fewer where the image has fewer pixels.
        square: instead, the side of a segment in pixels; those at the right and lower edge may be smaller.
        regression: `ridge`, which does not depend on the scale of the logits, or `lasso`, captum's default.
        alpha: of the regression; default 1 for the ridge, 0.01 for the lasso.
        seed: of the perturbations of every image.
        internal_batch_size: perturbed images per pass.
    """
    linear_model = _sklearn().linear_model
    alpha = REGRESSIONS.get(regression, 0.0) if alpha is None else alpha
    if samples < 2:
        raise UserError(f"LIME takes at least 2 samples, got {samples}.")
    if regression not in REGRESSIONS:
        raise UserError(f"LIME has no regression {regression!r}; it takes {' or '.join(REGRESSIONS)}.")
    inputs = subject.prepare(images).detach()
    fixed, value = _fixed(subject, inputs, target)
    height, width = images.shape[-2:]
    if square is None:
        segment = _numbered(*(torch.arange(n) * min(segments, n) // n for n in (height, width)))
    else:
        segment = _numbered(torch.arange(height) // square, torch.arange(width) // square)
    count = int(segment.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    present = torch.stack([torch.bernoulli(torch.full((count,), 0.5), generator=generator) for _ in range(samples)])
    distinct, sample_of = present.unique(dim=0, return_inverse=True)
    regressor = (linear_model.Lasso if regression == "lasso" else linear_model.Ridge)(alpha=alpha)
    coefficients = []
    for first, last in _equal_runs(images):
        outputs = _perturbed(subject, inputs[first], distinct, segment, max(1, internal_batch_size))
        weights = _closeness(inputs[first], present, segment)
        for i in range(first, last):  # the same perturbed images for all targets
            rows = _rows_of(fixed, torch.full((len(distinct),), i), len(images))
            values = subject.value(outputs, rows).detach().float().cpu()[sample_of]
            regressor.fit(present.numpy(), values.numpy(), sample_weight=weights.numpy())
            coefficients.append(torch.as_tensor(regressor.coef_, dtype=torch.float32))
    return torch.stack(coefficients)[:, segment].to(inputs.device), value


@torch.no_grad()
def _perturbed(subject: Subject, image: Tensor, present: Tensor, segment: Tensor, at_a_time: int) -> Outputs:
    """The network's outputs for an image (C, H, W) with the segments that each of (n, segments) leaves, n rows."""
    parts = []
    for part in present.to(image).split(at_a_time):
        parts.append(subject.forward(image * part[:, segment.to(image.device)][:, None]))
    logits = [p.logits for p in parts if p.logits is not None]
    return Outputs(torch.cat([p.pooler_output for p in parts]), torch.cat(logits) if logits else None)


def _closeness(image: Tensor, present: Tensor, segment: Tensor) -> Tensor:
    """exp(-d^2 / 2) of the cosine distance d between the image and each of its perturbed copies, (n,) float32.

    A copy has a part of the image's energy e and zeros elsewhere, so its cosine to the image is sqrt(kept e / e).
    """
    energy = torch.zeros(present.shape[1], dtype=torch.float64)
    energy.index_add_(0, segment.flatten(), image.cpu().double().square().sum(0).flatten())
    kept = present.double() @ energy / energy.sum().clamp_min(torch.finfo(torch.float64).tiny)
    return (-((1 - kept.sqrt()) ** 2) / 2).exp().float()


def _equal_runs(images: Tensor) -> Iterator[tuple[int, int]]:
    """First and last + 1 of images that follow each other and are equal."""
    same = (images[1:] == images[:-1]).flatten(1).all(1).tolist()
    starts = [0, *(i + 1 for i, equal in enumerate(same) if not equal), len(images)]
    yield from pairwise(starts)


def _fixed(subject: Subject, inputs: Tensor, target: Target) -> tuple[Target, Tensor]:
    with torch.no_grad():
        outputs = subject.forward(inputs)
        fixed = subject.resolve(outputs, target)
        return fixed, subject.value(outputs, fixed)


def _rows_of(target: Target, rows: Tensor, count: int) -> Target:
    if isinstance(target, TextTarget):
        many = target.embedding if target.embedding.ndim == 2 else target.embedding.expand(count, -1)
        return TextTarget(many[rows.to(many.device)], target.scale, target.bias)
    if isinstance(target, Tensor):
        single = target.ndim == (1 if target.is_floating_point() else 0)
        many = target.expand(count, *target.shape) if single else target
        return many[rows.to(many.device)]
    listed: Any = [target] * count if isinstance(target, int | str) or not hasattr(target, "__len__") else target
    return [listed[int(r)] for r in rows]


def _numbered(rows: Tensor, columns: Tensor) -> Tensor:
    """(H, W) number of every pixel's segment, from the row of segments (H,) and the column of segments (W,) it lies in."""
    return rows[:, None] * (int(columns.max()) + 1) + columns


def _sklearn() -> Any:
    try:
        import sklearn.linear_model
    except ImportError as error:
        name = (error.name or "scikit-learn").partition(".")[0].replace("sklearn", "scikit-learn")
        raise UserError(f"LIME needs {name}: pip install 'aloe-vit[attribution]'.") from error
    return sklearn
