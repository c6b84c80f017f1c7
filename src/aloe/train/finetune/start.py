"""What fine-tuning starts from: a teacher, converted first, or a student; with a head for the classes of the data."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aloe.bcos.losses import logit_bias
from aloe.core.errors import UserError
from aloe.models.convert import Student, bcosify
from aloe.models.modeling import BcosViTForImageClassification, BcosViTModel
from aloe.models.saving import is_student, load
from aloe.models.teachers import Teacher, in_float32, load_teacher
from aloe.models.unwrap import unwrapped
from aloe.train.finetune.settings import FinetuneSettings


def starting_student(
    model: Teacher | Student | nn.Module | str | Path, settings: FinetuneSettings
) -> tuple[Student, str]:
    """(student, name): a teacher is converted as the settings say, a student is taken as it is.

    Raises:
        UserError: nothing there that could be converted or trained, or settings that a student cannot follow.
    """
    if isinstance(model, str | Path):
        name = str(model)
        model = load(name) if is_student(name) else load_teacher(name)
        name = Path(name).name if Path(name).exists() else name
    else:
        model = unwrapped(model)
        name = type(model).__name__
    if not isinstance(model, BcosViTModel | BcosViTForImageClassification):
        teacher = load_teacher(model)
        if settings.stem != "patch" and settings.freeze == "backbone":
            raise UserError("A conv stem is new and has to learn: choose freeze none, or stem patch.")
        return bcosify(teacher, settings.stem, settings.b, seed=settings.seed), teacher.name
    for key in {"stem", "b"} & settings.model_fields_set:
        setting, has = getattr(settings, key), getattr(model.config, key)
        if setting != has:
            raise UserError(f"{key} cannot be {setting}: {name} is a student whose {key} is {has}; leave it out.")
    if settings.calibrate and model.config.teacher.get("stage") != "converted":
        raise UserError(f"calibrate is for models that were only converted, and {name} was trained; leave it out.")
    return in_float32(model, also=(torch.float64,)), name


def stage_after(start: Student) -> str:
    """What a student is once it has learned labels: b-cosified only if labels are all that it ever learned from."""
    config: Any = start.config
    return "b-cosified" if config.teacher.get("stage") in ("converted", "b-cosified") else "finetuned"


def with_head(
    start: Student, classes: list[str], settings: FinetuneSettings
) -> tuple[BcosViTForImageClassification, bool]:
    """(a copy of the student with one logit per class in their order, whether that is the student's own head).

    A classifier for the same class names, upper and lower case alike and in any order, is kept with its rows in the order
    of `classes`; else the head is a new B-cos unit, drawn from the settings' seed.
    """
    config: Any = deepcopy(start.config)
    config.id2label = dict(enumerate(classes))
    config.label2id = {name: k for k, name in enumerate(classes)}
    config.logit_bias = logit_bias(settings.loss, len(classes))
    rows = _rows(start, classes)
    if rows is None:
        config.logit_scale = 1.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        student = BcosViTForImageClassification(config)
    student.vit.load_state_dict(start.base_model.state_dict())
    if rows is not None:
        weight: torch.Tensor = start.classifier.weight  # type: ignore[assignment, union-attr]
        student.classifier.weight.data.copy_(weight.data[rows])
    return student, rows is not None


def _rows(start: Student, classes: list[str]) -> list[int] | None:
    """The row of the student's classifier for each class; None if its classes are not these."""
    if not isinstance(start, BcosViTForImageClassification):
        return None
    names = [str(start.config.id2label[k]).lower() for k in range(start.num_labels)]  # type: ignore[index]
    labels = [name.lower() for name in classes]
    same = sorted(names) == sorted(labels) and len(set(names)) == len(names)
    return [names.index(name) for name in labels] if same else None
