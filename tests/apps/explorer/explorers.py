"""The explorer under test: the shipped scenes teacher, a student converted from it, and small rendered scenes."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from aloe.apps.explorer.explorer import Explorer, Picture
from aloe.data.scenes import render, teacher_path
from aloe.models.convert import bcosify
from aloe.models.teachers import load_teacher

TEACHER, STUDENT = "the teacher", "the student"


@cache
def scene_models() -> dict[str, Any]:
    """Both with the ten classes of the scenes."""
    teacher = load_teacher(teacher_path())
    return {TEACHER: teacher, STUDENT: bcosify(teacher)}


@cache
def scene_explorer() -> Explorer:
    return Explorer(scene_models())


@cache
def scene(index: int = 0, seed: int = 5) -> Image.Image:
    return Image.fromarray(render(seed, index, 64).image)


def picture(explorer: Explorer, index: int = 0) -> Picture:
    return explorer.open(scene(index), f"scene {index}")


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bomb(side: int = 8000) -> bytes:
    """A PNG of few bytes and very many pixels."""
    return encoded(Image.new("1", (side, side)))


def tensor(image: Image.Image) -> torch.Tensor:
    """(1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255


def close(found: Any, expected: Any) -> bool:
    """Equal but for the last bits, which the alignment of memory decides."""
    found, expected = np.asarray(found), np.asarray(expected)
    return found.shape == expected.shape and np.allclose(found, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())
