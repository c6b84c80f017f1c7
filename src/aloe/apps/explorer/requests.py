"""What the page's scripts send, of which nothing is known but that it is JSON, and the sentence that answers a mistake."""

from __future__ import annotations

import base64
import binascii
import html
from math import isfinite
from typing import Any

import gradio as gr

from aloe.apps.explorer.explorer import MAX_BYTES
from aloe.core.errors import UserError


def data_of(event: gr.EventData) -> dict[str, Any]:
    """What a script sent with its event; nothing is known of it but that it is JSON."""
    data = event._data
    return data if isinstance(data, dict) else {}


def words_of(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def box_of(box: Any) -> tuple[float, float, float, float]:
    if not (
        isinstance(box, list | tuple) and len(box) == 4 and all(isinstance(x, int | float) and isfinite(x) for x in box)
    ):
        raise UserError("Drag a rectangle on the input.")
    left, top, right, bottom = map(float, box)
    return left, top, right, bottom


def bytes_of(data: dict[str, Any], name: str) -> bytes:
    """An upload's bytes, which came in base64."""
    content = data.get("data")
    if not isinstance(content, str):
        size = data.get("size")
        if isinstance(size, int) and size > MAX_BYTES:
            raise UserError(f"{name} has {size / 2**20:.1f} MiB; an image may have {MAX_BYTES >> 20} MiB.")
        raise UserError(f"{name} could not be read.")
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error:
        raise UserError(f"{name} did not arrive whole; try again.") from None


def says(error: UserError) -> str:
    """A mistake as a sentence of the page."""
    words = str(error)
    return f'<p role="alert">{html.escape(words)}{"" if words.endswith(".") else "."}</p>'
