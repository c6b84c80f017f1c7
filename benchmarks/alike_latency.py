"""Seconds from a rectangle to the map that it lights up in the other image, as `aloe app` answers; and of tables of pairs.

    python benchmarks/alike_latency.py --threads 2

ViT-S/14 with random weights, whose speed is that of an aligned one, on two noise images of 224 pixels. Medians of the seconds
on the clock and of the processor's, and the fastest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from aloe.apps.explorer.alike import PairView
from aloe.apps.explorer.explorer import Explorer
from aloe.apps.explorer.pair_controls import answer_payload, pair_payload
from aloe.models.configuration import BcosViTConfig
from aloe.models.modeling import BcosViTModel

SIZE = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--pairs", action="store_true", help="also the whole table of pairs")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = BcosViTModel(BcosViTConfig(**SIZE, image_size=224, patch_size=14, layer_scale=True)).eval()
    explorer = Explorer({"ViT-S/14": model})
    noise = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    a, b = (explorer.open(Image.fromarray(pixels), "noise") for pixels in noise)
    pair = PairView.of(explorer, ["ViT-S/14"], a, b)
    steps: dict[str, Callable[[], object]] = {
        "two images compared": lambda: pair_payload(PairView.of(explorer, ["ViT-S/14"], a, b)),
        "a rectangle answered": lambda: answer_payload(pair.region("b", (0.2, 0.3, 0.6, 0.7))),
    }
    for what, step in steps.items():
        print(json.dumps({"what": what, **timed(step, given.repeat)}), flush=True)
    if given.pairs:
        print(json.dumps({"what": "the 256 x 256 table of pairs", **timed(pair.found.pairs, 1)}))


def timed(step: Callable[[], object], repeat: int) -> dict[str, float]:
    step()
    found = []
    for _ in range(repeat):
        wall, processor = time.perf_counter(), time.process_time()
        step()
        found.append((time.perf_counter() - wall, time.process_time() - processor))
    wall, processor = (statistics.median(column) for column in zip(*found, strict=True))
    fastest = min(w for w, _ in found)
    return {"wall": round(wall, 3), "fastest": round(fastest, 3), "processor": round(processor, 3)}


if __name__ == "__main__":
    main()
