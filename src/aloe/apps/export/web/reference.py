"""One picture of whole numbers and the right answer to it, with which the page compares the device that it runs on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aloe.apps.export.formats import Runner
from aloe.apps.export.web.graph import Texts, kind_of, run_one
from aloe.attribution.inherent import explain


def check_image(size: int) -> Tensor:
    """(3, size, size) in [0, 1]: ((7 + 4c) x + (13 - 3c) y + 5 (x // 4) (y // 4)) mod 256, over 255."""
    c, y, x = (torch.arange(n) for n in (3, size, size))
    c, y, x = c[:, None, None], y[None, :, None], x[None, None, :]
    return ((7 + 4 * c) * x + (13 - 3 * c) * y + 5 * (x // 4) * (y // 4)).remainder(256).float() / 255


def expected(model: Any, size: int, texts: Texts | None) -> dict[str, Any]:
    """PyTorch's value of target 0 on that picture, and its contributions summed over each patch, row by row."""
    target = texts.target(0) if texts else 0 if hasattr(model, "classifier") else None
    explanation = explain(model, check_image(size)[None], target)
    return _said(explanation.logit, explanation.contributions, size // model.config.patch_size)


def expected_of(run: Runner, model: Any, size: int, texts: Texts | None) -> dict[str, Any]:
    """The same as onnxruntime computes it here from a graph: of rounded weights, which PyTorch does not have."""
    outputs = run_one(run, kind_of(model, texts), check_image(size), model.config.hidden_size, 0)
    value, contributions = (torch.from_numpy(outputs[name]) for name in ("logit", "contributions"))
    return _said(value, contributions, size // model.config.patch_size)


def _said(value: Tensor, contributions: Tensor, grid: int) -> dict[str, Any]:
    cells = contributions[0].unflatten(1, (grid, -1)).unflatten(0, (grid, -1)).sum((1, 3))
    return {"value": float(value[0]), "contributions": cells.flatten().tolist()}
