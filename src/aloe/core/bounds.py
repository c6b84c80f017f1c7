"""The largest numbers that settings and options of the command line take, each declared here alone."""

from __future__ import annotations

MAX_SEED = 2**32 - 1
"""The largest that every generator of random numbers takes."""
MAX_COUNT = 10**9
"""Of steps, epochs, images and whatever else is counted."""
MAX_SIDE = 1 << 14
"""Pixels on a side of the largest image that a model may be given."""
MAX_BATCH = 1 << 16
MAX_WORKERS = 1 << 10
"""Processes that read images; no more than there are cores are started."""
