"""Explanation mode: freeze every input-dependent factor, so that the backward pass reads W(x) off the network.

Layers ask `is_explaining()`; inside `with explanation_mode():` they detach gates, attention weights and variances
(METHOD.md section 1). The mode belongs to the running thread, nests, and is restored when the block is left, also by an
exception; no module, parameter or hook is touched.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Mode(threading.local):
    explaining = False


_mode = _Mode()


def is_explaining() -> bool:
    """True inside an `explanation_mode` block of this thread."""
    return _mode.explaining


@contextmanager
def explanation_mode(enabled: bool = True) -> Iterator[None]:
    """Within the block every dynamic factor is a constant of the backward pass; outputs are unchanged."""
    before = _mode.explaining
    _mode.explaining = enabled
    try:
        yield
    finally:
        _mode.explaining = before
