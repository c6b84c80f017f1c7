"""How a tensor is made from those of a checkpoint with another layout: the words that the tables of `families.py`,
`timm_layouts.py` and `published_layout.py` are written in, and what they mean. `importer.py` reads the tables.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import torch
from torch import Tensor


@dataclass(frozen=True)
class Copy:
    """The tensor as it is."""

    source: str


@dataclass(frozen=True)
class Concat:
    """Several tensors stacked along the output axis: Q, K and V in one product."""

    sources: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """Rows `index` of `parts` equal pieces of a fused tensor, up to piece `stop` (default: that one)."""

    source: str
    index: int
    parts: int
    stop: int | None = None


@dataclass(frozen=True)
class Kernel:
    """A convolution's kernel from a linear layer over patches in (channel, row, column) order."""

    source: str


@dataclass(frozen=True)
class Positions:
    """Position embeddings of CLS and patches; zeros for the CLS token where the checkpoint gives it none."""

    source: str


@dataclass(frozen=True)
class Zeros:
    """A tensor that the checkpoint has no use for: the mask token."""


@dataclass(frozen=True)
class Fold:
    """The patch embedding with the normalisation of images and its bias, if any, folded into six channels (method.md, 3)."""

    weight: str
    bias: str | None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Either:
    """The first of several rules whose tensors are all there."""

    rules: tuple[Rule, ...]


Rule = Copy | Concat | Part | Kernel | Positions | Zeros | Fold | Either


def sources_of(rule: Any) -> list[str]:
    """Names of the tensors that a rule reads: the words among its fields, in their order."""
    return list(_words(getattr(rule, field.name) for field in fields(rule)))


def renamed(rule: Rule, old: str, new: str) -> Rule:
    """The rule over tensors whose names have `new` in place of `old`, such as `{i}`."""

    def change(value: Any) -> Any:
        if isinstance(value, str):
            return value.replace(old, new)
        if isinstance(value, tuple):
            return tuple(map(change, value))
        return renamed(value, old, new) if isinstance(value, Rule) else value

    return cast(Rule, replace(rule, **{field.name: change(getattr(rule, field.name)) for field in fields(rule)}))


def among(rule: Rule, names: Collection[str]) -> Rule:
    """The rule that counts for a checkpoint with tensors of these names."""
    if not isinstance(rule, Either):
        return rule
    return next((r for r in rule.rules if all(name in names for name in sources_of(r))), rule.rules[0])


def make(rule: Rule, parts: Sequence[Tensor], like: Tensor) -> Tensor:
    """The tensor that a rule makes of those it reads, in memory of its own; `like` is the model's, for its shape.

    Raises:
        RuntimeError, IndexError, ValueError: shapes that do not go together.
    """
    match rule:
        case Concat():
            return torch.cat(tuple(parts))
        case Part():
            return torch.cat(parts[0].chunk(rule.parts)[rule.index : rule.stop or rule.index + 1])
        case Kernel():
            return parts[0].unflatten(1, like.shape[1:]).clone()
        case Positions():
            rows = parts[0].flatten(0, -2)
            lacking = max(like.shape[-2] - len(rows), 0)
            return torch.cat((rows.new_zeros(lacking, rows.shape[1]), rows))
        case Zeros():
            return torch.zeros(like.shape)
        case Fold():
            weight, bias = parts[0], parts[1] if rule.bias else None
            if weight.ndim == 2:  # NaFlex: a linear layer over patches in (row, column, channel) order
                weight = weight.unflatten(1, (*like.shape[2:], -1)).permute(0, 3, 1, 2)
            return fold_normalization(weight, bias, rule.mean, rule.std)
    return parts[0].clone()


def fold_normalization(weight: Tensor, bias: Tensor | None, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Patch embedding of normalised RGB -> bias-free patch embedding of (r, g, b, 1-r, 1-g, 1-b) in [0, 1].

    With u = w / std the result is [u/2 + c, -u/2 + c] and 3 P^2 c = b - sum(w mean / std) + sum(u) / 2, computed in
    float64. Shapes: weight (D, 3, P, P), bias (D,) -> (D, 6, P, P). Source: docs/method.md section 3.
    """
    wide = weight.double()
    device = weight.device
    scaled = wide / torch.tensor(std, dtype=torch.float64, device=device)[:, None, None]
    offset = (scaled * torch.tensor(mean, dtype=torch.float64, device=device)[:, None, None]).sum((1, 2, 3))
    constant = (0 if bias is None else bias.double()) - offset + scaled.sum((1, 2, 3)) / 2
    shift = (constant / weight[0].numel())[:, None, None, None]
    return torch.cat((scaled / 2 + shift, -scaled / 2 + shift), dim=1).to(weight.dtype)


def _words(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, tuple):
            yield from _words(value)
