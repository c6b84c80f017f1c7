"""Locks between processes that share a folder, on one machine or on several; a lock ends with the process that holds it.

On Unix they are POSIX record locks (`fcntl.lockf`), which a network file system carries to its server: NFS 4 itself, NFS 3 by
its lock daemon. Of a machine that died the server drops them when their lease ends (NFS 4: 90 seconds unless set otherwise).
A mount with `nolock` or `local_lock` keeps them on one machine, which nothing here can tell. Files of locks stay: a file that
is removed while another process opens it would be locked twice.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from aloe.core.errors import UserError
from aloe.core.progress import say

PATIENCE = 0.5
"""Seconds that a lock is tried for: one who only looks, see `is_taken`, holds it for an instant."""
LONGEST = 120.0
"""Seconds that `alone` waits."""

_mine: set[Path] = set()  # a process that closes a file loses its locks on it, so each is opened once at a time
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mine.clear)  # a fork has none of its parent's locks


@contextmanager
def taken(path: Path, wait: float = PATIENCE) -> Iterator[bool]:
    """Whether the lock of the file `path` is this process's for the block; False where another one has it, or this one.

    Args:
        path: is made, with its folder, and says who holds it. wait: seconds that it is tried for.

    Raises:
        UserError: it cannot be written.
    """
    path = path.absolute()
    if path in _mine:
        yield False
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error
    try:
        held = _tried(handle, path, time.monotonic() + wait)
        if held:
            _mine.add(path)
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
        yield held
    finally:
        _mine.discard(path)
        os.close(handle)  # which lets go


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait for the lock of the file `path` and hold it for the block, which ought to be short.

    Raises:
        UserError: the file cannot be written, or another process has held it for `LONGEST` seconds.
    """
    with taken(path, LONGEST) as mine:
        if not mine:
            raise UserError(
                f"{holder(path)} has held {path} for {LONGEST:.0f} seconds; end it, or run this again later."
            )
        yield


def is_taken(path: Path) -> bool:
    """Whether any process holds the lock of the file `path`; nothing is made or written."""
    path = path.absolute()
    if path in _mine:
        return True
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _lock(handle, path, shared=True)
    finally:
        os.close(handle)


def holder(path: Path) -> str:
    """Who took the lock of the file `path` last, such as "Process 12 on node3"."""
    words = ""
    if path.absolute() not in _mine:
        with suppress(OSError, UnicodeDecodeError):
            words = path.read_text().strip()
    return words.capitalize() if words and words.isprintable() else "Another process"


def _tried(handle: int, path: Path, end: float) -> bool:
    while not _lock(handle, path):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


if sys.platform == "win32":
    import msvcrt

    _FAR = 1 << 30  # the byte that is locked, behind the words of who holds it: Windows lets nobody else read it

    def _lock(handle: int, path: Path, shared: bool = False) -> bool:
        os.lseek(handle, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import errno
    import fcntl

    def _lock(handle: int, path: Path, shared: bool = False) -> bool:
        try:
            fcntl.lockf(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                return False
            _without(path.parent)
        return True


@cache
def _without(folder: Path) -> None:
    say(f"{folder} is on a file system without locks; let one process at a time work in it.")
