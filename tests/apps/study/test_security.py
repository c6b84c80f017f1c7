"""Each attack on the study, tried."""

from __future__ import annotations

import html
import re
import sqlite3
from contextlib import closing

import pytest

from aloe.apps.study import security
from aloe.apps.study.answers import progress, stored_answers
from aloe.apps.study.serving import serve_study
from aloe.apps.study.store import Refused, Store, connect, hashed
from aloe.core.errors import UserError
from apps.study.studies import METHODS, SECRET, START, answer, fields, serving, start, write_study


def test_tokens_are_long_random_and_not_in_the_file(client, db):
    tokens = [start(client).removeprefix("/s/") for _ in range(5)]
    assert len(set(tokens)) == 5
    assert all(re.fullmatch(r"[\w-]{43}", token) for token in tokens)  # 256 bits
    data = db.read_bytes() + db.with_name(db.name + "-wal").read_bytes()
    assert not [token for token in tokens if token.encode() in data]
    assert hashed(tokens[0]) in data


def test_a_guessed_token_finds_nothing(client):
    start(client)
    for token in ("", "x", "A" * 43, "%00", "' OR 1=1 --", "../../etc/passwd", "%ed%b3%a9"):
        for page in ("", "/trial"):
            assert client.get(f"/s/{token}{page}", follow_redirects=False).status_code in (404, 307)
        assert client.post(f"/s/{token}/answer", data={"position": "0", "shown": "0"}).status_code in (404, 405)


def test_no_answer_for_another_session(client, db):
    mine, theirs = start(client), start(client)
    form = fields(client.get(f"{mine}/trial").text) | {"choice": "left"}
    assert client.post(f"{theirs}/answer", data=form).status_code == 409
    assert client.post(f"{mine}/answer", data={**form, "participant": "2"}).status_code == 200
    assert {a.participant for a in stored_answers(db)} == {"1"}


def test_no_answer_out_of_order_or_with_an_invented_form(client, db):
    path = start(client)
    form = fields(client.get(f"{path}/trial").text) | {"choice": "left"}
    for wrong in (
        {"position": "1"},
        {"shown": "1"},
        {"form": "0" * 64},
        {"form": "é"},
        {"position": "-1"},
        {"position": "0x0"},
        {"choice": "both"},
    ):
        assert client.post(f"{path}/answer", data=form | wrong).status_code == 409, wrong
    assert stored_answers(db) == []
    with closing(Store(db)) as store:
        for position in (1, 2, 99, -1):
            with pytest.raises(Refused):
                store.answer(1, position, "left", 1.0).result()


def test_the_tables_themselves_refuse_what_cannot_be(client, db):
    path = start(client)
    answer(client, path)
    insert = "INSERT INTO answers (participant, position, choice, seconds, answered) VALUES (?, ?, ?, 1, 1)"
    with closing(connect(db)) as connection:
        for row in ((1, 0, "left"), (1, 2, "left"), (2, 0, "left"), (1, 99, "left"), (1, 1, "both")):
            with pytest.raises(sqlite3.IntegrityError):
                connection.execute(insert, row)
        connection.execute(insert, (1, 1, "left"))


def test_a_form_without_the_page_s_signature_or_cookie_starts_nothing(client, db):
    form = fields(client.get("/").text)
    assert client.post("/start", data=START).status_code == 409
    assert client.post("/start", data=START | {"form": "0" * 64}).status_code == 409
    client.cookies.clear()  # as from another site: the browser sends no cookie of that page
    assert client.post("/start", data=START | form).status_code == 409
    assert progress(db) == []


def test_the_admin_page_wants_the_secret_and_compares_it_in_constant_time(client, monkeypatch):
    for page in ("/admin", "/admin/answers.csv", "/admin/answers.jsonl"):
        assert client.get(page).status_code == 401
        for wrong in ("", "x", SECRET[:-1], SECRET + "x", SECRET.upper()):
            response = client.get(page, auth=("admin", wrong))
            assert response.status_code == 401
            assert response.headers["www-authenticate"].startswith("Basic")
        assert client.get(page, headers={"Authorization": b"Basic \xff!"}).status_code == 401
    compared = []
    monkeypatch.setattr(security.hmac, "compare_digest", lambda a, b: compared.append((a, b)))
    assert client.get("/admin", auth=("admin", SECRET)).status_code == 401
    assert compared == [(SECRET.encode(), SECRET.encode())]


def test_a_short_secret_is_refused(db):
    with pytest.raises(UserError, match="16 characters"):
        serve_study(db, "short", host="127.0.0.1", port=0, invited_only=False, ready=print)


def test_no_path_reaches_the_file_system(client):
    outside = (
        "../server.py",
        "..%2Fserver.py",
        "%2e%2e%2fserver.py",
        "..\\server.py",
        "%2Fetc%2Fpasswd",
        "study.css%00",
    )
    for kind in ("static", "picture", "admin", "s"):
        for path in (*outside, "/etc/passwd", "study.css/"):
            response = client.get(f"/{kind}/{path}", auth=("admin", SECRET), follow_redirects=False)
            assert response.status_code in (404, 307), path
            assert "import" not in response.text
            assert "root:" not in response.text


def test_a_large_form_or_an_upload_is_refused_unread(client, db):
    path = start(client)
    form = fields(client.get(f"{path}/trial").text) | {"choice": "left"}
    sent = []

    def endless():
        for _ in range(1000):
            sent.append(1)
            yield b"x=" + b"y" * 1022

    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    for url in (f"{path}/answer", f"{path}/start", "/start"):
        assert client.post(url, data=form | {"more": "x" * 5000}).status_code == 413
        assert client.post(url, content=endless(), headers=kind).status_code == 413
        assert client.post(url, files={"form": b"x"}).status_code == 409
        assert client.post(url, content="&".join("a=b" for _ in range(100)), headers=kind).status_code == 409
        assert client.post(url, content=b"form=\xff\xfe", headers=kind).status_code == 409
    assert stored_answers(db) == []


def test_words_are_escaped(tmp_path):
    bad = "<script>alert('x')</script>"
    words = {"title": bad, "consent": bad, "contact": bad, "question": bad}
    with serving(write_study(tmp_path / "study.sqlite", **words)) as client:
        pages = [client.get("/").text]
        path = start(client)
        pages += [client.get(path).text, client.get(f"{path}/trial").text, client.get("/admin", auth=("", SECRET)).text]
        while "Thank you" not in pages[-1]:
            answer(client, path)
            pages.append(client.get(f"{path}/trial").text)
    for page in pages:
        assert "<script>alert" not in page
        assert "<b>dog" not in page
        assert html.escape(bad) in page.replace("&#34;", "&quot;").replace("&#39;", "&#x27;")


def test_every_answer_forbids_framing_and_foreign_content(client):
    path = start(client)
    picture = re.search(r"/picture/\w+", client.get(f"{path}/trial").text)[0]
    for url in ("/", path, f"{path}/trial", "/nowhere", "/admin", picture, "/static/study.css"):
        headers = client.get(url).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"  # links to other pages do not carry the personal one
    assert client.get(f"{path}/trial").headers["cache-control"] == "no-store"


def test_cookies_are_out_of_reach_of_scripts_and_other_sites(client):
    form = fields(client.get("/").text)
    response = client.post("/start", data=form | START, follow_redirects=False)
    assert re.search(r"aloe-study=[\w-]+; HttpOnly; .*SameSite=lax", response.headers["set-cookie"])
    assert "Secure" not in response.headers["set-cookie"]
    client.cookies.clear()
    client.base_url = "https://testserver"
    assert "Secure" in client.get("/").headers["set-cookie"]


def test_pages_do_not_name_methods_or_what_kind_of_trial_it_is(client):
    path, seen = start(client), []
    while "Thank you" not in (page := client.get(f"{path}/trial").text):
        seen.append(page)
        answer(client, path)
    for page in seen:
        assert not [word for word in (*METHODS, "identical", "random", "repeat", "photo-") if word in page.lower()]
        assert all(re.fullmatch(r"[0-9a-f]{32}", p) for p in re.findall(r"/picture/(\w+)", page))


def test_nothing_is_stored_but_what_is_said(client, db):
    start(client)
    with closing(connect(db)) as connection:
        columns = {
            t: [c[1] for c in connection.execute(f"PRAGMA table_info({t})")] for t in ("participants", "answers")
        }
    assert columns["participants"] == ["participant", "token", "code", "started", "finished"]
    assert columns["answers"] == ["participant", "position", "choice", "seconds", "answered"]


def test_it_listens_to_this_machine_unless_told_otherwise():
    import inspect

    from aloe.cli.study import serve

    assert inspect.signature(serve).parameters["host"].default == "127.0.0.1"
