"""Two images and why they are alike: the map of either, the regions asked about, and lines between the strongest pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from aloe.draw.explanations import POSITIVE, colour_explanation, over_white, signed_map
from aloe.draw.gallery import GAP, PAPER, row, stack
from aloe.draw.matches import captioned, scaled

PANEL = 224
"""Pixels of a panel of a small image; panels of larger ones show every pixel."""
FRAME = (255, 140, 0)
_SMOOTH = 3  # drawn this many times larger and reduced, because Pillow's lines have hard edges


def pair_pictures(
    images_a: Tensor,
    images_b: Tensor,
    in_a: Any,
    in_b: Any,
    names: Sequence[tuple[str, str]] = (),
    smooth: int | None = None,
) -> Iterator[Image.Image]:
    """For each pair of images two lines: the image, in colour what in it is like the other, and the signed map with its sum
    and the residual beside it, which add up to the cosine.

    Args:
        images_a, images_b: (B, 3, H, W) in [0, 1]. in_a, in_b: explanations of the same B numbers in their pixels.
        names: of every pair; default: the first and the second image.
    """
    sides = [_panels(images_a, in_a, smooth), _panels(images_b, in_b, smooth)]
    side = max(PANEL, *images_a.shape[-2:], *images_b.shape[-2:])
    for i in range(len(images_a)):
        a, b = names[i] if names else ("the first image", "the second image")
        lines = [
            row(panels[i], [mine, f"in it, what is like {other}", sum_words(explanation, i)], side=side)
            for panels, explanation, mine, other in zip(sides, (in_a, in_b), (a, b), (b, a), strict=True)
        ]
        yield stack(lines)


def region_picture(image_b: Tensor, boxes: Sequence[Any], image_a: Tensor, in_a: Any, name: str = "") -> Image.Image:
    """A line for each region: b with the region framed, and in a what is like it, in colour and signed.

    Args:
        image_b, image_a: (3, H, W). boxes: (x, y, width, height) in pixels of `image_b`. in_a: explanations of the regions.
    """
    panels = _panels(image_a.expand(len(boxes), -1, -1, -1), in_a, None)
    side = max(PANEL, *image_a.shape[-2:], *image_b.shape[-2:])
    lines = []
    for i, box in enumerate(boxes):
        captions = [
            f"region {i + 1} of {name or 'the second image'}",
            "in the other, what is like it",
            sum_words(in_a, i),
        ]
        lines.append(row([_framed(image_b, box, side), *panels[i][1:]], captions, side=side))
    return stack(lines)


def pairs_picture(
    image_a: Tensor,
    image_b: Tensor,
    strongest: Sequence[tuple[int, int, float]],
    grids: tuple[tuple[int, int], tuple[int, int]],
    *,
    height: int = 320,
    caption: str = "",
) -> Image.Image:
    """Two images side by side, with a line for each of the strongest pairs of patches; the wider, the more it adds.

    Args:
        image_a, image_b: (3, H, W) in [0, 1], of any two sizes.
        strongest: numbers of the patches in a and in b, row by row, and what the pair adds; the largest first.
        grids: rows and columns of patches of a and of b.
    """
    pictures = scaled(image_a, height), scaled(image_b, height)
    offset = pictures[0].width + GAP
    sheet = Image.new("RGB", (offset + pictures[1].width, height), PAPER)
    sheet.paste(pictures[0], (0, 0))
    sheet.paste(pictures[1], (offset, 0))
    sheet = sheet.resize((_SMOOTH * sheet.width, _SMOOTH * height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(sheet)
    largest = max((value for _, _, value in strongest), default=1.0) or 1.0
    colour = tuple(round(255 * c) for c in POSITIVE)
    for i, j, value in reversed([s for s in strongest if s[2] > 0]):  # the strongest on top
        ends = [_centre(i, grids[0], pictures[0]), _centre(j, grids[1], pictures[1])]
        ends[1] = (ends[1][0] + offset, ends[1][1])
        big = [(_SMOOTH * x, _SMOOTH * y) for x, y in ends]
        width = max(2, round(_SMOOTH * 4 * value / largest))
        draw.line(big, (255, 255, 255), width=width + 2 * _SMOOTH)
        draw.line(big, colour, width=width)
        radius = width / 2 + 2 * _SMOOTH
        for x, y in big:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour, outline="white", width=_SMOOTH)
    sheet = sheet.reduce(_SMOOTH)
    return captioned(sheet, caption) if caption else sheet


def sum_words(found: Any, i: int) -> str:
    """What a map adds up to, with the residual: `0.4121 + constants 0.3020 = 0.7141`."""
    value, residual = float(found.logit[i]), float(found.residual[i])
    return f"{value - residual:.4f} {'+' if residual >= 0 else '-'} constants {abs(residual):.4f} = {value:.4f}"


def _panels(images: Tensor, explanation: Any, smooth: int | None) -> list[list[np.ndarray]]:
    """Image, colours and signed map of each, on squares."""
    colours = over_white(colour_explanation(explanation.weights, explanation.contributions, smooth))
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1)
    groups = [squared(t.cpu()).numpy() for t in (pixels, colours, signed_map(explanation.contributions))]
    return [list(panels) for panels in zip(*groups, strict=True)]


def squared(pictures: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 on white squares."""
    height, width = pictures.shape[1:3]
    side = max(height, width)
    page = torch.full((len(pictures), side, side, 3), 255, dtype=torch.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    page[:, top : top + height, left : left + width] = pictures
    return page


def _framed(image: Tensor, box: Any, side: int) -> Image.Image:
    """A (3, H, W) image on a white square of `side` pixels, a box drawn into it."""
    page = squared((image[None] * 255).round().byte().permute(0, 2, 3, 1).cpu())[0].numpy()
    picture = Image.fromarray(page)
    small = picture.width < side
    scale = side / picture.width
    picture = picture.resize((side, side), Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)
    height, width = image.shape[-2:]
    x, y, w, h = (float(value) for value in box)
    left, top = (max(height, width) - width) // 2 + x, (max(height, width) - height) // 2 + y
    corners = [scale * left, scale * top, scale * (left + w) - 1, scale * (top + h) - 1]
    ImageDraw.Draw(picture).rectangle(corners, outline=FRAME, width=max(2, side // 75))
    return picture


def _centre(patch: int, grid: tuple[int, int], picture: Image.Image) -> tuple[float, float]:
    rows, columns = grid
    return (patch % columns + 0.5) * picture.width / columns, (patch // columns + 0.5) * picture.height / rows


def line_pictures(images: Tensor, found: Any, names: Sequence[str], words: str) -> Iterator[Image.Image]:
    """One line per image: the image, its colours under `words`, and the signed map with its sum and residual."""
    side = max(PANEL, *images.shape[-2:])
    for i, panels in enumerate(_panels(images, found, None)):
        yield row(panels, [names[i], words, sum_words(found, i)], side=side)


def neighbour_lines(
    queries: Tensor, neighbours: Tensor, in_query: Any, in_neighbour: Any, name: str, titles: Sequence[str]
) -> Iterator[Image.Image]:
    """A line for each neighbour: the query, the neighbour, and in colour what either has that is like the other."""
    sides = [_panels(queries, in_query, None), _panels(neighbours, in_neighbour, None)]
    side = max(PANEL, *queries.shape[-2:])
    for i, (query, neighbour) in enumerate(zip(*sides, strict=True)):
        cosine = f"{i + 1}: cosine {float(in_query.logit[i]):.4f}"
        captions = [name, titles[i], f"in the query ({cosine})", "in the neighbour"]
        yield row([query[0], neighbour[0], query[1], neighbour[1]], captions, side=side)
