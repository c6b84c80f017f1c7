"""The visitors of the page: what each looks at, and the images that each may pick."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aloe.apps.explorer.alike import PairView
from aloe.apps.explorer.explorer import Entry, Picture
from aloe.apps.explorer.view import Panel, View

REMEMBERED = 32  # visitors


@dataclass(eq=False)
class Run:
    """A question that is being answered, one explanation after the other: those that are left and those that are there."""

    turn: int
    view: View
    titles: list[str]
    jobs: list[tuple[Entry, str]]
    panels: list[Panel] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)


@dataclass(eq=False)
class Session:
    """What one visitor looks at. `turn` and `drag` count the questions: only the newest is answered."""

    uploads: list[Picture] = field(default_factory=list)
    view: View | None = None
    pair: PairView | None = None
    run: Run | None = None
    turn: int = 0
    drag: int = 0
    dragging: Any = field(default_factory=threading.Lock)


class Sessions:
    """The newest visitors; `offered` are the images that all of them may pick."""

    def __init__(self, offered: Sequence[Picture]) -> None:
        self.offered = list(offered)
        self.known: OrderedDict[str, Session] = OrderedDict()
        self.lock = threading.Lock()

    def of(self, request: Any) -> Session:
        """That of a request of Gradio's."""
        with self.lock:
            session = self.known.setdefault(str(request.session_hash), Session())
            self.known.move_to_end(str(request.session_hash))
            while len(self.known) > REMEMBERED:
                self.known.popitem(last=False)
            return session

    def pictures(self, session: Session) -> list[Picture]:
        """All images that a visitor may pick."""
        return [*self.offered, *session.uploads]
