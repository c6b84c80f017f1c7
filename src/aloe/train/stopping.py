"""How a run ends before its time: a signal that asks for it, and a machine that is too small."""

from __future__ import annotations

import signal
import threading
from typing import Any

import torch
from transformers import TrainerCallback

from aloe.core.errors import UserError

TERMINATED = 128 + signal.SIGTERM  # 143, the customary exit code
_AGREED_EVERY = 10  # steps at which several processes ask each other


class Terminated(SystemExit):
    """A run that SIGTERM stopped after it wrote a checkpoint; exit code 143."""

    def __init__(self) -> None:
        super().__init__(TERMINATED)


class Diverged(UserError):
    """A run whose loss or weights are no longer finite numbers."""


class StopOnTerm(TrainerCallback):
    """SIGTERM ends training after the step, with a checkpoint. Cluster schedulers send it some time before they kill.

    Signals reach the main thread only; in another one nothing changes. Of several processes one that was told is enough.
    """

    def __init__(self) -> None:
        self.asked = False
        self.accelerator: Any = None  # set by the trainer
        self._previous: Any = None
        self._installed = False

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            self._previous, self._installed = signal.signal(signal.SIGTERM, self._ask), True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.world_size > 1 and state.global_step % _AGREED_EVERY:
            return
        if args.world_size > 1:
            votes = torch.tensor(float(self.asked), device=args.device)
            self.asked = bool(self.accelerator.reduce(votes, reduction="sum"))
        if self.asked:
            control.should_save = control.should_training_stop = True

    def close(self) -> None:
        """Give the signal back to whoever had it."""
        if self._installed:
            signal.signal(signal.SIGTERM, self._previous or signal.SIG_DFL)
            self._installed = False

    def _ask(self, *_: Any) -> None:
        self.asked = True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("can't allocate memory", "not enough memory", "out of memory")
    )


def is_lost_worker(error: BaseException) -> bool:
    """Whether a process that reads images died (killed from outside, or for its memory); torch tells it in several ways."""
    words = str(error)
    died = "DataLoader worker" in words and ("exited unexpectedly" in words or "killed by signal" in words)
    return isinstance(error, (ConnectionResetError, EOFError)) or (isinstance(error, RuntimeError) and died)
