"""Several processes within a test: forked, so that nothing is imported again, and joined as torchrun's are."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from queue import Empty
from typing import Any

import torch

from aloe.core import processes
from aloe.core.files import stamp
from aloe.data import sources


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_in(count: int, job: Callable[[], Any], limit: float = 120, *, joined: bool = True) -> list[Any]:
    """What the job returns in each of `count` processes; a process that fails ends the others.

    Args:
        joined: as a command joins them; a training's processes find each other.

    Raises:
        RuntimeError: a process failed; says which, and how.
    """
    context: Any = multiprocessing.get_context("fork")
    results, port = context.Queue(), free_port()
    started = [context.Process(target=_child, args=(k, count, port, job, results, joined)) for k in range(count)]
    for process in started:
        process.start()
    found: dict[int, tuple[bool, Any]] = {}
    try:
        while len(found) < count and all(ok for ok, _ in found.values()):
            try:
                rank, *outcome = results.get(timeout=0.1 if _one_is_dead(started, found) else 1.0)
                found[rank] = tuple(outcome)
            except Empty:
                limit -= 1
                if limit < 0 or _one_is_dead(started, found):
                    break
    finally:
        for process in started:
            process.join(timeout=1 if len(found) == count else 0.1)
            if process.is_alive():
                process.kill()
                process.join()
    if bad := {rank: words for rank, (ok, words) in found.items() if not ok}:
        raise RuntimeError("\n".join(f"rank {rank}: {words}" for rank, words in bad.items()))
    if len(found) < count:
        raise RuntimeError(f"of {count} processes ended {[p.exitcode for p in started]}")
    return [found[rank][1] for rank in range(count)]


def in_two_with_copies(job: Callable[[], Any]) -> list[Any]:
    """What the job returns in each of two processes, the second of which sees other inodes, as of a copy elsewhere."""

    def elsewhere() -> Any:
        if processes.rank():
            sources.stamp = lambda path: f"elsewhere {stamp(path)}"  # type: ignore[attr-defined]
        return job()

    return run_in(2, elsewhere)


def _one_is_dead(started: list[Any], found: dict[int, Any]) -> bool:
    return any(process.exitcode not in (None, 0) and rank not in found for rank, process in enumerate(started))


def _child(rank: int, count: int, port: int, job: Callable[[], Any], results: Any, joined: bool) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    try:
        if joined:
            processes.join()
        found = job()
        processes.leave()
        results.put((rank, True, found))
    except BaseException:
        results.put((rank, False, traceback.format_exc()))
