"""`transformers.Trainer` with checkpoints that are whole or absent and hold no pickle (`aloe.training.checkpoints`).

Sharded states (FSDP, DeepSpeed) are left to accelerate, which has formats of its own.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME

from aloe.errors import UserError
from aloe.training.checkpoints import checkpoints, read_state, seal, write_state

OPTIMIZER, SCALER, RANDOM = "optimizer.safetensors", "scaler.safetensors", "random-{}.safetensors"


class SealedTrainer(Trainer):
    """Writes and reads checkpoints; everything else is transformers'."""

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """In safetensors; sharded states are accelerate's to write."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
        elif self.args.should_save:
            parts: dict[str, Any] = {"optimizer": self.optimizer, "scheduler": self.lr_scheduler}
            write_state(Path(output_dir) / OPTIMIZER, {name: part.state_dict() for name, part in parts.items()})

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
        elif checkpoint is not None:
            parts: dict[str, Any] = {"optimizer": self.optimizer, "scheduler": self.lr_scheduler}
            for name, state in read_state(Path(checkpoint) / OPTIMIZER).items():
                parts[name].load_state_dict(state)

    def _save_scaler(self, output_dir: str) -> None:
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None and self.args.should_save:
            write_state(Path(output_dir) / SCALER, scaler.state_dict())

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and (Path(checkpoint) / SCALER).is_file():
            self.accelerator.scaler.load_state_dict(read_state(Path(checkpoint) / SCALER))

    def _save_rng_state(self, output_dir: str) -> None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)  # perhaps before the first process is there
        write_state(Path(output_dir) / RANDOM.format(self.args.process_index), _random_state())

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            _set_random_state(read_state(Path(checkpoint) / RANDOM.format(self.args.process_index)))

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        (Path(str(output_dir or self.args.output_dir)) / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # a pickle

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Written into a folder aside and renamed, so that a checkpoint is whole or absent."""
        if not all(bool(p.isfinite().all()) for p in model.parameters()):
            raise UserError(
                f"The weights are not finite at step {self.state.global_step}: lower learning_rate "
                f"(now {self.args.learning_rate:g}) and run again; the last checkpoint is kept."
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
            raise self._unwritten(staging, error) from error
        finally:
            self.args.output_dir, self.args.save_total_limit = str(home), limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            name = f"checkpoint-{self.state.global_step}"
            try:
                seal(staging / name)
            except OSError as error:
                raise self._unwritten(staging, error) from error
            shutil.rmtree(home / name, ignore_errors=True)
            os.replace(staging / name, home / name)
            shutil.rmtree(staging, ignore_errors=True)
            for old in checkpoints(home)[:-limit] if limit else []:
                shutil.rmtree(old)

    def _unwritten(self, staging: Path, error: Exception) -> UserError:
        shutil.rmtree(staging, ignore_errors=True)
        return UserError(f"The checkpoint at step {self.state.global_step} could not be written: {error}.")


def _random_state() -> dict[str, Any]:
    state: dict[str, Any] = {"python": random.getstate(), "numpy": np.random.get_state()}
    state["torch"] = torch.random.get_rng_state()
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def _set_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.random.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
