"""`align`: from a teacher and a pile of unlabelled images to an aligned student in a folder, resumable.

What the folder holds, and who may write to it, is told in `aloe.train.runs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import get_int_from_env
from torch import nn
from transformers import set_seed

from aloe.core.bounds import check_batch
from aloe.core.errors import UserError
from aloe.core.progress import say
from aloe.core.torch_state import in_plain_torch
from aloe.data.draws import check_source
from aloe.data.places import check_output, output_folder
from aloe.data.shards import ShardSource
from aloe.data.sources import ImageSource, open_source, parts_taken
from aloe.data.subset import MemoryImages
from aloe.models.convert import Student, bcosify, with_conv_stem
from aloe.models.fingerprint import fingerprint
from aloe.models.saving import load
from aloe.models.teachers import Teacher, in_float32, load_teacher
from aloe.models.unwrap import unwrapped
from aloe.train.align.blocks import FOLDER as BLOCKS
from aloe.train.align.blocks import taught_blocks
from aloe.train.align.calibrate import IMAGES as CALIBRATED
from aloe.train.align.calibrate import calibrate
from aloe.train.align.points import check_pair, resolve_blocks
from aloe.train.align.settings import OF_CONVERSION, AlignSettings, usual_rate
from aloe.train.align.stage import Stage
from aloe.train.align.statistics import COUNT
from aloe.train.align.stem import FOLDER as STEM
from aloe.train.align.stem import warmed_up
from aloe.train.align.trainer import AlignmentModel, AlignmentTrainer, alignment_bar
from aloe.train.arguments import training_arguments
from aloe.train.checkpoints import checkpoints
from aloe.train.runs import (
    claim,
    hold_out,
    images_per_step,
    learning_rate_of,
    record,
    sample_images,
    starting_point,
)

CONTINUED = 1 / 3
"""The share of the usual rate for an alignment that goes on from a student."""


@dataclass
class Parts:
    """What an alignment is made of, opened and checked: nothing is trained or written yet."""

    source: Any
    teacher: Teacher
    student: Any
    resolution: int
    blocks: tuple[int, ...]
    train: Any
    held_out: ImageSource | None

    @classmethod
    def of(
        cls,
        teacher: Any,
        images: Any,
        resolved: AlignSettings,
        student: Student | None,
        progress: bool,
        stem: str | None = None,
    ) -> Parts:
        """See `align` for the arguments, and for what is raised; `stem` is that which a given student gets, if any."""
        source = open_source(images) if isinstance(images, str | Path | Sequence) else images  # before weights
        taught_by: Teacher = _in_float32(teacher)
        if progress and taught_by.note and student is None:
            say(taught_by.note)
        set_seed(resolved.seed)
        converted: Any = student
        if student is None:
            converted = bcosify(taught_by, resolved.stem, resolved.b, seed=resolved.seed)
        elif stem is not None:
            converted = with_conv_stem(student, stem, seed=resolved.seed)
        resolution = resolved.resolution or converted.config.resolution
        for side in (resolution, *(resolved.resolutions or [])):
            check_pair(converted.config, taught_by, side)
        converted.config.teacher = {**converted.config.teacher, "resolution": resolution}
        blocks = resolve_blocks(resolved.after_block, taught_by.num_layers)
        if progress and (words := parts_taken(source)):
            say(words)
        train, held_out = _split(source, resolved)
        if not isinstance(train, ShardSource):
            check_batch(resolved.batch_size, len(train))
            check_source(train, max_bad_fraction=resolved.max_bad_fraction)
        return cls(source, taught_by, converted, resolution, blocks, train, held_out)

    def facts(self, student: Student | None) -> dict[str, Any]:
        """What is recorded of them; of the student, where one was given."""
        teacher = self.teacher
        return {
            "teacher": teacher.name,
            "teacher_fingerprint": fingerprint(teacher.model, teacher.mean, teacher.std),
            "student_fingerprint": None if student is None else fingerprint(student),
            "resolution": self.resolution,
            "blocks": list(self.blocks),
        }


@in_plain_torch
def align(
    teacher: Teacher | nn.Module | str | Path,
    images: str | Path | Sequence[str | Path] | ImageSource,
    output_dir: str | Path,
    *,
    recipe: str = "short",
    config: str | Path | None = None,
    student: Student | None = None,
    device: str | None = None,
    progress: bool = True,
    **settings: Any,
) -> Student:
    """Align a B-cos student to a teacher on unlabelled images.

    Args:
        teacher: hub id, local folder, live transformers module, or a `Teacher`.
        images: folder, archive, file list, glob, `hf:` data set, `wds:` shards or `scenes:` (see `aloe.data.sources`); or a
            source that is open.
        output_dir: where the run lives; run again with the same arguments to resume.
        recipe: name of a recipe of the package; config: a YAML file over it; settings: single values over both
            (see `AlignSettings`).
        student: start from this student instead of converting the teacher. With `stem` and `stem_steps` it gets a new stem,
            which first learns to give the student's own patch tokens.
        device: `cpu`, `cuda`, ...; default: the best one there is.
        progress: show a progress bar on standard error.

    Returns:
        The aligned student, in eval mode; with the teacher's classifier as a B-cos head if it had one.

    Raises:
        UserError: anything in the arguments, data or files that the user can mend; nothing half-written is left.
    """
    resolved, home = AlignSettings.resolve(recipe, config, settings), output_folder(output_dir)
    check_given(student, settings)
    new_stem = student is not None and "stem" in settings
    if new_stem and not resolved.stem_steps:
        raise UserError("A new stem starts from noise: give stem_steps, in which it learns the student's patch tokens.")
    student = None if student is None else in_float32(unwrapped(student), also=(torch.float64,))
    if isinstance(images, str | Path | Sequence):
        check_output(images, home)
    parts = Parts.of(teacher, images, resolved, student, progress, settings.get("stem") if new_stem else None)
    taught_by, converted, resolution = parts.teacher, parts.student, parts.resolution
    resolved = _with_rate(resolved, home, converted.config, 1 if student is None else CONTINUED)
    train, held_out = parts.train, parts.held_out
    arguments = training_arguments(
        resolved,
        home,
        device,
        evaluates=held_out is not None,
        verb="align",
        ddp_find_unused_parameters=not resolved.pooled,  # then the final norm gets no gradient
    )
    calibrates = resolved.calibrate and student is None
    measures = resolved.objective == "standardized"
    draw = partial(sample_images, train, resolution, resolved.seed, COUNT if measures else CALIBRATED)
    early = (calibrates or measures) and not checkpoints(home)  # so that bad data are met before anything is written
    sample = draw() if early else None
    with claim(home, record(resolved, parts.source, arguments.world_size, **parts.facts(student))) as state:
        if state == "finished":
            return load(home)
        start = starting_point(home)
        data = {"train": train, "held_out": held_out, "resolution": resolution}
        warms = resolved.stem_steps > 0 and (student is None or new_stem)
        if warms and start is None:
            of_stem = Stage(home / STEM, resolved, device, progress)
            converted = warmed_up(converted, taught_by if student is None else student, of_stem, **data)
        if (calibrates or measures) and start is None:
            sample = draw() if sample is None else sample
            if calibrates:
                calibrate(converted, sample[:CALIBRATED], stem=not warms)
        if resolved.block_steps and student is None and start is None:
            converted = taught_blocks(converted, taught_by, Stage(home / BLOCKS, resolved, device, progress), **data)
        trainer = AlignmentTrainer(
            AlignmentModel(converted.base_model, taught_by, resolved, parts.blocks),
            taught_by,
            settings=resolved,
            sample=sample,
            args=arguments,
            **data,
            bar=alignment_bar() if progress else None,
        )
        return trainer.run(converted, stage="aligned", start=start)


def check_given(student: Student | None, settings: dict[str, Any], unread: tuple[str, ...] = OF_CONVERSION) -> None:
    """Refuse settings of the conversion for a student that is given.

    Raises:
        UserError: one of `unread` is among the settings.
    """
    if student is not None and (found := [name for name in unread if name in settings]):
        raise UserError(f"{found[0]} is of the conversion, which a given student has behind it; leave it out.")


def _with_rate(settings: AlignSettings, home: Path, config: Any, share: float) -> AlignSettings:
    """The settings with a rate: the given one, that of the training that `home` holds, or a share of the usual one."""
    if settings.learning_rate is not None:
        return settings
    if (rate := learning_rate_of(home)) is None:
        processes = get_int_from_env(["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"], 1)
        images = images_per_step(settings, processes)  # as accelerate counts, which has not started yet
        rate = usual_rate(config.hidden_size, config.num_hidden_layers, images, share)
    return settings.model_copy(update={"learning_rate": rate})


def _split(source: Any, settings: AlignSettings) -> tuple[Any, ImageSource | None]:
    """(training images, held-out images); of shards, part of the last of several."""
    if settings.holdout == 0 or (isinstance(source, ShardSource) and len(source.urls) < 2):
        return source, None
    if isinstance(source, ShardSource):
        rest, held_out = source.hold_out(settings.holdout)
        return rest, MemoryImages(held_out)
    return hold_out(source, settings.holdout, settings.seed)


def _in_float32(teacher: Any) -> Any:
    """The teacher; less than float32 is autocast's, as the setting `precision` says."""
    loaded = load_teacher(teacher if isinstance(teacher, nn.Module) else str(teacher))
    return in_float32(loaded, also=(torch.float64,))
