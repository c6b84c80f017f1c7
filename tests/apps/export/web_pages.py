"""Pages under test: small random students as folders, a plain static server, and onnxruntime-web where npm has it."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from aloe.apps.export.web import runtime
from aloe.apps.export.web.build import build_page
from aloe.apps.export.web.graph import Texts
from aloe.core.errors import UserError
from apps.export.students import SIZE, WIDTH, build, rand

ASSETS = Path(runtime.__file__).parent / "assets"
TEXTS = Texts(
    ("a photo of a cat", "a <b>bold</b> & 'quoted' text", "nothing"),
    torch.nn.functional.normalize(rand(3, WIDTH, seed=7) - 0.5, dim=-1),
    scale=9.0,
    bias=-2.5,
)
STUDENTS: dict[str, Callable[[], Any]] = {
    "classes": lambda: build(classifier=True, num_register_tokens=1),
    "texts": lambda: build(classifier=False, **{"use_cls_token": False, "pooling": "attention"}),
    "features": lambda: build(classifier=False),
}
PHOTOGRAPHS = rand(6, 3, SIZE, SIZE, seed=3)


def fake_runtime(folder: Path) -> Path:
    """Files of the names and the first line of the real ones, which nothing can run."""
    folder.mkdir(parents=True, exist_ok=True)
    for files in runtime.FILES.values():
        for name in files:
            (folder / name).write_bytes(b"/*!\n * ONNX Runtime Web v1.2.3\n */\n")
    return folder


def shared(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that one process of the tests makes and all of them use."""
    root = factory.getbasetemp()
    home = (root.parent if root.name.startswith("popen-") else root) / name
    with FileLock(f"{home}.lock"):
        if not home.exists():
            part = home.with_name(f"{name}.part")
            shutil.rmtree(part, ignore_errors=True)
            make(part)
            part.rename(home)
    return home


def made_page(factory: pytest.TempPathFactory, kind: str) -> Path:
    """The page of a small student, with a runtime that cannot run: the classes' with int8 weights beside."""

    def make(folder: Path) -> None:
        options: dict[str, Any] = {"texts": TEXTS} if kind == "texts" else {}
        if kind == "classes":
            options = {"int8": True, "images": PHOTOGRAPHS, "image_source": "noise"}
        if kind == "features":
            options = {"webgpu": True}
        source = fake_runtime(folder.with_name(f"{folder.name}.fake"))
        build_page(STUDENTS[kind](), folder, title=f"A {kind} <student>", runtime=source, **options)

    return shared(factory, f"page-{kind}", make)


def real_runtime(factory: pytest.TempPathFactory) -> Path:
    """onnxruntime-web's files: the cache's, or through npm once; the test skips where they cannot be had."""
    try:
        with FileLock(f"{factory.getbasetemp().parent / 'runtime'}.lock"):
            return runtime.find_runtime(None, webgpu=True)
    except UserError as error:
        pytest.skip(f"no onnxruntime-web: {error}")


class _Files(http.server.SimpleHTTPRequestHandler):
    more: dict[str, str] = {}  # noqa: RUF012  (set by `static`)

    def end_headers(self) -> None:
        for name, value in self.more.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def static(folder: Path, headers: dict[str, str] | None = None) -> Iterator[str]:
    """A plain static server of a folder: its URL, which ends in a slash."""
    handler = functools.partial(type("Files", (_Files,), {"more": headers or {}}), directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
