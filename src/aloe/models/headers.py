"""Shapes of a checkpoint's tensors from its safetensors headers alone: no weights are read, no module is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aloe.core.errors import UserError
from aloe.core.files import open_regular, parse_json, read_object
from aloe.models.unwrap import plain_name

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = ("F64", "F32", "F16", "BF16")
HEADER_BYTES = 100_000_000
"""As the format has it."""
COUNTED = ("position_ids", "num_batches_tracked")
"""Endings of the names of buffers that hold whole numbers."""


def weight_files(name: str, revision: str | None = None) -> list[Path]:
    """The safetensors files of a folder or hub id; none where it has none.

    Raises:
        UserError: an index that names anything but plain safetensors files beside it.
    """
    from transformers.utils import cached_file

    options: dict[str, Any] = {"revision": revision, "_raise_exceptions_for_missing_entries": False}
    single = cached_file(name, SINGLE, **options)
    if single is not None:
        check_header(Path(str(single)))
        return [Path(str(single))]
    index = cached_file(name, INDEX, **options)
    if index is None:
        return []
    parts = read_object(Path(str(index)), "fetch it again").get("weight_map")
    if not isinstance(parts, dict) or not all(isinstance(p, str) for p in parts.values()):
        raise UserError(f"{index} has no weight_map of tensor names to files; fetch it again.")
    files = sorted(set(parts.values()))
    for file in files:
        if Path(file).name != file or "\\" in file or not file.endswith(".safetensors"):
            raise UserError(f"{index} names {file!r}; only safetensors files in its own folder are loaded.")
    paths = [cached_file(name, file, **options) for file in files]
    for file, path in zip(files, paths, strict=True):
        if path is None or not Path(path).is_file():
            raise UserError(f"{index} names {file!r}, which is no file beside it; fetch it again.")
        check_header(Path(path))
    return [Path(str(path)) for path in paths]


def check_header(path: Path) -> None:
    """Hold a safetensors file's header against what its reader takes without a word.

    Raises:
        UserError: no regular file, a header of more than `HEADER_BYTES`, or one that names a tensor twice.
    """
    with open_regular(path) as file:
        size = int.from_bytes(file.read(8), "little")
        if size > HEADER_BYTES:
            raise _corrupt(path, f"its header declares {size} bytes")
        text = file.read(size)
    try:
        parse_json(text)
    except ValueError as error:
        raise _corrupt(path, f"its header: {error}") from error


def _corrupt(path: Path, why: str) -> UserError:
    return UserError(f"{path}: the safetensors file is truncated or corrupt ({why}); fetch it again.")


def shapes_of(name: str, revision: str | None = None) -> dict[str, tuple[int, ...]]:
    """Every tensor's shape by its name; nothing where there are no safetensors.

    Raises:
        UserError: as `weight_files`, or a tensor that holds no floating-point numbers.
    """
    from safetensors import safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(name, revision):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  (not a dictionary)
                part = file.get_slice(key)
                if part.get_dtype() not in FLOATS and not key.endswith(COUNTED):
                    raise UserError(f"{path}: {key!r} holds {part.get_dtype()}, not floating-point numbers.")
                shapes[key] = tuple(part.get_shape())
    return shapes


def check_finite(model: Any, where: str) -> None:
    """Raises UserError for a weight that is NaN or infinite, by its name."""
    for key, weight in model.named_parameters():
        if weight.numel() and weight.device.type != "meta" and not all(v.isfinite() for v in weight.detach().aminmax()):
            raise UserError(f"{where}: the weight {key!r} is not finite; the checkpoint is broken, fetch it again.")


def classifier_rows(shapes: dict[str, tuple[int, ...]]) -> int | None:
    """The number of rows of the classifier, whatever stands before its name; None without one."""
    heads = [shape for key, shape in shapes.items() if f".{plain_name(key)}".endswith(".classifier.weight")]
    rows = [shape[0] for shape in heads if len(shape) == 2]
    return rows[0] if len(rows) == 1 else None
