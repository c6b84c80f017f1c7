"""Methods that read attention weights: LeGrad, CheferCAM and attention rollout (docs/attribution.md).

Their maps have token granularity. Prefix tokens (CLS, registers) take part as queries
and keys; only the patch columns make the map.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aloe.attribution.options import Count
from aloe.attribution.subject import Subject
from aloe.attribution.taps import AttentionTap
from aloe.attribution.targets import Target
from aloe.core.errors import UserError
from aloe.models.teachers import capture


def legrad(
    subject: Subject, images: Tensor, target: Target, *, layers: Count | None = 2, pool: str = "mean"
) -> tuple[Tensor, Tensor]:
    """LeGrad (Bousselham et al. 2025): how the explained value, read off each block, grows with that block's attention.

    For each of the last `layers` blocks (None: all; the authors' code takes 2) the head reads the block's raw tokens, pooled
    as `pool` says (`mean` of all tokens as in the authors' code, or `cls`; an attention-pooling head reads them itself). The
    gradient of the value with respect to the block's attention, for attention pooling the pooling head's, is clamped at 0 and
    averaged over heads and queries; blocks are summed. Min-max scaling is left to pictures. For a feature direction, the
    direction of the last block's pooled output is used throughout.

    Returns:
        The map (B, h, w) and the explained value of the whole model (B,).
    """
    depth = len(subject.blocks)
    if layers is not None and not 1 <= layers <= depth:
        raise UserError(f"LeGrad can use 1 to {depth} of this model's blocks, got {layers}.")
    if pool not in ("mean", "cls") or (pool == "cls" and subject.prefix == 0):
        raise UserError(f"LeGrad pools the mean of all tokens or, where there is one, the cls token; got {pool!r}.")
    used = range(depth - (layers or depth), depth)
    states: dict[int, Tensor] = {}
    hooks = [subject.blocks[i].register_forward_hook(capture(states, i)) for i in used]
    try:
        with AttentionTap() as tap:
            outputs = subject.forward(_inputs(subject, images))
    finally:
        for hook in hooks:
            hook.remove()
    fixed = subject.resolve(outputs, target)
    total: Tensor | None = None
    for i in used:
        if subject.pooling == "attention":
            with AttentionTap() as pooling:
                read = subject.read(states[i].detach().requires_grad_(), pool)
            weights = pooling.weights[-1]
        else:
            read, weights = subject.read(states[i], pool), tap.weights[i]
        score = subject.value(read, fixed)
        subject.backwards += len(images)
        (gradient,) = torch.autograd.grad(score.sum(), weights, retain_graph=True)
        part = gradient.float().clamp_min(0).mean(dim=(1, 2))
        total = part if total is None else total + part
    assert total is not None
    return _patches(subject, total, images), subject.value(outputs, fixed).detach()


def chefercam(subject: Subject, images: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """CheferCAM in the form of Chefer et al. (ICCV 2021), without LRP: gradient x attention, rolled out over all blocks.

    Per block M = mean over heads of ReLU(dy/dA * A); R starts as the identity and R <- R + M R. The map is the CLS row of R,
    the mean of its patch rows for mean pooling, or P R for an attention-pooling head with P formed like M.

    Returns:
        The map (B, h, w) and the explained value (B,).
    """
    with AttentionTap() as tap:
        outputs = subject.forward(_inputs(subject, images))
        fixed = subject.resolve(outputs, target)
        value = subject.value(outputs, fixed)
        gradients = subject.gradient(value, *tap.weights)
    flows = [(g.float() * a.detach().float()).clamp_min(0).mean(1) for g, a in zip(gradients, tap.weights, strict=True)]
    return _patches(subject, _rolled(subject, flows, normalise=False), images), value.detach()


def rollout(subject: Subject, images: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """Attention rollout (Abnar and Zuidema 2020): products of head-averaged attention plus identity, rows summing to 1.

    The same for every target: a sanity baseline. Returns the map (B, h, w) and the explained value (B,).
    """
    with torch.no_grad(), AttentionTap() as tap:
        outputs = subject.forward(subject.prepare(images))
    value = subject.value(outputs, subject.resolve(outputs, target))
    flows = [a.float().mean(1) for a in tap.weights]
    return _patches(subject, _rolled(subject, flows, normalise=True), images), value


def _rolled(subject: Subject, flows: list[Tensor], *, normalise: bool) -> Tensor:
    """The row of every token's share in the output, (B, N), from one (B, N, N) matrix per block and perhaps a pooling row."""
    depth = len(subject.blocks)
    eye = torch.eye(flows[0].shape[-1], device=flows[0].device)
    row = flows[depth][:, 0] if subject.pooling == "attention" else _pooling_row(subject, flows[0])
    # a row vector times (I + M_L) ... (I + M_1): the same product as R, at the price of vectors
    for flow in reversed(flows[:depth]):
        step = (flow + eye) / 2 if normalise else flow + eye
        row = (row[:, None] @ step)[:, 0]
    return row


def _pooling_row(subject: Subject, like: Tensor) -> Tensor:
    """How the output is pooled from the tokens, (B, N)."""
    row = like.new_zeros(like.shape[0], like.shape[-1])
    if subject.pooling == "cls":
        row[:, 0] = 1
    else:
        row[:, subject.prefix :] = 1 / (like.shape[-1] - subject.prefix)
    return row


def _inputs(subject: Subject, images: Tensor) -> Tensor:
    return subject.prepare(images).requires_grad_()  # so that a teacher's attention is part of a graph


def _patches(subject: Subject, row: Tensor, images: Tensor) -> Tensor:
    rows, columns = subject.grid(images)
    return row[:, -rows * columns :].unflatten(1, (rows, columns))
