"""Dense features of any backbone: the patch tokens of the raw residual stream after chosen blocks, as maps.

Probe3D's protocol (El Banani et al. 2024; docs/dense.md): no final norm is applied, CLS and register tokens are left out,
and with `cls` the CLS token is repeated over the grid and concatenated. Blocks count from 1, as everywhere in the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from aloe.core.errors import UserError
from aloe.models.teachers import Teacher, resize


def depth_of(model: Teacher | nn.Module) -> int:
    """How many blocks a model has."""
    config: Any = model.config
    return int(config.num_hidden_layers)


def choose_blocks(model: Teacher | nn.Module, wanted: str | Sequence[int] = "last") -> tuple[int, ...]:
    """Block numbers from `last`, `four` (after each quarter of the network), or a list.

    Raises:
        UserError: a block that the model does not have, or `four` of a model with fewer than four.
    """
    depth = depth_of(model)
    if wanted == "last":
        return (depth,)
    if wanted == "four":
        if depth < 4:
            raise UserError(f"blocks 'four' needs four blocks, this model has {depth}; choose last.")
        return tuple(depth * k // 4 for k in (1, 2, 3, 4))
    chosen: tuple[Any, ...] = (wanted,) if isinstance(wanted, str) else tuple(wanted)
    bad = [k for k in chosen if not isinstance(k, int) or not 1 <= k <= depth]
    if bad or not chosen:
        raise UserError(
            f"Block {bad[0] if bad else '(none)'} does not exist: give last, four, or numbers 1 to {depth}."
        )
    return chosen


def feature_side(model: Teacher | nn.Module, side: int | None = None) -> int:
    """The side in pixels at which images go into the model: its own resolution, or the one asked for.

    Raises:
        UserError: a side that is not a whole number of patches.
    """
    config: Any = model.config
    if side is None:
        return model.resolution if isinstance(model, Teacher) else int(config.resolution)
    patch = model.patch_size if isinstance(model, Teacher) else int(config.patch_size)
    if side < patch or side % patch:
        near = max(patch, round(side / patch) * patch)
        raise UserError(f"Resolution {side} is not a whole number of {patch}-pixel patches; {near} is.")
    return side


@torch.no_grad()
def dense_features(
    model: Teacher | nn.Module, images: Tensor, blocks: Sequence[int], *, cls: bool = False
) -> list[Tensor]:
    """The maps (B, D, h, w) after each of `blocks`, in their order; with `cls` (B, 2D, h, w).

    Args:
        images: (B, 3, H, W) in [0, 1], H and W whole numbers of patches.

    Raises:
        UserError: images that the patch grid does not divide, or `cls` of a model without CLS token.
    """
    rows, columns, prefix, has_cls = _grid(model, images)
    if cls and not has_cls:
        raise UserError("This model has no CLS token to concatenate; leave cls out.")
    if isinstance(model, Teacher):
        if rows == columns:
            images = resize(images, model.input_size(rows))
        states = model(images, tuple(blocks)).states
    else:
        found: Any = model.base_model(images, output_hidden_states=True)  # type: ignore[operator]
        states = {k: found.hidden_states[k] for k in blocks}
    maps = []
    for k in blocks:
        tokens = states[k]
        patches = tokens[:, prefix:].transpose(1, 2).unflatten(2, (rows, columns))
        if cls:
            patches = torch.cat((patches, tokens[:, 0, :, None, None].expand_as(patches)), dim=1)
        maps.append(patches)
    return maps


def _grid(model: Any, images: Tensor) -> tuple[int, int, int, bool]:
    """Token rows and columns, the number of prefix tokens, and whether the first is CLS."""
    teacher = isinstance(model, Teacher)
    patch = model.patch_size if teacher else int(model.config.patch_size)
    height, width = images.shape[-2:]
    native = teacher and height == width == model.image_size  # a native size need not be whole patches (SigLIP so400m)
    if not native and (height % patch or width % patch or not height or not width):
        raise UserError(f"Images of {height} x {width} are not whole numbers of {patch}-pixel patches; resize them.")
    if teacher:
        return (
            height // patch,
            width // patch,
            int(model.use_cls_token) + model.num_register_tokens,
            model.use_cls_token,
        )
    return height // patch, width // patch, model.config.num_prefix_tokens, bool(model.config.use_cls_token)
