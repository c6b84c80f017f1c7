"""What the page is sent about a view: numbers, pictures as data URIs, and the exact values of every pixel.

Values travel as the bytes of the float32 that the model gave, so that what is read under the pointer and downloaded is
no rounded copy. Nothing is written to a file and no picture has a URL.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

import aloe
from aloe.apps.explorer.explorer import Entry, Explorer, Picture
from aloe.apps.explorer.view import Change, Panel, View
from aloe.attribution.methods import METHODS
from aloe.draw.attributions import to_pixels
from aloe.draw.gallery import data_uri, row, stack

THUMBNAIL = 72  # pixels
PER_LINE = 4  # pictures in a line of the sheet


def view_payload(view: View, titles: Sequence[str]) -> dict[str, Any]:
    """What is shown of a view besides its panels: the image, the aim, the predictions of each model."""
    picture, side = view.picture, view.explorer.side
    aim = {"class": view.aim.label, "index": view.aim.index, "text": view.aim.text}
    image = {
        "name": picture.name,
        "size": list(picture.size),
        "side": side,
        "picture": png(np.asarray(picture.crops[side])),
    }
    return {
        "aloe": aloe.__version__,
        "image": image,
        "aim": {key: value for key, value in aim.items() if value is not None},
        "predictions": [_predictions(view, entry) for entry in view.explorer.chosen(titles)],
    }


def _predictions(view: View, entry: Entry) -> dict[str, Any]:
    """The top classes or texts of a model, and whether the image is one of its classes as far as they can say so."""
    top = view.predictions(entry.title)
    known = not (entry.classes and top) or entry.model.knows(top[0].probability)
    return {"model": entry.title, "classes": bool(entry.classes), "known": known, "top": [vars(p) for p in top]}


def panel_payload(panel: Panel, explorer: Explorer) -> dict[str, Any]:
    """A panel; `values` are float32, little-endian, row by row, in base64, of `shape` (H, W)."""
    facts = {
        "model": panel.title,
        "method": panel.method,
        "heading": METHODS[panel.method].title,
        "options": explorer.options.get(panel.method, {}),
        "target": panel.target,
        "value": panel.value,
        "residual": panel.residual,
        "seconds": round(panel.seconds, 3),
        "note": panel.note,
    }
    if panel.values is None:
        return facts
    pictures = {"colour": panel.colour, "signed": panel.signed}
    return {
        **facts,
        "sum": float(panel.values.sum(dtype=np.float64)),
        "shape": list(panel.values.shape),
        "values": base64.b64encode(np.ascontiguousarray(panel.values, "<f4").tobytes()).decode(),
        "pictures": {kind: png(array) for kind, array in pictures.items() if array is not None},
    }


def change_payload(change: Change) -> dict[str, Any]:
    """A change, its picture as a data URI."""
    facts = {key: value for key, value in vars(change).items() if key not in ("title", "image")}
    return {"model": change.title, **facts, "picture": png(change.image)}


def thumbnail(picture: Picture) -> str:
    """A small square of an image, as the data URI of a JPEG."""
    small = next(iter(picture.crops.values())).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
    return data_uri(small, "JPEG", quality=85)


def draw_sheet(view: View, panels: Sequence[Panel]) -> str | None:
    """The image and every explanation with its caption, as one picture; None where there is no explanation."""
    image = np.asarray(view.picture.crops[view.explorer.side])
    shown = [p for p in panels if p.values is not None]
    if not shown:
        return None
    pictures = [image, *(to_pixels(p.signed if p.colour is None else p.colour) for p in shown)]  # type: ignore[arg-type]
    captions = ["input", *(f"{METHODS[p.method].title} of {p.target}: {p.title}" for p in shown)]
    empty = np.full((1, 1, 3), 255, np.uint8)
    lines = []
    width = min(PER_LINE, len(pictures))
    for i in range(0, len(pictures), width):
        missing = width - len(pictures[i : i + width])
        lines.append(row([*pictures[i : i + width], *[empty] * missing], [*captions[i : i + width], *[""] * missing]))
    return png(np.asarray(stack(lines)))


def png(array: np.ndarray) -> str:
    """(H, W, 3 or 4) uint8 as the data URI of a PNG."""
    return data_uri(Image.fromarray(array), "PNG", compress_level=1)  # fast: it travels within one machine
