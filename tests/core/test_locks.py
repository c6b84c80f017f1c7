"""Locks between processes: one holder at a time, gone with it, and looking does not disturb."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys

import pytest

from aloe.core import locks
from aloe.core.errors import UserError
from aloe.core.locks import alone, holder, is_taken, taken

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")
fork = multiprocessing.get_context("fork") if sys.platform != "win32" else None


def hold(path, pipe):
    with taken(path) as mine:
        pipe.send(mine)
        pipe.recv()


@pytest.fixture
def other(tmp_path):
    """A process that holds a lock, and its pipe."""
    ours, theirs = fork.Pipe()
    process = fork.Process(target=hold, args=(tmp_path / "a.lock", theirs))
    process.start()
    theirs.close()
    assert ours.recv() is True
    yield process, ours
    process.kill()
    process.join()


def test_a_lock_has_one_holder_who_is_named(other, tmp_path):
    path, (process, pipe) = tmp_path / "a.lock", other
    assert is_taken(path)
    assert holder(path).startswith(f"Process {process.pid} on ")
    with taken(path, wait=0) as mine:
        assert mine is False
    with taken(tmp_path / "b.lock", wait=0) as mine:
        assert mine is True
    pipe.send("let go")
    process.join()
    with taken(path, wait=0) as mine:
        assert mine is True


def test_a_lock_goes_with_its_killed_holder(other, tmp_path):
    process, _ = other
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert (tmp_path / "a.lock").is_file()
    assert not is_taken(tmp_path / "a.lock")
    with taken(tmp_path / "a.lock", wait=0) as mine:
        assert mine is True


def test_a_process_does_not_take_a_lock_twice_nor_lose_it_by_looking(tmp_path):
    path = tmp_path / "deep" / "a.lock"
    with taken(path) as first:
        with taken(path) as second:
            assert (first, second) == (True, False)
        assert is_taken(path)
        assert holder(path) == "Another process"
        ours, theirs = fork.Pipe()
        process = fork.Process(target=asks, args=(path, theirs))
        process.start()
        assert ours.recv() is False
        process.join()
    assert not is_taken(path)


def asks(path, pipe):
    with taken(path, wait=0) as mine:
        pipe.send(mine)


def test_looking_makes_nothing(tmp_path):
    assert not is_taken(tmp_path / "absent" / "a.lock")
    assert not list(tmp_path.iterdir())


def test_who_waits_too_long_is_told_of_the_holder(other, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "LONGEST", 0.05)
    with pytest.raises(UserError, match=f"Process {other[0].pid} on .* has held"), alone(tmp_path / "a.lock"):
        pytest.fail("not alone")


def test_a_folder_that_cannot_be_written_is_a_mistake_of_the_user(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), taken(tmp_path / "file" / "a.lock"):
        pytest.fail("taken")


def test_a_file_system_without_locks_lets_one_process_work(tmp_path, monkeypatch, capsys):
    import errno
    import fcntl

    def refuses(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuses)
    with taken(tmp_path / "a.lock") as mine:
        assert mine is True
    assert "without locks" in capsys.readouterr().err
