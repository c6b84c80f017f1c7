"""Dense features of any backbone: the patch tokens of the raw residual stream after chosen blocks, as maps.

Probe3D's protocol (El Banani et al. 2024; docs/dense.md): no final norm is applied, CLS and register tokens are left out,
and with `cls` the CLS token is repeated over the grid and concatenated. Blocks count from 1, as everywhere in the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aloe.core.errors import UserError
from aloe.models.backbone import Backbone


def choose_blocks(model: Backbone, wanted: str | Sequence[int] = "last") -> tuple[int, ...]:
    """Block numbers from `last`, `four` (after each quarter of the network), or a list.

    Raises:
        UserError: a block that the model does not have, or `four` of a model with fewer than four.
    """
    depth = model.num_layers
    if wanted == "last":
        return (depth,)
    if wanted == "four":
        if depth < 4:
            raise UserError(f"blocks 'four' needs four blocks, this model has {depth}; choose last.")
        return tuple(depth * k // 4 for k in (1, 2, 3, 4))
    blocks: tuple[Any, ...] = (wanted,) if isinstance(wanted, str) else tuple(wanted)
    bad = [k for k in blocks if not isinstance(k, int) or not 1 <= k <= depth]
    if bad or not blocks:
        raise UserError(
            f"Block {bad[0] if bad else '(none)'} does not exist: give last, four, or numbers 1 to {depth}."
        )
    return blocks


@torch.no_grad()
def dense_features(model: Backbone, images: Tensor, blocks: Sequence[int], *, cls: bool = False) -> list[Tensor]:
    """The maps (B, D, h, w) after each of `blocks`, in their order; with `cls` (B, 2D, h, w).

    Args:
        images: (B, 3, H, W) in [0, 1], H and W whole numbers of patches.

    Raises:
        UserError: images that the patch grid does not divide, or `cls` of a model without CLS token.
    """
    rows, columns = model.grid(*images.shape[-2:])
    if cls and not model.use_cls_token:
        raise UserError("This model has no CLS token to concatenate; leave cls out.")
    states, prefix = model.read(images, blocks).states, model.num_prefix_tokens
    maps = []
    for k in blocks:
        tokens = states[k]
        patches = tokens[:, prefix:].transpose(1, 2).unflatten(2, (rows, columns))
        if cls:
            patches = torch.cat((patches, tokens[:, 0, :, None, None].expand_as(patches)), dim=1)
        maps.append(patches)
    return maps
