"""Photographs to augmented tensors on one thread: whole decoding, resizing from the crop's box, draft decoding, reducing_gap.

python benchmarks/decode.py photos --size 224 --limit 120
python benchmarks/decode.py photos --size 224 --limit 16 --enlarge 2048x1536
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from aloe.data.decode import decode_image
from aloe.data.transforms import RandomResizedCrop, to_tensor

Resize = Callable[[Image.Image, np.random.Generator], Image.Image]


def variants(crop: RandomResizedCrop) -> dict[str, tuple[Resize, bool]]:
    """How a decoded image becomes a crop, and whether less than the whole image is decoded."""
    side = (crop.size, crop.size)

    def cropped(image: Image.Image, draw: np.random.Generator) -> Image.Image:
        return image.crop(crop.box(image.size, draw)).resize(side, Image.Resampling.BILINEAR)

    def gap(image: Image.Image, draw: np.random.Generator) -> Image.Image:
        box = crop.box(image.size, draw)
        return image.resize(side, Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)

    return {
        "crop, then resize": (cropped, False),
        "resize from the box": (crop, False),
        "draft": (crop, True),
        "draft and reducing_gap": (gap, True),
    }


def pictures(files: list[bytes], crop: RandomResizedCrop, resize: Resize, draft: bool) -> list[Image.Image]:
    found = []
    for k, data in enumerate(files):
        fresh = partial(np.random.default_rng, [0, k])
        decoded = decode_image(data, name=str(k), draft_size=partial(crop.enough, fresh=fresh) if draft else None)
        found.append(resize(decoded, fresh()))
        to_tensor(found[-1])
    return found


def enlarged(data: bytes, size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    decode_image(data, name="photograph").resize(size).save(file, "JPEG", quality=90)
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, nargs="+", default=[224])
    parser.add_argument("--limit", type=int, default=120)
    parser.add_argument("--enlarge", help="WIDTHxHEIGHT that every photograph is brought to first")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    files = [p.read_bytes() for p in sorted(args.folder.rglob("*")) if p.suffix.lower() in (".jpg", ".jpeg")][
        : args.limit
    ]
    if args.enlarge:
        width, height = map(int, args.enlarge.split("x"))
        files = [enlarged(data, (width, height)) for data in files]
    middle = np.median([Image.open(io.BytesIO(data)).size for data in files], axis=0)
    print(f"{len(files)} photographs, median {middle[0]:.0f} x {middle[1]:.0f}; images per second")
    for size in args.size:
        crop = RandomResizedCrop(size)
        ways = variants(crop)
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, way in ways.items():
                start = time.perf_counter()
                pictures(files, crop, *way)
                rates[name].append(len(files) / (time.perf_counter() - start))
        print(f"{size} px:", ", ".join(f"{name} {statistics.median(r):.0f}" for name, r in rates.items()))
        whole, draft = (
            np.stack([np.asarray(p, int) for p in pictures(files, crop, *ways[n])])
            for n in ("resize from the box", "draft")
        )
        apart = np.abs(whole - draft)
        print(f"  draft against whole decoding, of 255: mean {apart.mean():.2f}, largest {apart.max()}")


if __name__ == "__main__":
    main()
