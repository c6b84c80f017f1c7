"""The images of a source in batches, once and in order, for what is made of every image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from aloe.core import processes
from aloe.core.errors import UserError
from aloe.core.progress import tracked
from aloe.data.draws import ImageDataset, collate_images
from aloe.data.sources import ImageSource
from aloe.data.transforms import ResizeCenterCrop

R = TypeVar("R")


def over_batches(
    make: Callable[[Tensor, list[int]], list[R]],
    source: ImageSource,
    side: int,
    batch_size: int,
    unreadable: list[str],
    title: str | None = None,
) -> list[R]:
    """What `make` gives for every batch of the source, in order; batches are dealt out to the processes of a command, each
    batch the same whoever makes it, and every process knows all that was made.

    Args:
        make: from pixels (B, 3, side, side) in [0, 1] and the images' numbers; those that can be read.
        unreadable: is given a line for each of the others. title: of the bar; None: no bar.

    Raises:
        UserError: no image can be read; said at the end.
    """
    batches = [rows.tolist() for rows in torch.arange(len(source)).split(batch_size)]
    own, parts = processes.dealt(batches), []
    dataset = ImageDataset(source, ResizeCenterCrop(side))
    loader: Any = DataLoader(dataset, batch_sampler=own, collate_fn=collate_images)
    for batch in tracked(loader, title, len(own)):
        pixels = batch["pixel_values"]
        values = make(pixels, batch["index"].tolist()) if len(pixels) else []
        parts.append((values, batch["unreadable"], len(pixels)))
    parts = processes.in_order(parts)
    unreadable += [line for _, lines, _ in parts for line in lines]
    if not any(count for _, _, count in parts):
        raise UserError(f"None of the {len(source)} images could be read: {'; '.join(unreadable[:3])}.")
    return [one for values, _, _ in parts for one in values]
