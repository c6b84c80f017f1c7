"""A hash of a model's weights: what run folders and feature caches know a model by, wherever it lies."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn

from aloe.models.unwrap import plain_name


def configuration_of(config: Any) -> dict[str, Any]:
    """What of a configuration a model's outputs depend on, by name."""
    return {k: v for k, v in config.to_dict().items() if k not in ("_name_or_path", "transformers_version", "teacher")}


def fingerprint(model: nn.Module, *rest: Any) -> str:
    """16 hexadecimal digits over a module's tensors, their names, and whatever else is given."""
    digest = hashlib.sha256(repr(rest).encode())
    for name, tensor in sorted((plain_name(name), tensor) for name, tensor in model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
