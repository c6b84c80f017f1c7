"""The way to the hub: against an object in place of the hub's client, and the real client against a server of our own."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import huggingface_hub.errors as hub
import pytest
from huggingface_hub import HfApi
from runs_to_publish import write_run

from aloe.apps.publish.folder import publish
from aloe.core.errors import UserError

FILES = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]


class FakeApi:
    """Notes what it is asked; raises `error` in the method that is named `at`."""

    def __init__(self, error=None, at="create_repo", private=True):
        self.error, self.at, self.private, self.calls = error, at, private, []

    def _called(self, name, *args, **options):
        self.calls.append((name, args, options))
        if self.error is not None and name == self.at:
            raise self.error

    def create_repo(self, *args, **options):
        self._called("create_repo", *args, **options)
        return "https://huggingface.co/me/x"

    def repo_info(self, *args, **options):
        self._called("repo_info", *args, **options)
        return SimpleNamespace(private=self.private)

    def upload_folder(self, **options):
        self._called("upload_folder", **options)


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


def pushed(run, tmp_path, api, **options):
    return publish(run, "me/x", output_dir=tmp_path / "out", api=api, **options)


def test_exactly_the_written_files_are_uploaded_after_the_repository_is_there(run, tmp_path):
    api = FakeApi()
    done = pushed(run, tmp_path, api)
    (create, args, options), (upload, _, sent) = api.calls
    assert (create, upload) == ("create_repo", "upload_folder")
    assert args == ("me/x",)
    assert options == {"repo_type": "model", "private": None, "exist_ok": True}
    assert sent["allow_patterns"] == FILES
    assert (sent["repo_id"], sent["repo_type"], sent["folder_path"]) == ("me/x", "model", tmp_path / "out")
    assert done.url == "https://huggingface.co/me/x"


def test_a_dry_run_asks_the_hub_nothing(run, tmp_path):
    api = FakeApi()
    assert pushed(run, tmp_path, api, dry_run=True).url is None
    assert api.calls == []


def test_private_is_not_uploaded_to_what_is_public(run, tmp_path):
    api = FakeApi(private=False)
    with pytest.raises(UserError, match="already there and public"):
        pushed(run, tmp_path, api, private=True)
    assert "upload_folder" not in [name for name, *_ in api.calls]
    api = FakeApi(private=True)
    pushed(run, tmp_path, api, private=True)
    assert api.calls[0][2]["private"] is True
    assert api.calls[-1][0] == "upload_folder"


def answered(kind, code, said=None):
    response = SimpleNamespace(headers={}, request=None, status_code=code)
    return kind("no", response=response, server_message=said)


@pytest.mark.parametrize("at", ["create_repo", "upload_folder"])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (hub.LocalTokenNotFoundError("none"), "not logged in"),
        (answered(hub.HfHubHTTPError, 401), "hf auth login"),
        (answered(hub.HfHubHTTPError, 403), "may not write to me/x"),
        (answered(hub.RepositoryNotFoundError, 401), "may not write to me/x"),
        (answered(hub.RepositoryNotFoundError, 404), "may not write to me/x"),
        (answered(hub.HfHubHTTPError, 503, "busy."), "cannot take it now (503, busy)"),
        (answered(hub.BadRequestError, 400, "bad licence"), "refused me/x (400, bad licence)"),
        (hub.OfflineModeIsEnabled("off"), "cannot be reached"),
        (hub.HTTPError("no route"), "cannot be reached"),
        (ConnectionResetError("reset"), "cannot be reached"),
        (ValueError("Invalid metadata in README.md.\n- x"), "Invalid metadata in README.md"),
        (RuntimeError("data processing error"), "data processing error"),
    ],
)
def test_what_the_hub_says_is_one_sentence(error, said, at, run, tmp_path):
    with pytest.raises(UserError) as caught:
        pushed(run, tmp_path, FakeApi(error, at))
    message = str(caught.value)
    assert said in message
    assert "is ready; run the same command again." in message
    assert "\n" not in message
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == FILES


class Hub(BaseHTTPRequestHandler):
    """The few addresses that `create_repo` and `upload_folder` ask for; every file is taken as a regular one."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.path, body))
        if self.headers.get("Authorization") != "Bearer hf_good":
            return self._answer(401, {"error": "Invalid credentials"})
        if self.path == "/api/repos/create":
            return self._answer(200, {"url": f"{self.server.address}/me/x"})
        if self.path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            return self._answer(200, {"files": modes})
        if "/commit/" in self.path:
            found = {"commitUrl": f"{self.server.address}/me/x/commit/1", "commitOid": "1", "success": True}
            return self._answer(200, found)
        return self._answer(404, {})

    def do_GET(self):
        self._answer(404, {})

    def _answer(self, code, found):
        data = json.dumps(found).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.asked, server.address = [], f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_real_client_sends_these_bytes_and_no_others(run, tmp_path, server):
    done = pushed(run, tmp_path, HfApi(endpoint=server.address, token="hf_good"))
    assert done.url == f"{server.address}/me/x"
    [commit] = [body for path, body in server.asked if "/commit/" in path]
    parts = [json.loads(line) for line in commit.splitlines()]
    sent = {p["value"]["path"]: base64.b64decode(p["value"]["content"]) for p in parts if p["key"] == "file"}
    assert [p["key"] for p in parts] == ["header"] + ["file"] * len(FILES)
    assert sent == {name: (tmp_path / "out" / name).read_bytes() for name in FILES}


def test_the_real_client_with_a_wrong_token(run, tmp_path, server):
    with pytest.raises(UserError, match="hf auth login"):
        pushed(run, tmp_path, HfApi(endpoint=server.address, token="hf_wrong"))
    assert not [path for path, _ in server.asked if "/commit/" in path]


def test_the_real_client_without_a_connection(run, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(UserError, match="cannot be reached"):
        pushed(run, tmp_path, HfApi(endpoint="http://127.0.0.1:9", token="hf_good"))
