"""What the explorer's server refuses: files, other sites, other names of this machine, large bodies; it asks nobody."""

from __future__ import annotations

import base64
import http.client
import json
import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from explorers import bomb, encoded, scene, scene_explorer

from aloe.apps.explorer.page import build_app
from aloe.apps.explorer.requests import says
from aloe.apps.explorer.server import HEADERS, MAX_BODY, Guard, is_loopback, listen
from aloe.core.errors import UserError
from browser import serving

SESSION, PREDICT = "a-session", "/gradio_api/run/predict"
HERE = Path(__file__).resolve()


@pytest.fixture(scope="module")
def asked():
    """Every address that this process connects to or looks up while the tests of this module run."""
    found: list[object] = []
    connect, lookup = socket.socket.connect, socket.getaddrinfo

    def connecting(self, address):
        found.append(address)
        return connect(self, address)

    def looking(host, *rest, **options):
        found.append((host,))
        return lookup(host, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connecting)
        patch.setattr(socket, "getaddrinfo", looking)
        yield found


@pytest.fixture(scope="module")
def url(asked, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for i in range(2):
        (folder / f"{i} <img src=x onerror=alert(1)>.png").write_bytes(encoded(scene(i)))
    with serving(build_app(scene_explorer(), folder)) as url:
        yield url


def answer(url: str, event: str, data: list, sent: object = None, session: str = SESSION) -> list:
    """What the page gets for an event of a script: the new values of the view, the sentence, the picker."""
    found = post(url, event, data, sent, session)
    assert found.status_code == 200, found.text
    return found.json()["data"]


def post(url: str, event: str, data: list, sent: object = None, session: str = SESSION) -> httpx.Response:
    functions = httpx.get(f"{url}/config").json()["dependencies"]
    index = next(f["id"] for f in functions if any(t[1] == event for t in f["targets"]))
    body = {"data": data, "event_data": sent, "fn_index": index, "session_hash": session, "trigger_id": None}
    return httpx.post(f"{url}{PREDICT}", json=body, timeout=30)


CHOSEN = [["the teacher"], ["legrad"]]
SECRETS = ["/etc/passwd", str(HERE), "pyproject.toml", "../../../../../../etc/passwd"]
CLOSED = [
    *(f"/gradio_api/file={path}" for path in SECRETS),
    *(f"/gradio_api/file/{path}" for path in SECRETS),
    *(f"/file={path}" for path in SECRETS),
    "/static/../../../../../../../../etc/passwd",
    "/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "/static/..%2f..%2f..%2f..%2fetc/passwd",
    "/static//etc/passwd",
    "/assets/../../../gradio/routes.py",
    "/assets/%2fetc%2fpasswd",
    "/svelte/../routes.py",
    "/gradio_api/custom_component/0/client/../../x",
    "/gradio_api/proxy=https://example.com/",
    "/gradio_api/stream/a/b/c/playlist.m3u8",
    "/gradio_api/upload_progress?upload_id=1",
    "/gradio_api/openapi.json",
    "/gradio_api/runs",
    "/gradio_api/vibe-code",
    "/gradio_api/deep_link",
    "/?deep_link=" + "a" * 22,
    "/monitoring",
    "/monitoring/summary",
    "/docs",
    "/openapi.json",
    "/pwa_icon",
    "/login_check",
]


@pytest.mark.parametrize("path", CLOSED)
def test_no_path_reaches_a_file(url, path):
    connection = http.client.HTTPConnection(urlsplit(url).netloc)  # sends the path as it stands
    connection.request("GET", path)
    found = connection.getresponse()
    body = found.read()
    assert found.status == 404
    assert b"root:" not in body
    assert b"import" not in body


@pytest.mark.parametrize("path", ["upload", "queue/join", "component_server", "call/pick", "run/pick", "cancel"])
def test_nothing_else_can_be_posted_to(url, path):
    assert httpx.post(f"{url}/gradio_api/{path}", json={}).status_code == 404
    assert httpx.put(f"{url}{PREDICT}", json={}).status_code == 404


@pytest.mark.parametrize("path", ["/", "/config", "/theme.css", "/nothing", "/gradio_api/heartbeat/nobody"])
def test_every_response_forbids_frames_and_other_hosts(url, path):
    with httpx.stream("GET", url + path) as found:
        for name, value in HEADERS.items():
            assert found.headers.get_list(name) == [value]
        assert not [name for name in found.headers if name.startswith("access-control")]
    policy = HEADERS["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in policy
    assert "http" not in policy.replace("https:", "http:")


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://localhost:1", "http://127.0.0.1:1", "null", "file://"]
)
def test_no_other_site_can_ask(url, origin):
    body = {"data": [], "fn_index": 0, "session_hash": SESSION}
    for found in (
        httpx.post(f"{url}{PREDICT}", json=body, headers={"Origin": origin}),
        httpx.get(f"{url}/config", headers={"Origin": origin}),
        httpx.options(f"{url}/config", headers={"Origin": origin, "Access-Control-Request-Method": "POST"}),
    ):
        assert found.status_code == 403
        assert "access-control-allow-origin" not in found.headers
    assert httpx.get(f"{url}/config", headers={"Origin": url}).status_code == 200


def test_a_browser_that_tells_of_another_site_is_believed(url):
    for site in ("cross-site", "same-site"):
        assert httpx.get(f"{url}/config", headers={"Sec-Fetch-Site": site}).status_code == 403
        assert httpx.get(f"{url}/", headers={"Sec-Fetch-Site": site}).status_code == 200  # following a link to the page


def test_a_form_of_another_site_cannot_post(url):
    body = json.dumps({"data": [], "fn_index": 0, "session_hash": SESSION})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        found = httpx.post(f"{url}{PREDICT}", content=body, headers={"Content-Type": kind})
        assert found.status_code == 415


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "192.0.2.1", "", "localhost.evil.example", "[bad"])
def test_no_other_name_of_this_machine_is_answered(url, host):
    assert httpx.get(f"{url}/config", headers={"Host": host}).status_code in (400, 421)
    assert is_loopback("localhost")
    assert is_loopback("::1")
    assert not is_loopback("0.0.0.0")


def test_a_server_of_the_network_answers_by_any_name(url):
    open_app = build_app(scene_explorer(), "scenes:1@7@64", local=False)
    with serving(open_app) as network:
        assert httpx.get(f"{network}/config", headers={"Host": "somebody.example"}).status_code == 200
        found = httpx.get(f"{network}/config", headers={"Host": "a.example", "Origin": "https://b.example"})
        assert found.status_code == 403


def test_a_body_has_a_limit_told_or_not(url):
    json_type = {"Content-Type": "application/json"}
    small = Guard(build_app(scene_explorer()).app, max_body=10_000)
    with serving(small) as limited:
        big = json.dumps({"data": ["x" * 20_000], "fn_index": 0, "session_hash": SESSION}).encode()
        assert httpx.post(f"{limited}{PREDICT}", content=big, headers=json_type).status_code == 413
        parts = (big[i : i + 1000] for i in range(0, len(big), 1000))  # without a Content-Length
        assert httpx.post(f"{limited}{PREDICT}", content=parts, headers=json_type).status_code == 413
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    connection.putrequest("POST", PREDICT)
    for name, value in (*json_type.items(), ("Content-Length", str(MAX_BODY + 1))):
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.getresponse().status == 413  # before a byte of it was sent


BASE64 = {
    "words.png": base64.b64encode(b"words").decode(),
    "bomb.png": base64.b64encode(bomb()).decode(),
    "cut.png": base64.b64encode(encoded(scene().resize((300, 300)))[:3000]).decode(),
    "odd.png": "%%% no base64",
    "<b>bold</b>.png": base64.b64encode(b"words").decode(),
}


@pytest.mark.parametrize("name", BASE64)
def test_a_wrong_upload_is_one_escaped_sentence(url, name):
    words = answer(url, "upload", CHOSEN, {"name": name, "data": BASE64[name]})[1]
    assert words.startswith('<p role="alert">')
    assert words.count("<") == 2  # the paragraph and its end
    assert "Traceback" not in words


NONSENSE: dict[str, list[object]] = {
    "more": [None, {"turn": "1"}, {"turn": 10**30}],
    "pick": [None, 7, [], {"index": 10**30}, {"index": -1}, {"index": "0"}],
    "upload": ["text", {}, {"name": None, "data": 3}, {"name": "x" * 10_000, "size": 1 << 40}],
    "choose": [None, {"label": {"a": 1}}, {"label": "no such class", "index": 3}, {"label": "cup", "index": -5}],
    "region": [
        None,
        {"box": [0, 0, 1]},
        {"box": ["a"] * 4},
        {"box": [0, 0, 1, 1], "fill": "/etc/passwd"},
        {"box": [2, 2, 3, 3]},
    ],
}


@pytest.mark.parametrize(("event", "sent"), [(event, sent) for event, all_ in NONSENSE.items() for sent in all_])
def test_nonsense_from_a_script_is_no_crash(url, event, sent):
    data = {"region": CHOSEN[:1], "more": []}.get(event, CHOSEN)
    assert "Traceback" not in json.dumps(answer(url, event, data, sent))


def test_visitors_do_not_see_each_other(url):
    data = base64.b64encode(encoded(scene(4))).decode()
    own = answer(url, "upload", CHOSEN, {"name": "mine.png", "data": data}, session="one")
    assert [image["name"] for image in own[2]["images"]][2:] == ["mine.png"]
    other = answer(url, "pick", CHOSEN, {"index": 0}, session="two")
    assert len(other[2]["images"]) == 2
    assert "no such image" in answer(url, "pick", CHOSEN, {"index": 2}, session="two")[1]
    turn = answer(url, "pick", CHOSEN, {"index": 1}, session="one")[0]["turn"]
    assert answer(url, "more", [], {"turn": turn}, session="one")[0]["sheet"]
    late = answer(url, "more", [], {"turn": turn - 1}, session="one")[0]
    assert "panels" not in late  # an older question is not answered


@pytest.mark.parametrize("path", ["/etc/passwd", str(HERE), "https://192.0.2.1/x", "../pyproject.toml"])
def test_a_file_in_place_of_a_value_is_not_read(url, path, monkeypatch, tmp_path, asked):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    deep = [[[{"a": file}]], ["legrad"]]
    for data in ([[file], ["legrad"]], [file, file], [["the teacher"], {"value": file}], deep):
        assert post(url, "pick", data, {"index": 0}).status_code == 400
    post(url, "pick", CHOSEN, {"index": file, "data": file})  # what scripts send is never taken for a file
    assert list(tmp_path.iterdir()) == []
    assert not [address for address in asked if isinstance(address, tuple) and str(address[0]).startswith("192.")]


def test_gradio_checks_paths_as_well(monkeypatch, tmp_path):
    """The page without its guard: of two doors, both are closed."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with serving(build_app(scene_explorer(), "scenes:1@7@64").app) as bare:
        file = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
        assert post(bare, "pick", [[file], ["legrad"]], {"index": 0}).status_code == 500
        assert list(tmp_path.rglob("passwd")) == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"not json", b'{"data": 3}', b'{"data": [1]}', b"\xff"])
def test_a_body_that_is_no_question_is_refused(url, body):
    found = httpx.post(f"{url}{PREDICT}", content=body, headers={"Content-Type": "application/json"})
    assert found.status_code == 400


def test_a_name_is_sent_as_text_in_json_only(url):
    page = httpx.get(url).text
    assert "onerror" not in page
    sent = json.dumps(answer(url, "pick", CHOSEN, {"index": 0}))
    assert "onerror" in sent  # the scripts set it as text, see test_explorer_page


def test_a_mistake_is_escaped():
    assert says(UserError("<script>x</script> & y")) == '<p role="alert">&lt;script&gt;x&lt;/script&gt; &amp; y.</p>'


def test_nothing_is_shared_measured_or_asked_for_elsewhere(url, asked):
    answer(url, "pick", CHOSEN, {"index": 1})
    config = httpx.get(f"{url}/config").json()
    assert config["analytics_enabled"] is False
    assert not config.get("is_colab")
    hosts = {address[0] for address in asked if isinstance(address, tuple)}
    assert hosts <= {"127.0.0.1", "localhost", "::1"}, hosts


def test_an_address_in_use_is_a_sentence():
    taken = listen("127.0.0.1", 0)
    taken.listen()
    with pytest.raises(UserError, match=r"Cannot listen on 127\.0\.0\.1"):
        listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UserError, match="Cannot listen"):
        listen("192.0.2.1", 7860)
    taken.close()


@pytest.mark.parametrize(
    "sent", [None, {}, [], {"index": -1}, {"index": 10**9}, {"index": "0"}, {"side": "c", "box": "x"}]
)
def test_questions_about_pairs_that_no_script_asks_are_answered_with_a_sentence_at_most(url, sent):
    answer(url, "load", CHOSEN)
    for event in ("second", "part", "swap", "near"):
        pair, status = answer(url, event, [] if event == "part" else [["the teacher"]], sent)
        assert "Traceback" not in str(status)
        assert "picture" not in str(pair)
