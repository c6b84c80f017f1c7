"""Folders of pictures: the record that says whose a folder is and what every picture shows, and the pictures' names."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from aloe.core.errors import UserError
from aloe.core.files import read_object
from aloe.core.printable import file_name
from aloe.data.sources import FolderStore

Row = dict[str, Any]

IMAGES = ("file", "image", "like_image")  # records of earlier versions may have none
ASKED = ("target", "texts", "like", "toward", "against", "neighbours")


def check_owner(
    output_dir: Path, record: str, rows: str, about: Mapping[str, Any], own: Collection[str] = ()
) -> list[Row]:
    """The rows of earlier pictures in a folder, none of a new folder: it belongs to its models, as a run's folder belongs to
    one run.

    Args:
        record: name of the JSON file. rows: what their list is called there. about: what the file must say.
        own: files of the images themselves, which are never overwritten.

    Raises:
        UserError: it holds something else, and what; or the record is damaged.
    """
    try:
        held = sorted(
            path.name for path in output_dir.iterdir() if not path.name.startswith(".") and path.name not in own
        )
    except OSError:  # not there, or said when it is written
        return []
    if not held:
        return []
    if record not in held:
        raise UserError(f"{output_dir} is not empty and holds no {record} of aloe; give another --output-dir.")
    content = read_object(output_dir / record, "give another --output-dir")
    differs = next((key for key in about if content.get(key) != about[key]), None)
    if differs:
        raise UserError(
            f"{output_dir} holds pictures of another model ({differs} was {content.get(differs)!r}, now"
            f" {about[differs]!r}); give another --output-dir."
        )
    earlier = content.get(rows, [])
    if not isinstance(earlier, list) or not all(isinstance(_picture(row), str) for row in earlier):
        raise UserError(
            f"{output_dir / record} is damaged: {rows!r} in it is no list of objects with a picture's name each;"
            " give another --output-dir."
        )
    return earlier


def with_earlier(rows: Sequence[Mapping[str, Any]], earlier: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The rows of a record, pictures by their names in the folder, after those of earlier pictures that are still there."""
    before = {row["picture"]: row for row in earlier}
    new = [{**row, "picture": Path(row["picture"]).name} for row in rows]
    new = [{**_further(before.get(row["picture"], {}), row), **row} for row in new]
    written = {row["picture"] for row in new}
    return [*(dict(row) for row in earlier if row["picture"] not in written), *new]


def _further(old: Mapping[str, Any], new: Mapping[str, Any]) -> Row:
    """The further pictures of an earlier row, and what they show, where the new one is of the same images and question."""
    kinds = [kind for kind, _ in _pictures(old) if kind]
    keys = [key for kind in kinds for key in (kind, f"{kind}_picture") if key in old]
    return {} if _differ(old, new, "") else {key: old[key] for key in keys}


def replaced(rows: Sequence[Mapping[str, Any]], earlier: Sequence[Mapping[str, Any]]) -> list[str]:
    """The pictures of `rows` that an earlier run wrote of other images, or for another question."""
    before = {name: row for row in earlier for _, name in _pictures(row)}
    return [
        name for row in rows for kind, name in _pictures(row) if name in before and _differ(before[name], row, kind)
    ]


def image_hashes(images: Tensor) -> list[str]:
    """A short hash of each image's pixels, of (B, 3, H, W) in [0, 1]."""
    return [hashlib.sha256(pixels.tobytes()).hexdigest()[:16] for pixels in image_bytes(images)]


def image_bytes(images: Tensor) -> np.ndarray:
    """(B, 3, H, W) in [0, 1] as bytes (B, H, W, 3)."""
    return (images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def names_of_images(source: Any, folder: Path) -> set[str]:
    """The source's own files in a folder, also where they were reached through a link."""
    store = getattr(source, "_store", None)
    if not (isinstance(store, FolderStore) and folder.is_dir()):
        return set()
    files = ((store.root / name).resolve() for name in store.names())
    return {file.name for file in files if file.parent == folder.resolve()}


def free_name(name: str, taken: set[str], kind: str = "explained") -> str:
    """What the picture of an image is called; `a.jpg` beside `a.png` keeps its extension, so that neither is lost."""
    flat = file_name(name.replace("/", "_"))
    free, copy = f"{Path(flat).stem}_{kind}.png", 1
    while free in taken:
        free = f"{flat}_{kind}.png" if copy == 1 else f"{flat}.{copy}_{kind}.png"
        copy += 1
    taken.add(free)
    return free


def _picture(row: Any) -> Any:
    return row.get("picture") if isinstance(row, dict) else None


def _pictures(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What of a row each picture shows (`regions` of `regions_picture`, "" of the row itself), and the file names."""
    keys = [key for key in row if key == "picture" or key.endswith("_picture")]
    return [(key.removesuffix("picture").rstrip("_"), Path(row[key]).name) for key in keys]


def _differ(old: Mapping[str, Any], new: Mapping[str, Any], kind: str) -> bool:
    images = any(old.get(key, new.get(key)) != new.get(key) for key in IMAGES)
    asked = any(_named(old.get(key)) != _named(new.get(key)) for key in ASKED)
    return images or asked or _parts(old.get(kind)) != _parts(new.get(kind))


def _parts(shown: Any) -> Any:
    """What a further picture was asked to show: the regions themselves, or how many pairs."""
    if not isinstance(shown, list):
        return None
    return [part["region"] if isinstance(part, dict) else None for part in shown]


def _named(asked: Any) -> Any:
    """What was asked for, without the numbers found: the texts themselves, and of neighbours which images they are."""
    if isinstance(asked, dict):
        return sorted(asked)
    if isinstance(asked, list):
        return [[one.get(key) for key in IMAGES] if isinstance(one, dict) else one for one in asked]
    return asked
