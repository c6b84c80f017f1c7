"""How a tensor is made from those of a checkpoint with another layout: the words that the tables of `families.py` and
`timm_layouts.py` are written in, and what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Copy:
    """The tensor as it is (reshaped where only unit axes differ)."""

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
class Fold:
    """The patch embedding with the teacher's normalisation and its bias, if any, folded into six channels (method.md, 3)."""

    weight: str
    bias: str | None


Rule = Copy | Concat | Part | Fold


def sources_of(rule: Rule) -> tuple[str, ...]:
    """Names of the tensors that a rule reads."""
    if isinstance(rule, Fold):
        return (rule.weight,) if rule.bias is None else (rule.weight, rule.bias)
    return rule.sources if isinstance(rule, Concat) else (rule.source,)


def assemble(rule: Copy | Concat | Part, source: Mapping[str, Tensor]) -> Tensor:
    """The tensor that a rule makes, in memory of its own."""
    if isinstance(rule, Concat):
        return torch.cat([source[name] for name in rule.sources])
    if isinstance(rule, Part):
        pieces = source[rule.source].chunk(rule.parts)
        return torch.cat(pieces[rule.index : rule.stop or rule.index + 1])
    return source[rule.source].clone()


def renamed(rule: Rule, key: str, value: str) -> Rule:
    """The rule with `key`, such as `{i}`, replaced in the names it reads."""
    if isinstance(rule, Concat):
        return Concat(tuple(name.replace(key, value) for name in rule.sources))
    if isinstance(rule, Fold):
        return rule
    return replace(rule, source=rule.source.replace(key, value))


def same_but_for_unit_axes(a: Tensor, b: Tensor) -> bool:
    """Whether one can be reshaped to the other by adding or dropping axes of length 1 alone."""
    return [n for n in a.shape if n != 1] == [n for n in b.shape if n != 1]
