"""Explanation mode: freeze every input-dependent factor, so that the backward pass reads W(x) off the network.

Layers ask `is_explaining()`; inside `with explanation_mode():` they detach gates, attention weights and variances
(docs/method.md section 1). The mode belongs to the running thread, nests, and is restored when the block is left, also by an
exception; no module, parameter or hook is touched.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Mode(threading.local):
    explaining = False
    products = True
    plain = False


_mode = _Mode()


def is_explaining() -> bool:
    """True inside an `explanation_mode` block of this thread."""
    return _mode.explaining


def freezes_products() -> bool:
    """True where also the computed side of a product of two paths is frozen: queries and keys, the gate of a SwiGLU."""
    return _mode.explaining and _mode.products


def in_plain_operations() -> bool:
    """True where layers are to be written in PyTorch's own operations, which differentiate any number of times."""
    return _mode.explaining and _mode.plain


@contextmanager
def explanation_mode(enabled: bool = True, *, products: bool = True, plain: bool = False) -> Iterator[None]:
    """Within the block every dynamic factor is a constant of the backward pass; outputs are unchanged.

    `products=False` leaves attention weights and SwiGLU gates live, which AttnLRP has rules for; W(x) needs them frozen.
    `plain=True` writes the layers in PyTorch's own operations, so that the backward pass can itself be differentiated and
    batched: what W(x) as an operator needs (`attribution.alike.operator`).
    """
    before = _mode.explaining, _mode.products, _mode.plain
    _mode.explaining, _mode.products, _mode.plain = enabled, products, plain
    try:
        yield
    finally:
        _mode.explaining, _mode.products, _mode.plain = before
