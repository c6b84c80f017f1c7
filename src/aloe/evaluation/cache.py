"""Features on disk: numbered parts in a folder named by what they were made from, each whole or absent.

A part is one safetensors file, written aside and renamed. There is no index and no lock: a folder whose name is a hash of the
weights, the data and the view cannot hold anything else, and two processes that write the same part write the same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from aloe.core.errors import UserError
from aloe.core.files import whole
from aloe.data.archives import cache_folder, decompressing_into

Part = dict[str, Any]
P = ParamSpec("P")
R = TypeVar("R")


class PartFolder:
    """The parts under one key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.safetensors"

    def has(self, number: int) -> bool:
        """Whether a part is there and readable; a damaged one is made again."""
        from safetensors import SafetensorError

        try:
            read_part(self.path(number), without=("features", "labels", "index"))
        except (OSError, SafetensorError):
            return False
        return True

    def write(self, number: int, part: Part, unreadable: Sequence[str]) -> None:
        """Write one part whole.

        Raises:
            UserError: the folder cannot be written.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        def fault(error: Exception) -> str:
            return (
                f"The features could not be kept in {self.folder.parent} ({error}); free some space there, give another"
                " --cache, or run with --no-cache."
            )

        try:
            with whole(self.path(number), fault) as aside:
                save_file(part, aside, metadata={"unreadable": json.dumps(list(unreadable))})
        except SafetensorError as error:
            raise UserError(fault(error)) from error


def read_part(path: Path, without: Sequence[str] = ()) -> Part:
    """The tensors of a part, copied out of the file, without those named; and `unreadable`, a list of names."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        part: Part = {name: file.get_tensor(name).clone() for name in file.keys() if name not in without}  # noqa: SIM118
        part["unreadable"] = json.loads((file.metadata() or {}).get("unreadable", "[]"))
    return part


def archives_in_cache(call: Callable[P, R]) -> Callable[P, R]:
    """A function with a keyword `cache`, which decompresses archives into `cache`/archives where one is chosen."""

    @wraps(call)
    def within(*arguments: P.args, **others: P.kwargs) -> R:
        cache: Any = others.get("cache")
        folder = None if cache is None or Path(cache) == default_cache() else Path(cache) / "archives"
        with decompressing_into(folder):
            return call(*arguments, **others)

    return within


def default_cache() -> Path:
    """Where features are kept: beside the decompressed archives, under `$ALOE_CACHE` or `~/.cache/aloe`."""
    root = cache_folder()
    return (root if os.environ.get("ALOE_CACHE") else root.parent) / "features"
