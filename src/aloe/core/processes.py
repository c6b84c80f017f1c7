"""Several processes that do the work of one command (torchrun): who does what, and what they found, on every process.

The command joins them (`join`); until then, and where there is one process, everything here does what one process does, and
`shared` is `map`. What is told between processes is told over gloo, also where the models run on GPUs: it is numbers in
memory, never a tensor of a GPU. How they end is told in `aloe.core.survival`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from aloe.core.errors import UserError

T = TypeVar("T")
R = TypeVar("R")

PATIENCE = timedelta(days=14)
"""How long a process waits for the others: as long as their work takes. One that dies is noticed otherwise."""


@dataclass(frozen=True)
class Group:
    """This process among the others: its number `rank`, from 0, their `count`, and the host of each."""

    rank: int
    count: int
    hosts: tuple[str, ...] = ()


_ALONE = Group(0, 1)
_group = _ALONE


class OnEveryProcess(UserError):
    """A mistake that all processes were told of, whichever met it."""


def join() -> None:
    """Join the processes that torchrun started with this one; nothing where there is one.

    Raises:
        UserError: torchrun's environment is incomplete.
    """
    global _group
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count < 2 or _group is not _ALONE:
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(f"WORLD_SIZE is {count}, but {missing[0]} is not set; start the command with torchrun.")
    import torch.distributed as dist

    from aloe.core import survival

    rank = int(os.environ["RANK"])
    ours = survival.begin(rank, count)
    dist.init_process_group("gloo", rank=rank, world_size=count, timeout=PATIENCE)
    _group = Group(rank, count)
    everyone = gathered(ours)
    _group = Group(rank, count, tuple(host for host, *_ in everyone))
    survival.watch(everyone, wait)


def leave() -> None:
    """Part from the other processes, once all have come here."""
    global _group
    if _group.count > 1:
        import torch.distributed as dist

        from aloe.core import survival

        survival.end(wait)
        dist.destroy_process_group()
    _group = _ALONE


def rank() -> int:
    """The number of this process, from 0."""
    return _group.rank


def count() -> int:
    """How many processes share the work."""
    return _group.count


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return _group.rank == 0


def wait() -> None:
    """Until every process is here."""
    gathered(None)


def gathered(value: T) -> list[T]:
    """What every process gives here, in the order of the ranks, on every process."""
    if _group.count == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * _group.count
    dist.all_gather_object(values, value)
    return values


def dealt(items: Sequence[T]) -> list[T]:
    """The items that are this process's: every `count`-th, from its rank on."""
    return list(items[_group.rank :: _group.count])


def in_order(own: Sequence[T]) -> list[T]:
    """What every process made of its own `dealt` items, on every process, in the order of the items."""
    parts = gathered(list(own))
    return [part[i] for i in range(max(map(len, parts))) for part in parts if i < len(part)]


def shared(make: Callable[[T], R], items: Sequence[T], rounds: bool = False) -> Iterator[R]:
    """`map(make, items)` on every process, each item made by one of them.

    Args:
        rounds: hand what was made around after every item, not at the end: less is kept, where it is large.
    """
    if _group.count == 1:
        yield from map(make, items)
    elif not rounds:
        yield from in_order([make(item) for item in dealt(items)])
    else:
        for start in range(0, len(items), _group.count):
            yield from in_order([make(item) for item in dealt(items[start : start + _group.count])])


def of_first(make: Callable[[], T]) -> T:
    """What the first process makes, on every process.

    Raises:
        UserError: what it raises there, on every process.
    """
    if _group.count == 1:
        return make()
    outcome: tuple[Any, str | None] = (None, None)
    if _group.rank == 0:
        try:
            outcome = (make(), None)
        except UserError as error:
            outcome = (None, str(error))
    value, mistake = gathered(outcome)[0]
    if mistake is not None:
        raise OnEveryProcess(mistake)
    return value


def after_first(make: Callable[[], T]) -> T:
    """What every process makes for itself, the first before the others, which then find what it left on the disk."""
    if _group.rank == 0:
        value = make()
        wait()
        return value
    wait()
    return make()


def check_same(facts: Mapping[str, str]) -> None:
    """Hold hashes of what the processes read against each other; those of names that not all have count as well.

    Raises:
        UserError: some process has others than the first, on every process.
    """
    ours, *others = gathered(dict(facts))
    for number, theirs in enumerate(others, 1):
        for name in dict.fromkeys([*ours, *theirs]):
            if ours.get(name) != theirs.get(name):
                where = f" on {_group.hosts[number]}" if _group.hosts[number] != _group.hosts[0] else ""
                raise OnEveryProcess(
                    f"Process {number}{where} reads another {name} than process 0: give all of them the same files."
                )
