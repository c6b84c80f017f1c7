"""Pictures that say what made them: the same command makes those that are missing, in any number of processes.

A picture is a PNG, written whole, with a text in it: a hash of the model and the settings that made it, and its row of the
record. It is there when that hash is the command's and the image it shows is the one that is read now.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from aloe.attribution.records import Row, check_owner, free_name, image_hashes, names_of_images, replaced, with_earlier
from aloe.core import processes
from aloe.core.bounds import check_batch
from aloe.core.files import digest_of, write_json
from aloe.core.printable import shown
from aloe.data.batches import over_batches
from aloe.data.places import check_output
from aloe.data.sources import ImageSource
from aloe.data.subset import SubsetImages, open_whole
from aloe.draw.gallery import save_png
from aloe.models.fingerprint import configuration_of, fingerprint

NOTE = "aloe"  # key of the text in a picture

Explain = Callable[[Tensor, list[Row], list[int]], Iterable[Row]]
"""From images (B, 3, H, W), what is known of their rows, and their numbers: rows whose pictures `Made.save` has written."""


@dataclass
class Written:
    """One row per image that was explained, what could not be read or was left out, what was written over, and how many
    images' pictures were there and not made again."""

    rows: list[Row] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    kept: int = 0

    def told(self, rows: str) -> dict[str, Any]:
        """Everything as plain values, its rows under this name."""
        return {rows if name == "rows" else name: value for name, value in vars(self).items()}


def open_limited(images: Any, limit: int | None, batch_size: int) -> ImageSource:
    """The images, the first `limit` of them; raises UserError where there are none, or fewer than a batch."""
    source = processes.after_first(lambda: open_whole(images))
    if limit is not None:
        source = SubsetImages(source, np.arange(min(limit, len(source))))
    check_batch(batch_size, len(source))
    return source


@dataclass
class Made:
    """A folder of pictures of one model (`about`), which belongs to it from the first picture on.

    `names` gives each image of the source its pictures' names, by kind; `key` is a hash of what pictures depend on besides
    their image. `kept` counts the images whose pictures were there.
    """

    record: Path
    rows: str
    about: dict[str, str]
    names: list[dict[str, str]]
    key: str
    earlier: list[Row]
    kept: int = 0
    started: bool = field(default=False)

    @classmethod
    def of(
        cls,
        record: Path,
        rows: str,
        about: Mapping[str, str],
        source: ImageSource,
        kinds: Sequence[str],
        settings: Mapping[str, Any],
        student: Any,
    ) -> Made:
        """Checked before any work.

        Args:
            record: the JSON file of the folder, whose list of pictures is called `rows`. about: whose the folder is.
            kinds: of pictures of an image, the first with its row. settings: what they depend on besides model and image.
            student: whose configuration they depend on besides its weights, which `about` tells.

        Raises:
            UserError: the folder holds something else; several processes read different images or models.
        """
        taken = names_of_images(source, record.parent)
        if processes.count() > 1:
            processes.check_same({"set of images": source.fingerprint(), "model": about["model_fingerprint"]})
        earlier = processes.of_first(lambda: check_owner(record.parent, record.name, rows, about, taken))
        names = [{kind: free_name(source.name(i), taken, kind) for kind in kinds} for i in range(len(source))]
        versions = [version(name) for name in ("aloe-vit", "torch")]
        depends = {"configuration": configuration_of(student.config), "kinds": list(kinds), "versions": versions}
        key = digest_of({**about, **settings, **depends}, 16)
        return cls(record, rows, dict(about), names, key, earlier)

    def there(self, numbers: Sequence[int], images: Sequence[Mapping[str, Any]]) -> list[Row] | None:
        """The rows of some images' pictures, if all of them are there; `images` is what of each row is known before."""
        rows = []
        for number, facts in zip(numbers, images, strict=True):
            names = self.names[number]
            row = _row(self.record.parent / next(iter(names.values())), self.key)
            same = row is not None and all(row.get(name) == value for name, value in facts.items())
            if not same or not all((self.record.parent / name).is_file() for name in names.values()):
                return None
            rows.append(row)
        self.kept += len(rows)
        return [row for row in rows if row is not None]

    def save(self, number: int, pictures: Mapping[str, Any], row: Mapping[str, Any]) -> Row:
        """Write the pictures of an image, by kind, the one that has its row in it last; returns the row with their names.

        Raises:
            UserError: the folder cannot be written, or the disk is full.
        """
        if not self.started:  # from here on the folder is this model's, also if the command is stopped
            self.record.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.record, {**self.about, self.rows: self.earlier})
            self.started = True
        (first, main), *others = self.names[number].items()
        done = {**row, "picture": main, **{f"{kind}_picture": name for kind, name in others}}
        for kind, name in others:
            save_png(pictures[kind], self.record.parent / name)
        save_png(pictures[first], self.record.parent / main, {NOTE: json.dumps({"key": self.key, "row": done})})
        return done

    def over(
        self,
        source: ImageSource,
        explain: Explain,
        done: Written,
        *,
        side: int,
        batch_size: int,
        device: str,
        title: str | None,
    ) -> Written:
        """Every batch of the source explained, but for those whose pictures are there; then the record.

        Args:
            side: pixels of the images. title: of the bar; None: no bar.

        Raises:
            UserError: no image can be read, or the folder cannot be written.
        """

        def rows(loaded: Tensor, numbers: list[int]) -> list[Row]:
            hashes = image_hashes(loaded)
            facts: list[Row] = [{"file": source.name(i), "image": h} for i, h in zip(numbers, hashes, strict=True)]
            there = self.there(numbers, facts)
            return list(explain(loaded.to(device), facts, numbers)) if there is None else there

        all_rows = over_batches(rows, source, side, batch_size, done.unreadable, title)
        done.kept = sum(processes.gathered(self.kept))
        done.replaced = replaced(all_rows, self.earlier)
        home = self.record.parent
        done.rows = [{**row, **{k: str(home / row[k]) for k in row if k.endswith("picture")}} for row in all_rows]
        if processes.is_first():
            lost = {"unreadable": done.unreadable, "left_out": done.left_out}
            write_json(self.record, {**self.about, self.rows: with_earlier(all_rows, self.earlier), **lost})
        return done


def owner_of(student: Any, name: str, source: ImageSource, record: Path, rows: str, *read: Any) -> dict[str, str]:
    """Whose a folder of pictures is, checked before any work; `record` and `rows` as of `Made.of`.

    Raises:
        UserError: it is another's, or among the images that are `read`.
    """
    for images in read:
        check_output(images, record.parent)
    about = {"model": shown(name or type(student).__name__), "model_fingerprint": fingerprint(student)}
    own = names_of_images(source, record.parent)
    processes.of_first(lambda: check_owner(record.parent, record.name, rows, about, own))
    return about


def _row(path: Path, key: str) -> Row | None:
    """The row in a picture that was made under a key; None of any other file."""
    try:
        with Image.open(path) as picture:
            note = json.loads(picture.info.get(NOTE, "null"))
    except (OSError, ValueError, SyntaxError):
        return None
    row = note.get("row") if isinstance(note, dict) and note.get("key") == key else None
    return row if isinstance(row, dict) else None
