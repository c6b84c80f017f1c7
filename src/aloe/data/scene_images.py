"""Rendered scenes as a source of labelled images."""

from __future__ import annotations

import re
from functools import cached_property

import numpy as np
from PIL import Image

from aloe.core.errors import UserError
from aloe.core.files import digest
from aloe.data.decode import DraftSize


class SceneImages:
    """Rendered scenes: labelled images that need no data set, the same on every machine."""

    def __init__(self, length: int, seed: int = 0, resolution: int = 64) -> None:
        from aloe.data.scenes import CLASSES, SceneDataset

        self.classes: list[str] | None = list(CLASSES)
        self._settings, self._drawn = f"scenes:{length}@{seed}@{resolution}", f"scene@{seed}@{resolution}"
        self._scenes = SceneDataset(length, seed=seed, resolution=resolution)

    @classmethod
    def parse(cls, spec: str) -> SceneImages:
        """`scenes:LENGTH[@SEED[@RESOLUTION]]`."""
        match = re.fullmatch(r"scenes:([1-9]\d{0,18})(?:@(\d{1,19}))?(?:@([1-9]\d{0,18}))?", spec, re.ASCII)
        if match is None:
            raise UserError(f"{spec!r} is not of the form scenes:LENGTH[@SEED[@RESOLUTION]] (scenes:2000@1@64).")
        from aloe.data.scenes import check_sizes

        length, seed, resolution = match.groups()
        check_sizes(spec, int(length), int(seed or 0), int(resolution or 64))
        return cls(int(length), int(seed or 0), int(resolution or 64))

    @cached_property
    def labels(self) -> np.ndarray | None:
        return np.asarray(self._scenes.labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._scenes)

    def name(self, index: int) -> str:
        return f"scene {index}"

    def load(self, index: int, draft_size: DraftSize | None = None) -> Image.Image:
        return Image.fromarray(np.asarray(self._scenes[index].image))

    def content(self, index: int) -> str:
        """The seed, the resolution and the number, which a scene follows from."""
        return f"{self._drawn}@{index}"

    def mask(self, index: int) -> np.ndarray:
        """(H, W) bool, the visible pixels of the labelled object."""
        return np.asarray(self._scenes[index].mask)

    def fingerprint(self) -> str:
        # The first picture stands for the renderer: another version of it is another data set.
        return digest([self._settings, self.load(0).tobytes().hex()])

    def state(self) -> str:
        """The fingerprint: a renderer that draws the first picture alike and a later one differently is not told apart."""
        return self.fingerprint()
