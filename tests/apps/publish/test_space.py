"""`aloe publish --space`: the page beside the card, offline, and what is sent of it."""

from __future__ import annotations

import json

import pytest
import yaml
from runs_to_publish import write_run
from test_push import FakeApi

from aloe.apps.export import formats
from aloe.apps.export.web import build
from aloe.apps.publish.folder import publish
from aloe.apps.publish.space import SpaceSettings
from aloe.core.errors import UserError
from apps.export.web_pages import ASSETS, fake_runtime

for needed in formats.PACKAGES["onnx"]:
    pytest.importorskip(needed)


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", family="vit-classifier")


@pytest.fixture
def space(tmp_path, monkeypatch):
    """Settings of a Space; tracing takes long, and is the business of other tests."""

    def graph(_, path, *__):
        path.write_bytes(b"graph")
        return {"logit": 1e-6}, 1e-7

    monkeypatch.setattr(build, "_write_graph", graph)
    return SpaceSettings(runtime=fake_runtime(tmp_path / "runtime"))


def made(run, tmp_path, space, **options):
    return publish(run, "me/x", output_dir=tmp_path / "out" / "x", space=space, **{"dry_run": True, **options})


def test_the_page_lies_beside_the_card(run, tmp_path, space):
    done = made(run, tmp_path, space)
    assert (done.url, done.space_url) == (None, None)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["x", "x-space"]
    folder = done.space.folder
    assert folder == tmp_path / "out" / "x-space"
    assert {p.name for p in ASSETS.iterdir()} | {"README.md", "card.md", "manifest.json"} < set(done.space.files)
    assert (folder / "card.md").read_text() == (done.folder / "README.md").read_text()
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    said = yaml.safe_load(front)
    assert (said["sdk"], said["app_file"], said["models"], said["title"]) == ("static", "index.html", ["me/x"], "x")
    assert said["license"] == "apache-2.0"
    assert said["custom_headers"] == {
        "cross-origin-embedder-policy": "require-corp",
        "cross-origin-opener-policy": "same-origin",
    }
    assert len(said["short_description"]) <= 60  # the hub takes no more
    assert "[me/x](https://huggingface.co/me/x)" in text
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["title"] == "x"
    written = b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())
    assert str(tmp_path).encode() not in written
    (folder / "card.md").write_text("older")
    assert (made(run, tmp_path, space).space.folder / "card.md").read_text() != "older"


def test_both_repositories_get_exactly_their_files(run, tmp_path, space):
    api = FakeApi()
    done = made(run, tmp_path, space, dry_run=False, api=api)
    calls = [(name, options) for name, _, options in api.calls]
    assert [name for name, _ in calls] == ["create_repo", "upload_folder"] * 2
    assert calls[2][1] == {"repo_type": "space", "private": None, "exist_ok": True, "space_sdk": "static"}
    sent = calls[3][1]
    assert (sent["repo_type"], sent["folder_path"]) == ("space", done.space.folder)
    assert sorted(sent["allow_patterns"]) == sorted(done.space.files)
    assert "runtime/ort.wasm.bundle.min.mjs" in sent["allow_patterns"]
    assert calls[1][1]["allow_patterns"] == done.files
    assert done.space_url


@pytest.mark.parametrize("place", ["x-space", "x-space/notes.txt"])
def test_what_lies_where_the_page_is_to_be_stays(run, tmp_path, space, place):
    path = tmp_path / "out" / place
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(UserError, match=r"x-space (is a file|holds no page of aloe export)"):
        made(run, tmp_path, space)
    assert path.read_text() == "mine"
    assert not (tmp_path / "out" / "x").exists()


def test_nothing_is_sent_where_the_page_cannot_be_made(run, tmp_path, space):
    api = FakeApi()
    with pytest.raises(UserError, match="does not hold onnxruntime-web's files"):
        made(run, tmp_path, SpaceSettings(runtime=tmp_path), dry_run=False, api=api)
    assert api.calls == []
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["x"]


def test_the_command(aloe, run, tmp_path, space):
    words = ["publish", run, "me/x", "--dry-run", "-o", tmp_path / "out" / "x"]
    code, out, err = aloe(*words, "--space", "--runtime", space.runtime)
    assert code == 0, err
    assert f"in {tmp_path / 'out' / 'x-space'}" in out
    assert "Not pushed" in out
    code, out, err = aloe(*words, "--space", "--runtime", space.runtime, "--json")
    assert json.loads(out)["space"]["kind"] == "classes"
    for lone in (["--runtime", "x"], ["--texts", "x"], ["--space-images", "x"]):
        code, _, err = aloe(*words, *lone)
        assert code == 2
        assert f"{lone[0]} belongs to --space" in err
    code, _, err = aloe(*words, "--space", "--runtime", space.runtime, "--text-tower", "x")
    assert code == 2
    assert "--text-tower belongs to --texts" in err
