"""Images from anywhere (folders, archives, shards, datasets, rendered scenes) to seeded, reproducible tensors.

`open_source` turns what a user typed into a source, `AlignmentDraws` and `ImageDataset` turn a source into what a
`DataLoader` reads. Names are imported when first used, so that `import aloe.data` does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aloe.data.decode import DataError, UnreadableImage, decode_image
    from aloe.data.draws import (
        AlignmentDraws,
        FaultLog,
        ImageDataset,
        ShardDraws,
        check_source,
        collate_draws,
        collate_images,
    )
    from aloe.data.shards import ShardSource
    from aloe.data.sources import ImageSource, open_images, open_source
    from aloe.data.transforms import (
        Compose,
        RandomHorizontalFlip,
        RandomResizedCrop,
        ResizeCenterCrop,
        to_tensor,
    )

_HOME = {
    "decode": ("DataError", "UnreadableImage", "decode_image"),
    "draws": (
        "AlignmentDraws",
        "FaultLog",
        "ImageDataset",
        "ShardDraws",
        "check_source",
        "collate_draws",
        "collate_images",
    ),
    "shards": ("ShardSource",),
    "sources": ("ImageSource", "open_images", "open_source"),
    "transforms": (
        "Compose",
        "RandomHorizontalFlip",
        "RandomResizedCrop",
        "ResizeCenterCrop",
        "to_tensor",
    ),
}

__all__ = [
    "AlignmentDraws",
    "Compose",
    "DataError",
    "FaultLog",
    "ImageDataset",
    "ImageSource",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "ResizeCenterCrop",
    "ShardDraws",
    "ShardSource",
    "UnreadableImage",
    "check_source",
    "collate_draws",
    "collate_images",
    "decode_image",
    "open_images",
    "open_source",
    "to_tensor",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
