"""Alignment on `transformers.Trainer`: resume, accumulation, mixed precision, DDP and logging come with it.

The trained module is the student plus the objective's own parameters; the teacher stands beside it, never wrapped, never
saved. Checkpoints appear whole (written aside, then renamed) and are never taken from weights that are not finite.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainingArguments, get_wsd_schedule

from aloe.alignment.compare import mean_over_images
from aloe.alignment.objectives import SiglipLoss, cosine, infonce, mse
from aloe.alignment.points import (
    POOLED,
    cosines,
    match_tokens,
    point_name,
    student_features,
    teacher_features,
)
from aloe.alignment.settings import AlignSettings
from aloe.data.draws import FaultLog, collate_images
from aloe.errors import UserError
from aloe.models.modeling import BcosViTModel
from aloe.models.teachers import Features, Teacher

LOSS_PREFIX, COSINE_PREFIX = "loss_", "eval_cosine_"


class AlignmentModel(nn.Module):
    """The student and the loss: images and the teacher's features in, one loss per alignment point out."""

    _no_split_modules = BcosViTModel._no_split_modules  # what FSDP wraps

    def __init__(self, student: nn.Module, source: Teacher, settings: AlignSettings, blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.student = student
        self.config: Any = student.config
        self.blocks = blocks if settings.objective in ("cosine", "mse") else ()
        self.pooled = settings.pooled
        self._source = (source,)  # in a tuple: not a submodule, so neither trained, wrapped nor saved
        self.loss = SiglipLoss() if settings.objective == "siglip" else None
        self._objective = {"cosine": cosine, "mse": mse, "infonce": infonce}.get(settings.objective)

    def forward(self, images: Tensor, teacher: Features, measure: str = "loss") -> dict[str, Tensor]:
        """The loss of every point, or with `measure="cosine"` the cosine similarity of every point."""
        features = student_features(self.student, images, self.blocks)
        if measure == "cosine":
            return cosines(features, teacher, self.config, self._source[0])
        compare: Any = self.loss or self._objective
        losses = {}
        for k in self.blocks:
            ours, theirs = match_tokens(features.states[k], teacher.states[k], self.config, self._source[0])
            losses[point_name(k)] = compare(ours, theirs)
        if self.pooled:
            losses[POOLED] = compare(features.pooled, teacher.pooled)
        return losses


class AlignmentTrainer(Trainer):
    """Trainer whose loss is the distance to a frozen teacher.

    Args:
        settings: the resolved settings. source: the teacher. faults: counts unreadable images.
        Others: as in `transformers.Trainer`; the data are read in order, because they are draws.
    """

    def __init__(self, *, settings: AlignSettings, source: Teacher, faults: FaultLog, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.remove_callback(PrinterCallback)
        self.settings, self.faults = settings, faults
        self.source = source.to(self.args.device)
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        images = self.faults.take(inputs)["pixel_values"]
        core: AlignmentModel = self.accelerator.unwrap_model(model)
        features = teacher_features(self.source, images, core.config, core.blocks)
        losses = model(images, features)
        total = torch.stack(list(losses.values())).sum()
        for name, loss in losses.items():
            self._sums[name] = self._sums.get(name, 0) + loss.detach()
        self._count += 1
        return (total, losses) if return_outputs else total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean loss of every point since the last log; stops a run whose loss is not finite."""
        if "loss" in logs and self._count:
            means = torch.stack(list(self._sums.values())) / self._count
            means = self.accelerator.reduce(means, reduction="mean")
            logs |= {f"{LOSS_PREFIX}{k}": v for k, v in zip(self._sums, means.tolist(), strict=True)}
            self._sums, self._count = {}, 0
            if not all(map(_finite, (logs["loss"], *means.tolist()))):
                raise UserError(
                    f"The loss became {logs['loss']} by step {self.state.global_step}: lower learning_rate "
                    f"(now {self.settings.learning_rate:g}) and run again; the last checkpoint is kept."
                )
        super().log(logs, start_time)

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Cosine per alignment point on the held-out images, student against teacher."""
        core: AlignmentModel = self.accelerator.unwrap_model(self.model)
        model = self.model_wrapped  # what is sharded or replicated is only whole in its wrapper

        def compare(images: Tensor) -> dict[str, Tensor]:
            return model(images, teacher_features(self.source, images, core.config, core.blocks), "cosine")

        loader = map(self.faults.take, self.get_eval_dataloader())
        model.eval()
        try:
            metrics = mean_over_images(compare, loader, self.args.device, self.accelerator)
        finally:
            model.train()
        logs = {f"{COSINE_PREFIX}{name}": value for name, value in metrics.items()}
        self.log(logs)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logs)
        return logs

    def gathered(self, student: Any) -> Any:
        """The student with its trained weights whole: itself, or under FSDP a copy made from the shards.

        accelerate switches FSDP off on the CPU, so the second half has not been run yet.
        """
        if not self.is_fsdp_enabled:
            return student
        state = self.accelerator.get_state_dict(self.model_wrapped)
        whole = type(student)(student.config)
        if whole is not whole.base_model:
            whole.classifier.weight.data.copy_(student.classifier.weight.data)
        if self.is_world_process_zero():
            weights = {k.removeprefix("student."): v for k, v in state.items() if k.startswith("student.")}
            whole.base_model.load_state_dict(weights)
        return whole

    def evaluated_at(self, step: int) -> bool:
        """Whether the log holds an evaluation at this step."""
        rows = [row for row in self.state.log_history if row["step"] == step]
        return any(key.startswith(COSINE_PREFIX) for row in rows for key in row)

    def get_train_dataloader(self) -> DataLoader:
        """Draws in order, dealt out to the ranks by accelerate; shards split themselves by rank and worker."""
        data: Any = self.train_dataset
        if not isinstance(data, IterableDataset):
            return super().get_train_dataloader()
        return DataLoader(
            data,
            batch_size=self.args.train_batch_size,
            num_workers=self.args.dataloader_num_workers,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def get_eval_dataloader(self, *_: Any) -> DataLoader:
        """The held-out images; unreadable ones are left out of their batches."""
        data: Any = self.eval_dataset
        loader = DataLoader(data, batch_size=self.args.eval_batch_size, collate_fn=collate_images)
        return self.accelerator.prepare(loader)

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

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Written into a folder aside and renamed, so that a checkpoint is whole or absent."""
        if not all(bool(p.isfinite().all()) for p in model.parameters()):
            raise UserError(
                f"The weights are not finite at step {self.state.global_step}: lower learning_rate "
                f"(now {self.settings.learning_rate:g}) and run again; the last checkpoint is kept."
            )
        home = Path(str(self.args.output_dir))
        staging = home / ".saving"
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.args.output_dir = str(staging)
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:  # a full disk, as each library reports it
            shutil.rmtree(staging, ignore_errors=True)
            raise UserError(
                f"The checkpoint at step {self.state.global_step} could not be written: {error}."
            ) from error
        finally:
            self.args.output_dir, self.args.save_total_limit = str(home), limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            name = f"checkpoint-{self.state.global_step}"
            shutil.rmtree(home / name, ignore_errors=True)
            os.replace(staging / name, home / name)
            shutil.rmtree(staging, ignore_errors=True)
            for old in checkpoints(home)[:-limit] if limit else []:
                shutil.rmtree(old)


def make_schedule(
    optimizer: torch.optim.Optimizer, settings: AlignSettings, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """One cycle, or linear warm-up, constant, cosine decay (METHOD.md section 5)."""
    if settings.schedule == "one-cycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=settings.learning_rate,
            total_steps=steps + 1,
            pct_start=min(max(settings.warmup, 2 / (steps + 1)), 1.0),  # the rise needs one step of its own
            cycle_momentum=False,
        )
    warmup = round(settings.warmup * steps)
    decay = min(round(settings.decay * steps), steps - warmup)
    return get_wsd_schedule(optimizer, num_warmup_steps=warmup, num_decay_steps=decay, num_training_steps=steps)


def training_arguments(
    settings: AlignSettings, output_dir: Path, device: str | None, evaluates: bool
) -> TrainingArguments:
    """The settings in transformers' words.

    Raises:
        UserError: one of several GPUs by number, which is chosen from outside.
    """
    _check_reporters(settings.report_to)
    if device is not None and device.startswith("cuda:"):
        raise UserError(f"Choose the GPU from outside: CUDA_VISIBLE_DEVICES={device[5:]} aloe align ... --device cuda.")
    evaluate: Mapping[str, Any] = {"eval_strategy": "steps", "eval_steps": settings.evaluate_every} if evaluates else {}
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        logging_steps=min(settings.log_every, settings.steps),
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=settings.save_every,
        save_total_limit=settings.keep_checkpoints,
        seed=settings.seed,
        bf16=settings.precision == "bf16",
        fp16=settings.precision == "fp16",
        dataloader_num_workers=settings.workers,
        dataloader_persistent_workers=settings.workers > 0,
        dataloader_pin_memory=torch.cuda.is_available() and device != "cpu",
        remove_unused_columns=False,
        label_names=[],
        use_cpu=device == "cpu",
        report_to=settings.report_to or "none",
        disable_tqdm=True,
        ddp_find_unused_parameters=not settings.pooled,  # then the final norm gets no gradient
        **evaluate,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # one process per GPU (torchrun), never DataParallel
    return arguments


def _check_reporters(wanted: list[str]) -> None:
    from transformers.integrations import get_available_reporting_integrations

    available = get_available_reporting_integrations()
    absent = [name for name in wanted if name not in (*available, "none", "all")]
    if absent:
        raise UserError(
            f"report_to {absent[0]} is not installed or not known; installed: {', '.join(available) or 'none'}."
        )


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    found = [p for p in folder.glob("checkpoint-*") if (p / "trainer_state.json").is_file()]
    return sorted(found, key=lambda p: int(p.name.rsplit("-", 1)[1]))


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")
