"""Which settings the tasks read: what no task that is asked for reads is refused, with the tasks that would read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aloe.core.errors import UserError
from aloe.core.names import chosen, meant
from aloe.data.frames.pair_settings import CorrespondenceSettings, PairSettings
from aloe.evaluation.dense.settings import DenseSettings
from aloe.evaluation.settings import EvaluateSettings
from aloe.evaluation.tasks import TASKS

KNOWN = frozenset(
    name
    for fields in (EvaluateSettings, DenseSettings, CorrespondenceSettings, PairSettings)
    for name in fields.model_fields
) | {"grid_input"}
"""Every setting of an evaluation."""


def task_names(tasks: str | Iterable[str]) -> list[str]:
    """Tasks by their names, each once; upper and lower case alike. A text is one task.

    Raises:
        UserError: none, or one that there is not, with the nearest.
    """
    names: dict[str, None] = {}
    for task in [tasks] if isinstance(tasks, str) else tasks:
        name = chosen(task, TASKS)
        if name is None:
            raise UserError(f"There is no task {task!r}{meant(task, TASKS, 'tasks')}")
        names[name] = None
    if not names:
        raise UserError(f"There is no task given; tasks: {', '.join(TASKS)}.")
    return list(names)


def check_read(settings: Iterable[str], tasks: Sequence[str]) -> None:
    """Hold the settings that were given against the tasks.

    Raises:
        UserError: one that none of these tasks reads, naming those that do; one that no task has.
    """
    read = list(dict.fromkeys(name for task in tasks for name in TASKS[task].reads))
    for name in settings:
        if name in read:
            continue
        readers = [task for task in TASKS if name in TASKS[task].reads]
        if not readers:
            raise UserError(f"{name} is no setting of {', '.join(tasks)}{meant(name, read, 'settings')}")
        raise UserError(f"{name} is not read by {', '.join(tasks)}, but by {', '.join(readers)}; leave it out.")


def read_by(settings: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Any]:
    """Those of the settings that some of the tasks reads."""
    return {name: value for name, value in settings.items() if any(name in TASKS[task].reads for task in tasks)}
