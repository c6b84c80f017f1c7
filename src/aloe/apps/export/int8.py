"""Dynamic int8 quantisation of a forward graph by onnxruntime, with what it costs and saves measured.

Weights of matrix products become int8 (one scale per output), activations are quantised when they arrive; norms and
everything element-wise stay in float32. How much a B-cos network loses depends on the student: look at the numbers.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aloe.apps.export.formats import Runner, file_size, files_of, quiet, run_onnx
from aloe.core.errors import UserError
from aloe.data.draws import ImageDataset, collate_images
from aloe.data.sources import open_images
from aloe.data.subset import SubsetImages
from aloe.data.transforms import ResizeCenterCrop

CHUNK = 8
LIMIT = 64
"""Images that are measured on, where nobody says how many."""
ROUNDS = 5


@dataclass(frozen=True)
class Quantised:
    """int8 against float32, both under onnxruntime with one thread: sizes in bytes, cosines of pooled outputs and agreement
    of the largest logit over `images` images, and the median time of one image over that of float32."""

    bytes: int
    float_bytes: int
    images: int
    image_source: str
    cosine_mean: float
    cosine_least: float
    top1_agreement: float | None
    time_ratio: float

    def words(self) -> str:
        """One line for people."""
        agreement = "" if self.top1_agreement is None else f", same prediction {100 * self.top1_agreement:.1f} %"
        return (
            f"int8 on {self.images} images ({self.image_source}): {self.float_bytes / self.bytes:.2f} times smaller, "
            f"cosine of pooled outputs {self.cosine_mean:.4f} (least {self.cosine_least:.4f}){agreement}, "
            f"time {self.time_ratio:.2f} of float32"
        )


def quantise(source: Path, destination: Path) -> None:
    """Write the int8 form of a float32 graph whose weights are folded (`write_onnx(fold=True)`)."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet():
        quantize_dynamic(
            source,
            destination,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=len(files_of(source)) > 1,
            extra_options={"MatMulConstBOnly": True},
        )


def measure(original: Path, quantised: Path, images: np.ndarray, image_source: str) -> Quantised:
    """Run both files on the same images (B, 3, H, W)."""
    runs = {"float": run_onnx(original, threads=1), "int8": run_onnx(quantised, threads=1)}
    outputs = {name: _outputs(run, images) for name, run in runs.items()}
    cosines = _cosines(outputs["float"]["pooler_output"], outputs["int8"]["pooler_output"])
    agreement = None
    if "logits" in outputs["float"]:
        agreement = float(np.mean(outputs["float"]["logits"].argmax(-1) == outputs["int8"]["logits"].argmax(-1)))
    one = {"image": images[:1]}
    ratios = [_seconds(runs["int8"], one) / _seconds(runs["float"], one) for _ in range(ROUNDS)]
    return Quantised(
        bytes=file_size(quantised),
        float_bytes=file_size(original),
        images=len(images),
        image_source=image_source,
        cosine_mean=float(cosines.mean()),
        cosine_least=float(cosines.min()),
        top1_agreement=agreement,
        time_ratio=statistics.median(ratios),
    )


def check_measured(int8: bool, images: str | None, limit: int | None) -> None:
    """Raises: UserError: images that nothing is measured on, or a limit of images without any."""
    if images and not int8:
        raise UserError("--images belongs to --int8; give it as well.")
    if limit is not None and not images:
        raise UserError("--limit belongs to --images; give it as well.")


def read_images(source: str, size: int, limit: int | None = None) -> Tensor:
    """Up to `limit` images (default: `LIMIT`) spread over a folder, glob or archive, as (B, 3, size, size) in [0, 1].

    Raises:
        UserError: no images there, or none that can be read.
    """
    store = open_images(source)
    places = np.linspace(0, len(store) - 1, min(limit or LIMIT, len(store))).round().astype(int)
    dataset = ImageDataset(SubsetImages(store, places), ResizeCenterCrop(size))
    loader = torch.utils.data.DataLoader(dataset, batch_size=CHUNK, collate_fn=collate_images)
    images = torch.cat([batch["pixel_values"] for batch in loader])
    if not len(images):
        raise UserError(f"None of the images in {source} could be read.")
    return images


def _outputs(run: Runner, images: np.ndarray) -> dict[str, Any]:
    parts = [run({"image": images[i : i + CHUNK]}) for i in range(0, len(images), CHUNK)]
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0] if name != "last_hidden_state"}


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(-1) / np.maximum(np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1), 1e-300)


def _seconds(run: Runner, feeds: dict[str, np.ndarray]) -> float:
    start = time.perf_counter()
    run(feeds)
    return time.perf_counter() - start
