"""Weights in int8 for a smaller page: rounded once, at export, and what that changes measured on images.

Only the matrices are rounded (a scale for each row or column, whichever loses less); norms, constants and all arithmetic stay
in float32. The graph is the exact explanation of the student with the rounded weights, complete as before, so that what is
measured is how far that student is from the one in float32.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aloe.apps.export.formats import Runner, quiet, run_onnx
from aloe.apps.export.web.graph import run_one

LEAST_VALUES = 1024  # smaller matrices stay as they are
PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose", "Transpose", "Reshape", "ReduceL2")  # what weights enter
SAME, MEAN, LEAST = 0.98, 0.99, 0.95
"""What makes int8 faithful: share of images with the same answer; mean and least cosine of the maps of contributions."""


@dataclass(frozen=True)
class Measured:
    """int8 weights against float32 on `images` images: share of the same answers (None for features), cosines of the maps of
    contributions, and the largest difference of an output (logits, features) over its largest value."""

    images: int
    image_source: str
    same: float | None
    cosine_mean: float
    cosine_least: float
    difference: float

    @property
    def faithful(self) -> bool:
        """Whether int8 is offered."""
        same = self.same is None or self.same >= SAME
        return bool(same and self.cosine_mean >= MEAN and self.cosine_least >= LEAST)

    def words(self) -> str:
        """One line for people."""
        same = "" if self.same is None else f"the same answer for {100 * self.same:.1f} %, "
        return (
            f"on {self.images} images ({self.image_source}): {same}cosine of the maps {self.cosine_mean:.4f} (least"
            f" {self.cosine_least:.4f}), outputs differ by at most {100 * self.difference:.1f} % of the largest"
        )

    def row(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {**asdict(self), "faithful": self.faithful, "words": self.words()}


def round_weights(source: Path, destination: Path) -> None:
    """Write a float32 graph with its matrices in int8, each behind a `DequantizeLinear`."""
    import onnx
    from onnx import helper, numpy_helper

    with quiet():
        model = onnx.load(source)
        graph = model.graph
        entered = {name for node in graph.node if node.op_type in PRODUCTS for name in node.input}
        kept, nodes = [], []
        for tensor in graph.initializer:
            values = numpy_helper.to_array(tensor) if tensor.data_type == onnx.TensorProto.FLOAT else None
            if values is None or values.ndim not in (2, 4) or values.size < LEAST_VALUES or tensor.name not in entered:
                kept.append(tensor)
                continue
            axis, whole, scale = rounded(values)
            names = [f"{tensor.name}.int8", f"{tensor.name}.scale"]
            kept += [numpy_helper.from_array(a, n) for a, n in zip((whole, scale), names, strict=True)]
            nodes.append(helper.make_node("DequantizeLinear", names, [tensor.name], axis=axis))
        del graph.initializer[:]
        graph.initializer.extend(kept)
        every = [*nodes, *graph.node]
        del graph.node[:]
        graph.node.extend(every)
        onnx.save(model, destination)


def rounded(values: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """A matrix as int8 in [-127, 127] times a scale along an axis: of the first two axes the one that loses less.

    Returns:
        The axis, the whole numbers, the scales (values.shape[axis],) in float32.
    """
    best: tuple[float, int, np.ndarray, np.ndarray] | None = None
    for axis in (0, 1):
        others = tuple(i for i in range(values.ndim) if i != axis)
        scale = np.maximum(np.abs(values).max(others) / 127, np.finfo(np.float32).tiny).astype(np.float32)
        along = scale.reshape([-1 if i == axis else 1 for i in range(values.ndim)])
        whole = np.clip(np.rint(values / along), -127, 127).astype(np.int8)
        lost = float(np.square(whole * along - values).sum())
        if best is None or lost < best[0]:
            best = lost, axis, whole, scale
    assert best is not None
    return best[1:]


def measure_weights(original: Path, smaller: Path, kind: str, width: int, images: Tensor, source: str) -> Measured:
    """Both graphs on the same images (B, 3, S, S), each explaining what float32 answers."""
    run, run_small = run_onnx(original, threads=1), run_onnx(smaller, threads=1)
    rows = [_compare(run, run_small, kind, width, image) for image in images]
    same, cosines, gaps, sizes = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    return Measured(
        images=len(images),
        image_source=source,
        same=None if kind == "features" else float(same.mean()),
        cosine_mean=float(cosines.mean()),
        cosine_least=float(cosines.min()),
        difference=float(np.max(gaps) / np.max(sizes)),
    )


def _compare(run: Runner, run_small: Runner, kind: str, width: int, image: Tensor) -> tuple[float, float, float, float]:
    """Whether the answers are the same; the cosine of the maps; the largest difference of an output and its largest value."""
    name = "pooler_output" if kind == "features" else "logits"
    whole = run_one(run, kind, image, width)
    answer = int(whole[name].argmax())
    small = run_one(run_small, kind, image, width, answer)
    a, b = (torch.from_numpy(outputs["contributions"]).double().flatten() for outputs in (whole, small))
    cosine = float(F.cosine_similarity(a, b, dim=0))
    gap = float(np.abs(whole[name] - small[name]).max())
    return float(int(small[name].argmax()) == answer), cosine, gap, float(np.abs(whole[name]).max())
