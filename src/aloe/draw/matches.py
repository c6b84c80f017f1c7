"""Two views side by side with lines between matched points: green with dots where right, red with crosses where wrong."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from aloe.draw.gallery import GAP, INK, PAPER

RIGHT, WRONG = (46, 204, 64), (230, 40, 40)
LINES = 60
_SMOOTH = 3  # drawn this many times larger and reduced, because Pillow's lines have hard edges
_FONT_SIZE = 13


def match_picture(
    first: Tensor,
    second: Tensor,
    pixels: Tensor,
    errors: Tensor,
    *,
    threshold: float = 0.02,
    lines: int = LINES,
    height: int = 320,
    caption: str | None = None,
) -> Image.Image:
    """Both views at one height with at most `lines` matches, chosen evenly by rank.

    Args:
        first, second: images (3, H, W) in [0, 1], of any two sizes.
        pixels: (M, 2, 2), x and y in view 0 and in view 1, the best score first.
        errors: (M,), right below `threshold`.
        height: of both pictures, in pixels.
        caption: under the pictures; None: how many of the matches are right; empty: no line of text.
    """
    left, right = scaled(first, height), scaled(second, height)
    shown = evenly(len(errors), lines)
    good = (errors < threshold).tolist()
    offset = left.width + GAP
    ends = pixels.double() * torch.tensor([height / first.shape[-2], height / second.shape[-2]])[None, :, None]
    ends[:, 1, 0] += offset
    sheet = Image.new("RGB", (offset + right.width, height), PAPER)
    sheet.paste(left, (0, 0))
    sheet.paste(right, (offset, 0))
    sheet = sheet.resize((_SMOOTH * sheet.width, _SMOOTH * sheet.height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(sheet)
    for i in reversed(shown):  # the best on top
        _line(draw, (_SMOOTH * ends[i]).tolist(), good[i])
    sheet = sheet.reduce(_SMOOTH)
    if caption is None:
        caption = f"{sum(good)} of {len(good)} matches within {100 * threshold:g} cm; {len(shown)} shown"
    return captioned(sheet, caption) if caption else sheet


def evenly(count: int, limit: int) -> list[int]:
    """At most `limit` of the numbers below `count`, first and last among them, equally far apart."""
    return [round(x) for x in np.linspace(0, count - 1, min(count, limit)).tolist()]


def _line(draw: ImageDraw.ImageDraw, ends: list[list[float]], good: bool) -> None:
    colour, radius = (RIGHT if good else WRONG), 3 * _SMOOTH
    draw.line([tuple(end) for end in ends], colour, width=_SMOOTH + 1)
    for x, y in ends:
        if good:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour, outline=INK)
        else:
            for sign in (-1, 1):
                draw.line((x - radius, y - sign * radius, x + radius, y + sign * radius), colour, width=_SMOOTH + 2)


def scaled(image: Tensor, height: int) -> Image.Image:
    """An image (3, H, W) in [0, 1] as a picture of that height."""
    array = (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    picture = Image.fromarray(array)
    width = max(1, round(picture.width * height / picture.height))
    if picture.size == (width, height):
        return picture
    smaller = picture.height < height  # small pictures are enlarged without smoothing, so that pixels stay pixels
    return picture.resize((width, height), Image.Resampling.NEAREST if smaller else Image.Resampling.LANCZOS)


def captioned(picture: Image.Image, caption: str) -> Image.Image:
    """The picture with a line of text below."""
    font = ImageFont.load_default(_FONT_SIZE)
    sheet = Image.new("RGB", (picture.width, picture.height + 2 * _FONT_SIZE), PAPER)
    sheet.paste(picture, (0, 0))
    place = (picture.width / 2, picture.height + _FONT_SIZE)
    ImageDraw.Draw(sheet).text(place, caption, INK, font, anchor="mm")
    return sheet
