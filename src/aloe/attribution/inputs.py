"""Images in any of the forms that people have them, as the batch that models are explained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aloe.core.arrays import as_tensor
from aloe.core.errors import UserError
from aloe.core.files import expanded

FORMS = (
    "give a float tensor or array (B, 3, H, W) in [0, 1], pictures as uint8 arrays (H, W, 3), PIL images, paths of image"
    " files, or a list of these"
)


def as_batch(images: Any, model: nn.Module) -> Tensor:
    """One tensor (B, 3, H, W) in [0, 1] of images in any form.

    Tensors, and float arrays, are taken at their own size, channels first; bytes as tensors (B, 3, H, W) are divided by
    255. Pictures (PIL images, uint8 arrays (H, W), (H, W, 3) or (B, H, W, 3), paths) are resized and cropped to the
    model's own resolution.

    Raises:
        UserError: another form, channels last, values outside [0, 1], sizes that differ, an unreadable file.
    """
    if isinstance(images, set | frozenset | dict):
        raise UserError(f"A {type(images).__name__} of images has no order; give a list.")
    if isinstance(images, Tensor | np.ndarray):
        return _batch(images, model)
    single = isinstance(images, str | Path) or hasattr(images, "convert")
    parts = [images] if single else list(images) if isinstance(images, Sequence) else None
    if parts is None:
        raise UserError(f"Images cannot be a {type(images).__name__}; {FORMS}.")
    if not parts:
        return torch.empty(0, 3, 1, 1)
    batches = [_batch(part, model) for part in parts]
    sizes = {tuple(batch.shape[-2:]) for batch in batches}
    if len(sizes) > 1:
        words = " and ".join(f"{h} x {w}" for h, w in sorted(sizes))
        raise UserError(f"The images of a list have different sizes, {words}; give them one by one, or as PIL images.")
    return torch.cat([batch.to(batches[0]) for batch in batches])


def check_loaded(model: Any) -> None:
    """Refuse the name of a model where the model is wanted.

    Raises:
        UserError: it is a name or a path.
    """
    if isinstance(model, str | Path):
        name = str(model)
        raise UserError(
            f"{name!r} is a model's name: load it first, aloe.load({name!r}) for a student or aloe.load_teacher({name!r})"
            " for a teacher."
        )


def check_finite(maps: Tensor, method: str) -> None:
    """Refuse maps (B, H, W) that hold infinities or NaN: a picture of them would look like an explanation.

    Raises:
        UserError: some do.
    """
    broken = int((~maps.isfinite()).flatten(1).any(1).sum())
    if broken:
        raise UserError(
            f"{method}: {broken} of {len(maps)} maps hold values that are not finite; the model's weights, or an option of"
            " the method, are too large."
        )


def _batch(images: Any, model: nn.Module) -> Tensor:
    if hasattr(images, "convert") or isinstance(images, str | Path):
        return _picture(images, model)[None]
    if isinstance(images, np.ndarray) and images.dtype == np.uint8:
        return _photographs(images, model)
    if not isinstance(images, Tensor | np.ndarray):
        raise UserError(f"An image cannot be a {type(images).__name__}; {FORMS}.")
    batch = as_tensor(images, "images")
    batch = batch[None] if batch.ndim == 3 else batch
    if batch.ndim == 4 and batch.shape[1] != 3 and batch.shape[3] == 3:
        raise UserError(f"Images of shape {tuple(images.shape)} have their channels last; give {_first(images)}.")
    if batch.ndim == 4 and batch.shape[1] == 3 and batch.dtype == torch.uint8:
        return batch.float() / 255
    if batch.ndim != 4 or batch.shape[1] != 3 or not batch.is_floating_point():
        raise UserError(
            f"Images must be float (B, 3, H, W) in [0, 1], got {batch.dtype} {tuple(images.shape)}; {FORMS}."
        )
    if batch.numel() and not (batch.min() >= 0 and batch.max() <= 1):
        raise UserError("Image values must lie in [0, 1]; do not normalise them, the model does what is needed.")
    return batch


def _photographs(array: np.ndarray, model: nn.Module) -> Tensor:
    """uint8 arrays (H, W), (H, W, 1), (H, W, 3) or (B, H, W, 3) as photographs are read."""
    from PIL import Image

    pictures = array[None] if array.ndim < 4 else array
    pictures = pictures[..., 0] if pictures.shape[-1] == 1 and pictures.ndim == 4 else pictures
    if pictures.ndim not in (3, 4) or (pictures.ndim == 4 and pictures.shape[-1] != 3) or not array.size:
        raise UserError(f"Pictures as uint8 arrays are (H, W), (H, W, 3) or (B, H, W, 3), got {array.shape}; {FORMS}.")
    return torch.stack([_picture(Image.fromarray(picture), model) for picture in pictures])


def _picture(picture: Any, model: nn.Module) -> Tensor:
    """(3, R, R) of a PIL image or the path of one."""
    from aloe.data.decode import decode_image
    from aloe.data.transforms import ResizeCenterCrop, to_tensor

    config: Any = model.config
    if isinstance(picture, str | Path):
        picture = expanded(picture)
        if not picture.is_file():
            raise UserError(f"{picture} is not an image file; {FORMS}.")
    elif 0 in picture.size:
        raise UserError(f"An image has no pixels ({picture.size[0]} x {picture.size[1]}).")
    crop = ResizeCenterCrop(getattr(model, "resolution", None) or config.resolution)
    return to_tensor(crop(decode_image(picture)))


def _first(images: Tensor | np.ndarray) -> str:
    axes = (0, 3, 1, 2) if images.ndim == 4 else (2, 0, 1)
    return f"images.permute{axes}" if isinstance(images, Tensor) else f"images.transpose{axes}"
