"""From visual tokens to pixels: the part of a grounding that is the vision encoder's.

Through an aligned student it is the model's own: its tokens are W(x) x plus constants (method.md, 1), so gradients
that the language model hands to the tokens go on to the pixels in explanation mode, and what the constants contribute (CLS,
registers, positions) is known exactly. Through a plain tower it is AttnLRP. Both read what LLaVA reads: hidden states by
number, with or without the CLS token, or the pooled output as a single token.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aloe.attribution.attnlrp import LrpRules, default_gammas
from aloe.bcos.dynamic import explanation_mode
from aloe.core.errors import UserError


@dataclass(frozen=True)
class Reading:
    """What becomes visual tokens: the residual stream after `blocks` (several are put side by side), its first token left out
    (`drop_first`, LLaVA's strategy "default") or kept ("full"); or the `pooled` output alone. `has_cls`: of the tower."""

    blocks: tuple[int, ...]
    drop_first: bool = False
    has_cls: bool = False
    pooled: bool = False

    def tokens_of(self, patches: int) -> int:
        """Visual tokens of an image of that many patches."""
        return 1 if self.pooled else patches + int(self.has_cls) - int(self.drop_first)


@dataclass
class PixelRelevance:
    """Of T goals: `maps` (T, H, W) over pixels, `constants` (T,) of what is added whatever the image shows, and `weights`
    (T, 6, H, W), the rows of W(x), where the encoder has them."""

    maps: Tensor
    constants: Tensor
    weights: Tensor | None = None


Pull = Callable[[Tensor], PixelRelevance]
"""Gradients (T, tokens, D) at the visual tokens to relevance of the pixels."""


def reading_of(config: Any, *, pooled: bool = False) -> Reading:
    """What a `LlavaConfig` says is read from its tower.

    Raises:
        UserError: a hidden state that the tower does not have, or the embeddings' output.
    """
    depth = int(config.vision_config.num_hidden_layers)
    named = config.vision_feature_layer
    blocks = tuple(k if k >= 0 else depth + 1 + k for k in ([named] if isinstance(named, int) else named))
    if not blocks or any(not 1 <= k <= depth for k in blocks):
        raise UserError(
            f"vision_feature_layer {named} names no block of a tower of {depth}; it counts hidden states, 1 to L."
        )
    has_cls = config.vision_config.model_type.startswith("clip")
    return Reading(blocks, config.vision_feature_select_strategy == "default", has_cls, pooled)


def read(output: Any, reading: Reading, prefix: int) -> Tensor:
    """Visual tokens (B, tokens, D) of an encoder's output.

    Args:
        prefix: tokens of the encoder before its patches, of which the tower itself has one (CLS) or none. Further ones, a
            student's registers, are left out.
    """
    if reading.pooled:
        return output.pooler_output[:, None]
    states = [output.hidden_states[k] for k in reading.blocks]
    cls = int(reading.has_cls)
    states = [torch.cat((s[:, :cls], s[:, prefix:]), 1) if prefix > cls else s for s in states]
    return torch.cat([s[:, 1:] if reading.drop_first else s for s in states], -1)


def through_student(student: Any, images: Tensor, reading: Reading) -> tuple[Tensor, Pull]:
    """Visual tokens (1, tokens, D) of one image, and the way back by the student's own W(x).

    Args:
        student: a B-cos ViT with constant parameters, in eval mode (`language.explained`).
        images: (1, 3, H, W) in [0, 1].
    """
    base = student.base_model
    reference = base.norm.weight
    with explanation_mode():
        x = base.encode(images.to(reference.device, reference.dtype)).requires_grad_()
        output = base(x, output_hidden_states=True, return_dict=True)
        tokens = read(output, reading, base.config.num_prefix_tokens)
    embedded = output.hidden_states[0]
    constants = base.embeddings.constants(*base.embeddings.grid(*x.shape[-2:])).detach()

    def pull(gradients: Tensor) -> PixelRelevance:
        weights, constant = [], []
        for gradient in gradients:
            row, at_tokens = torch.autograd.grad(
                tokens, (x, embedded), gradient[None].to(tokens.dtype), retain_graph=True
            )
            weights.append(row[0])
            constant.append((at_tokens * constants).sum())
        rows = torch.stack(weights)
        return PixelRelevance((rows * x.detach()).sum(1).float(), torch.stack(constant).float(), rows)

    return tokens.detach(), pull


def through_tower(tower: nn.Module, pixels: Tensor, reading: Reading, *, variant: str = "full") -> tuple[Tensor, Pull]:
    """Visual tokens (1, tokens, D) of one image, and the way back by AttnLRP, with the gamma rules of teachers.

    Args:
        tower: a vision tower of transformers with constant parameters, in eval mode.
        pixels: (1, 3, H, W), normalised.
    """
    x = pixels.detach().float().requires_grad_()
    if next(tower.parameters()).dtype != torch.float32:  # which its embeddings would cast the pixels to
        tower = copy.deepcopy(tower).float()
    with LrpRules(variant, **default_gammas(False)):
        tokens = read(tower(x, output_hidden_states=True, return_dict=True), reading, int(reading.has_cls))

    def pull(gradients: Tensor) -> PixelRelevance:
        maps = []
        for gradient in gradients:
            (row,) = torch.autograd.grad(tokens, x, gradient[None].to(tokens.dtype), retain_graph=True)
            maps.append((row * x.detach())[0].sum(0))
        return PixelRelevance(torch.stack(maps).float(), torch.zeros(len(maps), device=x.device))

    return tokens.detach(), pull


def check_student(student: Any, tower: Any, reading: Reading, aligned: list[int] | None = None) -> None:
    """Refuses a student that cannot stand where this tower stood.

    Args:
        tower: the tower's configuration.
        aligned: the blocks after which the student was compared with its teacher, where that is known.

    Raises:
        UserError: another width, depth, number of tokens, a CLS token that only one of them has, or a student that was never
            aligned after the block that is read.
    """
    config: Any = getattr(student, "config", None)
    if getattr(config, "model_type", None) != "bcos_vit":
        raise UserError(f"{type(student).__name__} is not a B-cos student; align one to this tower first: aloe align.")
    grid = tower.image_size // tower.patch_size
    for what, ours, theirs in (
        ("width", config.hidden_size, tower.hidden_size),
        ("number of blocks", config.num_hidden_layers, tower.num_hidden_layers),
        ("number of patch tokens", config.grid_size**2, grid**2),
        ("number of CLS tokens", int(config.use_cls_token), int(reading.has_cls)),
    ):
        if ours != theirs:
            raise UserError(
                f"The student's {what} is {ours} and the vision tower's {theirs}; align a student to this tower: aloe align."
            )
    missing = [] if aligned is None or reading.pooled else [k for k in reading.blocks if k not in aligned]
    if missing:
        raise UserError(
            f"The language model reads the tower after block {missing[0]}, but the student was aligned after blocks "
            f"{', '.join(map(str, aligned or [])) or 'none'}; align one with --after-block {missing[0]}."
        )
