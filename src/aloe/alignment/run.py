"""`align`: from a teacher and a pile of unlabelled images to an aligned student in a folder, resumable.

The folder holds `run.json` (the resolved settings, teacher and data), `log.jsonl`, `checkpoint-*`, and when the run is done
the student itself (`config.json`, `model.safetensors`, `preprocessor_config.json`). Running the same command again resumes
or returns the finished student; another run's folder is refused.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import set_seed

from aloe.alignment.calibrate import calibrate
from aloe.alignment.points import check_pair, resolve_blocks
from aloe.alignment.progress import JsonlLog, ProgressBar, Throughput
from aloe.alignment.settings import AlignSettings, resolve
from aloe.alignment.trainer import AlignmentModel, AlignmentTrainer, checkpoints, training_arguments
from aloe.data.draws import AlignmentDraws, FaultLog, ImageDataset, ShardDraws, check_source, collate_draws
from aloe.data.shards import ShardSource
from aloe.data.sources import ImageSource, open_source
from aloe.data.subset import MemoryImages, SubsetImages
from aloe.data.transforms import Compose, RandomHorizontalFlip, RandomResizedCrop, ResizeCenterCrop
from aloe.errors import UserError
from aloe.models.convert import Student, bcosify
from aloe.models.saving import load, save_student
from aloe.models.teachers import Teacher, load_teacher

RUN_NAME, FAULTS_NAME = "run.json", "unreadable.txt"


def align(
    teacher: Teacher | nn.Module | str | Path,
    images: str | Path | Sequence[str | Path],
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
        images: folder, archive, file list, glob, `hf:` data set, `wds:` shards or `scenes:` (see `aloe.data.sources`).
        output_dir: where the run lives; run again with the same arguments to resume.
        recipe: name of a recipe of the package; config: a YAML file over it; settings: single values over both
            (see `AlignSettings`).
        student: start from this student instead of converting the teacher.
        device: `cpu`, `cuda`, ...; default: the best one there is.
        progress: show a progress bar on standard error.

    Returns:
        The aligned student, in eval mode; with the teacher's classifier as a B-cos head if it had one.

    Raises:
        UserError: anything in the arguments, data or files that the user can mend; nothing half-written is left.
    """
    resolved = resolve(recipe, config, settings)
    teacher = teacher if isinstance(teacher, Teacher) else load_teacher(_module_or_name(teacher))
    source = open_source(images)  # type: ignore[arg-type]
    home = Path(output_dir)
    set_seed(resolved.seed)
    converted: Any = student if student is not None else bcosify(teacher, resolved.stem, resolved.b, seed=resolved.seed)
    resolution = resolved.resolution or converted.config.resolution
    check_pair(converted.config, teacher, resolution)
    converted.config.teacher = {**converted.config.teacher, "resolution": resolution}
    blocks = resolve_blocks(resolved.after_block, teacher.num_layers)
    train, held_out = _split(source, resolved)
    if not isinstance(train, ShardSource):
        check_source(train, max_bad_fraction=resolved.max_bad_fraction)
    arguments = training_arguments(resolved, home, device, evaluates=held_out is not None)
    calibrates = resolved.calibrate and student is None and not checkpoints(home)
    sample = _sample(train, resolution, resolved.seed) if calibrates else None
    record = _record(resolved, teacher, source, student, resolution, blocks, arguments.world_size)
    if _claim(home, record) == "finished":
        return load(home)

    if sample is not None:
        calibrate(converted, sample)
    images_seen = None if isinstance(train, ShardSource) else len(train)
    faults = FaultLog(images_seen, resolved.max_bad_fraction, home / FAULTS_NAME)
    backbone = converted.base_model
    if resolved.gradient_checkpointing:
        backbone.gradient_checkpointing_enable()
    bar = ProgressBar() if progress else None
    trainer = AlignmentTrainer(
        settings=resolved,
        source=teacher,
        faults=faults,
        model=AlignmentModel(backbone, teacher, resolved, blocks),
        args=arguments,
        train_dataset=_draws(train, resolved, resolution, arguments.world_size),
        eval_dataset=None if held_out is None else ImageDataset(held_out, ResizeCenterCrop(resolution)),
        data_collator=collate_draws,
        callbacks=[
            Throughput(_images_per_step(resolved, arguments.world_size)),
            JsonlLog(home),
            *([bar] if bar else []),
        ],
    )
    done = checkpoints(home)
    try:
        trainer.train(resume_from_checkpoint=str(done[-1]) if done else None)
        if held_out is not None and not trainer.evaluated_at(resolved.steps):
            trainer.evaluate()
    finally:
        if bar:
            bar.close()
    if resolved.gradient_checkpointing:
        backbone.gradient_checkpointing_disable()
    aligned = trainer.gathered(converted).cpu().eval()
    if trainer.is_world_process_zero():
        save_student(aligned, home)
        if progress and (summary := faults.summary()):
            _say(summary)
    return aligned


def _split(source: Any, settings: AlignSettings) -> tuple[Any, ImageSource | None]:
    """(training images, held-out images): a seeded sample, at most a tenth; of shards, part of the last of several."""
    if settings.holdout == 0 or (isinstance(source, ShardSource) and len(source.urls) < 2):
        return source, None
    if isinstance(source, ShardSource):
        rest, held_out = source.hold_out(settings.holdout)
        return rest, MemoryImages(held_out)
    count = min(settings.holdout, len(source) // 10)
    if count == 0:
        return source, None
    order = np.random.default_rng(settings.seed).permutation(len(source))
    return SubsetImages(source, np.sort(order[count:])), SubsetImages(source, np.sort(order[:count]))


def _draws(source: Any, settings: AlignSettings, resolution: int, world_size: int) -> Any:
    steps = [RandomResizedCrop(resolution, settings.crop_scale)]
    transform = Compose(*steps, *([RandomHorizontalFlip()] if settings.flip else []))
    if isinstance(source, ShardSource):
        return ShardDraws(source, transform, settings.seed)
    total = settings.steps * _images_per_step(settings, world_size)
    return AlignmentDraws(source, transform, settings.seed, total)


def _sample(source: Any, resolution: int, seed: int, count: int = 64) -> torch.Tensor:
    """A few training images in evaluation view, (B, 3, H, W)."""
    crop = ResizeCenterCrop(resolution)
    if isinstance(source, ShardSource):
        stream = iter(ShardDraws(source, crop, seed, repeat=False, rank=0, world_size=1))
        found = [sample["pixel_values"] for sample in itertools.islice(stream, count)]
        if not found:
            raise UserError("None of the images in the shards could be read.")
        return torch.stack(found)
    draws = AlignmentDraws(source, crop, seed, min(count, len(source)))
    return torch.stack([draws[i]["pixel_values"] for i in range(len(draws))])


def _images_per_step(settings: AlignSettings, world_size: int) -> int:
    return settings.batch_size * settings.gradient_accumulation * world_size


def _record(
    settings: AlignSettings,
    teacher: Teacher,
    source: Any,
    student: Student | None,
    resolution: int,
    blocks: tuple[int, ...],
    world_size: int,
) -> dict[str, Any]:
    """What makes a run this run; another record in the same folder is another run."""
    free = _FREE - ({"workers"} if isinstance(source, ShardSource) else set())  # shards are dealt out to the workers
    return {
        "teacher": teacher.name,
        "teacher_fingerprint": _fingerprint(teacher.model, teacher.mean, teacher.std),
        "student_fingerprint": None if student is None else _fingerprint(student),
        "data_fingerprint": source.fingerprint(),
        "resolution": resolution,
        "blocks": list(blocks),
        "processes": world_size,
        **settings.model_dump(exclude={"resolution", *free}, mode="json"),
        "versions": {name: version(name) for name in ("aloe-vit", "torch", "transformers")},
    }


# May change between the parts of one run: they do not enter the result.
_FREE = {"workers", "keep_checkpoints", "report_to", "log_every", "save_every", "evaluate_every"}


def _claim(home: Path, record: dict[str, Any]) -> str:
    """Make the folder this run's, or find that it is: `new`, `resume` or `finished`.

    Raises:
        UserError: it holds something else, and what differs.
    """
    path = home / RUN_NAME
    if path.is_file():
        known = json.loads(path.read_text())
        keys = [k for k in record if k != "versions" and known.get(k) != record[k]]
        if keys:
            differs = ", ".join(f"{k} was {known.get(k)!r}, now {record[k]!r}" for k in keys[:4])
            raise UserError(f"{home} holds another run ({differs}); give another --output-dir or the same settings.")
        return "finished" if (home / "model.safetensors").is_file() else "resume"
    temporary = home / f".{RUN_NAME}.{os.getpid()}"  # several ranks may claim at once
    if home.exists() and not (home.is_dir() and all(p.name.startswith(f".{RUN_NAME}") for p in home.iterdir())):
        raise UserError(f"{home} is not empty and holds no run of aloe; give another --output-dir.")
    made = not home.exists()
    try:
        home.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(record, indent=2) + "\n")
        os.replace(temporary, path)
    except OSError as error:
        if made:
            shutil.rmtree(home, ignore_errors=True)
        raise UserError(f"{home} cannot be written: {error.strerror or error}.") from error
    return "new"


def _fingerprint(model: nn.Module, *rest: Any) -> str:
    """A hash of a module's weights and of whatever else is given."""
    digest = hashlib.sha256(repr(rest).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _say(words: str) -> None:
    from rich.console import Console

    Console(stderr=True).print(words, highlight=False)


def _module_or_name(teacher: Any) -> Any:
    return teacher if isinstance(teacher, nn.Module) else str(teacher)
