"""The one rule of wrappers: what torch.compile, DataParallel, DDP and averages put around a module is taken off."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from torch import nn

_INNER = ("_orig_mod", "module")


def unwrapped(module: Any) -> Any:
    """The module inside its wrappers: modules whose only child is called `module` or `_orig_mod`."""
    while isinstance(module, nn.Module):
        children = dict(module.named_children())
        name = next((name for name in _INNER if name in children and len(children) == 1), None)
        if name is None:
            break
        module = children[name]
    return module


def plain_name(name: str) -> str:
    """A tensor's name without the levels that wrappers inside a module add: `layer.0._orig_mod.mlp.weight`."""
    return ".".join(part for part in name.split(".") if part not in _INNER)


def extends(model: nn.Module, class_name: str | None) -> bool:
    """Whether a module is of a class of that name or of a subclass of it."""
    return any(kind.__name__ == class_name for kind in type(model).__mro__)


def renaming(names: Sequence[str]) -> dict[str, str]:
    """What transformers' `key_mapping` needs to read these tensors: levels of wrappers go, and what stands before all."""
    plain = [plain_name(name) for name in names]
    prefix = common_prefix(plain)
    if plain == list(names):
        return {f"^{re.escape(prefix)}": ""} if prefix else {}
    # Of several patterns transformers applies one to a name, so each name has its own.
    return {f"^{re.escape(name)}$": other.removeprefix(prefix) for name, other in zip(names, plain, strict=True)}


def common_prefix(names: Sequence[str]) -> str:
    """The levels that stand before every name: `module.`, `base_model.model.`; "" where there are none."""
    levels = [name.split(".")[:-1] for name in names]
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*levels, strict=False))
    return "".join(f"{parts[0]}." for parts in shared)
