"""Checkpoints that are whole or not used: tensors in safetensors, everything else as JSON, and a hash of every file.

No pickle is written or read. `seal` is the last thing written into a folder that is then renamed to `checkpoint-N`, so a
run that is killed leaves whole checkpoints; one that was damaged later no longer has its hashes, and the one before is used.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

SEAL = "checksums.json"
_STATE = "state"


def checkpoints(folder: Path) -> list[Path]:
    """Sealed checkpoints of a run, oldest first; what they hold is not read."""
    found = [p for p in folder.glob("checkpoint-*") if (p / SEAL).is_file()]
    return sorted(found, key=lambda p: int(p.name.rsplit("-", 1)[1]))


def last_sound(folder: Path) -> tuple[Path | None, list[Path]]:
    """The newest checkpoint whose files are as they were written, and the newer ones that are damaged."""
    damaged: list[Path] = []
    for path in reversed(checkpoints(folder)):
        if is_sound(path):
            return path, damaged
        damaged.append(path)
    return None, damaged


def seal(folder: Path) -> None:
    """Write the hashes of a checkpoint's files, and bring all of it to the disk."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    hashes = {str(p.relative_to(folder)): _digest(p) for p in files}
    (folder / SEAL).write_text(json.dumps(hashes, indent=1) + "\n")
    for path in (*files, folder / SEAL, folder):
        _flush(path)


def is_sound(folder: Path) -> bool:
    """Whether every file that was sealed is there and unchanged."""
    try:
        hashes = json.loads((folder / SEAL).read_text())
        return bool(hashes) and all(_digest(folder / name) == known for name, known in hashes.items())
    except (OSError, ValueError, AttributeError):
        return False


def write_state(path: Path, state: Any) -> None:
    """Nested dicts, lists and tuples of tensors, arrays, numbers and strings as one safetensors file; see `read_state`."""
    tensors: dict[str, Tensor] = {}
    words = json.dumps(_packed(state, tensors))
    save_file(tensors, path, metadata={_STATE: words})


def read_state(path: Path) -> Any:
    """What `write_state` was given, with every tensor on the CPU.

    Raises:
        ValueError: it is not such a file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            words = (file.metadata() or {})[_STATE]
            return _unpacked(json.loads(words), file)
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} holds no state.") from error


def _packed(value: Any, tensors: dict[str, Tensor]) -> Any:
    """`value` in JSON's types: whatever it has no word for becomes [kind, content]."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()  # safetensors refuses shared memory
        return ["tensor", name]
    if isinstance(value, np.ndarray):
        return ["array", [str(value.dtype), value.tolist()]]
    if isinstance(value, dict):
        return ["dict", [[_packed(k, tensors), _packed(v, tensors)] for k, v in value.items()]]
    if isinstance(value, (list, tuple)):
        return ["tuple" if isinstance(value, tuple) else "list", [_packed(v, tensors) for v in value]]
    if isinstance(value, (np.integer, np.floating)):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"A checkpoint cannot hold a {type(value).__name__}.")


def _unpacked(value: Any, file: Any) -> Any:
    if not isinstance(value, list):
        return value
    kind, content = value
    if kind == "tensor":
        return file.get_tensor(content)
    if kind == "array":
        return np.array(content[1], dtype=content[0])
    if kind == "dict":
        return {_unpacked(k, file): _unpacked(v, file) for k, v in content}
    made = [_unpacked(v, file) for v in content]
    return tuple(made) if kind == "tuple" else made


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
