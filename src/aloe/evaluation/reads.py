"""Which settings each task reads: what no chosen task reads is refused, with the tasks that would read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aloe.core.errors import UserError
from aloe.core.names import chosen, meant
from aloe.data.frames.pair_settings import CorrespondenceSettings, PairSettings
from aloe.evaluation.dense.settings import DenseSettings
from aloe.evaluation.settings import EvaluateSettings

_VIEW = ("resolution", "precision", "batch_size", "workers")
_MAPS = (*_VIEW, "methods", "preset", "options")
_CONFIDENT = ("confidence", "share", "seed")
_PROBE = tuple(DenseSettings.model_fields)

READS: dict[str, tuple[str, ...]] = {
    "knn": (*_VIEW, "feature", "k", "distance", "votes"),
    "linear": (*_VIEW, "feature", "head", "loss", "learning_rates", "epochs", "weight_decay", "seed"),
    "zeroshot": (*_VIEW, "templates", "text_tower", "class_names"),
    "classifier": _VIEW,
    "cosine": ("resolution", "batch_size", "workers", "reference"),
    "gridpg": (
        *(*_MAPS, *_CONFIDENT, "grid_size", "grids", "grids_file", "first_grids"),
        *("protocol", "grid_input", "smooth"),
    ),
    "deletion": (*_MAPS, *_CONFIDENT, "images", "block", "fill", "deletion_mode", "fractions", "among"),
    "inside": (*_MAPS, "images", "seed"),
    "clarity": (*_MAPS, "images", "seed"),
    "depth": tuple(name for name in _PROBE if name not in ("uncertainty", "missing_normals")),
    "normals": tuple(name for name in _PROBE if name not in ("loss", "bins")),
    "correspondence": (*CorrespondenceSettings.model_fields, *PairSettings.model_fields),
}
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
    found: dict[str, None] = {}
    for task in [tasks] if isinstance(tasks, str) else tasks:
        name = chosen(task, _known())
        if name is None:
            raise UserError(f"There is no task {task!r}{meant(task, READS, 'tasks')}")
        found[name] = None
    if not found:
        raise UserError(f"There is no task given; tasks: {', '.join(READS)}.")
    return list(found)


def _known() -> list[str]:
    """Every task: those of `READS`, and those that were added to `TASKS`, which read what every view does."""
    from aloe.evaluation.tasks import TASKS

    return list(dict.fromkeys((*READS, *TASKS)))


def check_read(settings: Iterable[str], tasks: Sequence[str]) -> None:
    """Hold the settings that were given against the tasks.

    Raises:
        UserError: one that none of these tasks reads, naming those that do; one that no task has.
    """
    for name in settings:
        if any(name in READS.get(task, _VIEW) for task in tasks):
            continue
        readers = [task for task in READS if name in READS[task]]
        if not readers:
            raise UserError(f"{name} is no setting of {', '.join(tasks)}{meant(name, _of(tasks), 'settings')}")
        raise UserError(f"{name} is not read by {', '.join(tasks)}, but by {', '.join(readers)}; leave it out.")


def read_by(settings: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Any]:
    """Those of the settings that some of the tasks reads."""
    return {name: value for name, value in settings.items() if any(name in READS.get(task, _VIEW) for task in tasks)}


def _of(tasks: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(name for task in tasks for name in READS.get(task, _VIEW)))
