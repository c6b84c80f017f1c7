"""Checkpoints that are whole or not used: tensors in safetensors, everything else as JSON, and a hash of every file.

No pickle is written or read. `seal` is the last thing written into a folder that is then renamed to `checkpoint-N`, so a
run that is killed leaves whole checkpoints; one that was damaged later no longer has its hashes, and the one before is used.
With the run's `run.json` in it a checkpoint knows whose it is; folders of other names (`checkpoint-8.bak`) are left alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from aloe.core.errors import UserError
from aloe.core.files import file_digest, parse_json, read_json

SEAL = "checksums.json"
RUN_NAME = "run.json"  # of the run's folder, and a copy of it in every checkpoint
TOLD = {"versions", "image_count"}  # in the record for people: they follow from the rest or may change
_FOLDER = re.compile(r"checkpoint-(0|[1-9]\d*)")
_STATE = "state"


def checkpoints(folder: Path) -> list[Path]:
    """Sealed checkpoints of a run, oldest first; what they hold is not read."""
    folders = [p for p in folder.glob("checkpoint-*") if _FOLDER.fullmatch(p.name) and (p / SEAL).is_file()]
    return sorted(folders, key=step_of)


def step_of(path: Path) -> int:
    """The step after which a checkpoint was written, as its name says it."""
    return int(path.name.rpartition("-")[2])


def last_sound(folder: Path) -> tuple[Path | None, list[Path]]:
    """The newest checkpoint whose files are as they were written, and the newer ones that are damaged.

    Raises:
        UserError: it was written by another run, or at another step than its name says.
    """
    damaged: list[Path] = []
    for path in reversed(checkpoints(folder)):
        if not is_sound(path):
            damaged.append(path)
            continue
        strange = stranger(path, folder)
        if strange:
            raise UserError(f"{path} is {strange}; move it out of {folder.name} and run again.")
        return path, damaged
    return None, damaged


def stranger(path: Path, home: Path) -> str:
    """What is wrong with a sound checkpoint that a run did not write itself, in a few words; "" for its own."""
    ours, its = _record(home), _record(path)
    keys = [k for k in {**ours, **its} if k not in TOLD and ours.get(k) != its.get(k)] if ours and its else []
    if keys:
        differs = ", ".join(f"{k} {its.get(k)!r}, here {ours.get(k)!r}" for k in keys[:2])
        return f"a checkpoint of another run ({differs})"
    try:
        step = read_json(path / "trainer_state.json")["global_step"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # its hashes are right: it has none
    return "" if step == step_of(path) else f"a copy of the checkpoint at step {step} under another number"


def rotate(home: Path, keep: int, step: int) -> None:
    """Remove all but the `keep` newest checkpoints that the run in `home` wrote up to `step`."""
    folders = [path for path in checkpoints(home) if step_of(path) <= step]
    for old in folders[:-keep]:
        if not stranger(old, home):
            shutil.rmtree(old)


def _record(folder: Path) -> dict[str, Any]:
    try:
        return dict(read_json(folder / RUN_NAME))
    except (OSError, ValueError, TypeError):  # of before checkpoints had one
        return {}


def seal(folder: Path) -> None:
    """Write the hashes of a checkpoint's files, and bring all of it to the disk."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    hashes = {str(p.relative_to(folder)): file_digest(p) for p in files}
    (folder / SEAL).write_text(json.dumps(hashes, indent=1) + "\n")
    for path in (*files, folder / SEAL, folder):
        _flush(path)


def is_sound(folder: Path) -> bool:
    """Whether every file that was sealed is there and unchanged."""
    try:
        hashes = read_json(folder / SEAL)
        return bool(hashes) and all(file_digest(folder / name) == digest for name, digest in hashes.items())
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
            return _unpacked(parse_json(words), file)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
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
    values = [_unpacked(v, file) for v in content]
    return tuple(values) if kind == "tuple" else values


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
