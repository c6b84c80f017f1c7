"""Pictures beside one another with captions, as one PNG; written whole or not at all."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from aloe.core.files import whole

GAP, INK, PAPER = 8, (40, 40, 40), (255, 255, 255)


def row(
    pictures: Sequence[np.ndarray | Image.Image], captions: Sequence[str], side: int = 224, font_size: int = 13
) -> Image.Image:
    """One line of square pictures, each scaled to `side` pixels, with a caption under it.

    Arrays are (H, W, 3) uint8. Small pictures are enlarged without smoothing, so that pixels stay pixels.
    """
    font = ImageFont.load_default(font_size)
    caption_height = 2 * font_size if any(captions) else 0
    sheet = Image.new("RGB", (len(pictures) * (side + GAP) - GAP, side + caption_height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left = i * (side + GAP)
        sheet.paste(_scaled(picture, side), (left, 0))
        draw.text((left + side / 2, side + font_size), _shorten(caption, font, side), INK, font, anchor="mm")
    return sheet


def stack(rows: Sequence[Image.Image]) -> Image.Image:
    """Rows under one another."""
    width = max(r.width for r in rows)
    sheet = Image.new("RGB", (width, sum(r.height + GAP for r in rows) - GAP), PAPER)
    top = 0
    for r in rows:
        sheet.paste(r, (0, top))
        top += r.height + GAP
    return sheet


def save_png(picture: Image.Image, path: Path, texts: Mapping[str, str] | None = None) -> None:
    """Write a PNG aside and rename it into place; `texts` by their keys are kept in it.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    info = PngInfo()
    for key, text in (texts or {}).items():
        info.add_text(key, text)
    with whole(path) as aside:
        picture.save(aside, "PNG", optimize=True, pnginfo=info)


def _scaled(picture: np.ndarray | Image.Image, side: int) -> Image.Image:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    if image.size == (side, side):
        return image
    return image.resize((side, side), Image.Resampling.NEAREST if image.width < side else Image.Resampling.LANCZOS)


def _shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def data_uri(picture: Image.Image, kind: str = "PNG", **options: Any) -> str:
    """A picture as an address that a page can show without a file; `options` are those of Pillow's format."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
