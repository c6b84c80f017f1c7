"""One alignment measured in its parts: data, teacher, student, and the whole step as the trainer takes it.

The objects are those of `aloe align`: its draws and loader, `Teaching`, `AlignmentModel` and `AlignmentTrainer`. The whole
step is `AlignmentTrainer.train` with data loading; the parts are calls of the same objects on one batch, taken in turns.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback

from aloe.apps.bench.timing import count_flops, fits_in_memory, largest, matmul, median_seconds, seconds, synchronize
from aloe.attribution.memory import peak_memory
from aloe.models.backbone import Features
from aloe.models.convert import bcosify
from aloe.models.teachers import Teacher
from aloe.train.align.points import check_pair, resolve_blocks
from aloe.train.align.settings import AlignSettings
from aloe.train.align.teaching import DTYPES
from aloe.train.align.trainer import AlignmentModel, AlignmentTrainer
from aloe.train.arguments import training_arguments


@dataclass(frozen=True)
class Measured:
    """Images per second of all processes together; FLOPs per image; shares of the matrix product's rate; bytes.

    `teacher`, `student_forward`, `student_step` (forward, backward, clipping, update) are each alone and with the batch at
    hand; `data` is the loader alone; `full_step` is everything at once. `memory` is that of one process's tensors at the
    worst moment of a step. `largest_batch` is None off CUDA.
    """

    name: str
    device: str
    precision: str
    compiled: bool
    resolution: int
    batch_size: int
    processes: int
    threads: int
    steps: int
    images_per_second: dict[str, float]
    flops_per_image: dict[str, float]
    matmul_flops_per_second: float
    utilisation: dict[str, float]
    memory: int
    largest_batch: int | None


def measure(
    teacher: Teacher, source: Any, settings: AlignSettings, *, rounds: int = 5, device: str = "cpu", search: bool = True
) -> Measured:
    """Align for a few steps and measure. Nothing is kept of the student.

    Args:
        teacher: left on the device, and compiled or split where the settings say so.
        source: an open image source. settings: those of an alignment; `steps` is not looked at.
        rounds: times that each part is taken. search: on CUDA, also find the largest batch that fits.

    Raises:
        UserError: settings that cannot be aligned.
    """
    settings = settings.model_copy(update={"steps": rounds + 1, "holdout": 0, "evaluate_every": rounds + 2})
    student: Any = bcosify(teacher, settings.stem, settings.b, seed=settings.seed)
    resolution = settings.resolution or student.config.resolution
    settings = settings.with_rate(teacher.width, teacher.num_layers, settings.batch_size)
    check_pair(student.config, teacher, resolution)
    blocks = resolve_blocks(settings.after_block, teacher.num_layers)
    with tempfile.TemporaryDirectory() as home:
        arguments = training_arguments(settings, Path(home), device, evaluates=False, verb="bench")
        arguments.save_strategy = type(arguments.save_strategy)("no")
        trainer = AlignmentTrainer(
            AlignmentModel(student.base_model, teacher, settings, blocks),
            teacher,
            settings=settings,
            args=arguments,
            train=source,
            held_out=None,
            resolution=resolution,
            bar=None,
        )
        return _measure(trainer, teacher.name, resolution, rounds, search)


def _measure(trainer: AlignmentTrainer, name: str, resolution: int, rounds: int, search: bool) -> Measured:
    args, settings, where = trainer.args, trainer.alignment, trainer.args.device
    product, product_flops = matmul(where, DTYPES[settings.precision] or torch.float32)
    data, (full, beside_full) = _data(trainer), _full_step(trainer, product)
    parts = _Parts(trainer, resolution)
    with peak_memory(where) as peak:
        parts.step()
    memory = parts.resident() + peak.bytes
    flops = {"teacher": count_flops(parts.teach)}
    flops |= {"student_forward": count_flops(parts.forward), "student_step": count_flops(parts.student_step)}
    calls = {"teacher": parts.teach, "student_forward": parts.forward, "student_step": parts.student_step}
    taken = median_seconds({"matmul": product, **calls}, rounds, where)
    batch, all_images = settings.batch_size, settings.batch_size * args.world_size
    rate = product_flops / taken.pop("matmul")
    rates = {"data": data, **{part: all_images / taken[part] for part in calls}, "full_step": full}
    per_image = {part: count / batch for part, count in flops.items()}
    per_image["full_step"] = per_image["teacher"] + per_image["student_step"]
    peaks = {**dict.fromkeys(calls, rate), "full_step": product_flops / beside_full}
    return Measured(
        name=name,
        device=torch.cuda.get_device_name(where) if where.type == "cuda" else where.type,
        precision=settings.precision,
        compiled=settings.compile_teacher,
        resolution=resolution,
        batch_size=batch,
        processes=args.world_size,
        threads=torch.get_num_threads(),
        steps=rounds,
        images_per_second=rates,
        flops_per_image=per_image,
        matmul_flops_per_second=rate,
        utilisation={part: per_image[part] * rates[part] / args.world_size / peaks[part] for part in per_image},
        memory=memory,
        largest_batch=parts.largest_batch() if search and where.type == "cuda" else None,
    )


def _data(trainer: AlignmentTrainer) -> float:
    """Images per second of the loader alone, from its start to the last batch on the device."""
    start, images = time.perf_counter(), 0
    for batch in islice(trainer.get_train_dataloader(), trainer.args.max_steps):  # shards have no end
        images += len(batch["pixel_values"].to(trainer.args.device))
    synchronize(trainer.args.device)
    return images * trainer.args.world_size / (time.perf_counter() - start)


def _full_step(trainer: AlignmentTrainer, product: Callable[[], Any]) -> tuple[float, float]:
    """Images per second of the trainer's own steps, data loading and all, the first not counted; seconds of the product
    between two steps."""
    watch = _Watch(product)
    trainer.add_callback(watch)
    trainer.train()
    trainer.remove_callback(watch)
    images = trainer.args.per_device_train_batch_size * trainer.args.world_size
    return images / statistics.median(watch.steps[1:]), statistics.median(watch.products)


class _Watch(TrainerCallback):
    """Times every step, the wait for its data included, and a matrix product after it."""

    def __init__(self, product: Callable[[], Any]) -> None:
        self.product, self.steps, self.products = product, [], []  # type: ignore[var-annotated]
        self._since = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._since = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        synchronize(args.device)
        self.steps.append(time.perf_counter() - self._since)
        self.products.append(seconds(self.product, args.device))
        self._since = time.perf_counter()


class _Parts:
    """The parts of a trainer's step, each on a batch that is at hand. The trainer has taken steps before."""

    def __init__(self, trainer: AlignmentTrainer, resolution: int) -> None:
        self.trainer, self.resolution, self.asks = trainer, resolution, trainer.teach
        self.model: Any = trainer.model_wrapped
        self.images = self._batch(trainer.alignment.batch_size)
        self.features = self.asks(self.images)

    def teach(self) -> None:
        self.asks(self.images)

    def forward(self) -> None:
        """Student and loss."""
        self.trainer.teach = self._known
        with torch.no_grad():
            self.trainer.compute_loss(self.model, {"pixel_values": self.images})

    def student_step(self) -> None:
        self.trainer.teach = self._known
        self._update(self.images)

    def step(self, images: Tensor | None = None) -> None:
        self.trainer.teach = self.asks
        self._update(self.images if images is None else images)

    def resident(self) -> int:
        """Bytes of what a process holds between two steps: both networks and the optimiser's state."""
        if self.images.device.type == "cuda":
            return torch.cuda.memory_allocated(self.images.device)
        optimizer: Any = self.trainer.optimizer
        state = [v for kept in optimizer.state.values() for v in kept.values() if isinstance(v, Tensor)]
        held = [self.images, *self.model.parameters(), *self.asks.source.parameters(), *state]  # type: ignore[attr-defined]
        return sum(_local(t).nbytes for t in held)

    def largest_batch(self) -> int:
        """The most images whose step fits into the memory of this GPU."""

        def fits(count: int) -> bool:
            return fits_in_memory(lambda: self.step(self._batch(count)))

        self.model.zero_grad()
        return largest(fits, self.trainer.alignment.batch_size)

    def _batch(self, count: int) -> Tensor:
        drawn = torch.rand(count, 3, self.resolution, self.resolution, generator=torch.Generator().manual_seed(0))
        return drawn.to(self.trainer.args.device)

    def _known(self, _: Tensor) -> Features:
        return self.features

    def _update(self, images: Tensor) -> None:
        """What `Trainer` does with a batch between two steps' ends."""
        trainer: Any = self.trainer
        Trainer.training_step(trainer, self.model, {"pixel_values": images})  # without advice on too little memory
        trainer.accelerator.clip_grad_norm_(self.model.parameters(), trainer.args.max_grad_norm)
        trainer.optimizer.step()
        self.model.zero_grad()


def _local(tensor: Tensor) -> Tensor:
    split: Any = getattr(tensor, "to_local", None)
    return tensor if split is None else split()
