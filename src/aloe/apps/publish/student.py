"""A student's folder as a card may tell of it: the model, what its run recorded, the last held-out numbers; nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aloe.apps.publish.names import is_hub_id, public_name
from aloe.core.errors import UserError
from aloe.core.files import read_json
from aloe.models.convert import Student
from aloe.models.saving import load
from aloe.train.progress import EVAL_PREFIX, read_log
from aloe.train.runs import RUN_NAME

TRAINED = ("aligned", "finetuned", "b-cosified")


@dataclass(frozen=True)
class Published:
    """What `read_student` found.

    `model` is ready to be saved: its `config.teacher` holds no path. `known_as` is the teacher's name in result rows, `run`
    the run's record (empty if the folder holds none), `held_out` the last evaluation of the run's log.
    """

    model: Student
    known_as: str
    run: dict[str, Any]
    held_out: dict[str, float]

    @property
    def teacher(self) -> dict[str, Any]:
        config: Any = self.model.config
        return config.teacher

    @property
    def stage(self) -> str:
        """`aligned`, `finetuned`, `b-cosified`, `converted`, or `unknown` where the student does not say."""
        stage = self.teacher.get("stage")
        return stage if stage in (*TRAINED, "converted") else "unknown"

    @property
    def made_from(self) -> list[str]:
        """Hub ids of the models it was made from, the nearest first: the checkpoint it was translated from, its teacher."""
        return [name for key in ("source", "name") if is_hub_id(name := str(self.teacher.get(key) or ""))]

    @property
    def classes(self) -> list[str]:
        """Names of the classes, empty for a backbone."""
        config: Any = self.model.config
        return list(config.id2label.values()) if hasattr(self.model, "classifier") else []


def read_student(folder: Path, base_model: str | None = None) -> Published:
    """A finished student; `base_model` is the hub id of its teacher where the student only knows a folder's name.

    Raises:
        UserError: no folder, an unfinished run, a damaged record, not a student of ALOE, or a hub id of a wrong form.
    """
    if base_model is not None and not is_hub_id(base_model):
        raise UserError(f"--base-model takes a hub id such as google/vit-base-patch16-224, got {base_model!r}.")
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder of a run of `aloe align` or `aloe finetune`.")
    if (folder / RUN_NAME).is_file() and not (folder / "model.safetensors").is_file():
        raise UserError(f"{folder} holds a run that is not finished; run its command again, then publish.")
    model = load(folder)
    config: Any = model.config
    known_as = str(config.teacher.get("name") or "")
    cleaned = {key: public_name(value) if isinstance(value, str) else value for key, value in config.teacher.items()}
    config.teacher = cleaned | ({"name": base_model} if base_model else {})
    return Published(model, known_as, _record(folder / RUN_NAME), _last_evaluation(folder))


def _record(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return dict(read_json(path))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged; move it away to publish without the settings of the run.") from error


def _last_evaluation(folder: Path) -> dict[str, float]:
    """Held-out numbers by name, of the last evaluation in the log."""
    numbers: dict[str, float] = {}
    for row in read_log(folder):
        evaluated = {k.removeprefix(EVAL_PREFIX): v for k, v in row.items() if k.startswith(EVAL_PREFIX)}
        numbers = evaluated or numbers
    return numbers
