"""`finetune`: from a teacher or a student and labelled images to a B-cos classifier in a folder, resumable.

From a teacher it is vanilla B-cosification (method.md, 4), the baseline of every table of the paper. What the folder
holds, and who may write to it, is told in `aloe.train.runs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from aloe.core.bounds import check_batch
from aloe.core.errors import UserError
from aloe.core.torch_state import in_plain_torch
from aloe.data.draws import check_source
from aloe.data.places import check_output, output_folder
from aloe.models.convert import Student
from aloe.models.fingerprint import fingerprint
from aloe.models.geometry import check_side
from aloe.models.modeling import BcosViTForImageClassification
from aloe.models.saving import load
from aloe.models.teachers import Teacher
from aloe.train.align.calibrate import calibrate
from aloe.train.arguments import training_arguments
from aloe.train.checkpoints import checkpoints
from aloe.train.finetune.labels import Images, check_readable_classes, labels_fingerprint, open_labelled, validation_for
from aloe.train.finetune.settings import FinetuneSettings
from aloe.train.finetune.start import stage_after, starting_student, with_head
from aloe.train.finetune.trainer import FinetuneTrainer, LabelledModel, finetuning_bar
from aloe.train.runs import claim, hold_out, record, sample_images, starting_point


@in_plain_torch
def finetune(
    model: Teacher | Student | nn.Module | str | Path,
    images: Images,
    output_dir: str | Path,
    *,
    validation: Images | None = None,
    recipe: str = "short",
    config: str | Path | None = None,
    device: str | None = None,
    progress: bool = True,
    **settings: Any,
) -> BcosViTForImageClassification:
    """Fine-tune a B-cos student on labelled images.

    Args:
        model: a teacher (hub id, local folder, live transformers module, or a `Teacher`), which is converted first, or a
            student of ALOE (folder, hub id or live), which is left as it is.
        images: one folder per class (also in an archive), `hf:` data set with labels, or `scenes:`.
        output_dir: where the run lives; run again with the same arguments to resume.
        validation: labelled images to evaluate on; default: `holdout` of the images, every class its share.
        recipe: name of a recipe of the package; config: a YAML file over it; settings: single values over both
            (see `FinetuneSettings`).
        device: `cpu`, `cuda`, ...; default: the best one there is.
        progress: show a progress bar on standard error.

    Returns:
        The classifier in eval mode, with the data's class names; `config.teacher["stage"]` is `b-cosified` if the start
        was only converted, else `finetuned`.

    Raises:
        UserError: anything in the arguments, data or files that the user can mend; nothing half-written is left.
    """
    resolved = FinetuneSettings.resolve(recipe, config, settings)
    start, name = starting_student(model, resolved)
    stage = stage_after(start)
    source = open_labelled(images)
    classes = source.classes or []
    home = output_folder(output_dir)
    if isinstance(images, str | Path | Sequence):
        check_output(images, home)
    student, kept = with_head(start, classes, resolved)
    resolution = resolved.resolution or student.config.resolution
    check_side(resolution, student.config.patch_size)
    if not all(bool(p.isfinite().all()) for p in student.parameters()):
        raise UserError(f"Some weights of {name} are not finite; there is nothing to start from.")
    student.config.teacher = {**student.config.teacher, "resolution": resolution}
    if validation is None:
        train, held_out = hold_out(source, resolved.holdout, resolved.seed, source.labels)
    else:
        train, held_out = source, validation_for(validation, source)
    check_batch(resolved.batch_size, len(train))
    check_readable_classes(train)
    check_source(train, max_bad_fraction=resolved.max_bad_fraction)
    arguments = training_arguments(resolved, home, device, evaluates=held_out is not None, verb="finetune")
    early = resolved.calibrate and not checkpoints(home)  # so that bad data are met before anything is written
    sample = sample_images(train, resolution, resolved.seed) if early else None
    facts = {
        **_facts(name, start, student, source),
        "head": "kept" if kept else "new",
        "validation_fingerprint": None if validation is None or held_out is None else held_out.state(),
        "resolution": resolution,
    }
    with claim(home, record(resolved, source, arguments.world_size, **facts)) as state:
        if state == "finished":
            return load(home)  # type: ignore[return-value]
        point = starting_point(home)
        if resolved.calibrate and point is None:
            calibrate(student, sample_images(train, resolution, resolved.seed) if sample is None else sample)
        student.requires_grad_(True)
        student.vit.requires_grad_(resolved.freeze == "none")
        trainer = FinetuneTrainer(
            LabelledModel(student, resolved.loss),
            settings=resolved,
            args=arguments,
            train=train,
            held_out=held_out,
            resolution=resolution,
            bar=finetuning_bar() if progress else None,
        )
        return trainer.run(student, stage=stage, start=point).requires_grad_(True)


def _facts(name: str, start: Any, student: BcosViTForImageClassification, source: Any) -> dict[str, Any]:
    """What is recorded of the start and of the labels."""
    return {
        "task": "finetune",
        "model": name,
        "start_fingerprint": fingerprint(student),
        "start_stage": start.config.teacher.get("stage"),
        "classes": len(source.classes or []),
        "labels_fingerprint": labels_fingerprint(source),
        "stem": student.config.stem_name,
        "b": student.config.b,
    }
