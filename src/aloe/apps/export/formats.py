"""Writing a traced graph as ONNX or as a `torch.export` archive, and running the file that was written."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from aloe.core.errors import UserError

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
PACKAGES = {"onnx": ("onnx", "onnxruntime", "onnxscript"), "torch": ()}
EXTERNAL_ABOVE = 2_000_000_000  # bytes of weights; protobuf holds no more than 2 GiB in one file
METADATA = "aloe.json"  # inside a .pt2 archive

Arrays = dict[str, np.ndarray]
Runner = Callable[[Mapping[str, np.ndarray]], Arrays]


def check_packages(file_format: str) -> None:
    """Raises: UserError naming what is not installed."""
    missing = [name for name in PACKAGES[file_format] if find_spec(name) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise UserError(f"{' and '.join(missing)} {verb} not installed: pip install 'aloe-vit[export]'.")


def write_onnx(
    program: ExportedProgram,
    path: Path,
    *,
    inputs: list[str],
    outputs: list[str],
    metadata: Mapping[str, str],
    opset: int | None = None,
    fold: bool = False,
) -> int:
    """Write the program as ONNX; weights of more than 2 GB go to `<path>.data` beside it. Returns the opset.

    `fold` computes all that depends on weights alone (norms, transposes), so that quantisation finds plain weights.
    """
    with quiet():
        written = torch.onnx.export(
            program, (), dynamo=True, input_names=inputs, output_names=outputs, opset_version=opset, verbose=False
        )
        assert written is not None  # it is None only where a file name is given
        model: Any = written.model
        if fold:
            from onnxscript import optimizer

            without_limit = {"input_size_limit": 2**62, "output_size_limit": 2**62}
            optimizer.fold_constants(model, **without_limit)
            optimizer.remove_unused_nodes(model)
        for node in model.graph.all_nodes():
            node.metadata_props.clear()  # paths and variables of this machine
        for value in (*model.graph.inputs, *model.graph.outputs):
            if len(value.shape):
                value.shape[0] = "batch"
        model.metadata_props.update(metadata)
        model.producer_name, model.producer_version = "aloe", metadata.get("aloe.version")
        size = sum(value.const_value.nbytes for value in model.graph.initializers.values())
        written.save(path, external_data=size > EXTERNAL_ABOVE)
    return int(model.opset_imports[""])


def run_onnx(path: Path, threads: int | None = None) -> Runner:
    """The file under onnxruntime on the CPU: inputs by name -> outputs by name."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # or weights in int8 would make products of int8
    if threads:
        options.intra_op_num_threads = options.inter_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, dict(feeds)), strict=True))


def write_torch(program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the program as a `.pt2` archive, which `torch.export.load` reads."""
    with quiet():
        torch.export.save(program, path, extra_files={METADATA: json.dumps(dict(metadata), indent=2)})


def run_torch(path: Path) -> Runner:
    """The file under PyTorch on the CPU: inputs by name, in their order -> outputs by name."""
    with quiet():
        module = torch.export.load(path).module()

    def run(feeds: Mapping[str, np.ndarray]) -> Arrays:
        with torch.no_grad():
            outputs = module(*(torch.from_numpy(np.ascontiguousarray(value)) for value in feeds.values()))
        return {name: value.numpy() for name, value in outputs.items()}

    return run


def files_of(path: Path) -> list[Path]:
    """The files that are there of a graph: itself, and the weights beside it."""
    return [p for p in (path, path.with_name(f"{path.name}.data")) if os.path.lexists(p)]


def file_size(path: Path) -> int:
    """Bytes of a graph, weights beside it included."""
    return sum(p.stat().st_size for p in files_of(path))


@contextmanager
def told(words: str) -> Iterator[None]:
    """Within the block, what every part of torch.export raises becomes a `UserError` of these words and its first line."""
    try:
        yield
    except UserError:
        raise
    except RuntimeError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        raise UserError(f"{words}: {reason}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without the notes of exporter and quantiser about packages and steps that nobody needs here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
