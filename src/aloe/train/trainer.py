"""`DrawTrainer`: `transformers.Trainer` over draws; resume, accumulation, mixed precision, DDP and logging come with it.

What is trained is a module with the student under `student`, whose forward returns named numbers per batch. Checkpoints
appear whole (written aside, sealed, then renamed), hold no pickle and are never taken from weights that are not finite.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler
from transformers import PrinterCallback, TrainingArguments

from aloe.core.errors import UserError
from aloe.core.progress import say
from aloe.core.torch_state import matrix_products
from aloe.data.draws import FaultLog, ImageDataset, collate_draws, collate_images
from aloe.data.shards import ShardSource
from aloe.data.sources import ImageSource, left_out
from aloe.data.transforms import ResizeCenterCrop
from aloe.models.saving import save_student
from aloe.models.stages import after_training
from aloe.train.arguments import make_schedule
from aloe.train.averages import mean_over_images
from aloe.train.muon import muon_of
from aloe.train.progress import EVAL_PREFIX, JsonlLog, ProgressBar, Throughput
from aloe.train.runs import FAULTS_NAME, images_per_step, training_draws
from aloe.train.sealed import SealedTrainer
from aloe.train.settings import TrainSettings
from aloe.train.sharding import all_finite, layers_of, shard, whole_weights
from aloe.train.stopping import Diverged, StopOnTerm, Terminated, is_lost_worker, is_out_of_memory


class DrawTrainer(SealedTrainer):
    """Trainer of a student on draws, read in order.

    A training subclasses it with `compute_loss`, which may `tally` numbers for the log, and `measure`.

    Args:
        model: a module with the student under `student`. settings: the resolved settings.
        args: from `training_arguments`; its `output_dir` is the run's folder.
        train, held_out: image sources. resolution: pixels of held-out images, and of the draws where `draw_side` does
            not say otherwise. bar: a progress bar.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        settings: TrainSettings,
        args: TrainingArguments,
        train: Any,
        held_out: ImageSource | None,
        resolution: int,
        bar: ProgressBar | None,
        draw_side: int | None = None,
    ) -> None:
        home = Path(str(args.output_dir))
        throughput = Throughput(images_per_step(settings, args.world_size))
        super().__init__(
            model=model,
            args=args,
            train_dataset=training_draws(train, settings, draw_side or resolution, args.world_size),
            eval_dataset=None if held_out is None else ImageDataset(held_out, ResizeCenterCrop(resolution)),
            data_collator=collate_draws,
            callbacks=[throughput, JsonlLog(home), *([bar] if bar else [])],
        )
        self.stop = StopOnTerm()
        self.stop.accelerator = self.accelerator
        self.add_callback(self.stop)
        self.remove_callback(PrinterCallback)
        images = None if isinstance(train, ShardSource) else len(train) + (0 if held_out is None else len(held_out))
        if settings.fsdp:
            self._shard()
        self.settings, self.bar = settings, bar
        self.faults = FaultLog(images, settings.max_bad_fraction, home / FAULTS_NAME, left_out(train))
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def measure(self, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Means over a held-out batch, by name; logged with `eval_` before the name."""
        raise NotImplementedError

    def run(self, student: Any, stage: str, start: Path | None) -> Any:
        """Train from the checkpoint `start` to the end; evaluate, write and return the student, on the CPU in eval mode.

        `stage` is what the student has become, kept as `config.teacher["stage"]`; `start` is None for the beginning.
        """
        home, backbone = Path(str(self.args.output_dir)), student.base_model
        if self.settings.gradient_checkpointing:
            backbone.gradient_checkpointing_enable()
        try:
            with matrix_products(self.settings.matmul_precision, str(self.args.device)):
                self.train(resume_from_checkpoint=str(start) if start else None)
            if self.stop.asked:
                say(f"Stopped at step {self.state.global_step} with a checkpoint; the same command goes on from there.")
                raise Terminated
            self._check_finite()
            if self.eval_dataset is not None and not self.evaluated_at(self.settings.steps):
                self.evaluate()
        except (RuntimeError, ConnectionResetError, EOFError) as error:
            if not is_lost_worker(error):
                raise
            raise UserError(
                "A process that reads images died, perhaps for lack of memory: run the same command again to go on from"
                " the last checkpoint, with fewer --workers if it happens again."
            ) from error
        finally:
            self.stop.close()
            if self.bar:
                self.bar.close()
        if self.settings.gradient_checkpointing:
            backbone.gradient_checkpointing_disable()
        if stage != "converted":  # as a stem's warm-up leaves it
            student.config.teacher = after_training(
                student.config.teacher, stage, self.state.global_step, self._held_out()
            )
        trained = self.gathered(student).cpu().eval()
        if self.is_world_process_zero():
            save_student(trained, home)
            if self.bar and (summary := self.faults.summary()):
                say(summary)
        return trained

    def _held_out(self) -> dict[str, float]:
        """The numbers of the last evaluation, by name."""
        rows = [{k: v for k, v in row.items() if k.startswith(EVAL_PREFIX)} for row in self.state.log_history]
        last = next((row for row in reversed(rows) if row), {})
        names = ("cosine_", "accuracy", "loss")
        return {
            k.removeprefix(EVAL_PREFIX): v for k, v in last.items() if k.removeprefix(EVAL_PREFIX).startswith(names)
        }

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *rest: Any, **others: Any) -> Tensor:
        """One batch forward and backward; out of memory is the user's to mend, with a batch size that fits."""
        try:
            return super().training_step(model, inputs, *rest, **others)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            words = str(error).splitlines()[0]
        raise UserError(self._too_large(inputs, words))  # out of the block, whose traceback holds the activations

    def _too_large(self, inputs: dict[str, Any], words: str) -> str:
        """One sentence on memory, with the largest half, quarter, ... of the batch that a trial shows to fit."""
        size = len(inputs["pixel_values"])
        start = f"A batch of {size} images does not fit into memory ({words.rstrip('.')}): "
        fits = size // 2
        whole: Any = self.model
        while fits:
            whole.zero_grad(set_to_none=True)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if self.args.world_size > 1:  # a trial of one process would leave the others waiting
                break
            part = {name: value[:fits] if isinstance(value, Tensor) else value for name, value in inputs.items()}
            try:
                super().training_step(whole, part)
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            fits //= 2
        if not fits:
            return start + "not even one image does; take a smaller resolution or teacher, or gradient_checkpointing."
        tried = "may fit" if self.args.world_size > 1 else "fits"
        repeats = -(-size * self.settings.gradient_accumulation // fits)
        return start + (
            f"{fits} {tried}. --batch-size {fits} --set gradient_accumulation={repeats} has as many images in a step;"
            " gradient_checkpointing=true saves memory too."
        )

    def tally(self, numbers: Mapping[str, Tensor]) -> None:
        """Adds to the means of the next training log."""
        for name, value in numbers.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach()
        self._count += 1

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of every number tallied since the last log; stops a run whose loss is not finite."""
        if "loss" in logs and self._count:
            means = torch.stack(list(self._sums.values())) / self._count
            means = self.accelerator.reduce(means, reduction="mean")
            logs |= dict(zip(self._sums, means.tolist(), strict=True))
            self._sums, self._count = {}, 0
            if not all(map(isfinite, (logs["loss"], *means.tolist()))):
                raise self._diverged("the loss", logs["loss"])
        super().log(logs, start_time)

    def _check_finite(self) -> None:
        """Raises Diverged for weights that are not finite, as a last step can leave them."""
        model: Any = self.model
        if not all_finite(model):
            raise self._diverged("a weight")

    def _diverged(self, what: str, value: float | None = None) -> Diverged:
        became = "is no longer a finite number" if value is None else f"became {value}"
        return Diverged(
            f"{what[0].upper()}{what[1:]} {became} by step {self.state.global_step}: lower learning_rate (--lr, now "
            f"{self.settings.learning_rate:g}) and run again in another folder; the last good checkpoint is kept."
        )

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """`measure` over the held-out images."""
        model = self.model_wrapped  # what is sharded or replicated is only whole in its wrapper
        loader = map(self.faults.take, self.get_eval_dataloader())
        model.eval()
        try:
            metrics = mean_over_images(partial(self.measure, model), loader, self.args.device, self.accelerator)
        finally:
            model.train()
        logs = {f"{EVAL_PREFIX}{name}": value for name, value in metrics.items()}
        if not all(map(isfinite, logs.values())):
            raise self._diverged("a held-out number")
        self.log(logs)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logs)
        return logs

    def evaluated_at(self, step: int) -> bool:
        """Whether the log holds an evaluation at this step."""
        rows = [row for row in self.state.log_history if row["step"] == step]
        return any(key.startswith(EVAL_PREFIX) for row in rows for key in row)

    def gathered(self, student: Any) -> Any:
        """The student with its trained weights whole: itself, or a copy made from the shards, on every process."""
        if not self.sharded:
            return student
        tensors = whole_weights(self._core(), everywhere=True)
        weights = {k.removeprefix("student."): v for k, v in tensors.items() if k.startswith("student.")}
        whole = type(student)(student.config)
        if whole is not whole.base_model and "classifier.weight" not in weights:  # only the backbone was trained
            whole.classifier.load_state_dict(student.classifier.state_dict())
            whole.base_model.load_state_dict(weights)
        else:
            whole.load_state_dict(weights)
        return whole

    def _shard(self) -> None:
        """Split the model over the processes. Autocast is still accelerate's to add, replication is not."""
        model: Any = self.model
        shard(model, layers_of(model))
        self.accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)
        model._is_accelerate_prepared = True
        self.sharded = True

    def get_train_dataloader(self) -> DataLoader:
        """Draws in order, dealt out to the ranks by accelerate; shards split themselves by rank and worker."""
        data: Any = self.train_dataset
        if not isinstance(data, IterableDataset):
            return super().get_train_dataloader()
        return DataLoader(
            data,
            batch_size=self.args.train_batch_size,
            num_workers=self.args.dataloader_num_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def get_eval_dataloader(self, *_: Any) -> DataLoader:
        """The held-out images; unreadable ones are left out of their batches."""
        data: Any = self.eval_dataset
        loader = DataLoader(data, batch_size=self.args.eval_batch_size, collate_fn=collate_images)
        return self.accelerator.prepare(loader)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None and self.settings.optimizer == "muon":
            whole: Any = self.model if model is None else model
            self.optimizer = muon_of(whole, self.settings, self.get_decay_parameter_names(whole))
        return super().create_optimizer(model)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        if self.lr_scheduler is None:
            chosen: Any = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler: Any = make_schedule(chosen, self.settings, num_training_steps)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        return SequentialSampler(dataset) if hasattr(dataset, "__len__") else None
