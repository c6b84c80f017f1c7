"""`export_student`: trace, write beside the destination, check what was written, and only then put it in place."""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aloe.apps.export import formats
from aloe.apps.export.graphs import (
    EXPLANATION,
    FORWARD,
    IMAGE,
    TARGETS,
    example_inputs,
    explanation_program,
    forward_program,
)
from aloe.apps.export.int8 import Quantised, measure, quantise
from aloe.apps.export.verify import SEED, Verified, random_inputs, verify
from aloe.core.errors import UserError
from aloe.core.progress import announce
from aloe.models.geometry import check_side
from aloe.models.unwrap import unwrapped

KINDS = ("forward", "explanation")
RANDOM_IMAGES = 16
OPSETS = range(18, 24)  # what torch's exporter writes and onnxruntime reads


@dataclass(frozen=True)
class Exported:
    """A graph on disk: its inputs and outputs with their shapes, how far it is from PyTorch, and what int8 costs.

    `differences` are relative to the largest value of each output; for int8 they are those of the float32 graph that was
    quantised, and `int8` says what the quantisation changed.
    """

    path: Path
    what: str
    format: str
    image_size: int
    target: str | None
    inputs: list[str]
    outputs: list[str]
    bytes: int
    opset: int | None
    differences: dict[str, float]
    completeness: float | None = None
    int8: Quantised | None = None

    def row(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {**asdict(self), "path": str(self.path)}


def export_student(
    model: nn.Module,
    output: str | Path,
    *,
    what: str = "forward",
    format: str | None = None,
    image_size: int | None = None,
    target: str = "own",
    opset: int | None = None,
    int8: bool = False,
    images: Tensor | None = None,
    tolerance: float = 1e-4,
    overwrite: bool = False,
) -> Exported:
    """Write a student's forward pass or explanation as one graph in float32, for any number of images of one size.

    Args:
        model: a `BcosViTModel` or `BcosViTForImageClassification`; it is left as it was.
        output: the file; ONNX weights of more than 2 GB lie beside it in `<output>.data`.
        what: `forward`: `image` (B, 3, H, W) in [0, 1] -> `logits`, `pooler_output`, `last_hidden_state`;
            `explanation`: the same image -> the fields of `Explanation`, in one graph with its backward pass.
        format: `onnx` or `torch` (a `torch.export` archive); default: by the file's suffix.
        image_size: pixels on a side; default: the model's own resolution.
        target: what is explained: `own`, the predicted class or a backbone's feature direction; `class`, an input `target`
            (B,) of int64; `direction`, an input `direction` (B, D).
        opset: of the ONNX file, 18 to 23; default: torch's.
        int8: quantise the forward graph (ONNX), and measure what that changes.
        images: (B, 3, H, W) in [0, 1] that int8 is measured on; default: 16 of random noise.
        tolerance: largest difference from PyTorch allowed, relative to the largest value of each output.

    Raises:
        UserError: a wrong option, not a student, a package that is missing, a file that exists or cannot be written, a model
            that cannot be traced, or a graph that differs from the model.
    """
    path = Path(output)
    file_format = check_request(path, what, format, target, int8, opset)
    check_destination(path, overwrite)
    model = unwrapped(model)
    check_student(model, target)
    size = side_of(model, image_size)
    images = _images(images, size) if int8 else None
    reference = copy.deepcopy(model).cpu().float().eval()
    inputs, outputs = list(example_inputs(model, size, target)), _outputs(model, what)
    metadata = _metadata(model, what, size, target, outputs, int8)
    announce(f"Tracing the {what} of {size} x {size} pixels ...")
    with formats.told("The model cannot be traced"):
        traced = forward_program(reference, size) if what == "forward" else explanation_program(reference, size, target)
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        written = staging / path.name
        quantised = None
        how: dict[str, Any] = {"inputs": inputs, "outputs": outputs, "opset": opset, "fold": int8}
        number, run = _write(traced, written, file_format, metadata, how)
        announce("Comparing the graph with PyTorch ...")
        verified: Verified = verify(reference, run, what, size, target, tolerance)
        del run, traced
        if int8:
            pictures, source = (images, "given") if images is not None else (_noise(model, size), "random noise")
            written, quantised = _quantised(written, pictures, source)
        size_in_bytes = formats.file_size(written)
        for part in reversed(formats.files_of(written)):  # the weights first, the graph last
            os.replace(part, path.with_name(part.name))
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Exported(
        path=path,
        what=what,
        format=file_format,
        image_size=size,
        target=target if what == "explanation" else None,
        inputs=inputs,
        outputs=outputs,
        bytes=size_in_bytes,
        opset=number,
        differences=verified.differences,
        completeness=verified.completeness,
        int8=quantised,
    )


def _write(
    traced: Any, path: Path, file_format: str, metadata: dict[str, str], how: dict[str, Any]
) -> tuple[int | None, formats.Runner]:
    """The file, its opset where it has one, and what runs it; `how` ONNX is written."""
    if file_format != "onnx":
        formats.write_torch(traced, path, metadata)
        return None, formats.run_torch(path)
    announce("Translating the graph to ONNX; an explanation takes about a minute ...")
    with formats.told("The model cannot be written as ONNX"):
        number = formats.write_onnx(traced, path, metadata=metadata, **how)
    return number, formats.run_onnx(path)


def _quantised(written: Path, pictures: Tensor, source: str) -> tuple[Path, Any]:
    """A smaller graph beside the one that was written, and what the rounding changes."""
    smaller = written.parent / "int8" / written.name
    smaller.parent.mkdir()
    quantise(written, smaller)
    return smaller, measure(written, smaller, pictures.numpy(), source)


def check_request(
    output: str | Path,
    what: str = "forward",
    format: str | None = None,
    target: str = "own",
    int8: bool = False,
    opset: int | None = None,
) -> str:
    """The format of a request that makes sense and whose packages are there, before any model is read.

    Raises:
        UserError: an unknown word, words that do not go together, or a package that is not installed.
    """
    by_suffix = {suffix: name for name, suffix in formats.SUFFIXES.items()}
    suffix = Path(output).suffix
    if format is None and suffix not in by_suffix:
        raise UserError(f"{output} ends in neither {' nor '.join(by_suffix)}; name the file so, or give the format.")
    kind = format or by_suffix[suffix]
    for name, value, allowed in (
        ("what", what, KINDS),
        ("format", kind, formats.SUFFIXES),
        ("target", target, TARGETS),
    ):
        if value not in allowed:
            raise UserError(f"{name} must be {' or '.join(allowed)}, got {value!r}.")
    if what == "forward" and target != "own":
        raise UserError("A target belongs to an explanation; a forward graph has none.")
    if opset is not None and (opset not in OPSETS or kind != "onnx"):
        raise UserError(f"opset is for ONNX, {OPSETS[0]} to {OPSETS[-1]}, got {opset}.")
    if int8 and (kind, what) != ("onnx", "forward"):
        raise UserError("int8 is for the forward graph in ONNX; export explanations in float32.")
    formats.check_packages(kind)
    return kind


def check_destination(path: Path, overwrite: bool = False) -> None:
    """Raises: UserError where a file cannot be put, or one is that shall stay."""
    taken = [path] if path.is_dir() else [] if overwrite else formats.files_of(path)
    if taken:
        raise UserError(f"{taken[0]} exists; give another file name, or --overwrite.")
    if not path.parent.is_dir():
        raise UserError(f"The folder {path.parent} does not exist; make it first.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"The folder {path.parent} cannot be written to.")


def check_student(model: nn.Module, target: str = "own") -> None:
    """Raises: UserError for what is no student, or has no classes where they are asked for."""
    if getattr(getattr(model, "config", None), "model_type", None) != "bcos_vit":
        raise UserError(f"{type(model).__name__} is not a B-cos student: align it first (aloe align), then export it.")
    if target == "class" and not hasattr(model, "classifier"):
        raise UserError("This model has no classifier, so no class to explain; take the target 'own' or 'direction'.")


def side_of(model: nn.Module, wanted: int | None) -> int:
    """The side in pixels of a graph's images; default: the model's own resolution.

    Raises:
        UserError: it is no whole number of patches.
    """
    config: Any = model.config
    return check_side(config.resolution if wanted is None else wanted, config.patch_size, "image_size")


def _images(images: Tensor | None, size: int) -> Tensor | None:
    if images is not None and (images.ndim != 4 or tuple(images.shape[1:]) != (3, size, size) or not len(images)):
        raise UserError(f"Images to measure int8 on must be (B, 3, {size}, {size}), got {tuple(images.shape)}.")
    return None if images is None else images.float().cpu()


def _noise(model: nn.Module, size: int) -> Tensor:
    return random_inputs(model, size, "own", RANDOM_IMAGES, torch.Generator().manual_seed(SEED))["image"]


def _outputs(model: nn.Module, what: str) -> list[str]:
    of_classes = () if hasattr(model, "classifier") else ("logits", "prediction")
    return [name for name in (FORWARD if what == "forward" else EXPLANATION) if name not in of_classes]


def _metadata(model: nn.Module, what: str, size: int, target: str, outputs: list[str], int8: bool) -> dict[str, str]:
    """What the file says about itself, all words; no path of this machine."""
    from importlib.metadata import version

    config: Any = model.config
    meanings = FORWARD if what == "forward" else EXPLANATION
    said = {
        "version": version("aloe-vit"),
        "model": Path(str(getattr(model, "name_or_path", "") or "student")).name,
        "teacher": Path(str(config.teacher.get("name") or "")).name,
        "licence": str(config.teacher.get("licence") or ""),
        "what": what,
        "image_size": str(size),
        "patch_size": str(config.patch_size),
        "precision": "int8 products" if int8 else "float32",
        "image": IMAGE,
        "outputs": json.dumps({name: meanings[name] for name in outputs}),
    }
    if what == "explanation":
        said["target"] = TARGETS[target]
    if "logits" in outputs:
        said["id2label"] = json.dumps({str(i): name for i, name in sorted(config.id2label.items())})
    return {f"aloe.{key}": value for key, value in said.items()}
