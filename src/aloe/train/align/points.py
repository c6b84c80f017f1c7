"""Where student and teacher are compared: the raw residual stream after named blocks, and the pooled output.

`after_block = k` counts blocks from 1 to L and means the residual stream that leaves block k, before any norm; entry 0 of
transformers' hidden states is the embedding and is never meant. Token sequences are compared only when they correspond one
to one: CLS with CLS, patch with patch, registers with registers where both have them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aloe.core.errors import UserError
from aloe.models.backbone import Features
from aloe.models.configuration import BcosViTConfig
from aloe.models.geometry import check_side
from aloe.models.teachers import Teacher, resize

POOLED = "pooled"
CENTRED = f"{POOLED}_centred"  # of the pooled outputs less the teacher's mean


def default_blocks(depth: int) -> tuple[int, ...]:
    """After blocks L/3, 2L/3 and L."""
    return tuple(sorted({max(1, depth // 3), max(1, 2 * depth // 3), depth}))


def paper_blocks(depth: int) -> tuple[int, ...]:
    """The authors' first release: hidden states L/3-1, 2L/3-1 and L-1, so the last block is seen through the pool only."""
    return tuple(sorted({max(1, k) for k in (depth // 3 - 1, 2 * depth // 3 - 1, depth - 1)}))


def resolve_blocks(wanted: Sequence[int] | str, depth: int) -> tuple[int, ...]:
    """Block numbers from `default`, `paper`, `all`, or a list.

    Raises:
        UserError: a block that a network of this depth does not have.
    """
    named = {"default": default_blocks, "paper": paper_blocks, "all": lambda n: tuple(range(1, n + 1))}
    if isinstance(wanted, str):
        return named[wanted](depth)
    bad = [k for k in wanted if not 1 <= k <= depth]
    if bad:
        raise UserError(f"after_block {bad[0]} does not exist: this teacher has blocks 1 to {depth}.")
    return tuple(sorted(set(wanted)))


def point_name(k: int) -> str:
    return f"after_block_{k}"


def student_features(model: nn.Module, images: Tensor, after_block: Sequence[int] = ()) -> Features:
    """A B-cos student's features for images (B, 3, H, W) in [0, 1], in the form that a teacher gives them."""
    out = model(images, output_hidden_states=bool(after_block))
    states = {k: out.hidden_states[k] for k in after_block}
    return Features(pooled=out.pooler_output, states=states, logits=getattr(out, "logits", None))


def teacher_features(
    teacher: Teacher, images: Tensor, config: BcosViTConfig, after_block: Sequence[int] = ()
) -> Features:
    """The teacher's features on the same images, resized so that its token grid is the student's."""
    side = images.shape[-1]
    return teacher(resize(images, teacher.input_size(side // config.patch_size)), after_block)


def match_tokens(student: Tensor, teacher: Tensor, config: BcosViTConfig, source: Teacher) -> tuple[Tensor, Tensor]:
    """The tokens both have, (B, N, D) each.

    Raises:
        UserError: token grids or widths that differ. Nothing is ever cut to fit.
    """
    ours, theirs = config.num_register_tokens, source.num_register_tokens
    if ours != theirs:
        student = _without_registers(student, int(config.use_cls_token), ours)
        teacher = _without_registers(teacher, int(source.use_cls_token), theirs)
    if config.use_cls_token != source.use_cls_token:
        student, teacher = student[:, int(config.use_cls_token) :], teacher[:, int(source.use_cls_token) :]
    if student.shape != teacher.shape:
        raise UserError(
            f"Student and teacher do not match: {tuple(student.shape[1:])} tokens x width against "
            f"{tuple(teacher.shape[1:])}; convert the student from this teacher."
        )
    return student, teacher


def shared_prefix(config: BcosViTConfig, source: Teacher) -> int:
    """Prefix tokens (CLS, registers) that student and teacher both have: those before the patches after `match_tokens`."""
    registers = config.num_register_tokens if config.num_register_tokens == source.num_register_tokens else 0
    return int(config.use_cls_token and source.use_cls_token) + registers


def cosines(student: Features, teacher: Features, config: BcosViTConfig, source: Teacher) -> dict[str, Tensor]:
    """Mean cosine similarity per alignment point, over tokens and images."""
    means = {}
    for k, state in student.states.items():
        a, b = match_tokens(state, teacher.states[k], config, source)
        means[point_name(k)] = F.cosine_similarity(a.float(), b.float(), dim=-1).mean()
    means[POOLED] = F.cosine_similarity(student.pooled.float(), teacher.pooled.float(), dim=-1).mean()
    return means


def check_pair(config: BcosViTConfig, teacher: Teacher, resolution: int) -> None:
    """Refuse a pair that cannot be aligned before anything is computed or written.

    Raises:
        UserError: another width or depth, or a resolution that is not a whole number of patches.
    """
    for what, ours, theirs in (
        ("width", config.hidden_size, teacher.width),
        ("number of blocks", config.num_hidden_layers, teacher.num_layers),
    ):
        if ours != theirs:
            raise UserError(f"The student's {what} is {ours} and the teacher's {theirs}; convert it from this teacher.")
    check_side(resolution, config.patch_size)


def _without_registers(tokens: Tensor, cls: int, registers: int) -> Tensor:
    return torch.cat((tokens[:, :cls], tokens[:, cls + registers :]), dim=1) if registers else tokens
