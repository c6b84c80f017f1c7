"""The explorer on the network: what a request may ask for, what every response says, and where the server listens.

Gradio serves many things that this page has no use for: files by their path, a proxy, an upload cache, an API. `Guard` lets
through only what the page itself asks for, from the page itself; so no path, of a URL or in a request, reaches the file
system but those of gradio's own scripts, styles and fonts, no other site can make a browser act here, and none can frame the
page. The headers keep the browser from asking anybody else for anything.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from aloe.core.errors import UserError
from aloe.core.files import parse_json

MAX_BODY = 30 << 20  # bytes: an image of `explorer.MAX_BYTES` in base64, and some more

# Everything that the page asks for; all else is not found.
_READ = re.compile(
    r"/(|config|theme\.css|favicon\.ico|manifest\.json|robots\.txt|(assets|static)(/[\w-][\w.-]*)+"
    r"|gradio_api/(info|startup-events|theme\.css|heartbeat/\w+))"
)
_WRITE = re.compile(r"/gradio_api/run/predict/?")

# Gradio builds its page with inline scripts, and its HTML component builds functions of text: hence the two unsafe-s, which
# let in nothing from elsewhere. Whatever text we show is written as text, never as HTML.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; frame-src 'none'; object-src 'none'; "
        "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    """ASGI middleware around the whole application.

    Args:
        local: only hosts of this machine are answered, whatever name resolved to it (no DNS rebinding).
        max_body: bytes of a request.
    """

    def __init__(self, app: Any, *, local: bool = True, max_body: int = MAX_BODY) -> None:
        self.app, self.local, self.max_body = app, local, max_body

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return None  # no web sockets here
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._refused(scope["method"], scope["path"], headers)
        if b"deep_link" in scope["query_string"]:  # it names a file of Gradio's
            refused = 404, "There is nothing here."
        if refused is not None:
            return await _answer(send, *refused)
        if self.local:  # packing what stays on this machine only costs time
            scope = {**scope, "headers": [(k, v) for k, v in scope["headers"] if k.lower() != b"accept-encoding"]}
        if scope["method"] == "POST":
            body = await _read(receive, self.max_body)
            if body is None:
                return await _answer(send, 413, f"A request may have {self.max_body >> 20} MiB.")
            if not is_plain(body):
                return await _answer(send, 400, "This is no question of the explorer's page.")
            receive = _again(body, receive)

        async def marked(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*_own(message["headers"]), *_encoded(HEADERS)]}
            await send(message)

        return await self.app(scope, receive, marked)

    def _refused(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str] | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.local and not is_loopback(_hostname(host)):
            return 421, "This explorer answers to localhost only."
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return 403, "Only the explorer's own page may ask."
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and (method, path) != ("GET", "/"):
            return 403, "Only the explorer's own page may ask."
        paths = {"GET": _READ, "HEAD": _READ, "POST": _WRITE}.get(method)
        if paths is None or not paths.fullmatch(path):
            return 404, "There is nothing here."
        if method == "POST" and not headers.get("content-type", "").startswith("application/json"):
            return 415, "Requests are JSON."
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or len(length) > 18 or int(length) > self.max_body:
            return 413, f"A request may have {self.max_body >> 20} MiB."
        return None


def is_plain(body: bytes) -> bool:
    """Whether the values of the controls in a request are what those of this page can be: words, and lists of words.

    Gradio takes a dict of a certain form, wherever it stands, for a file on this machine or elsewhere, and fetches it.
    """
    try:
        asked = parse_json(body)
    except ValueError:
        return False
    values = asked.get("data") if isinstance(asked, dict) else None
    return isinstance(values, list) and all(
        value is None or isinstance(value, str) or (isinstance(value, list) and all(isinstance(v, str) for v in value))
        for value in values
    )


def serve(app: Any, listening: socket.socket, *, ready: Callable[[str], None] | None = None) -> None:
    """Serve an ASGI application on a socket of `listen` until Ctrl-C; `ready` is told its URL."""
    import uvicorn

    host, port = listening.getsockname()[:2]
    if ready is not None:
        ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=2
    )
    with suppress(KeyboardInterrupt):  # how it is ended
        uvicorn.Server(config).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address.

    Raises:
        UserError: it is in use, not of this machine, or needs more rights.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"Cannot listen on {host}, port {port}: {reason}; give another --port or --host.") from error
    return listening


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine and nothing else."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _own(headers: Any) -> list[tuple[bytes, bytes]]:
    """The application's headers without those that let other sites read (gradio's CORS) or that are set here."""
    ours = {name.lower().encode() for name in HEADERS}
    return [(k, v) for k, v in headers if k.lower() not in ours and not k.lower().startswith(b"access-control-")]


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


async def _read(receive: Any, most: int) -> bytes | None:
    """The body of a request; None where it is longer than it may be, or breaks off."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        size, more = size + len(parts[-1]), message.get("more_body", False)
        if size > most:
            return None
    return b"".join(parts)


def _again(body: bytes, receive: Any) -> Any:
    """A `receive` that gives a body that was read already, then what comes after it."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Any:
        return waiting.pop() if waiting else await receive()

    return next_message


async def _answer(send: Any, status: int, words: str) -> None:
    headers = [*_encoded(HEADERS), (b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": words.encode()})
