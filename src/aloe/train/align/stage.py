"""A stage before the alignment, in which a part of the converted student learns alone.

A stage is a run in a folder of its own within the alignment's, with its own checkpoints, `log.jsonl` and, when it is done,
the student that the next stage begins with. An interrupted alignment goes on within it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from aloe.models.saving import load
from aloe.train.align.settings import AlignSettings
from aloe.train.arguments import training_arguments
from aloe.train.checkpoints import checkpoints
from aloe.train.progress import ProgressBar
from aloe.train.runs import starting_point
from aloe.train.trainer import DrawTrainer


@dataclass(frozen=True)
class Stage:
    """Where a stage lives, the alignment's settings, its device, and whether a bar shows its progress."""

    place: Path
    settings: AlignSettings
    device: str | None
    progress: bool

    @property
    def done(self) -> bool:
        """Whether its student has been written."""
        return (self.place / "model.safetensors").is_file()

    def run(
        self,
        student: Any,
        parts: Iterable[nn.Module],
        trainer: type[DrawTrainer],
        model: Callable[[], nn.Module],
        bar: Callable[[], ProgressBar],
        steps: int,
        rate: float,
        **data: Any,
    ) -> Any:
        """The student after `steps` in which `parts` of it learnt, at the highest rate `rate` of one cycle.

        Args:
            student: converted. model: makes the module that `trainer` trains, with the student's backbone under `student`.
            data: `train`, `held_out` and `resolution`, as `DrawTrainer` takes them.

        Raises:
            UserError: as for every training.
        """
        if self.done:
            return load(self.place)
        changes = {"steps": steps, "learning_rate": rate, "schedule": "one-cycle", "optimizer": "adamw", "fsdp": False}
        settings = self.settings.model_copy(update=changes)
        student.requires_grad_(False)
        for part in parts:
            part.requires_grad_(True)
        self.place.mkdir(parents=True, exist_ok=True)
        held_out = data["held_out"] is not None
        arguments = training_arguments(settings, self.place, self.device, evaluates=held_out, verb="align")
        running = trainer(model(), settings=settings, args=arguments, bar=bar() if self.progress else None, **data)
        word = student.config.teacher["stage"]
        trained = running.run(student, stage=word, start=starting_point(self.place))
        if arguments.should_save:
            for path in checkpoints(self.place):
                shutil.rmtree(path)
        return trained.requires_grad_(True)
