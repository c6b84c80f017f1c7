"""From a student's name to its page: the model, its card, its texts, and the images that int8 is measured on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from aloe.apps.export.int8 import check_measured, read_images
from aloe.apps.export.run import side_of
from aloe.apps.export.web.build import Page, build_page, check_page
from aloe.apps.export.web.graph import Texts, check_texts
from aloe.core.errors import UserError
from aloe.core.files import read_words
from aloe.evaluation.templates import read_strings
from aloe.evaluation.zeroshot import class_embeddings
from aloe.models.saving import load
from aloe.models.text import text_tower_for
from aloe.models.zoo_models import PREFIX, locate

CARD_LIMIT = 1 << 20
"""Bytes of the largest README.md that a page carries."""


def export_page(
    student: str,
    output: Path,
    *,
    resolution: int | None = None,
    texts: Path | None = None,
    text_tower: str | None = None,
    int8: bool = False,
    images: str | None = None,
    limit: int | None = None,
    **options: Any,
) -> Page:
    """The page of a student by its folder, hub id or name of the zoo; `options` are those of `build_page`.

    Args:
        texts: a file with one text per line (or a JSON list). text_tower: checkpoint of them; default: the teacher's.
        images: photographs that int8 is measured on, at most `limit` of them (default 64).

    Raises:
        UserError: as `build_page`, or texts, images or a text tower that cannot be read.
    """
    flags = {name: options.get(name, False) for name in ("overwrite", "only_int8")}
    check_page(output, int8=int8, measured=images is not None, **flags)
    if text_tower and not texts:
        raise UserError("--text-tower belongs to --texts; give it as well.")
    check_measured(int8, images, limit)
    names = read_texts(texts)
    model = load(student)
    side = side_of(model, resolution)
    card = Path(locate(student)) / "README.md"
    options.setdefault("card", read_words(card, CARD_LIMIT) if card.is_file() else None)
    return build_page(
        model,
        output,
        title=options.pop("title", None) or Path(student.removeprefix(PREFIX)).resolve().name,
        texts=texts_of(model, names, text_tower) if names else None,
        int8=int8,
        images=read_images(images, side, limit) if images else None,
        image_source=public_source(images or ""),
        image_size=side,
        **options,
    )


def read_texts(path: Path | None) -> list[str]:
    """The texts of a file, one a line or a JSON list; none without a file. Raises UserError where it holds none."""
    names = read_strings(path) if path else []
    if path and not names:
        raise UserError(f"{path} holds no texts; write one per line.")
    return names


def texts_of(model: nn.Module, names: list[str], text_tower: str | None = None) -> Texts:
    """The texts as directions of the model's features.

    Raises:
        UserError: the model has classes, a text comes twice or is too long, or there is no text tower that fits.
    """
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise UserError(f"The text {twice!r} comes twice; leave one out.")
    check_texts(model)
    tower = text_tower_for(model, text_tower)
    return Texts(tuple(names), class_embeddings(tower, names, ["{}"]).float().cpu(), tower.scale, tower.bias)


def public_source(images: str) -> str:
    """A source of images as the page may name it: what is inside an archive, or the last part of a path."""
    _, inside, inner = images.rstrip("/").rpartition("::")
    return inner if inside else Path(inner).name
