"""Images from anywhere (folders, archives, shards, datasets, scenes) to reproducible tensors.

`open_source` turns what a user typed into a source; `AlignmentDraws` and `ImageDataset` turn a
source into what a `DataLoader` reads. Names are imported when first used, so that `import
aloe.data` does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "DataError": "decode",
    "UnreadableImage": "decode",
    "decode_image": "decode",
    "ImageSource": "sources",
    "open_images": "sources",
    "open_source": "sources",
    "ShardSource": "shards",
    "Compose": "transforms",
    "RandomHorizontalFlip": "transforms",
    "RandomResizedCrop": "transforms",
    "ResizeCenterCrop": "transforms",
    "to_tensor": "transforms",
    "AlignmentDraws": "draws",
    "FaultLog": "draws",
    "ImageDataset": "draws",
    "ShardDraws": "draws",
    "check_source": "draws",
    "collate_draws": "draws",
    "collate_images": "draws",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_HOME)
