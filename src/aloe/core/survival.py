"""How processes that share a command end: one that stops says why, in one sentence, and the others stop with it.

Every process has a thread that hears what the main thread, which may be waiting for the others, cannot: a signal that asks it
to end, the end of torchrun, and another process that stopped. Who stops first speaks, and it alone (`aloe.core.voice`). A
process that is killed says nothing: the others find that it is gone. The thread asks the main thread to end and ends with it;
only where that does not hear, as in a wait for a process that is gone, it ends the process.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from aloe.core.typed import whole_number
from aloe.core.voice import Voice

_EVERY = 1.0  # seconds between two looks around
_GRACE = 5.0  # seconds that the main thread has to clean up
_GOES_ON = "every process ends; the same command goes on from what is kept"


class _Watch:
    """What a process knows of the others."""

    def __init__(self, rank: int, count: int) -> None:
        self.rank, self.count = rank, count
        self.parent = os.getppid()
        self.where: tuple[tuple[str, int], ...] = ()
        self.leaving = False  # the work is done, and torchrun may end as soon as all know
        self.over = False  # all know: nobody ends with another any more
        self.stopping = False  # the main thread is about to end, and is not asked again
        self.reader, self.writer = os.pipe()
        # No daemon: one that is in torch's code when Python ends would abort the process.
        self.thread = threading.Thread(target=self._look, name="aloe-survival")
        self._before: Any = None

    def start(self) -> None:
        """Hear signals, and look around."""
        if threading.current_thread() is threading.main_thread():
            os.set_blocking(self.writer, False)
            self._before = signal.signal(signal.SIGTERM, self._asked_to_end)
            signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False)
        self.thread.start()

    def stop(self) -> None:
        """End the thread, and give the signal back to whoever had it."""
        self.over = True
        os.write(self.writer, b"\0")
        self.thread.join()
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(-1)
            if self._before is not None:
                signal.signal(signal.SIGTERM, self._before)

    def name(self) -> str:
        return f"rank {self.rank} of {self.count} processes"

    def say(self, cause: str) -> bool:
        """Say why the processes end, if this one is the first to stop; whether it was."""
        first = _voice.is_ours()
        if first:
            sys.stderr.write(f"aloe: {cause}: {_GOES_ON}.\n")
            sys.stderr.flush()
        return first

    def lost(self) -> str | None:
        """What is to be seen of others that are gone."""
        here = socket.gethostname()
        gone = [f"rank {k}" for k, (host, number) in enumerate(self.where) if host == here and not _alive(number)]
        if gone:
            return f"{' and '.join(gone)} died without a word, as by kill -9 or for lack of memory"
        return "what started the processes (torchrun) ended" if os.getppid() != self.parent else None

    def _look(self) -> None:
        """Until the work is over, the main thread has ended, or it has to."""
        while True:
            last = self.over or not threading.main_thread().is_alive()
            heard = os.read(self.reader, 64) if select.select([self.reader], [], [], 0 if last else _EVERY)[0] else b""
            if signal.SIGTERM in heard:
                self.say(self.lost() or f"{self.name()} was asked to end (SIGTERM)")
            elif last or self.over:
                return
            elif os.getppid() != self.parent:
                self.say(str(self.lost()))
            elif signal.SIGINT not in heard and not self._another_stopped():
                continue
            return self._end_main(signal.SIGINT if signal.SIGINT in heard else signal.SIGTERM)

    def _another_stopped(self) -> bool:
        """Whether another process said so, or none can, since the first machine is gone."""
        try:
            return _voice.is_taken()
        except RuntimeError:  # the store ended with torchrun there
            if not self.leaving:
                time.sleep(_EVERY)  # until what else ended is to be seen as well
                self.say(self.lost() or "the machine of rank 0 does not answer any more")
            return not self.leaving

    def _end_main(self, asked: signal.Signals) -> None:
        main = threading.main_thread()
        if asked == signal.SIGTERM and not self.stopping and main.ident is not None:
            signal.pthread_kill(main.ident, asked)
        main.join(_GRACE)
        if main.is_alive() and not self.over:
            os._exit(128 + asked)

    def _asked_to_end(self, *_: Any) -> None:
        if not self.stopping:
            self.stopping = True
            raise SystemExit(128 + signal.SIGTERM)


_watch: _Watch | None = None
_voice = Voice()


def begin(rank: int, count: int) -> tuple[str, int, str]:
    """From here on this process ends with the others; (host, process id, slate), which all should know."""
    global _watch
    _watch = _Watch(rank, count)
    _watch.start()
    return socket.gethostname(), os.getpid(), _voice.new_slate()


def watch(group: Sequence[tuple[str, int, str]], wait: Callable[[], None]) -> None:
    """All are here: what `begin` gave each, in the order of the ranks."""
    if _watch is not None:
        host, _, slate = group[_watch.rank]
        _voice.hear(next(theirs for where, _, theirs in group if where == host))
        _watch.where = tuple((where, number) for where, number, _ in group)
        wait()
        with suppress(OSError):
            os.unlink(slate)


def end(wait: Callable[[], None]) -> None:
    """The work is done: once every process says so (`wait`), none ends with another any more."""
    global _watch
    if _watch is not None:
        _watch.leaving = True
        wait()
        _watch.stop()
    _watch = None


def stopping() -> None:
    """The main thread is about to end: a signal does not disturb it any more."""
    if _watch is not None:
        _watch.stopping = True


def last_words(cause: str, alike: bool = False) -> str | None:
    """What this process should say when it stops: the cause, under its name unless all meet it; None where another speaks."""
    stopping()
    if (whole_number(os.environ.get("WORLD_SIZE", "1")) or 0) < 2:
        return cause
    if not _voice.is_ours(alike):
        return None
    return cause if alike or _watch is None else f"{_watch.name()}: {cause}"


def stopped_by(error: Exception) -> bool:
    """Say why a process that shares a command stops, if it is the first; whether the error is news: a mistake of ours, whose
    traceback should be seen."""
    if _watch is None:
        return True
    stopping()
    if not _is_of_another(error):
        words = " ".join(str(error).split())
        return _watch.say(f"{_watch.name()} stopped ({type(error).__name__}: {words[:200]})")
    until = time.monotonic() + _GRACE
    with suppress(Exception):
        while time.monotonic() < until and not _voice.is_taken():
            time.sleep(0.1)
    _watch.say(_watch.lost() or f"{_watch.name()} lost another process")
    return False


def _is_of_another(error: Exception) -> bool:
    """Whether an error says that the connection to another process ended."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _alive(number: int) -> bool:
    try:
        os.kill(number, 0)
        with open(f"/proc/{number}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except ProcessLookupError:
        return False
    except OSError:  # no /proc here, or another user's
        return True


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
