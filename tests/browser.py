"""A real browser for the tests of both pages: the distribution's Chromium, headless, driven by Playwright.

Nothing is downloaded; where there is no Chromium the tests skip and say so. `open_page` also watches what a page does: which
hosts it asks for, and what it complains of in the console.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

MISSING = "no Chromium found: apt-get install chromium"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}  # CSS pixels


def find_chromium() -> str | None:
    """The path of the distribution's Chromium (or Chrome), if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def open_browser(*more: str) -> Iterator[Any]:
    """A Playwright `Browser`, closed on leaving; the test skips where there is no Chromium. `more` are its arguments."""
    path = find_chromium()
    if path is None:
        pytest.skip(MISSING)
    from playwright.sync_api import sync_playwright

    arguments = ["--disable-dev-shm-usage", *more]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments.append("--no-sandbox")  # Chromium refuses to run as root in its sandbox
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(browser: Any, *, phone: bool = False, seconds: float = 60, **context: Any) -> Iterator[Any]:
    """A page in a context of its own (cookies, storage), of a desktop's or a phone's size (with touch).

    Hosts that the page asks for are in `page.asked` (a set), and errors of its scripts in `page.errors` (a list). Requests to
    any host but this machine are refused, so that a page which needs the network fails.
    """
    size = {"viewport": PHONE, "has_touch": True, "is_mobile": True} if phone else {"viewport": DESKTOP}
    opened = browser.new_context(**{**size, **context})
    try:
        page = opened.new_page()
        page.set_default_timeout(1000 * seconds)
        page.asked, page.errors = set(), []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("request", lambda request: page.asked.add(_host(request.url)))
        opened.route(lambda url: not is_local(url), lambda route: route.abort())
        yield page
    finally:
        opened.close()


def is_local(url: str) -> bool:
    """Whether a URL stays on this machine."""
    return _host(url) in ("", "localhost", "127.0.0.1", "::1")


@contextmanager
def serving(app: Any, **options: Any) -> Iterator[str]:
    """An ASGI application on a free port of this machine, served from a thread: the URL of its root.

    `options` are uvicorn's.
    """
    import uvicorn

    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1, **options))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        if not server.started:
            raise RuntimeError("the server did not start")
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listening.close()


def _host(url: str) -> str:
    """The host of a URL; empty for data: and blob: URLs, which ask nobody."""
    return (urlsplit(url).hostname or "") if url.startswith(("http", "ws")) else ""
