"""Batches to a frozen model: the next one is copied to a GPU while this one is computed, and one that does not fit its memory
is made in pieces. On other devices both do nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from aloe.core.errors import UserError


def fed(batches: Iterable[dict[str, Any]], device: str) -> Iterator[dict[str, Any]]:
    """Batches whose `pixel_values` are on the device.

    On CUDA they are copied beside what is computed, from pinned memory, and at most two of them are under way: what is made
    of a batch should stay there until the next one is asked for.
    """
    if torch.device(device).type != "cuda":
        for batch in batches:
            yield {**batch, "pixel_values": batch["pixel_values"].to(device)}
        return
    beside, before = torch.cuda.Stream(device), None
    for batch in batches:
        with torch.cuda.stream(beside):
            pixels = batch["pixel_values"].to(device, non_blocking=True)
        computing = torch.cuda.current_stream(device)
        computing.wait_stream(beside)
        pixels.record_stream(computing)  # its memory is not handed out again before that has read it
        yield {**batch, "pixel_values": pixels}
        if before is not None:
            before.synchronize()
        before = computing.record_event()


class Fitting:
    """Makes something of every image of a batch, at once or in pieces that fit a GPU's memory; remembers their size."""

    def __init__(self) -> None:
        self.most: int | None = None

    def __call__(self, make: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """`make(images)` (B, ...) of images (B, 3, H, W), which may be asked about any part of them.

        Raises:
            UserError: a single image does not fit.
        """
        while True:
            size = min(self.most or len(images), len(images))
            try:
                parts = [make(piece) for piece in images.split(size)]
                return parts[0] if len(parts) == 1 else torch.cat(parts)
            except torch.OutOfMemoryError as error:
                if size == 1:
                    raise UserError(
                        f"One image of {images.shape[-1]} pixels does not fit the GPU's memory; give a smaller --resolution,"
                        " or --device cpu."
                    ) from error
                self.most = size // 2
            torch.cuda.empty_cache()
