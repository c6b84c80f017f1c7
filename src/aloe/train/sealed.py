"""`transformers.Trainer` with checkpoints that are whole or absent and hold no pickle (`aloe.train.checkpoints`).

What is split over the processes (`aloe.train.sharding`) is gathered on the first one, which writes it.
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
from safetensors.torch import load_file
from torch import nn
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.utils import SAFE_WEIGHTS_NAME

from aloe.core.errors import UserError
from aloe.train.checkpoints import RUN_NAME, read_state, rotate, seal, write_state
from aloe.train.sharding import all_finite, set_whole_optimizer, set_whole_weights, whole_optimizer, whole_weights
from aloe.train.stopping import Diverged

OPTIMIZER, SCALER, RANDOM = "optimizer.safetensors", "scaler.safetensors", "random-{}.safetensors"


class SealedTrainer(Trainer):
    """Writes and reads checkpoints; everything else is transformers'. `sharded`: whether the model is split."""

    sharded = False

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if not self.sharded:
            super().save_model(output_dir, _internal_call)
            return
        weights = whole_weights(self._core())
        if self.args.should_save:
            self._save(output_dir, state_dict=weights)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.sharded:
            set_whole_weights(self._core(), load_file(Path(resume_from_checkpoint) / SAFE_WEIGHTS_NAME))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        optimizer: Any = self.optimizer
        schedule: Any = self.lr_scheduler
        state = whole_optimizer(self._core(), optimizer.optimizer) if self.sharded else optimizer.state_dict()
        if self.args.should_save:
            write_state(Path(output_dir) / OPTIMIZER, {"optimizer": state, "scheduler": schedule.state_dict()})

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        optimizer: Any = self.optimizer
        schedule: Any = self.lr_scheduler
        state = read_state(Path(checkpoint) / OPTIMIZER)
        if self.sharded:
            set_whole_optimizer(self._core(), optimizer.optimizer, state["optimizer"])
        else:
            optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["scheduler"])

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
        if not all_finite(model):
            raise Diverged(
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
                if (home / RUN_NAME).is_file():
                    shutil.copyfile(home / RUN_NAME, staging / name / RUN_NAME)
                seal(staging / name)
            except OSError as error:
                raise self._unwritten(staging, error) from error
            shutil.rmtree(home / name, ignore_errors=True)
            os.replace(staging / name, home / name)
            shutil.rmtree(staging, ignore_errors=True)
            if limit:
                rotate(home, limit, self.state.global_step)

    def _core(self) -> nn.Module:
        return self.accelerator.unwrap_model(self.model)

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
