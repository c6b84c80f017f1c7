"""How processes that share a command end: one that stops says why, in one sentence, and the others stop with it.

Every process has a thread that hears what the main thread, which may be waiting for the others, cannot: a signal that asks it
to end, the end of torchrun, and the word of another process that it stopped. Who stops first leaves that word in the store
that torchrun keeps for its processes, and only who is first speaks. A process that is killed leaves none: the others find
that it is gone.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

_STOPPED = "aloe/stopped"
_EVERY = 1.0  # seconds between two looks around
_GRACE = 5.0  # seconds that the main thread has to clean up
_GOES_ON = "every process ends; the same command goes on from what is kept"


class _Watch:
    """What a process knows of the others."""

    def __init__(self, rank: int, count: int) -> None:
        self.rank, self.count = rank, count
        self.parent = os.getppid()
        self.where: tuple[tuple[str, int], ...] = ()
        self.store: Any = None
        self.ending = False
        self.reader, self.writer = os.pipe()
        self._before: Any = None

    def start(self) -> None:
        """Hear signals, and look around."""
        if threading.current_thread() is threading.main_thread():
            os.set_blocking(self.writer, False)
            self._before = signal.signal(signal.SIGTERM, _end)
            signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False)
        threading.Thread(target=self._look, name="aloe-survival", daemon=True).start()

    def stop(self) -> None:
        """Give the signal back to whoever had it."""
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(-1)
            if self._before is not None:
                signal.signal(signal.SIGTERM, self._before)

    def connect(self) -> None:
        """To the store, apart from what the main thread may be waiting in."""
        if self.store is None:
            from torch.distributed import TCPStore

            port = int(os.environ["MASTER_PORT"])
            self.store = TCPStore(os.environ["MASTER_ADDR"], port, is_master=False, timeout=timedelta(seconds=_GRACE))

    def is_first_to_stop(self) -> bool:
        """Leave the word that this process stops; whether no other has left one."""
        try:
            self.connect()
            return bool(self.store.add(_STOPPED, 1) == 1)
        except Exception:  # the store ended with torchrun, or before it was found
            return self.rank == 0

    def another_stopped(self) -> bool:
        """Whether any process has left its word."""
        return self.store is not None and bool(self.store.check([_STOPPED]))

    def gone(self) -> list[int]:
        """Ranks of this machine's processes that are no more."""
        here = socket.gethostname()
        return [k for k, (host, number) in enumerate(self.where) if host == here and not _alive(number)]

    def _look(self) -> None:
        while not self.ending:
            heard = os.read(self.reader, 64) if select.select([self.reader], [], [], _EVERY)[0] else b""
            if self.ending:
                return
            if signal.SIGTERM in heard:
                gone = self.gone()
                self._end_with(_died(gone) if gone else f"{_name(self)} was asked to end (SIGTERM)")
            elif signal.SIGINT in heard:
                self._exit(128 + signal.SIGINT)
            elif os.getppid() != self.parent:
                self._end_with("what started the processes (torchrun) ended")
            elif self._lost():
                self._exit(1)

    def _lost(self) -> bool:
        try:
            return self.another_stopped()
        except Exception:  # with the store its machine is gone
            return not self.ending

    def _end_with(self, cause: str) -> None:
        if self.is_first_to_stop():
            _say(f"{cause}: {_GOES_ON}.")
        self._exit(128 + signal.SIGTERM)

    def _exit(self, code: int) -> None:
        time.sleep(_GRACE)
        if not self.ending:
            os._exit(code)


_watch: _Watch | None = None


def begin(rank: int, count: int) -> None:
    """From here on this process ends with the others."""
    global _watch
    _watch = _Watch(rank, count)
    _watch.start()


def watch(where: tuple[tuple[str, int], ...]) -> None:
    """All are here: (host, process id) of each, in the order of the ranks."""
    if _watch is not None:
        _watch.where = where
        _watch.connect()


def end(wait: Callable[[], None]) -> None:
    """The work is done: once every process says so (`wait`), none ends with another any more."""
    global _watch
    if _watch is not None:
        wait()
        _watch.ending = True
        _watch.stop()
    _watch = None


def last_words(cause: str, alike: bool = False) -> str | None:
    """What this process should say when it stops: the cause, under its name unless all have met it; None where another has
    spoken."""
    if _watch is None:
        return cause
    return (cause if alike else f"{_name(_watch)}: {cause}") if _watch.is_first_to_stop() else None


def stopped_by(error: Exception) -> bool:
    """Say why a process that shares a command stops, if it is the first; whether the error is news: a mistake of ours, whose
    traceback should be seen."""
    if _watch is None:
        return True
    if not _is_of_another(error):
        news = _watch.is_first_to_stop()
        if news:
            words = " ".join(str(error).split())
            _say(f"{_name(_watch)} stopped ({type(error).__name__}: {words[:200]}): {_GOES_ON}.")
        return news
    until = time.monotonic() + _GRACE
    with suppress(Exception):
        while time.monotonic() < until and not _watch.another_stopped():
            time.sleep(0.1)
    gone = _watch.gone()
    if _watch.is_first_to_stop():
        _say(f"{_died(gone) if gone else f'{_name(_watch)} lost another process'}: {_GOES_ON}.")
    return False


def _is_of_another(error: Exception) -> bool:
    """Whether an error says that the connection to another process ended."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _died(ranks: list[int]) -> str:
    names = " and ".join(f"rank {k}" for k in ranks)
    return f"{names} died without a word, as by kill -9 or for lack of memory"


def _name(watch: _Watch) -> str:
    return f"rank {watch.rank} of {watch.count} processes"


def _say(words: str) -> None:
    sys.stderr.write(f"aloe: {words}\n")
    sys.stderr.flush()


def _alive(number: int) -> bool:
    try:
        os.kill(number, 0)
        with open(f"/proc/{number}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except ProcessLookupError:
        return False
    except OSError:  # no /proc here, or another user's
        return True


def _end(*_: Any) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _in_child() -> None:
    """A process that was forked, as one that reads images, hears signals for itself."""
    global _watch
    if _watch is not None:
        with suppress(ValueError):
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _watch = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
