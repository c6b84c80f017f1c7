"""Which of the processes that share a command says why they end: the first that asks, and it alone.

On one machine the first is whoever writes first into a file that its processes hold open (the slate); of several machines,
whoever counts first in the store that torchrun keeps for its processes. Where that store ended with its keeper, every
machine has a voice of its own.
"""

from __future__ import annotations

import os
import tempfile
import threading
from contextlib import suppress
from datetime import timedelta
from typing import Any

_ANSWERS_WITHIN = timedelta(seconds=5)


class Voice:
    """What a process knows of who speaks; its two threads may ask at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = False
        self._slate: int | None = None
        self._store: Any = None

    @staticmethod
    def new_slate() -> str:
        """The path of an empty file, which `hear` opens and whoever made it then removes."""
        file, path = tempfile.mkstemp(prefix="aloe-slate-")
        os.close(file)
        return path

    def hear(self, slate: str) -> None:
        """Share a slate with the other processes of this machine, and the store with all, which are there by now."""
        with suppress(OSError):  # of a machine of the same name
            self._slate = os.open(slate, os.O_RDWR | os.O_APPEND)
        self._connect()

    def is_ours(self, alike: bool = False) -> bool:
        """Whether this process is the first that asks, now; never again afterwards.

        Args:
            alike: every process will ask, so that the first of them may speak where they know nothing of each other yet.
        """
        with self._lock:
            first, self._asked = not self._asked, True
            return first and self._is_first_here() and self._is_first_of_all(alike)

    def is_taken(self) -> bool:
        """Whether a process has asked.

        Raises:
            RuntimeError: the store is gone.
        """
        written = self._slate is not None and os.fstat(self._slate).st_size > 0
        return written or (self._store is not None and bool(self._store.check([_key()])))

    def _is_first_here(self) -> bool:
        if self._slate is None:
            return True
        ours = f"{os.getpid():<20}".encode()
        os.write(self._slate, ours)  # to its end, in one piece, as O_APPEND promises
        return os.pread(self._slate, len(ours), 0) == ours

    def _is_first_of_all(self, alike: bool) -> bool:
        try:
            if self._store is None and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
                self._connect()
            if self._store is not None:
                return bool(self._store.add(_key(), 1) == 1)
        except RuntimeError:  # it ended with torchrun, or with the process that kept it
            return self._slate is not None or os.environ.get("RANK", "0") == "0"
        return not alike or os.environ.get("RANK", "0") == "0"

    def _connect(self) -> None:
        """To the store, apart from what the main thread may be waiting in."""
        from torch.distributed import TCPStore

        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self._store = TCPStore(address, port, is_master=False, timeout=_ANSWERS_WITHIN)


def _key() -> str:
    return f"aloe/stopped/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
