"""onnxruntime-web's files for the page: from a folder, or from npm's registry; never from another site when the page is seen.

Only the files of one version are fetched, and they must have the digests that are written here. The WebAssembly, 14 MB, is
packed to 4 MB, which the page unpacks.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import Any

from aloe.core.errors import UserError
from aloe.core.files import expanded, file_digest, open_regular, replace_folder
from aloe.core.progress import announce

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
CDN = f"https://cdn.jsdelivr.net/npm/{PACKAGE}@{VERSION}/"  # ends in a slash, so that a policy allows what is below it
FILES = {  # by the provider that they run: the module and its WebAssembly, with the SHA-256 of version VERSION
    "wasm": {
        "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
        "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    },
    "webgpu": {
        "ort.webgpu.bundle.min.mjs": "0730816731ce2cdfb06f273da065d4a1c7091eb9d1756a83b2916c8a89d015e2",
        "ort-wasm-simd-threaded.asyncify.wasm": "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da",
    },
}
LARGEST = 256 << 20  # bytes of a file of the runtime
_SECONDS = 300  # that npm may take
_LICENCE = """onnxruntime-web {version}, https://github.com/microsoft/onnxruntime

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def find_runtime(given: str | Path | None, webgpu: bool = False) -> Path:
    """The folder that holds the files: of the package that is given, of the cache, or of what npm fetches into it.

    Files of the cache that are not those that were released are fetched again.

    Raises:
        UserError: the folder lacks them, there is no npm, or npm cannot fetch the package.
    """
    needed = _needed(webgpu)
    how = f"`npm pack {PACKAGE}@{VERSION}`, unpack it, and give its folder with --runtime"
    if given is not None:
        home = expanded(given)
        places = (home, home / "dist", home / "package" / "dist", home / "node_modules" / PACKAGE / "dist")
        for place in places:
            if all(os.path.isfile(place / name) for name in needed):
                return place
        raise UserError(f"{home} does not hold {PACKAGE}'s files ({next(iter(needed))} and its like): {how}.")
    cache = os.environ.get("ALOE_CACHE") or Path.home() / ".cache" / "aloe"
    place = Path(cache) / f"{PACKAGE}-{VERSION}"
    if changed := _changed(place, _needed(webgpu=True)):
        if (place / changed).exists():
            announce(f"{place / changed} is not the file that was released, and is fetched again.")
        _fetch(place, how)
    return place


def copy_runtime(source: Path, folder: Path, *, webgpu: bool = False, cdn: bool = False) -> dict[str, Any]:
    """Put the files into `folder` and say what the page's manifest says of them; `released` is whether they are the very
    files of `VERSION`.

    Args:
        cdn: leave the WebAssembly out; the page fetches it from jsDelivr, with the digest that it must have.

    Raises:
        UserError: the files cannot be read, are of no version that says which it is, are called `VERSION` and are not what
            was released, or with `cdn` are of another.
        OSError: `folder` cannot be written.
    """
    digests = _needed(webgpu)
    files = {name: _read(source / name) for name in digests}
    module = next(iter(digests))
    version = version_of(source / module, files[module])
    other = [name for name, digest in digests.items() if hashlib.sha256(files[name]).hexdigest() != digest]
    if other and version == VERSION:
        raise UserError(f"{source / other[0]} is not the file that was released as {PACKAGE} {VERSION}; do not use it.")
    if other and cdn:
        raise UserError(f"--cdn is for {PACKAGE} {VERSION}, whose digests are known; the files in {source} are others.")
    folder.mkdir()
    (folder / "LICENSE.txt").write_text(_LICENCE.format(version=version), encoding="utf-8")
    said: dict[str, Any] = {"version": version, "released": not other}
    for provider in _providers(webgpu):
        module, binary = FILES[provider]
        (folder / module).write_bytes(files[module])
        data = files[binary]
        wasm: dict[str, Any]
        if cdn:
            digest = base64.b64encode(hashlib.sha384(data).digest()).decode()
            wasm = {"file": f"{CDN}dist/{binary}", "integrity": f"sha384-{digest}", "bytes": len(data)}
        else:
            packed = gzip.compress(data, mtime=0)
            (folder / f"{binary}.gz").write_bytes(packed)
            wasm = {"file": f"{folder.name}/{binary}.gz", "bytes": len(packed)}
        size = wasm["bytes"] + len(files[module])
        said[provider] = {"module": f"{folder.name}/{module}", "wasm": wasm, "bytes": size}
    return said


def version_of(module: Path, data: bytes) -> str:
    """The version in the first lines of the module `data`, which was read from `module`.

    Raises:
        UserError: there is none.
    """
    match = re.search(rb"ONNX Runtime Web v(\d+\.\d+\.\d+)", data[:512])
    if match is None:
        raise UserError(f"{module} does not say which version of {PACKAGE} it is; give the package's own files.")
    return match[1].decode()


def words_of(said: dict[str, Any]) -> list[str]:
    """What whoever exports should know of the runtime that `copy_runtime` says this of: one sentence, or none."""
    if said["released"]:
        return []
    return [f"The runtime is {PACKAGE} {said['version']}, not {VERSION}: its files' digests are not known here."]


def _providers(webgpu: bool) -> tuple[str, ...]:
    return ("wasm", "webgpu") if webgpu else ("wasm",)


def _needed(webgpu: bool) -> dict[str, str]:
    """The files' digests by their names."""
    return {name: digest for provider in _providers(webgpu) for name, digest in FILES[provider].items()}


def _read(path: Path) -> bytes:
    try:
        with open_regular(path, LARGEST) as file:
            return file.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def _changed(place: Path, digests: dict[str, str]) -> str:
    """The first file that is not in the folder, or is not what was released; empty where all are."""
    for name, digest in digests.items():
        try:
            if file_digest(place / name) != digest:
                return name
        except (OSError, UserError):
            return name
    return ""


def _fetch(place: Path, how: str) -> None:
    """The files of `VERSION` through npm, into a folder that appears whole."""
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(f"The page needs {PACKAGE}'s files, and npm is not here to fetch them: elsewhere {how}.")
    announce(f"Fetching {PACKAGE} {VERSION} through npm ...")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent) as aside:
            folder = Path(aside) / "files"
            folder.mkdir()
            _unpack(_pack(npm, Path(aside), how), folder, how)
            if wrong := _changed(folder, _needed(webgpu=True)):
                raise UserError(f"{wrong} of {PACKAGE} {VERSION} is not the file that was released; do not use it.")
            replace_folder(place, folder)
    except OSError as error:
        raise UserError(f"The cache {place} cannot be written: {error.strerror or error}; set ALOE_CACHE.") from error


def _pack(npm: str, folder: Path, how: str) -> Path:
    """The package as npm brings it into `folder`."""
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False)
        said = done.stderr if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    archive = next(folder.glob("*.tgz"), None)
    if archive is None or said:
        reason = next((line for line in said.splitlines() if "error" in line.lower()), "no package came")
        raise UserError(f"npm could not fetch {PACKAGE} {VERSION} ({reason.strip()[:120]}): elsewhere {how}.")
    return archive


def _unpack(archive: Path, folder: Path, how: str) -> None:
    """The files of the package that a page needs."""
    try:
        with tarfile.open(archive) as package:
            for name in _needed(webgpu=True):
                member = package.extractfile(f"package/dist/{name}")
                if member is None:
                    raise KeyError(f"{name} is no file")
                with (folder / name).open("wb") as file:
                    shutil.copyfileobj(member, file)
    except (tarfile.TarError, KeyError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"npm brought a broken package of {PACKAGE} {VERSION} ({error.args[0]}): elsewhere {how}."
        ) from error
