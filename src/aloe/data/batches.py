"""The images of a source in batches, once and in order, for what is made of every image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from aloe.core.errors import UserError
from aloe.core.progress import tracked
from aloe.data.draws import ImageDataset, collate_images
from aloe.data.sources import ImageSource
from aloe.data.transforms import ResizeCenterCrop


def image_batches(
    source: ImageSource, side: int, batch_size: int, unreadable: list[str], title: str | None = None
) -> Iterator[tuple[Tensor, list[int]]]:
    """Pixels (B, 3, side, side) in [0, 1] and the images' numbers; at most `batch_size` at a time, those that can be read.

    Args:
        unreadable: is given a line for each of the others. title: of the bar; None: no bar.

    Raises:
        UserError: none can be read; said at the end.
    """
    dataset, some = ImageDataset(source, ResizeCenterCrop(side)), False
    loader: Any = DataLoader(dataset, batch_size=batch_size, collate_fn=collate_images)
    for batch in tracked(loader, title):
        unreadable += batch["unreadable"]
        if len(batch["pixel_values"]):
            some = True
            yield batch["pixel_values"], batch["index"].tolist()
    if not some:
        raise UserError(f"None of the {len(source)} images could be read: {'; '.join(unreadable[:3])}.")
