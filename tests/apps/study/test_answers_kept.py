"""The writer and the store: one transaction for many, a failing job alone undone, nobody left waiting; the file's format."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from aloe.apps.study.answers import read_studies, stored_answers, to_csv, to_jsonl
from aloe.apps.study.store import Store, connect, create_study
from aloe.apps.study.writer import Writer
from aloe.core.errors import UserError
from apps.study.studies import answer, read_answers, start, write_study


def opened(db):
    return lambda: sqlite3.connect(db, isolation_level=None, check_same_thread=False)


def test_a_failing_job_is_undone_alone_and_told_to_its_caller_only(tmp_path):
    writer = Writer(opened(tmp_path / "x.sqlite"))
    writer.submit(lambda c: c.execute("CREATE TABLE t (x INTEGER PRIMARY KEY)")).result()

    def half(connection):
        connection.execute("INSERT INTO t VALUES (7)")
        raise UserError("no")

    wait = [writer.submit(lambda c, i=i: c.execute("INSERT INTO t VALUES (?)", (i % 5,))) for i in range(10)]
    refused = writer.submit(half)
    good = writer.submit(lambda c: c.execute("INSERT INTO t VALUES (9)"))
    good.result()
    with pytest.raises(UserError, match="no"):
        refused.result()
    assert [future.exception() is None for future in wait] == [True] * 5 + [False] * 5
    writer.close()
    with closing(sqlite3.connect(tmp_path / "x.sqlite")) as connection:
        assert [x for (x,) in connection.execute("SELECT x FROM t")] == [0, 1, 2, 3, 4, 9]


def test_jobs_that_wait_share_a_commit_and_are_written_before_closing(tmp_path):
    statements: list[str] = []

    def connecting():
        connection = opened(tmp_path / "x.sqlite")()
        connection.set_trace_callback(statements.append)
        return connection

    import threading

    gate, writer = threading.Event(), Writer(connecting)
    first = writer.submit(lambda c: gate.wait(10))
    rest = [writer.submit(lambda c, i=i: i) for i in range(50)]
    gate.set()
    writer.close()
    assert first.result() is True
    assert [future.result() for future in rest] == list(range(50))
    assert statements.count("COMMIT") <= 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_mistake_of_ours_in_a_job_leaves_nobody_waiting(tmp_path):
    writer = Writer(opened(tmp_path / "x.sqlite"))
    broken = writer.submit(lambda c: 1 / 0)
    with pytest.raises(RuntimeError, match="stopped"):
        broken.result(10)
    writer.close()
    with pytest.raises(RuntimeError, match="stopped"):
        writer.submit(lambda c: None)


def test_every_commit_is_synced_and_logged_ahead(db):
    with closing(connect(db)) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert connection.execute("PRAGMA foreign_keys").fetchone()[0] == 1


def test_a_study_is_one_file_of_its_owner_s_that_is_never_overwritten(db, tmp_path):
    assert db.stat().st_mode & 0o077 == 0
    before = db.read_bytes()
    with pytest.raises(UserError, match="is there already"):
        write_study(db)
    assert db.read_bytes() == before
    with closing(Store(db)) as store, pytest.raises(UserError, match="at least one image"):
        create_study(tmp_path / "new.sqlite", store.settings, [])
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".sqlite") == []


def test_a_file_that_is_no_study_is_said_and_left_as_it_is(tmp_path):
    missing, other, text = tmp_path / "none.sqlite", tmp_path / "other.sqlite", tmp_path / "text.sqlite"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE t (x)")
    text.write_text("no database at all, but long enough to be looked at" * 9)
    for path, words in ((missing, "aloe study build"), (other, "holds no study"), (text, "holds no study")):
        before = path.read_bytes() if path.exists() else None
        with pytest.raises(UserError, match=words):
            Store(path)
        assert (path.read_bytes() if path.exists() else None) == before


def test_exports_read_back_are_the_answers(client, db, tmp_path):
    for choice in ("left", "right"):
        path = start(client)
        for _ in range(10):
            answer(client, path, choice)
    stored = stored_answers(db)
    assert len(stored) == 20
    assert all(a.title == "<b>dog</b>" for a in stored)
    for name, form in (("a.csv", to_csv), ("a.jsonl", to_jsonl)):
        (tmp_path / name).write_text(form(stored))
        assert read_answers(tmp_path / name) == stored == read_answers(db)
    several = [db, tmp_path / "a.csv", tmp_path / "a.jsonl"]
    both, notes = read_studies(several)
    assert both == stored, "exports of one study add nobody"
    assert notes == [
        f"{db} and {tmp_path / 'a.csv'} and {tmp_path / 'a.jsonl'} are of one study.",
        "40 answers came more than once and counted once.",
    ]


def test_what_is_no_export_is_said(tmp_path, db):
    with pytest.raises(UserError, match="no answers"):
        read_answers(db)
    bad = tmp_path / "bad.csv"
    bad.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="no answer of a study"):
        read_answers(bad)
    (tmp_path / "bad.jsonl").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        read_answers(tmp_path / "bad.jsonl")
