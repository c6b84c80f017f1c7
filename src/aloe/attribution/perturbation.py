"""Integrated Gradients (Sundararajan et al. 2017) and LIME (Ribeiro et al. 2016), as captum computes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aloe.attribution.subject import Subject
from aloe.attribution.targets import Target, TextTarget, part_of
from aloe.core.errors import UserError


def integrated_gradients(
    subject: Subject,
    images: Tensor,
    target: Target,
    *,
    steps: int = 50,
    baseline: str = "zero",
    internal_batch_size: int | None = 64,
) -> tuple[Tensor, Tensor]:
    """Integrated Gradients along the line from a baseline, summed over channels, (B, H, W), and the explained value, (B,).

    Args:
        steps: of the Gauss-Legendre quadrature (captum's default).
        baseline: `zero`, all network inputs 0 (captum's default: a teacher's mean colour, a student's empty input), or
            `black`, the black image.
        internal_batch_size: images per pass.
    """
    captum = _captum()
    if baseline not in ("zero", "black") or steps < 1:
        raise UserError(
            f"Integrated Gradients takes a baseline zero or black and at least 1 step, got {baseline!r}, {steps}."
        )
    inputs = subject.prepare(images).detach()
    start = torch.zeros_like(inputs) if baseline == "zero" else subject.prepare(torch.zeros_like(images)).detach()
    fixed, value = _fixed(subject, inputs, target)
    method = captum.IntegratedGradients(_forward(subject, fixed, len(images)), multiply_by_inputs=True)
    maps = method.attribute(
        inputs,
        start,
        additional_forward_args=torch.arange(len(images), device=inputs.device),
        n_steps=steps,
        internal_batch_size=None if internal_batch_size is None else max(internal_batch_size, len(images)),
    )
    subject.backwards += steps * len(images)
    return maps.detach().float().sum(1), value


def lime(
    subject: Subject,
    images: Tensor,
    target: Target,
    *,
    samples: int = 200,
    segments: int = 8,
    alpha: float = 1.0,
    seed: int = 0,
    internal_batch_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """LIME on square segments set to 0 at network input, (B, H, W), and the explained value, (B,).

    Args:
        samples: perturbed images per image.
        segments: per side; fewer where the image has fewer pixels.
        alpha: of the ridge regression that is fitted, which unlike captum's default, a Lasso, does not depend on the scale
            of the logits.
        seed: of the perturbations of every image.
    """
    captum = _captum()
    if samples < 2 or segments < 1 or alpha < 0:
        raise UserError(f"LIME takes at least 2 samples, 1 segment and alpha >= 0, got {samples}, {segments}, {alpha}.")
    from captum._utils.models.linear_model import SkLearnRidge

    inputs = subject.prepare(images).detach()
    fixed, value = _fixed(subject, inputs, target)
    mask = _segments(images.shape[-2], images.shape[-1], segments).to(inputs.device)
    maps = []
    for i in range(len(images)):  # captum's LIME fits one image at a time
        forward = _forward(subject, part_of(fixed, i, i + 1, len(images)), 1)
        method = captum.Lime(forward, interpretable_model=SkLearnRidge(alpha=alpha))
        with torch.random.fork_rng(devices=[inputs.device] if inputs.device.type == "cuda" else []), torch.no_grad():
            torch.manual_seed(seed)
            found = method.attribute(
                inputs[i : i + 1],
                additional_forward_args=(torch.zeros(1, dtype=torch.long, device=inputs.device),),
                feature_mask=mask[None, None],
                n_samples=samples,
                perturbations_per_eval=max(1, min(internal_batch_size, samples)),
            )
        maps.append(found[0, 0].float() if found.ndim == 4 else found.float())
    return torch.stack(maps).to(inputs.device), value


def _fixed(subject: Subject, inputs: Tensor, target: Target) -> tuple[Target, Tensor]:
    with torch.no_grad():
        outputs = subject.forward(inputs)
        fixed = subject.resolve(outputs, target)
        return fixed, subject.value(outputs, fixed)


def _forward(subject: Subject, target: Target, count: int) -> Callable[[Tensor, Tensor], Tensor]:
    """captum repeats inputs; `rows` says for each which of the `count` images it came from, and so which target it has."""

    def forward(inputs: Tensor, rows: Tensor) -> Tensor:
        return subject.value(subject.forward(inputs), _rows_of(target, rows, count))

    return forward


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


def _segments(height: int, width: int, count: int) -> Tensor:
    """(H, W) number of the square segment of every pixel."""
    rows, columns = (torch.arange(n) * min(count, n) // n for n in (height, width))
    return rows[:, None] * (int(columns.max()) + 1) + columns


def _captum() -> Any:
    try:
        import captum.attr
        import sklearn  # noqa: F401
    except ImportError as error:
        name = (error.name or "captum").partition(".")[0]
        raise UserError(f"Integrated Gradients and LIME need {name}: pip install 'aloe-vit[attribution]'.") from error
    return captum.attr
