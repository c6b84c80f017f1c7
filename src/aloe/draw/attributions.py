"""Explanations of several methods side by side (the paper's Figures C1 to C4): a line per image, a column per method.

W(x)x is shown in its colours over white, every other map on the diverging scale of `explanations.signed_map`.
`comparison_gallery` draws many images for print, `comparison_row` one image as pixels.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from aloe.core.errors import UserError
from aloe.core.files import write_whole
from aloe.draw.explanations import over_white, signed_map
from aloe.draw.figures import STYLE, drawn, load_matplotlib, plain
from aloe.draw.gallery import row

KINDS = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg", ".pdf": "pdf", ".svg": "svg"}
LARGEST = 1_500_000  # bytes of a PNG or JPEG
_PAGE, _CELL = 7.2, (0.62, 1.3)  # inches: a page's width; the least and the largest side of a picture
_GAP, _GROUP_GAP, _TITLES = 0.03, 0.12, 0.85  # inches: between pictures, between groups, for the titles of the lines
_LINE, _LARGE, _SMALL = 0.12, 7.0, 6.0  # a line of text in inches; points
_GREY, _RULE = 190, "#666666"  # of a value that is not finite; of the rule below a group's heading


@dataclass(frozen=True)
class Column:
    """One method's pictures, one per image: (H, W, 4) uint8 RGBA of W(x)x, a signed map (H, W), or None where there is none.

    Neighbours of the same `group` (a model, say) stand below one heading.
    """

    title: str
    pictures: Sequence[np.ndarray | None]
    group: str = ""


def comparison_gallery(
    images: Sequence[np.ndarray] | np.ndarray, columns: Sequence[Column], row_titles: Sequence[str] = ()
) -> Any:
    """A figure with a line for each image: its title, the image, one picture per column; headings once, on top.

    A page wide, or wider where pictures would be too small. Save it with `save_gallery`.

    Args:
        images: N arrays (H, W, 3) uint8, which may differ in size.
        columns: each with N pictures.
        row_titles: N titles (class and confidence, say), which are broken to fit, or none.

    Returns:
        A matplotlib figure.

    Raises:
        UserError: matplotlib is not installed.
        ValueError: no image, numbers that do not match, or an array of another shape.
    """
    _check(images, columns, row_titles)
    matplotlib = load_matplotlib()
    left = _TITLES if row_titles else _GAP
    breaks = [
        _GROUP_GAP * any(column.group for column in columns[:1]),
        *(_GROUP_GAP * (a.group != b.group) for a, b in pairwise(columns)),
    ]
    room = _PAGE - left - (len(columns) + 1) * _GAP - sum(breaks)
    cell = float(np.clip(room / (len(columns) + 1), *_CELL))
    across = cell + _GAP
    lefts = [left, *(left + across * (i + 1) + shift for i, shift in enumerate(np.cumsum(breaks[: len(columns)])))]
    heads = [_broken(words, cell, _LARGE) for words in ("Input", *(column.title for column in columns))]
    lines = max(words.count("\n") + 1 for words in heads)
    grouped = any(column.group for column in columns)
    top = _LINE * (lines + 0.6 + 1.6 * grouped)
    heights = [cell * image.shape[0] / image.shape[1] for image in images]
    width, height = lefts[-1] + cell + _GAP, top + sum(heights) + _GAP * len(heights)
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure((width, height))
        for x, words in zip(lefts, heads, strict=True):
            at = ((x + cell / 2) / width, 1 - (top - 0.55 * _LINE) / height)
            figure.text(*at, plain(words), fontsize=_LARGE, ha="center", va="baseline", linespacing=1.05)
        for name, first, last in _groups(columns):
            _group_heading(figure, name, lefts[first + 1] / width, (lefts[last + 1] + cell) / width, height)
        down = top
        for n, (image, tall) in enumerate(zip(images, heights, strict=True)):
            if row_titles:
                at = ((left - 2 * _GAP) / width, 1 - (down + tall / 2) / height)
                words = _broken(row_titles[n], left - 2 * _GAP, _SMALL)
                figure.text(*at, plain(words), fontsize=_SMALL, ha="right", va="center", linespacing=1.1)
            for x, picture in zip(lefts, [image, *(column.pictures[n] for column in columns)], strict=True):
                box = (x / width, 1 - (down + tall) / height, cell / width, tall / height)
                _place(figure.add_axes(box), picture)
            down += tall + _GAP
    return figure


def comparison_row(image: np.ndarray, columns: Sequence[Column], index: int = 0, side: int = 224) -> Image.Image:
    """One image and its picture of every column (the one at `index`), captions below, without matplotlib."""
    empty = np.full((1, 1, 3), 255, np.uint8)
    shown = [column.pictures[index] for column in columns]
    pixels = [empty if picture is None else to_pixels(picture) for picture in shown]
    titles = [f"{c.title} ({c.group})" if c.group else c.title for c in columns]
    return row([image, *pixels], ["Input", *titles], side)


def to_pixels(picture: np.ndarray) -> np.ndarray:
    """An image as it is, RGBA over white, a signed map on the diverging scale (grey where it is not finite).

    Shapes: (H, W, 3), (H, W, 4) or (H, W) -> (H, W, 3) uint8.

    Raises:
        ValueError: another shape, or colours that are not uint8.
    """
    array = np.asarray(picture)
    if array.ndim == 2:
        finite = np.isfinite(array)
        values = torch.from_numpy(np.where(finite, array, 0).astype(np.float32))
        return np.where(finite[..., None], signed_map(values[None])[0].numpy(), np.uint8(_GREY))
    if array.ndim != 3 or array.shape[2] not in (3, 4) or array.dtype != np.uint8:
        raise ValueError(f"A picture is (H, W), or (H, W, 3 or 4) uint8, not {array.shape} {array.dtype}.")
    return over_white(torch.from_numpy(np.ascontiguousarray(array))).numpy() if array.shape[2] == 4 else array


def save_gallery(figure: Any, path: Path, largest: int = LARGEST) -> None:
    """Write the figure by its file's ending: PNG or JPEG of at most `largest` bytes, PDF or SVG with every pixel as it is.

    Raises:
        UserError: another ending, or a file that cannot be written.
    """
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"{path.name} is no picture's name; it may end in {', '.join(KINDS)}.")
    if kind in ("pdf", "svg"):
        _interpolate(figure, None)
        data = drawn(figure, kind)
    else:
        dpi = 250.0
        while True:
            _interpolate(figure, dpi)
            data = drawn(figure, kind, dpi=dpi, **({"pil_kwargs": {"quality": 90}} if kind == "jpg" else {}))
            if len(data) <= largest or dpi < 50:
                break
            dpi *= max(0.5, min(0.95, 0.97 * sqrt(largest / len(data))))
    write_whole(path, data)


def _check(images: Sequence[np.ndarray] | np.ndarray, columns: Sequence[Column], row_titles: Sequence[str]) -> None:
    if not len(images):
        raise ValueError("A gallery needs at least one image.")
    if row_titles and len(row_titles) != len(images):
        raise ValueError(f"{len(row_titles)} titles for {len(images)} images.")
    for column in columns:
        if len(column.pictures) != len(images):
            raise ValueError(f"{column.title}: {len(column.pictures)} pictures for {len(images)} images.")


def _groups(columns: Sequence[Column]) -> list[tuple[str, int, int]]:
    """Heading, first and last column of every run of one group."""
    runs = [list(run) for _, run in groupby(range(len(columns)), key=lambda i: columns[i].group)]
    return [(columns[run[0]].group, run[0], run[-1]) for run in runs if columns[run[0]].group]


def _group_heading(figure: Any, words: str, left: float, right: float, height: float) -> None:
    from matplotlib.lines import Line2D

    room = _characters((right - left) * figure.get_figwidth(), _LARGE * 1.1)  # bold is wider
    shown = words if len(words) <= room else f"{words[: room - 1]}…"
    at = ((left + right) / 2, 1 - 0.15 * _LINE / height)
    figure.text(*at, plain(shown), fontsize=_LARGE, fontweight="bold", ha="center", va="top")
    under = 1 - 1.45 * _LINE / height
    figure.add_artist(Line2D([left, right], [under, under], color=_RULE, linewidth=0.6))


def _place(axes: Any, picture: np.ndarray | None) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=0.3, color="#bbbbbb")
    if picture is None:
        axes.text(0.5, 0.5, "\u2013", ha="center", va="center", transform=axes.transAxes, color="#888888")
    else:
        axes.imshow(to_pixels(picture), interpolation="nearest", aspect="auto")


def _interpolate(figure: Any, dpi: float | None) -> None:
    """Pixels stay squares where there is room for them; a larger picture is averaged. Vectors (None) keep every pixel."""
    for axes in figure.axes:
        room = axes.get_position().width * figure.get_figwidth() * (dpi or 0)
        for image in axes.images:
            smaller = dpi is not None and room < image.get_array().shape[1]
            image.set_interpolation("none" if dpi is None else "hanning" if smaller else "nearest")


def _broken(words: str, inches: float, points: float) -> str:
    """Words in lines that fit a width; the lines that they have are kept."""
    fits = _characters(inches, points)
    return "\n".join(part for line in words.split("\n") for part in textwrap.wrap(line, fits) or [""])


def _characters(inches: float, points: float) -> int:
    return max(4, int(inches * 72 / (0.54 * points)))
