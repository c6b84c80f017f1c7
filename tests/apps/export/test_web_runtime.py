"""onnxruntime-web's files: from a folder, from the cache and from npm; what is broken, changed or of another version."""

from __future__ import annotations

import re
import tarfile

import pytest

from aloe.apps.export import formats
from aloe.apps.export.web import build as module
from aloe.apps.export.web import runtime
from aloe.apps.export.web.build import build_page
from aloe.core.errors import UserError
from apps.export.students import build
from apps.export.web_pages import fake_runtime

for needed in formats.PACKAGES["onnx"]:
    pytest.importorskip(needed)


def test_the_runtime_is_found_in_every_form_of_the_package(tmp_path):
    for place in ("a", "b/dist", "c/package/dist", "d/node_modules/onnxruntime-web/dist"):
        fake_runtime(tmp_path / place)
        assert runtime.find_runtime(tmp_path / place.split("/")[0], webgpu=True) == tmp_path / place
    (tmp_path / "a" / "ort.wasm.bundle.min.mjs").write_bytes(b"// something else")
    with pytest.raises(UserError, match="does not say which version"):
        runtime.copy_runtime(tmp_path / "a", tmp_path / "to")


def npm(tmp_path, monkeypatch, script):
    """A command `npm` in front of every other."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bin" / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("ALOE_CACHE", str(tmp_path / "cache"))


def packed(tmp_path):
    """The package as npm would bring it, of files that nothing can run."""
    fake_runtime(tmp_path / "package" / "dist")
    with tarfile.open(tmp_path / "package.tgz", "w:gz") as archive:
        archive.add(tmp_path / "package", "package")
    return tmp_path / "package.tgz"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            "echo 'npm error code ENOTFOUND' >&2; exit 1",
            r"npm could not fetch onnxruntime-web 1.30.0 \(npm error code ENOTFOUND",
        ),
        ("exit 0", r"npm could not fetch onnxruntime-web 1.30.0 \(no package came\)"),
        ('echo nothing > "$5/x.tgz"', "npm brought a broken package of onnxruntime-web 1.30.0"),
        ('head -c 150 "$PACKAGE" > "$5/x.tgz"', "npm brought a broken package of onnxruntime-web 1.30.0"),
        (
            'mkdir package && tar -czf "$5/x.tgz" package',
            r"broken package .*ort.wasm.bundle.min.mjs' not found.*: elsewhere `npm pack",
        ),
        (
            'mkdir -p package/dist/ort.wasm.bundle.min.mjs && tar -czf "$5/x.tgz" package',
            "broken package .*ort.wasm.bundle.min.mjs is no file",
        ),
        (
            'cp "$PACKAGE" "$5/x.tgz"',
            "ort.wasm.bundle.min.mjs of onnxruntime-web 1.30.0 is not the file that was released",
        ),
    ],
)
def test_an_npm_that_fails_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, script, words):
    """Also one that brings other files than were released, or a broken archive."""
    monkeypatch.setenv("PACKAGE", str(packed(tmp_path)))
    npm(tmp_path, monkeypatch, script)
    with pytest.raises(UserError, match=words):
        runtime.find_runtime(None)
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_npm_the_folder_of_the_package_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ALOE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="npm is not here to fetch them: elsewhere `npm pack"):
        runtime.find_runtime(None)


@pytest.fixture
def released(tmp_path, monkeypatch):
    """An npm that brings a package whose files are what ALOE knows."""
    monkeypatch.setenv("PACKAGE", str(packed(tmp_path)))
    digest = runtime.file_digest(tmp_path / "package" / "dist" / "ort.wasm.bundle.min.mjs")
    files = {name: dict.fromkeys(known, digest) for name, known in runtime.FILES.items()}
    monkeypatch.setattr(runtime, "FILES", files)
    npm(tmp_path, monkeypatch, 'cp "$PACKAGE" "$5/x.tgz"')
    return files


def test_a_file_of_the_cache_that_has_changed_is_fetched_again(tmp_path, released, monkeypatch):
    said = []
    monkeypatch.setattr(runtime, "announce", said.append)
    place = runtime.find_runtime(None)
    whole = (place / "ort-wasm-simd-threaded.wasm").read_bytes()
    (place / "ort-wasm-simd-threaded.wasm").write_bytes(b"changed")
    said.clear()
    assert runtime.find_runtime(None) == place
    assert (place / "ort-wasm-simd-threaded.wasm").read_bytes() == whole
    assert said == [
        f"{place / 'ort-wasm-simd-threaded.wasm'} is not the file that was released, and is fetched again.",
        "Fetching onnxruntime-web 1.30.0 through npm ...",
    ]
    (place / "ort.wasm.bundle.min.mjs").write_bytes(b"changed")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="npm is not here"):
        runtime.find_runtime(None)


def test_a_runtime_of_another_version_is_said(tmp_path):
    """And one that is called the known version, and is something else, is refused."""
    said = runtime.copy_runtime(fake_runtime(tmp_path / "other"), tmp_path / "runtime")
    assert (said["version"], said["released"]) == ("1.2.3", False)
    assert runtime.words_of(said) == [
        "The runtime is onnxruntime-web 1.2.3, not 1.30.0: its files' digests are not known here."
    ]
    (tmp_path / "other" / "ort.wasm.bundle.min.mjs").write_bytes(b"/*!\n * ONNX Runtime Web v1.30.0\n */\n")
    with pytest.raises(
        UserError, match=r"is not the file that was released as onnxruntime-web 1\.30\.0; do not use it"
    ):
        runtime.copy_runtime(tmp_path / "other", tmp_path / "again")


def test_a_runtime_that_cannot_be_read_is_told_from_a_page_that_cannot_be_written(tmp_path, monkeypatch):
    source = fake_runtime(tmp_path / "runtime")
    (source / "ort.wasm.bundle.min.mjs").unlink()
    (source / "ort.wasm.bundle.min.mjs").mkdir()
    monkeypatch.setattr(module, "find_runtime", lambda *_: source)
    with pytest.raises(UserError, match=r"ort.wasm.bundle.min.mjs cannot be read: Is a directory"):
        build_page(build(classifier=True), tmp_path / "page", runtime=source)
    fake_runtime(tmp_path / "whole")
    monkeypatch.setattr(module, "find_runtime", lambda *_: tmp_path / "whole")
    monkeypatch.setattr(module, "RUNTIME", "not/there")
    with pytest.raises(UserError, match=r"page could not be written: No such file"):
        build_page(build(classifier=True), tmp_path / "page")


def test_a_home_that_nobody_has_is_said():
    with pytest.raises(UserError, match="begins with the folder of a user who has none here"):
        runtime.find_runtime("~nobody-of-this-name/runtime")


def test_what_npm_brings_is_kept(tmp_path, released):
    files = released
    found = runtime.find_runtime(None, webgpu=True)
    assert found == tmp_path / "cache" / "onnxruntime-web-1.30.0"
    assert {p.name for p in found.iterdir()} == {name for known in files.values() for name in known}
    (tmp_path / "bin" / "npm").unlink()
    assert runtime.find_runtime(None) == found
    said = runtime.copy_runtime(found, tmp_path / "runtime", cdn=True)
    wasm = said["wasm"]["wasm"]
    assert wasm["file"] == "https://cdn.jsdelivr.net/npm/onnxruntime-web@1.30.0/dist/ort-wasm-simd-threaded.wasm"
    assert re.fullmatch(r"sha384-[\w+/]{64}", wasm["integrity"])
    assert sorted(p.name for p in (tmp_path / "runtime").iterdir()) == ["LICENSE.txt", "ort.wasm.bundle.min.mjs"]
