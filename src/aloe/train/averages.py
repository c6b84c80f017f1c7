"""Numbers measured batch by batch, averaged over all images of a loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from aloe.core.errors import UserError


@torch.no_grad()
def mean_over_images(
    measure: Callable[[dict[str, Any]], dict[str, Tensor]],
    loader: Iterable[dict[str, Any]],
    device: Any,
    accelerator: Any = None,
) -> dict[str, float]:
    """Means of what `measure` gives per batch, weighted by images; every rank gets the same numbers.

    Raises:
        UserError: no image of the loader is readable.
    """
    sums: dict[str, Tensor] = {}
    count = torch.zeros((), device=device)
    for batch in loader:
        images = len(batch["pixel_values"])
        if not images:  # none of them readable
            continue
        on_device = {name: v.to(device) if isinstance(v, Tensor) else v for name, v in batch.items()}
        for name, value in measure(on_device).items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + value * images
        count += images
    stacked = torch.stack([*sums.values(), count])
    if accelerator is not None:
        stacked = accelerator.reduce(stacked, reduction="sum")
    *totals, images_seen = stacked.tolist()
    if not images_seen:
        raise UserError("None of the images could be read.")
    return {name: total / images_seen for name, total in zip(sums, totals, strict=True)}
