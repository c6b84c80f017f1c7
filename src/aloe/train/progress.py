"""What a person sees of a run, and what is kept of it: a progress bar and a live JSONL log."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from aloe.core.files import json_lines, write_whole
from aloe.core.progress import Bar, say
from aloe.core.rows import Keyed, repeats

LOG_NAME = "log.jsonl"
_TAKEN = re.compile(
    r"^(time|epoch|data_wait|images_per_second|train_.*)$|_runtime$|_per_second$|_jit_compilation_time$"
)
"""What a log says of the time it took, or of all steps until then."""
EVAL_PREFIX = "eval_"


class JsonlLog(TrainerCallback):
    """Appends one line per log and evaluation; a resumed run first cuts the file back to its checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG_NAME

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            rows, notes = _rows(self.path)
            for note in notes:
                say(note)
            now = state.global_step
            # Rows of the checkpoint's own step may have come after it: it knows how many came before.
            count = sum(row.get("step") == now for row in state.log_history)
            at = [row for row in rows if row["step"] == now][:count]
            kept = [*(row for row in rows if row["step"] < now), *at] if now else []
            write_whole(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            row = {"step": state.global_step, "time": round(time.time(), 3), **logs}
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's log, each with its `step`; lines that are damaged (cut short by a crash) are left out, and rows
    that come again counted once.

    Raises:
        UserError: two rows of a step contradict each other.
    """
    return _rows(folder / LOG_NAME)[0]


def _rows(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of a log, and a sentence for what was left out."""
    rows, damaged, by_step, whole = [], 0, Keyed(), Keyed()
    for number, row in json_lines(path.read_bytes()) if path.is_file() else ():
        step = row.get("step") if isinstance(row, dict) else None
        if type(step) is not int or step < 0:
            damaged += 1
            continue
        place, name = f"line {number} of {path}", f"step {step}"
        by_step.add(step, {k: v for k, v in row.items() if not _TAKEN.search(k)}, place, name)
        if whole.add(json.dumps(row, sort_keys=True), {}, place, name):
            rows.append(row)
    left = [f"{damaged} damaged line{'s' * (damaged > 1)} of {path} left out."] if damaged else []
    return rows, [*left, *(f"{path}: {words}" for words in repeats(whole.repeated))]


class Throughput(TrainerCallback):
    """Adds images per second and the share of time spent waiting for data to every training log."""

    def __init__(self, images_per_step: int) -> None:
        self.images_per_step = images_per_step
        self._since = self._step_end = 0.0
        self._waited, self._steps = 0.0, 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._reset()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._waited += time.perf_counter() - self._step_end

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._step_end = time.perf_counter()
        self._steps += 1

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs or not self._steps:
            return
        elapsed = time.perf_counter() - self._since
        logs["images_per_second"] = round(self._steps * self.images_per_step / elapsed, 2)
        logs["data_wait"] = round(self._waited / elapsed, 4)
        self._reset()

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        self._reset()

    def on_save(self, *_: Any, **__: Any) -> None:
        self._reset()

    def _reset(self) -> None:
        self._since = self._step_end = time.perf_counter()
        self._waited, self._steps = 0.0, 0


class ProgressBar(TrainerCallback):
    """The bar of a training: step, time left, images/s, share of data wait, and what `words` makes of the logs.

    Args:
        title: what is going on. words: from the last value of every logged number to the end of the line.
    """

    def __init__(self, title: str, words: Callable[[dict[str, Any]], str]) -> None:
        self.title, self.words = title, words
        self.bar: Bar | None = None
        self._latest: dict[str, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.bar = Bar(self.title, state.max_steps, state.global_step)
            self.bar.update()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if self.bar is None or not logs:
            return
        self._latest |= logs
        if "loss" in logs:
            speed = f"{logs.get('images_per_second', 0):.0f} img/s, data wait {logs.get('data_wait', 0):.0%}"
            self.bar.update(status=f"{speed}  {self.words(self._latest)}")

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.close()

    def close(self) -> None:
        """Also called when a run stops early, so that the terminal is left as it was."""
        if self.bar is not None:
            self.bar.close()
