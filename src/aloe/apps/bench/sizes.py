"""What is measured where nothing is given: teachers of the customary sizes with random weights, and generated photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image

from aloe.core.errors import UserError
from aloe.core.names import meant
from aloe.data.subset import MemoryImages
from aloe.models.teachers import Teacher

PHOTO_SIZE = (500, 375)


@dataclass(frozen=True)
class Size:
    """A plain ViT: width, blocks, heads, hidden width of the MLP; patches of 16 pixels."""

    width: int
    depth: int
    heads: int
    hidden: int


SIZES = {
    "Ti": Size(192, 12, 3, 768),
    "S": Size(384, 12, 6, 1536),
    "B": Size(768, 12, 12, 3072),
    "L": Size(1024, 24, 16, 4096),
    "so400m": Size(1152, 27, 16, 4304),
    "H": Size(1280, 32, 16, 5120),
}


def random_teacher(name: str, resolution: int = 224, seed: int = 0) -> Teacher:
    """A teacher of a size in `SIZES` with random weights.

    Raises:
        UserError: another size.
    """
    check_sizes([name])
    return vit_teacher(SIZES[name], resolution, f"ViT-{name}/16", seed)


def check_sizes(names: Sequence[str]) -> None:
    """Raises UserError for a name that is not in `SIZES`."""
    for name in names:
        if name not in SIZES:
            raise UserError(f"There is no size {name!r}{meant(name, SIZES, 'sizes')}")


def vit_teacher(size: Size, resolution: int, name: str, seed: int = 0) -> Teacher:
    """A ViT with patches of 16 pixels and random weights; the caller's random state is left as it was."""
    import transformers

    config = transformers.ViTConfig(
        hidden_size=size.width,
        num_hidden_layers=size.depth,
        num_attention_heads=size.heads,
        intermediate_size=size.hidden,
        image_size=resolution,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Teacher(transformers.ViTModel(config, add_pooling_layer=False), name)


def generated_photos(count: int = 64, seed: int = 0) -> Any:
    """An image source of `count` JPEGs of 500 x 375 pixels in memory, smooth and grainy like photographs (~70 kB each)."""
    return MemoryImages([(f"photo {i}", _photo(np.random.default_rng([seed, i]))) for i in range(count)])


def _photo(draws: np.random.Generator) -> bytes:
    rough = Image.fromarray(draws.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(rough.resize(PHOTO_SIZE, Image.Resampling.BICUBIC), dtype=np.float32)
    grainy = smooth + draws.normal(0, 6, smooth.shape)
    buffer = BytesIO()
    Image.fromarray(grainy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
