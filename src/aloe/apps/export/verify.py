"""What was written against what PyTorch computes, on random images, in the units of each output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aloe.apps.export.formats import Arrays, Runner
from aloe.attribution.inherent import explain
from aloe.core.errors import UserError

BATCHES = (1, 3)
SEED = 0


@dataclass(frozen=True)
class Verified:
    """Largest differences per output, relative to the output's largest value, and the graph's own completeness error."""

    differences: dict[str, float]
    completeness: float | None = None


def verify(model: nn.Module, run: Runner, what: str, size: int, target: str, tolerance: float) -> Verified:
    """Compare a written graph with the model at one and at three images.

    Differences are max |graph - PyTorch| / max |PyTorch| over a batch; PyTorch's explanation is that of `explain` for the
    same target, or for the class that the graph itself predicted. Completeness is that of `Explanation`, from the
    graph's outputs.

    Raises:
        UserError: an output that differs by more than `tolerance`, is not finite, or has another shape.
    """
    differences: dict[str, float] = {}
    completeness: list[float] = []
    generator = torch.Generator().manual_seed(SEED)
    for count in BATCHES:
        feeds = random_inputs(model, size, target, count, generator)
        arrays = run({name: value.numpy() for name, value in feeds.items()})
        if what == "explanation":
            expected = _explained(model, feeds, arrays)
            completeness.append(completeness_error(arrays))
        else:
            with torch.no_grad():
                outputs = model(feeds["image"], return_dict=True)
            expected = {name: outputs[name] for name in arrays}
        for name, value in expected.items():
            differences[name] = max(differences.get(name, 0.0), difference(name, arrays[name], value))
    verified = Verified(differences, max(completeness, default=None))  # type: ignore[type-var]
    bad = [f"{name} by {value:.1e}" for name, value in differences.items() if not value <= tolerance]
    if bad:
        raise UserError(
            f"Nothing was written: the graph differs from the model in {', '.join(bad)} of its largest value."
        )
    return verified


def random_inputs(
    model: nn.Module, size: int, target: str, count: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Images of noise of several contrasts, and a class or direction for each."""
    config: Any = model.config
    contrast = torch.rand(count, 1, 1, 1, generator=generator)
    base = torch.rand(count, 3, 1, 1, generator=generator)
    noise = torch.rand(count, 3, size, size, generator=generator)
    feeds = {"image": base + contrast * (noise - base)}
    if target == "class":
        feeds["target"] = torch.randint(config.num_labels, (count,), generator=generator)
    if target == "direction":
        feeds["direction"] = torch.randn(count, config.hidden_size, generator=generator)
    return feeds


def completeness_error(outputs: Arrays) -> float:
    """The largest |logit - sum of contributions - residual| over the sum of absolute terms, from a graph's outputs."""
    parts, rest, value = (outputs[name].astype(np.float64) for name in ("contributions", "residual", "logit"))
    size = np.abs(parts).sum((1, 2)) + np.abs(rest) + np.abs(value)
    return float((np.abs(value - parts.sum((1, 2)) - rest) / np.maximum(size, np.finfo(np.float64).tiny)).max())


def _explained(model: nn.Module, feeds: dict[str, Tensor], arrays: Arrays) -> dict[str, Any]:
    target = feeds.get("target", feeds.get("direction"))
    if target is None and "prediction" in arrays:
        target = torch.from_numpy(arrays["prediction"])  # two classes may be as good as tied
    explanation = explain(model, feeds["image"], target)
    return {name: getattr(explanation, name) for name in arrays if name != "prediction"}


def difference(name: str, found: np.ndarray, expected: Tensor) -> float:
    """max |found - expected| / max |expected|; infinite where it is no number.

    Raises:
        UserError: shapes that differ.
    """
    if found.shape != tuple(expected.shape):
        raise UserError(f"Nothing was written: {name} has shape {found.shape}, the model's {tuple(expected.shape)}.")
    reference = expected.double().numpy()
    gap = np.abs(found.astype(np.float64) - reference).max()
    share = float(gap / max(np.abs(reference).max(), np.finfo(np.float32).tiny))
    return share if np.isfinite(share) else float("inf")
