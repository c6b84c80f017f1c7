"""Where output may go: not among the images that are read."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from aloe.core.errors import UserError
from aloe.core.files import expanded
from aloe.data.decode import is_image_name


def output_folder(value: Any) -> Path:
    """A folder to write to, `~` for the user's own.

    Raises:
        UserError: it is empty or no path, or a file.
    """
    if not isinstance(value, str | Path) or not str(value).strip():
        raise UserError(f"output_dir must be the path of a folder, got {value!r}.")
    path = expanded(value)
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file; give a folder as --output-dir.")
    return path


def check_new(output_dir: Path) -> None:
    """Raises UserError for a folder that something is in, or a file."""
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise UserError(f"{output_dir} is not empty; give another --output-dir.")


def check_output(images: str | Path | Sequence[str | Path], output_dir: Path) -> None:
    """Pictures go where no image is read from.

    Raises:
        UserError: the folder is a file, or one of the images' own folders.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise UserError(f"{output_dir} is a file; give a folder as --output-dir.")
    out = output_dir.resolve()
    if any(out == folder or (deep and folder in out.parents) for folder, deep in _folders(images)):
        raise UserError(
            f"{output_dir} is one of the images' own folders, where pictures could overwrite images or be taken for some;"
            " give another --output-dir."
        )


def _folders(images: str | Path | Sequence[str | Path]) -> Iterator[tuple[Path, bool]]:
    """The folders that a specification reads from, and whether those below them are read as well."""
    for spec in [images] if isinstance(images, str | Path) else images:
        outer = re.split("::|[@#]", str(spec).removeprefix("hf:"))[0]  # of FOLDER::inner and hf:FOLDER@split
        path = next((p for p in (expanded(spec), expanded(outer)) if p.exists()), expanded(spec))
        if path.is_dir():
            yield path.resolve(), True
        elif path.is_file() and is_image_name(path.name):
            yield path.parent.resolve(), False
        elif glob.has_magic(str(path)):
            depth = next(i for i, part in enumerate(path.parts) if glob.has_magic(part))
            files_of_one_folder = depth == len(path.parts) - 1 and is_image_name(path.name)
            yield Path(*path.parts[:depth]).resolve(), not files_of_one_folder
