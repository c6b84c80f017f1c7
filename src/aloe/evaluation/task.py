"""One kind of task and one kind of result: whatever `aloe evaluate` measures is a `Task` that is run on a case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

VIEW = ("resolution", "precision", "batch_size", "workers")
"""Settings of every task that looks at images one by one."""


@dataclass(frozen=True)
class Outcome:
    """What a task found: `value` in percent (a cosine as it is), the images that went into it, and the rest of the story;
    `official` where nothing in the way it was measured speaks against that."""

    value: float
    counts: dict[str, int]
    details: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    official: bool = True


@dataclass(kw_only=True)
class Case:
    """One model on one data set: its name as it was asked for, where it runs, and where features and results are kept."""

    name: str
    model: Any
    device: str
    cache: Path | None
    progress: bool
    output_dir: Path | None = None

    metric = ""
    """That of the data, for tasks without one of their own."""

    def data(self, parts: Sequence[str]) -> str:
        """The name of the data that these parts belong to."""
        raise NotImplementedError

    def state(self, part: str) -> str | None:
        """A fingerprint of a part of the data; None where there is no such part."""
        raise NotImplementedError

    def check(self, name: str, task: Task) -> None:
        """Raises UserError where model or data lack what task `name` needs."""

    def standing(self, parts: Sequence[str], outcome: Outcome) -> tuple[bool, list[str]]:
        """Whether a number is official, and what is to be said of it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Task:
    """A number that a model has on a data set.

    Attributes:
        run: measures it, from a case and the facts that determine its row.
        settings: what of the settings the value depends on, which enters the row's key; raises UserError for a case that
            the task cannot be run on.
        parts: those of the data that it reads.
        metric: what the value is; default: the data's own.
        reads: names of the settings that may be given for it.
        on: what the case is: a model on images, the same with a method, or a model on frames.
        check: raises UserError, of a case and the task's name, where `settings` would be work; default: `settings`.
        versions: packages, besides those of every row, that the key names.
        labelled: whether the images need labels.
    """

    run: Callable[[Any, dict[str, Any]], Outcome]
    settings: Callable[[Any], dict[str, Any]]
    parts: tuple[str, ...]
    metric: str | None = None
    reads: tuple[str, ...] = VIEW
    on: Literal["images", "maps", "frames"] = "images"
    check: Callable[[Any, str], object] | None = None
    versions: tuple[str, ...] = ()
    labelled: bool = True
