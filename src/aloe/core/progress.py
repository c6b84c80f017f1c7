"""What a person sees of long work, on standard error: a bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

from aloe.core.printable import shown_line, shown_text

T = TypeVar("T")
LINE_EVERY = 30.0
"""Seconds between two lines of a log file."""


def say(words: str) -> None:
    """Print a line for a person who watches."""
    from rich.console import Console

    Console(stderr=True).print(shown_text(words), highlight=False, markup=False, soft_wrap=True)


_announced: set[str] | None = None


def announce_steps() -> None:
    """Let `announce` speak: the command line is watched by a person."""
    global _announced
    _announced = _announced if _announced is not None else set()


def announce(words: str) -> None:
    """Say once what takes long, where a person watches."""
    if _announced is not None and words not in _announced and os.environ.get("RANK", "0") == "0":
        _announced.add(words)
        say(words)


class Bar:
    """Progress of one piece of work: its title, the count, the time left, and a status at the end of the line.

    The bar appears with the first update, so that a mistake before it is one line. Only the first process of several
    shows one. On a terminal that is too narrow the status is cut, never the count or the time left.

    Args:
        title: what is going on; None: nothing is shown.
        total: how many there are, if it is known. done: how many were done before.
    """

    def __init__(self, title: str | None, total: int | None = None, done: int = 0) -> None:
        self.title = shown_line(title) if title is not None and os.environ.get("RANK", "0") == "0" else None
        self.total, self.done, self.status = total, done, ""
        self._first, self._since, self._said = done, 0.0, 0.0
        self._console: Any = None
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def advance(self, count: int = 1) -> None:
        """Count further."""
        self.update(self.done + count)

    def update(self, done: int | None = None, total: int | None = None, status: str | None = None) -> None:
        """Show how many are done, of how many, and what else there is to say."""
        self.done = self.done if done is None else done
        self.total = self.total if total is None else total
        self.status = self.status if status is None else status
        if self.title is None:
            return
        if self._console is None:
            self._start()
        if self._progress is not None:
            self._progress.update(self._task, completed=self.done, total=self.total, status=self.status)
        elif time.monotonic() - self._said >= LINE_EVERY:
            self._line()

    def close(self) -> None:
        """Leave the terminal as it was; the last count stays."""
        if self._progress is not None:
            self._progress.stop()
        elif self._console is not None:
            self._line()
        self._console = self._progress = None

    def line(self) -> str:
        """The progress in words."""
        count = f"{self.done}/{self.total}" if self.total is not None else f"{self.done}"
        spent, steps = time.monotonic() - self._since, self.done - self._first
        left = None if self.total is None or not steps else spent / steps * (self.total - self.done)
        parts = [f"{self.title} {count}", *([f"{_clock(left)} left"] if left else []), self.status]
        return ", ".join(part for part in parts if part)

    def _line(self) -> None:
        self._said = time.monotonic()
        self._console.print(self.line(), highlight=False, markup=False, soft_wrap=True)

    def _start(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._since = self._said = time.monotonic()
        if not self._console.is_terminal:
            return
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.table import Column
        from rich.text import Text

        class Status(ProgressColumn):
            def render(self, task: Any) -> Text:
                return Text(task.fields["status"], no_wrap=True, overflow="ellipsis")

        self._progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=20 if self._console.width >= 100 else 10),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            Status(),
            console=self._console,
        )
        self._progress.start()
        self._task = self._progress.add_task(str(self.title), total=self.total, completed=self.done, status=self.status)


def tracked(items: Iterable[T], title: str | None, total: int | None = None) -> Iterator[T]:
    """The items, with a bar if there is a title; `total` where they have no length."""
    count = len(items) if total is None and isinstance(items, Sized) else total
    with Bar(title, count) as bar:
        for item in items:
            yield item
            bar.advance()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
