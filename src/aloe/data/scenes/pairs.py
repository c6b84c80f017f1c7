"""Rendered scenes of two objects of different classes side by side, each with its mask: for questions about which of two
things something belongs to. Made as the scenes of one object are, from the same parts, by draws of their own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aloe.core.errors import UserError
from aloe.data.scenes import CLASSES


@dataclass(frozen=True, eq=False)
class Pair:
    """One rendered view of two objects, H = W = resolution; index 0 is the object on the left, 1 the one on the right."""

    image: NDArray[np.uint8]
    """(H,W,3) RGB."""
    labels: NDArray[np.int64]
    """(2,) indices into CLASSES, which differ."""
    masks: NDArray[np.bool_]
    """(2,H,W) visible pixels of each object; no pixel is in both."""


def render_pair(seed: int, index: int, resolution: int = 64) -> Pair:
    """Render scene `index` of the data set of pairs `seed`; the same arguments give bit-identical arrays.

    Raises:
        UserError: a negative argument, or a resolution under 8.
    """
    from .layout import compose_pair
    from .tracing import Tracer, draw

    if min(seed, index) < 0 or resolution < 8:
        raise UserError(
            f"Pairs need seed and index >= 0 and resolution >= 8, but got seed={seed}, index={index}, "
            f"resolution={resolution}."
        )
    rng = np.random.default_rng([seed, index, len(CLASSES), 2])
    labels = rng.choice(len(CLASSES), 2, replace=False)
    layout, counts = compose_pair((CLASSES[labels[0]], CLASSES[labels[1]]), rng)
    pose, intrinsics = layout.pose(0), layout.intrinsics(resolution)
    image, hits = draw(Tracer(layout.world, pose[:3, 3]), intrinsics, pose[:3, :3], resolution)
    owner = np.full(len(layout.world.primitives) + 1, -1)  # the last for rays that hit nothing, whose index is -1
    owner[: sum(counts)] = np.repeat([0, 1], counts)
    masks = owner[hits.which].reshape(resolution, resolution) == np.arange(2)[:, None, None]
    return Pair(image, labels.astype(np.int64), masks)
