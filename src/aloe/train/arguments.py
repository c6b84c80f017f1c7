"""The settings in the words of transformers and torch: training arguments and the learning-rate schedule."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments, get_wsd_schedule

from aloe.core.devices import choose_device
from aloe.core.errors import UserError
from aloe.core.settings import workers_here
from aloe.train.settings import TrainSettings
from aloe.train.sharding import check_sharding


def training_arguments(
    settings: TrainSettings, output_dir: Path, device: str | None, *, evaluates: bool, verb: str, **others: Any
) -> TrainingArguments:
    """The settings in transformers' words; `verb` is the command that a mistake is explained with.

    Raises:
        UserError: one of several GPUs by number, which is chosen from outside; sharding that cannot be.
    """
    _check_reporters(settings.report_to)
    if device is not None and device.startswith("cuda:"):
        raise UserError(
            f"Choose the GPU from outside: CUDA_VISIBLE_DEVICES={device[5:]} aloe {verb} ... --device cuda."
        )
    device = None if device is None else choose_device(device)
    workers = workers_here(settings.workers)
    pinned = torch.cuda.is_available() and device != "cpu"
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
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
        dataloader_prefetch_factor=settings.prefetch if workers else None,
        dataloader_pin_memory=pinned,
        accelerator_config={"non_blocking": pinned},  # the next batch is copied while this one computes
        remove_unused_columns=False,
        label_names=[],
        use_cpu=device == "cpu",
        report_to=settings.report_to or "none",
        disable_tqdm=True,
        **evaluate,
        **others,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # one process per GPU (torchrun), never DataParallel
    check_sharding(settings.fsdp, settings.precision, arguments.world_size)
    return arguments


def make_schedule(
    optimizer: torch.optim.Optimizer, settings: TrainSettings, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """One cycle, or linear warm-up, constant, cosine decay (docs/method.md section 5)."""
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


def _check_reporters(names: list[str]) -> None:
    from transformers.integrations import get_available_reporting_integrations

    available = get_available_reporting_integrations()
    absent = [name for name in names if name not in (*available, "none", "all")]
    if absent:
        raise UserError(
            f"report_to {absent[0]} is not installed or not known; installed: {', '.join(available) or 'none'}."
        )
