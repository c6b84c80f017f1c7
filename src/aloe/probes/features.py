"""Frozen pooled features of any backbone, teacher or student, over an image source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aloe.alignment.points import student_features
from aloe.data.draws import ImageDataset, collate_images
from aloe.data.sources import ImageSource
from aloe.data.transforms import ResizeCenterCrop
from aloe.errors import UserError
from aloe.models.saving import load
from aloe.models.teachers import Teacher, load_teacher, resize


@dataclass
class FrozenFeatures:
    """`pooled` (N, D) float32 and `labels` (N,) on the CPU; `logits` (N, C) where the model has a classifier."""

    pooled: Tensor
    labels: Tensor
    logits: Tensor | None = None


def load_any(name: str) -> Teacher | nn.Module:
    """A student of ALOE or a teacher, whichever the folder or hub id holds."""
    from transformers import PreTrainedConfig

    from aloe.models.hub import explain_hub_errors

    with explain_hub_errors(name):
        model_type = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
    return load(name) if model_type == "bcos_vit" else load_teacher(name)


def native_pixels(model: Teacher | nn.Module) -> int:
    """The side in pixels at which a model is meant to be used."""
    config: Any = model.config
    return model.resolution if isinstance(model, Teacher) else config.resolution


@torch.no_grad()
def extract(
    model: Teacher | nn.Module,
    source: ImageSource,
    *,
    batch_size: int = 128,
    device: str = "cpu",
    workers: int = 0,
    progress: str | None = None,
) -> FrozenFeatures:
    """Pooled features of every readable image at the model's own resolution, no augmentation.

    Args:
        progress: a title shows a progress bar on standard error.

    Raises:
        UserError: none of the images is readable.
    """
    model = model.to(device).eval()
    side = native_pixels(model)
    dataset = ImageDataset(source, ResizeCenterCrop(side))
    loader: Any = torch.utils.data.DataLoader(
        dataset, batch_size=batch_size, num_workers=workers, collate_fn=collate_images
    )
    if progress:
        from rich.console import Console
        from rich.progress import track

        loader = track(loader, description=progress, console=Console(stderr=True))
    pooled, labels, logits = [], [], []
    for batch in loader:
        if not len(batch["pixel_values"]):
            continue
        images = batch["pixel_values"].to(device)
        if isinstance(model, Teacher):
            features = model(resize(images, model.input_size(side // model.patch_size)))
        else:
            features = student_features(model, images)
        pooled.append(features.pooled.float().cpu())
        labels.append(batch["label"])
        if features.logits is not None:
            logits.append(features.logits.float().cpu())
    if not pooled:
        raise UserError("None of the images could be read.")
    return FrozenFeatures(torch.cat(pooled), torch.cat(labels), torch.cat(logits) if logits else None)
