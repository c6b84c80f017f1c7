"""What is explained: a class logit, a feature direction, or the similarity to a text, as one scalar per image.

Whatever enters a value besides the frozen network (a logit bias, a similarity's bias) is returned apart, because it belongs
to the residual of the constants and not to any pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aloe.bcos.dynamic import is_explaining
from aloe.bcos.units import NORM_FLOOR
from aloe.core.arrays import as_tensor
from aloe.core.errors import UserError
from aloe.core.names import nearest
from aloe.core.typed import whole_number
from aloe.models.labels import index_of


@dataclass(frozen=True)
class TextTarget:
    """The similarity of the pooled output to a text embedding: scale * cos(pooled, embedding) + bias.

    Args:
        embedding: (D,) for all images or (B, D), from the teacher's own text tower; any norm.
        scale, bias: the teacher's logit scale (already exponentiated) and bias.
    """

    embedding: Tensor
    scale: float = 1.0
    bias: float = 0.0


@dataclass(frozen=True)
class ClassIndices:
    """Classes (B,), int64, taken without a look at their values: the input of a graph that is being traced. Negative ones
    stand for the predicted class."""

    index: Tensor


@dataclass(frozen=True)
class GivenDirections:
    """Directions (B, D) in the pooled output, the input of a graph: a row of zeros stands for that of the output itself."""

    direction: Tensor


Target = None | int | str | Sequence[int | str] | Tensor | TextTarget | ClassIndices | GivenDirections


def target_value(outputs: Any, config: Any, target: Target) -> tuple[Tensor, float]:
    """The explained scalar of every image, (B,), and the constant part of it.

    `target` is a class (index or name, one or one per image), a float tensor (D,) or (B, D), the direction in the pooled
    output, a `TextTarget`, or None: the predicted class, or for a backbone the direction of its own pooled output.
    In explanation mode the value minus its constant is linear in the pooled output.

    Raises:
        UserError: a class without a classifier, out of range or unknown, or a direction of another width.
    """
    pooled = outputs.pooler_output
    logits = getattr(outputs, "logits", None)
    if isinstance(target, TextTarget):
        direction = F.normalize(_direction(target.embedding, pooled), dim=-1) * target.scale
        norm = (pooled.detach() if is_explaining() else pooled).norm(dim=-1).clamp_min(NORM_FLOOR)
        return (pooled * direction).sum(-1) / norm + target.bias, target.bias
    if isinstance(target, Tensor) and target.is_floating_point():
        return (pooled * _direction(target, pooled)).sum(-1), 0.0
    if isinstance(target, GivenDirections):
        nonzero = (target.direction != 0).any(-1, keepdim=True)
        return (pooled * torch.where(nonzero, target.direction, F.normalize(pooled.detach(), dim=-1))).sum(-1), 0.0
    if target is None and logits is None:
        return (pooled * F.normalize(pooled.detach(), dim=-1)).sum(-1), 0.0
    if logits is None:
        raise UserError("This model has no classifier: give a direction or a text embedding, or a model with classes.")
    if isinstance(target, ClassIndices):
        index = torch.where(target.index < 0, logits.argmax(-1), target.index)
    else:
        index = logits.argmax(-1) if target is None else class_indices(target, config, logits)
    return logits.gather(1, index[:, None])[:, 0], float(getattr(config, "logit_bias", 0.0))


def as_target(target: Any) -> Target:
    """A target in the form that is computed on: arrays as tensors, or as lists of names.

    Raises:
        UserError: a set, which has no order, or a truth value, which is no class.
    """
    if isinstance(target, TextTarget):
        return replace(target, embedding=as_tensor(target.embedding, "embedding"))
    if isinstance(target, set | frozenset | dict):
        raise UserError(f"A {type(target).__name__} of targets has no order; give a list, one per image.")
    if isinstance(target, bool | np.bool_) or (
        isinstance(target, Tensor | np.ndarray) and target.dtype in (bool, torch.bool)
    ):
        raise UserError("A class is an index or a name, got a truth value; give a direction as a float tensor.")
    if isinstance(target, np.ndarray):
        return torch.from_numpy(target) if target.dtype.kind in "iuf" else target.tolist()
    if isinstance(target, Tensor):
        return as_tensor(target, "targets")
    return _listed(target) if isinstance(target, list | tuple) else target


def _listed(targets: Sequence[Any]) -> Any:
    """A list of one target per image: classes as they are, directions as rows of one tensor."""
    if any(isinstance(t, Tensor | np.ndarray) and t.ndim for t in targets):
        return as_tensor(targets, "directions")
    plain = [t.item() if isinstance(t, Tensor | np.ndarray | np.generic) else t for t in targets]
    if any(isinstance(t, bool) for t in plain):
        raise UserError("A class is an index or a name, got a truth value; give a direction as a float tensor.")
    return plain


def part_of(target: Target, start: int, stop: int, count: int) -> Target:
    """The part of a per-image target that belongs to a batch; a target for all images passes through.

    Raises:
        UserError: as many targets as neither one nor `count`.
    """
    rows = target.embedding if isinstance(target, TextTarget) else target
    if isinstance(rows, Tensor):
        per_image = rows.ndim == (2 if rows.is_floating_point() else 1)
    else:
        per_image = isinstance(rows, Sequence) and not isinstance(rows, str)
    if not per_image:
        return target
    if len(rows) != count:  # type: ignore[arg-type]
        raise UserError(f"{len(rows)} targets were given for {count} images; give one, or one per image.")  # type: ignore[arg-type]
    part: Any = rows[start:stop]  # type: ignore[index]
    return replace(target, embedding=part) if isinstance(target, TextTarget) else part


def class_indices(target: Any, config: Any, logits: Tensor) -> Tensor:
    """The classes of a batch, given in any way, as indices (B,)."""
    if isinstance(target, Tensor):
        targets = target.tolist() if target.ndim else [target.item()] * len(logits)
    elif isinstance(target, str) or not isinstance(target, Sequence):
        targets = [target] * len(logits)
    else:
        targets = list(target)
    if len(targets) != len(logits):
        raise UserError(f"{len(targets)} targets were given for {len(logits)} images; give one, or one per image.")
    return torch.tensor([class_index(t, config, logits.shape[1]) for t in targets], device=logits.device)


def class_index(target: Any, config: Any, count: int) -> int:
    """The index of a class that is named or numbered, of `count`.

    Raises:
        UserError: there is none.
    """
    if isinstance(target, str):
        named, index = index_of(config.id2label, target), whole_number(target)
        if named is not None and index is not None and index != named and 0 <= index < count:
            raise UserError(
                f"{target!r} is the name of class {named} and the number of class {index}, {config.id2label[index]!r}; from"
                f" Python give the number {named} or {index}, on the command line another name."
            )
        if named is not None:
            return named
        if index is None:
            examples = ", ".join(str(name).lower() for name in list(config.id2label.values())[:10])
            near = nearest(target, map(str, config.id2label.values()))
            hint = f"did you mean {near}?" if near else f"the model knows {examples}{' ...' if count > 10 else ''}."
            raise UserError(f"There is no class {target!r}; {hint}")
    elif isinstance(target, Integral):
        index = int(target)
    else:
        raise UserError(f"A class is an index or a name, got {target!r}; give a direction as a float tensor.")
    if not 0 <= index < count:
        raise UserError(f"Class {index} is out of range; the model has {count} classes (0 to {count - 1}).")
    return index


def _direction(direction: Tensor, pooled: Tensor) -> Tensor:
    if direction.shape not in (pooled.shape, pooled.shape[1:]):
        raise UserError(
            f"A direction has shape ({pooled.shape[-1]},) or ({len(pooled)}, {pooled.shape[-1]}), "
            f"got {tuple(direction.shape)}."
        )
    return direction.detach().to(pooled)
