"""What every request passes: headers that forbid framing and foreign content, small forms only, signed fields."""

from __future__ import annotations

import hmac
import re
from typing import Any
from urllib.parse import parse_qs

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aloe.apps.study.store import Refused

LARGEST_FORM = 4096  # bytes
_FORM = "application/x-www-form-urlencoded"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; form-action 'self';"
        " frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Robots-Tag": "noindex",
}


class SecurityHeaders:
    """Adds the headers to every answer; pages are not kept by browsers unless they say so themselves."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Cache-Control", "no-store")
                headers.update(_HEADERS)
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


class TooLarge(Refused):
    """A form of more than `LARGEST_FORM` bytes."""


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a small form, the first value of each.

    Raises:
        TooLarge: it is no small form; no more than its size is read.
        Refused: it is no form.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise Refused("Please use the form of the page.")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_FORM:
            raise TooLarge("This is more than an answer can be.")
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=16)
    except ValueError as error:
        raise Refused("Please use the form of the page.") from error
    return {name: values[0] for name, values in fields.items()}


def sign(key: bytes, *parts: Any) -> str:
    """A code that only this study can make for these words."""
    words = "\n".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return hmac.new(key, words, "sha256").hexdigest()


def same(given: str, wanted: str) -> bool:
    """Whether two secrets are the same, in a time that does not tell how much of them is."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), wanted.encode("utf-8", "surrogatepass"))


def number(text: str) -> int:
    """A number in plain digits.

    Raises:
        Refused: it is none.
    """
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise Refused("Please use the form of the page.")
    return int(text)
