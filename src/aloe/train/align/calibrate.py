"""Give a converted student back the scale of its teacher's activations before it is aligned.

A B-cos unit multiplies the linear response o = w . x by |cos(x, w)|^(B-1), which is far below 1 in high dimensions: the
units of a converted network answer more quietly than the teacher's, and constants drown the image. y is homogeneous of degree
one in w, so scaling a weight by s scales its output by s and leaves every cosine and gate of that unit as it was.
One pass over a few images sets s for every unit to rms(o) / rms(y).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from aloe.bcos.layers import BcosConv2d, BcosLinear
from aloe.models.embeddings import BcosPatchEmbedding
from aloe.train.runs import sample_images

IMAGES = 64  # enough: a scale per unit is one number


@torch.no_grad()
def calibrate(student: nn.Module, images: Tensor, *, stem: bool = True) -> dict[str, float]:
    """Scale every B-cos unit in place so that its output has the root mean square of its linear response.

    Args:
        student: a converted B-cos ViT (its `classifier`, if any, is left alone).
        images: (B, 3, H, W) in [0, 1], a few dozen unlabelled images.
        stem: also the stem and the patch unit; those that were warmed up have their scale already.

    Returns:
        The factor of every unit, by name.
    """
    factors: dict[str, float] = {}
    backbone: Any = student.base_model
    kinds = BcosLinear | BcosConv2d | BcosPatchEmbedding
    units = [(n, m) for n, m in backbone.named_modules() if isinstance(m, kinds) and (stem or "embeddings." not in n)]
    hooks = [m.register_forward_hook(_rescale(name, factors)) for name, m in units]
    training = backbone.training
    backbone.eval()
    try:
        backbone(images.to(next(backbone.parameters())))
    finally:
        for hook in hooks:
            hook.remove()
        backbone.train(training)
    return factors


def calibrate_on(student: Any, source: Any, seed: int = 0) -> list[str]:
    """`calibrate` on up to 64 images of a source, whole and at the student's own resolution; `seed` chooses them.

    Returns:
        The images that could not be read, each with the reason; others took their places.

    Raises:
        UserError: no image can be read.
    """
    unreadable: list[str] = []
    calibrate(student, sample_images(source, student.config.resolution, seed, IMAGES, unreadable))
    return unreadable


def _rescale(name: str, factors: dict[str, float]) -> Any:
    def hook(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        b, module.b = module.b, 1.0
        try:
            linear = module.forward(*inputs)
        finally:
            module.b = b
        factor = (linear.square().mean() / output.square().mean().clamp_min(1e-30)).sqrt().item()
        module.weight.mul_(factor)
        factors[name] = factor
        return output * factor

    return hook
