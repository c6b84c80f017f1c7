"""A training that is killed after a step, in a process of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from aloe.train import trainer
from several import ended, started


def killed_after(step: int, training: Callable[[], Any]) -> bool:
    """Run `training` in a forked process that is killed with -9 after that step; whether it was."""

    class Kill(trainer.JsonlLog):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == step:
                os.kill(os.getpid(), signal.SIGKILL)

    def job() -> None:
        trainer.JsonlLog = Kill  # type: ignore[misc]
        training()

    return ended(started(job)) == -signal.SIGKILL
