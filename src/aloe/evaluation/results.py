"""Result rows: one measured number with everything it depends on, appended to `results.jsonl` the moment it exists.

A row's key is a hash of what determines its value (model, data, task, settings, versions): a row whose key is already in the
file is not measured again. A line cut off by a crash is dropped when the file is opened next.
"""

from __future__ import annotations

import os
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from aloe.attribution.presets import PRESETS
from aloe.core import processes
from aloe.core.errors import UserError
from aloe.core.files import append_line, digest_of, read_bytes
from aloe.core.progress import say
from aloe.core.rows import Keyed
from aloe.evaluation.rows import checked_lines, result_lines
from aloe.evaluation.settings import RESULTS_NAME
from aloe.models.backbone import Backbone

SIZES = {(192, 12): "Ti", (384, 12): "S", (768, 12): "B", (1024, 24): "L", (1152, 27): "so400m", (1280, 32): "H"}

Row = dict[str, Any]

RESULTS_LIMIT = 1 << 32
"""Bytes of the largest file of results that is read."""


class _Keyed(BaseModel):
    key: str


class ResultLog:
    """The rows of a results folder, or of another file in it, whose rows are of `kind`.

    A line that is no row stays in the file, is named on standard error and does not count, as in a report. Of several
    processes the first reads and writes the file, for all.

    Raises:
        UserError: the folder cannot be written, or holds a file of that name without any row, or two results of a key that
            contradict each other. Rows of other files may say more each time: the last one of a key counts.
    """

    def __init__(self, folder: Path, name: str = RESULTS_NAME, kind: type[BaseModel] | None = None) -> None:
        self.path = folder / name
        self.rows = processes.of_first(lambda: self._found(name, kind))

    def _found(self, name: str, kind: type[BaseModel] | None) -> dict[str, Row]:
        folder = self.path.parent
        there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise UserError(f"{there} is not a folder that results can be written to; give another --output-dir.")
        try:
            data = read_bytes(self.path, RESULTS_LIMIT) if self.path.exists() else b""
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {error.strerror}.") from error
        end = data.rfind(b"\n") + 1
        rows, left_out = (
            result_lines(self.path, data[:end], Keyed())
            if name == RESULTS_NAME
            else checked_lines(self.path, data[:end], kind or _Keyed, "row")
        )
        if left_out and not rows:
            raise UserError(f"{self.path} holds no result rows ({left_out[0].rstrip('.')}); move the file away.")
        if left_out:
            say("\n".join(left_out))
        if end < len(data):
            with self.path.open("rb+") as file:
                file.truncate(end)
        return {row["key"]: row for _, row, _ in rows}

    def get(self, key: str) -> Row | None:
        return self.rows.get(key)

    def find(self, facts: dict[str, Any]) -> Row | None:
        """The row that these facts determine, perhaps measured under the other preset, where that gives the method the same
        options: it is then added under its own key."""
        key = row_key(facts)
        if (row := self.get(key)) is not None or "preset" not in facts["settings"]:
            return row
        for preset in PRESETS:
            twin = self.get(row_key({**facts, "settings": {**facts["settings"], "preset": preset}}))
            if twin is not None:
                self.add({**twin, "key": key, "settings": facts["settings"]})
                return self.get(key)
        return None

    def add(self, row: Row) -> None:
        """Append a row; it is on the disk when this returns."""
        if processes.is_first():
            append_line(self.path, row)
        self.rows[row["key"]] = row


# Settings that came after results had been measured, and what they were until then: at that value they are left out of the
# hash, so that those rows are found again.
_LATER = {"smooth": 0, "preset": "best", "fractions": "fine", "among": "confident"}
_FIRST_NAMED = {"whole": "native", "resized": "resized"}  # protocols of GridPG, as `grid_input`


def row_key(facts: dict[str, Any]) -> str:
    """A hash of what determines a row's value."""
    if isinstance(settings := facts.get("settings"), dict):
        settings = {k: v for k, v in settings.items() if k not in _LATER or v != _LATER[k]}
        if (name := _FIRST_NAMED.get(settings.get("protocol", ""))) is not None:
            settings = {**{k: v for k, v in settings.items() if k != "protocol"}, "grid_input": name}
        facts = {**facts, "settings": settings}
    return digest_of(facts, 16)


def versions(*also: str) -> dict[str, str]:
    """Versions of what every value depends on, and of what else is named, where it is installed."""
    installed = {name: version(name) for name in ("aloe-vit", "torch", "transformers")}
    for name in also:
        with suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed


def describe(name: str, model: Backbone) -> dict[str, Any]:
    """Who a model is: `name`, `stage`, `teacher`, `architecture`, `interpretable` (see `aloe.report`)."""
    config: Any = model.config
    label = Path(name).name if Path(name).exists() else name
    if model.interpretable:
        teacher, stage, letter = config.teacher.get("name", ""), config.teacher.get("stage", "student"), "B-"
    else:
        teacher, stage, letter = model.title, "teacher", ""
    shape = (config.hidden_size, config.num_hidden_layers)
    size = f"ViT-{SIZES[shape]}" if shape in SIZES else f"ViT {shape[1]}x{shape[0]}"
    return {
        "name": label,
        "stage": stage,
        "teacher": teacher,
        "architecture": f"{letter}{size}/{model.patch_size}",
        "interpretable": model.interpretable,
    }
