"""The pages, from consent to the finish code, without a browser: what is shown, resumed, refused, and exported."""

from __future__ import annotations

import csv
import io
import json

from aloe.apps.study.answers import progress, stored_answers
from aloe.apps.study.store import Store
from apps.study.studies import METHODS, SECRET, START, answer, fields, serving, start, write_study


def test_from_consent_to_the_finish_code(client, db):
    page = client.get("/").text
    assert "Start" in page
    assert "voluntary" in page
    path = start(client)
    assert "What to do" in client.get(path).text
    for i in range(10):
        page = client.get(f"{path}/trial").text
        assert ("Practice 1 of 1" if i == 0 else f"{i} of 9") in page
        assert answer(client, path).status_code == 303
    page = client.get(f"{path}/trial").text
    (row,) = progress(db)
    assert "Thank you" in page
    assert row["code"] in page
    assert row["finished"] >= row["started"]
    assert [a.position for a in stored_answers(db)] == list(range(10))


def test_before_the_end_there_is_no_code(client, db):
    path = start(client)
    answer(client, path)
    (row,) = progress(db)
    assert row["code"] not in client.get(path).text + client.get(f"{path}/trial").text


def test_a_link_resumes_where_its_session_stands_also_after_a_restart(db):
    with serving(db) as client:
        path = start(client)
        answer(client, path)
        answer(client, path)
    with serving(db) as client:
        page = client.get(path).text
        assert "2 of 9" in page
        assert fields(page)["position"] == "2"


def test_a_form_that_was_loaded_before_a_restart_is_taken_after_it(db):
    with serving(db) as client:
        path = start(client)
        form = fields(client.get(f"{path}/trial").text)
    with serving(db) as client:
        response = client.post(f"{path}/answer", data=form | {"choice": "right"}, follow_redirects=False)
    assert response.status_code == 303
    assert [a.choice for a in stored_answers(db)] == ["right"]


def test_a_second_answer_to_a_trial_changes_nothing_and_goes_on(client, db):
    path = start(client)
    form = fields(client.get(f"{path}/trial").text)
    for choice in ("left", "right", "left"):
        response = client.post(f"{path}/answer", data=form | {"choice": choice}, follow_redirects=False)
        assert response.status_code == 303
    assert [(a.position, a.choice) for a in stored_answers(db)] == [(0, "left")]


def test_a_device_starts_one_session(client, db):
    form = fields(client.get("/").text)
    first = client.post("/start", data=form | START).url.path
    assert client.post("/start", data=form | START).url.path == first
    assert f'href="{first}"' in client.get("/").text
    assert len(progress(db)) == 1


def test_a_tie_is_offered_and_taken_only_where_the_study_has_ties(tmp_path):
    for ties in (False, True):
        db = write_study(tmp_path / f"{ties}.sqlite", ties=ties)
        with serving(db) as client:
            path = start(client)
            assert ("No difference" in client.get(f"{path}/trial").text) == ties
            assert answer(client, path, "tie").status_code == (303 if ties else 409)


def test_an_invited_link_asks_for_consent_and_is_one_session(db):
    store = Store(db)
    (token,) = store.invite(1)
    store.close()
    with serving(db, invited_only=True) as client:
        assert "by invitation" in client.get("/").text
        path = f"/s/{token}"
        page = client.get(path).text
        assert client.get(f"{path}/trial", follow_redirects=False).status_code == 303
        assert client.post(f"{path}/start", data=fields(page)).status_code == 409  # did not agree
        for _ in range(2):
            assert client.post(f"{path}/start", data=fields(page) | START).status_code == 200
        assert answer(client, path).status_code == 303
        assert len(progress(db)) == 1


def test_nobody_starts_without_consent_or_when_all_places_are_taken(tmp_path):
    db = write_study(tmp_path / "study.sqlite", places=1)
    with serving(db) as client:
        form = fields(client.get("/").text)
        assert client.post("/start", data=form).status_code == 409
        assert progress(db) == []
        start(client)
        form = fields(client.get("/").text)
        response = client.post("/start", data=form | START)
        assert response.status_code == 409
        assert "all the participants" in response.text
        assert len(progress(db)) == 1


def test_admin_sees_progress_and_exports(client, db):
    path = start(client)
    answer(client, path)
    answer(client, path, "right")
    who = ("anybody", SECRET)
    page = client.get("/admin", auth=who).text
    assert "0 finished of 1 started" in page
    assert "2 of 10" in page
    assert progress(db)[0]["code"] not in page  # of an unfinished session
    rows = list(csv.DictReader(io.StringIO(client.get("/admin/answers.csv", auth=who).text)))
    lines = [json.loads(line) for line in client.get("/admin/answers.jsonl", auth=who).text.splitlines()]
    assert [row["choice"] for row in rows] == [line["choice"] for line in lines] == ["left", "right"]
    assert {row["left"] for row in rows} <= {*METHODS, "random"}
    assert lines == [vars(a) for a in stored_answers(db)]
    assert client.get("/admin/answers.sqlite", auth=who).status_code == 404
