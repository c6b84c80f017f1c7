"""A run's folder and its data: who owns the folder, what is held out, and the draws that training reads.

The folder holds `run.json` (the resolved settings, model and data), `log.jsonl`, `checkpoint-*`, `unreadable.txt` if some
images were, and when the run is done the student itself. Running the same command again resumes or returns the finished
student; another run's folder is refused.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from aloe.core.errors import UserError
from aloe.core.files import read_json, whole
from aloe.core.progress import say
from aloe.data.draws import LEFT_OUT_NAME, AlignmentDraws, ShardDraws
from aloe.data.shards import ShardSource
from aloe.data.sources import ImageSource
from aloe.data.subset import SubsetImages
from aloe.data.transforms import Compose, RandomHorizontalFlip, RandomResizedCrop, ResizeCenterCrop
from aloe.train.checkpoints import RUN_NAME, TOLD, last_sound
from aloe.train.progress import LOG_NAME
from aloe.train.settings import TrainSettings

FAULTS_NAME = "unreadable.txt"
LOCK_NAME = f".{RUN_NAME}.lock"

# May change between the parts of one run: they do not enter the result.
_FREE = {"workers", "prefetch", "keep_checkpoints", "report_to", "log_every", "save_every", "evaluate_every"}
FIRST_DEFAULTS = {"learning_rate": 1e-3}
"""Defaults of the first version that are others now, by which keys of runs are made."""
# Settings that runs of earlier versions do not know: left out where they are off, so that those runs go on.
LATER = {"stem_steps": 0, "block_steps": 0, "matmul_precision": "highest", "optimizer": "adamw"}


def record(settings: TrainSettings, source: Any, world_size: int, **facts: Any) -> dict[str, Any]:
    """What makes a run this run; another record is another run. `facts` are what became of the settings they are named as,
    and whatever else is known of the run's models and data."""
    free = _FREE - ({"workers"} if isinstance(source, ShardSource) else set())  # shards are dealt out to the workers
    values = settings.model_dump(exclude={*free, *facts}, mode="json")
    return {
        **facts,
        "data_fingerprint": source.fingerprint(),
        "image_count": None if isinstance(source, ShardSource) else len(source),
        "processes": world_size,
        **{name: value for name, value in values.items() if name not in LATER or value != LATER[name]},
        "versions": {name: version(name) for name in ("aloe-vit", "torch", "transformers")},
    }


@contextmanager
def claim(home: Path, record: dict[str, Any]) -> Iterator[str]:
    """Make the folder this run's, or find that it is, and keep other processes out for as long as the context lasts: `new`,
    `resume` or `finished`.

    A run that never took a step leaves nothing to protect: other settings take its place.

    Raises:
        UserError: it holds something else, and what differs; or another process works in it.
    """
    if _known(home, record) == "finished":
        yield "finished"
        return
    made, held = not home.exists(), False
    try:
        home.mkdir(parents=True, exist_ok=True)
        with sole(home):
            state = _known(home, record)  # again: somebody may have been here before the lock
            if state == "new":
                text = json.dumps(record, indent=2) + "\n"
                with whole(home / RUN_NAME, lambda error: str(_unwritable(home, error, made))) as aside:
                    aside.write_text(text)
            held = True
            yield state
    except OSError as error:
        if held:  # of the run itself
            raise
        raise _unwritable(home, error, made) from error


def _unwritable(home: Path, error: OSError, made: bool) -> UserError:
    """The mistake of a folder that cannot be written; one that was made for the run goes."""
    if made:
        shutil.rmtree(home, ignore_errors=True)
    return UserError(f"{home} cannot be written: {error.strerror or error}.")


@contextmanager
def sole(home: Path) -> Iterator[None]:
    """Keep other processes out of a folder; the ranks of one run share it. The lock goes with the process, however it ends.

    Raises:
        UserError: another process works in it.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    lock = FileLock(home / LOCK_NAME, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(f"Another process works in {home}; wait for it, or give another --output-dir.") from error
    except NotImplementedError:  # a file system without locks
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file
            (home / LOCK_NAME).unlink()
        lock.release()


def starting_point(home: Path) -> Path | None:
    """The checkpoint that a run goes on from, None for the beginning; damaged ones are named on standard error.

    Raises:
        UserError: the newest one is another run's.
    """
    done, damaged = last_sound(home)
    if damaged and os.environ.get("RANK", "0") == "0":
        names = ", ".join(path.name for path in damaged)
        verb = "is" if len(damaged) == 1 else "are"
        say(f"{names} {verb} damaged and not used; going on from {done.name if done else 'the beginning'}.")
    return done


def _known(home: Path, record: dict[str, Any]) -> str:
    """What the folder is to this run, as `claim` says it; nothing is written."""
    path = home / RUN_NAME
    # Listed before the record is looked for, which another process of this run may write at this moment.
    strange = home.exists() and not (home.is_dir() and all(p.name.startswith(f".{RUN_NAME}") for p in home.iterdir()))
    if path.is_file():
        try:
            earlier = dict(read_json(path))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} is damaged; give another --output-dir.") from error
        keys = [k for k in record if k not in TOLD and earlier.get(k) != record[k]]
        if keys and _begun(home):
            differs = ", ".join(f"{k} was {earlier.get(k)!r}, now {record[k]!r}" for k in keys[:4])
            longer = (home / "model.safetensors").is_file() and keys == ["steps"]
            more = f"; to go on from its student, give another --output-dir and --student {home}" if longer else ""
            raise UserError(
                f"{home} holds another run ({differs}); give another --output-dir or the same settings{more}."
            )
        if not keys:
            return "finished" if (home / "model.safetensors").is_file() else "resume"
    elif strange:
        raise UserError(f"{home} is not empty and holds no run of aloe; give another --output-dir.")
    return "new"


def learning_rate_of(home: Path) -> float | None:
    """The rate of the training that `home` holds, None where none was begun; what is damaged, `claim` says."""
    try:
        rate = read_json(home / RUN_NAME)["learning_rate"]
        return float(rate) if _begun(home) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _begun(home: Path) -> bool:
    """Whether a run has anything to lose: a step in its log, a checkpoint, a model."""
    log = home / LOG_NAME
    return (log.is_file() and log.stat().st_size > 0) or any(
        not path.name.startswith((".", RUN_NAME, LOG_NAME, FAULTS_NAME, LEFT_OUT_NAME)) for path in home.iterdir()
    )


def hold_out(
    source: ImageSource, wanted: int, seed: int, labels: np.ndarray | None = None
) -> tuple[ImageSource, ImageSource | None]:
    """(training images, held-out images): a seeded sample of `wanted`, at most a tenth of the source.

    With `labels` (N,) every class gives its share, and keeps at least one image for training.
    """
    count = min(wanted, len(source) // 10)
    order = np.random.default_rng(seed).permutation(len(source))
    if labels is not None:
        places = _places_in_class(labels[order])
        order = order[np.argsort(places, kind="stable")]
        count = min(count, int((places < 1).sum()))
    if count == 0:
        return source, None
    return SubsetImages(source, np.sort(order[count:])), SubsetImages(source, np.sort(order[:count]))


def training_draws(source: Any, settings: TrainSettings, resolution: int, world_size: int) -> Any:
    """The augmented draws of a whole run: random resized crops of `resolution` pixels, mirrored at random."""
    crop = RandomResizedCrop(resolution, settings.crop_scale)
    transform = Compose(crop, *([RandomHorizontalFlip()] if settings.flip else []))
    if isinstance(source, ShardSource):
        return ShardDraws(source, transform, settings.seed)
    return AlignmentDraws(source, transform, settings.seed, settings.steps * images_per_step(settings, world_size))


def sample_images(
    source: Any, resolution: int, seed: int, count: int = 64, unreadable: list[str] | None = None
) -> torch.Tensor:
    """A few training images in evaluation view, (B, 3, H, W); what could not be read is added to `unreadable`."""
    crop = ResizeCenterCrop(resolution)
    if isinstance(source, ShardSource):
        stream = iter(ShardDraws(source, crop, seed, repeat=False, rank=0, world_size=1))
        samples = list(itertools.islice(stream, count))
        if not samples:
            raise UserError("None of the images in the shards could be read.")
    else:
        draws = AlignmentDraws(source, crop, seed, min(count, len(source)))
        samples = [draws[i] for i in range(len(draws))]
    if unreadable is not None:
        unreadable += dict.fromkeys(word for draw in samples for word in draw["unreadable"])
    return torch.stack([draw["pixel_values"] for draw in samples])


def images_per_step(settings: TrainSettings, world_size: int) -> int:
    return settings.batch_size * settings.gradient_accumulation * world_size


def _places_in_class(labels: np.ndarray) -> np.ndarray:
    """(N,) each image's place within its class, from 0 to 1; the last of every class is behind all others, at 1."""
    sizes = np.bincount(labels)
    places = np.empty(len(labels))
    for label in np.flatnonzero(sizes):
        members = np.flatnonzero(labels == label)
        places[members] = (np.arange(len(members)) + 0.5) / len(members)
        places[members[-1]] = 1
    return places
