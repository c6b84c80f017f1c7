"""Several processes within a test: forked, so that nothing is imported again, and joined as torchrun's are."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from queue import Empty
from typing import Any

import torch

from aloe.cli import main
from aloe.core import processes, survival
from aloe.core.files import stamp
from aloe.core.voice import Voice
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


def started(job: Callable[[], Any]) -> Any:
    """A forked process that does the job."""
    process: Any = multiprocessing.get_context("fork").Process(target=job)
    process.start()
    return process


def ended(process: Any, limit: float = 240) -> int | None:
    """The exit code of a process, or the number of the signal that killed it, negative; None where it did not end in time."""
    process.join(limit)
    code: int | None = process.exitcode
    process.kill()
    process.join()
    return code


def in_two_with_copies(job: Callable[[], Any]) -> list[Any]:
    """What the job returns in each of two processes, the second of which sees other inodes, as of a copy elsewhere."""

    def elsewhere() -> Any:
        if processes.rank():
            sources.stamp = lambda path: f"elsewhere {stamp(path)}"  # type: ignore[attr-defined]
        return job()

    return run_in(2, elsewhere)


def torchrun(*words: object, job: Callable[[], Any] = main.main, limit: float = 240) -> tuple[int | None, str]:
    """(exit code, all that was said) of `torchrun --standalone --nproc_per_node=2 -m aloe WORDS`.

    torchrun's own agent starts the two processes; it and they are forked.

    Args:
        job: what each process does, with the words in `sys.argv`.
    """
    with tempfile.TemporaryFile("w+") as said:
        agent = started(lambda: _agent([str(word) for word in words], job, said.fileno()))
        agent.join(limit)
        if agent.is_alive():
            agent.terminate()  # and it ends its processes
        code = ended(agent)
        said.seek(0)
        return code, said.read()


def _agent(words: list[str], job: Callable[[], Any], said: int) -> None:
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for stream in (1, 2):
        os.dup2(said, stream)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(stream), "w", buffering=1) for stream in (1, 2))
    where = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": str(os.getpid())}
    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=2, max_restarts=0, start_method="fork", **where)
    elastic_launch(config, _of_agent)(words, job)


def _of_agent(words: list[str], job: Callable[[], Any]) -> None:
    """One of the agent's processes, which knows nothing of what the test has run before."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    survival._voice = Voice()
    torch.set_num_threads(1)
    sys.argv = ["aloe", *words]
    try:
        job()
    except SystemExit as stop:
        if stop.code:
            raise


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
