"""One thread writes to the database: whatever waits is written in one transaction, so that many answers share one disk sync.

A job's future has its result only after the commit that made it durable.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from aloe.core.errors import UserError

Result = TypeVar("Result")
Job = Callable[[sqlite3.Connection], Any]
TOGETHER = 256  # jobs in one transaction at most


class Writer:
    """Runs jobs one after the other on a connection of its own."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._jobs: queue.SimpleQueue[tuple[Job, Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="study writer", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[sqlite3.Connection], Result]) -> Future[Result]:
        """Have a job run in a transaction. What it raises of `UserError` and `sqlite3.Error` undoes that job alone."""
        future: Future[Result] = Future()
        if not self._thread.is_alive():
            raise RuntimeError("The study's writer has stopped.")
        self._jobs.put((job, future))
        return future

    def close(self) -> None:
        """Write what waits, then stop."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        batch: list[tuple[Job, Future[Any]]] = []
        connection = self._connect()
        try:
            going = True
            while going:
                batch, going = self._next()
                _write(connection, batch)
        finally:  # a mistake of ours in a job must not leave anybody waiting
            while not self._jobs.empty():
                batch += filter(None, [self._jobs.get_nowait()])
            for _, future in batch:
                if not future.done():
                    future.set_exception(RuntimeError("The study's writer has stopped."))
            connection.close()

    def _next(self) -> tuple[list[tuple[Job, Future[Any]]], bool]:
        """What waits, at least one job, and whether to go on after it."""
        batch: list[tuple[Job, Future[Any]]] = []
        entry = self._jobs.get()
        while entry is not None:
            if entry[1].set_running_or_notify_cancel():
                batch.append(entry)
            if len(batch) == TOGETHER:
                return batch, True
            try:
                entry = self._jobs.get_nowait()
            except queue.Empty:
                return batch, True
        return batch, False


def _write(connection: sqlite3.Connection, batch: list[tuple[Job, Future[Any]]]) -> None:
    ends: list[tuple[Any, UserError | sqlite3.Error | None]] = []
    try:
        connection.execute("BEGIN IMMEDIATE")
        for job, _ in batch:
            connection.execute("SAVEPOINT job")
            try:
                ends.append((job(connection), None))
            except (UserError, sqlite3.Error) as error:
                connection.execute("ROLLBACK TO job")
                ends.append((None, error))
            connection.execute("RELEASE job")
        connection.execute("COMMIT")
    except sqlite3.Error as error:  # the disk is full, say: nothing of the batch is written
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        ends = [(None, error)] * len(batch)
    for (_, future), (result, failed) in zip(batch, ends, strict=True):
        if failed is None:
            future.set_result(result)
        else:
            future.set_exception(failed)
