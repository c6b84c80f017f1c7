"""Input x gradient and a random map: what any explanation has to beat."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from aloe.attribution.options import Seed
from aloe.attribution.subject import Subject
from aloe.attribution.targets import Target, TextTarget, class_indices


def input_x_gradient(subject: Subject, images: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """Network input times the plain gradient, summed over channels, (B, H, W), and the explained value, (B,)."""
    inputs = subject.prepare(images).requires_grad_()
    outputs = subject.forward(inputs)
    value = subject.value(outputs, subject.resolve(outputs, target))
    (gradient,) = subject.gradient(value, inputs)
    return (gradient.float() * inputs.detach().float()).sum(1), value.detach()


def random_map(subject: Subject, images: Tensor, target: Target, *, seed: Seed = 0) -> tuple[Tensor, Tensor]:
    """Standard normal noise (B, H, W), and the explained value, (B,).

    The noise belongs to the seed, to each image's own bytes and to the class, whatever batch it comes in.
    """
    with torch.no_grad():
        outputs = subject.forward(subject.prepare(images))
    fixed = subject.resolve(outputs, target)
    value = subject.value(outputs, fixed)
    direction = isinstance(fixed, TextTarget) or (isinstance(fixed, Tensor) and fixed.is_floating_point())
    if direction or outputs.logits is None:
        classes = [-1] * len(images)
    else:
        classes = class_indices(fixed, subject.config, outputs.logits).tolist()
    maps = [_noise(image, label, seed) for image, label in zip(images.cpu(), classes, strict=True)]
    return torch.stack(maps).to(images.device), value


def _noise(image: Tensor, label: int, seed: int) -> Tensor:
    digest = hashlib.sha256(f"{seed} {label} ".encode() + image.detach().float().numpy().tobytes()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randn(image.shape[-2:], generator=generator)
