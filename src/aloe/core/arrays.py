"""What users have (tensors, NumPy arrays, lists of numbers) as the tensors that we compute on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from aloe.core.errors import UserError


def as_tensor(value: Any, what: str) -> Tensor:
    """A tensor of the same numbers; `what` names it in errors, such as "labels".

    Tensors pass as they are, sparse ones become dense; NumPy arrays, numbers and nested lists of numbers are copied.

    Raises:
        UserError: anything else, such as a set (which has no order), None, words, or a tensor without values.
    """
    if isinstance(value, Tensor):
        if value.device.type == "meta":
            raise UserError(f"The {what} are a tensor without values (on the meta device); give one with values.")
        return value.to_dense() if value.layout != torch.strided else value
    if isinstance(value, set | frozenset | dict):
        raise UserError(
            f"The {what} are a {type(value).__name__}, which has no order; give a tensor, an array or a list."
        )
    if isinstance(value, list | tuple) and value and all(isinstance(v, Tensor | np.ndarray) for v in value):
        parts = [as_tensor(v, what) for v in value]
        if len({part.shape for part in parts}) > 1:
            shapes = " and ".join(dict.fromkeys(str(tuple(part.shape)) for part in parts))
            raise UserError(f"The {what} have different shapes, {shapes}; give them one by one.")
        return torch.stack(parts)
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        array = np.array(None)
    if array.dtype.kind not in "biuf" or (
        not array.shape and not isinstance(value, int | float | np.generic | np.ndarray)
    ):
        raise UserError(f"The {what} must be a tensor, an array or a list of numbers, got {type(value).__name__}.")
    return torch.from_numpy(array.copy())
