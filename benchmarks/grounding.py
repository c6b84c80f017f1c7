"""Token grounding measured: whether words' maps lie on their objects, and what a 9B language model costs.

python benchmarks/grounding.py inside CAPTIONER --student STUDENT    # what scripts/train_scene_captioner.py wrote
python benchmarks/grounding.py layer                                 # one and two decoder layers of Gemma-2-9B's size
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from aloe.attribution.memory import peak_memory
from aloe.data.scenes import CLASSES, SceneDataset
from aloe.grounding.ground import ground
from aloe.grounding.language import Term, propagate
from aloe.grounding.loading import load_vision_language
from aloe.grounding.model import VisionLanguage
from aloe.metrics.bootstrap import bootstrap_interval
from aloe.metrics.pointing import inside_share, pointing_hits
from aloe.viz.gallery import save_png, stack

QUESTION = "what is in the picture ?"
SEED = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    inside = verbs.add_parser("inside")
    inside.add_argument("model", type=Path)
    inside.add_argument("--student", type=Path, required=True)
    inside.add_argument("--scenes", type=int, default=200)
    inside.add_argument("--picture", type=Path, help="PNG of the first scenes' words")
    layer = verbs.add_parser("layer")
    layer.add_argument("--tokens", type=int, default=729 + 64)
    layer.add_argument("--goals", type=int, nargs="+", default=[1, 4])
    args = parser.parse_args()
    print(json.dumps(measure_inside(args) if args.verb == "inside" else measure_layer(args), indent=2))


def measure_inside(args: argparse.Namespace) -> dict[str, Any]:
    """Of scenes whose object both models name: the share of positive relevance on it, for its word."""
    plain = load_vision_language(args.model)
    model = load_vision_language(args.model, vision=args.student)
    paths = {
        "student, W(x)x": (model, {}),
        "student, W(x)x, cp": (model, {"variant": "cp"}),
        "plain tower, AttnLRP": (plain, {}),
        "plain tower, AttnLRP, cp": (plain, {"variant": "cp"}),
    }
    shares: dict[str, list[float]] = {name: [] for name in paths}
    hits: dict[str, list[bool]] = {name: [] for name in paths}
    others: dict[str, dict[str, list[float]]] = {"student, W(x)x": {}, "plain tower, AttnLRP": {}}
    chance, lean = [], []
    named = dict.fromkeys(("tower", "student", "both"), 0)
    pictures: list[Image.Image] = []
    for scene in SceneDataset(args.scenes, seed=SEED):
        image, word = Image.fromarray(scene.image), CLASSES[scene.label]
        says = {"tower": _says(plain, image), "student": _says(model, image)}
        right = {who: word in answer.split() for who, answer in says.items()}
        for who in right:
            named[who] += right[who]
        if not all(right.values()):
            continue
        named["both"] += 1
        mask = torch.from_numpy(scene.mask)[None]
        chance.append(float(mask.float().mean()))
        for name, (asked, options) in paths.items():
            found = ground(asked, image, QUESTION, answer=says["student"], **options)
            if name == "student, W(x)x" and len(pictures) < 6:
                from aloe.grounding.page import sentence

                pictures.append(sentence(found, across=8))
            for w in found.words:
                share = float(inside_share(w.map[None], mask)[0])
                if w.span.text == word:
                    shares[name].append(share)
                    hits[name].append(bool(pointing_hits(w.map[None], mask)[0]))
                    if name == "student, W(x)x":
                        lean.append(w.image_share)
                elif name in others:
                    others[name].setdefault(_kind(w.span.text), []).append(share)
    if args.picture:
        save_png(stack(pictures), args.picture)
    return {
        "scenes": args.scenes,
        "names the object": {who: count / args.scenes for who, count in named.items()},
        "chance (area of the object)": float(np.mean(chance)),
        "positive relevance of the object's word on the object": {name: _summary(s) for name, s in shares.items()},
        "largest value on the object": {name: float(np.mean(h)) for name, h in hits.items()},
        "other words": {n: {k: float(np.nanmean(v)) for k, v in kinds.items()} for n, kinds in others.items()},
        "image's share of the word's relevance": float(np.mean(lean)),
    }


def measure_layer(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds and bytes of propagating through one layer and a group of two, and what 42 layers come to."""
    from transformers import Gemma2Config, Gemma2Model

    real = Gemma2Config(
        vocab_size=16,
        hidden_size=3584,
        intermediate_size=14336,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=256,
        query_pre_attn_scalar=256,
    )
    found: dict[str, Any] = {"tokens": args.tokens, "threads": torch.get_num_threads(), "torch": torch.__version__}
    peaks: dict[tuple[int, int], int] = {}
    seconds: dict[tuple[int, int], float] = {}
    for layers in (1, 2):
        config = Gemma2Config(**{**real.to_dict(), "num_hidden_layers": layers, "layer_types": None})
        config._attn_implementation = "eager"
        model = Gemma2Model._from_config(config, dtype=torch.bfloat16).eval()
        head = torch.nn.Linear(3584, 16, bias=False, dtype=torch.bfloat16)
        x = torch.randn(1, args.tokens, 3584)
        for goals in args.goals:
            terms = [[Term(args.tokens - 1 - t, 3)] for t in range(goals)]
            start = time.process_time()
            with peak_memory(torch.device("cpu")) as peak:
                propagate(model, head, x, [terms], softcap=30.0, group=layers, together=1)
            seconds[layers, goals] = time.process_time() - start
            peaks[layers, goals] = peak.bytes
            found[f"{layers} layers, {goals} goals"] = {
                "CPU seconds": round(seconds[layers, goals], 1),
                "peak GiB": round(peak.bytes / 2**30, 3),
            }
        parameters = sum(p.numel() for p in model.layers[0].parameters())
        del model
    state = args.tokens * 3584 * 4
    depth, first = 42, args.goals[0]
    graph = peaks[2, first] - peaks[1, first]
    group = math.isqrt(depth - 1) + 1
    groups = -(-depth // group)
    found["one layer"] = {"parameters": parameters, "graph GiB": round(graph / 2**30, 3)}
    for goals in args.goals:
        rest = peaks[1, goals] - graph
        own = rest + group * graph + groups * state
        found[f"{depth} layers, {goals} goals, computed"] = {
            "weights GiB, bfloat16": round((depth * parameters + 256000 * 3584) * 2 / 2**30, 2),
            "beside them GiB, groups of 7": round(own / 2**30, 2),
            "beside them GiB, without groups": round((rest + depth * graph) / 2**30, 2),
            "CPU seconds, one thread": round(depth * (seconds[2, goals] - seconds[1, goals])),
            "PFLOP": round(depth * parameters * 2 * args.tokens * (2 + goals) / 1e15, 3),
        }
    return found


def _says(model: VisionLanguage, image: Image.Image) -> str:
    ids = model.ids(QUESTION)
    seen, _ = model.see(model.picture(image))
    return model.tokenizer.decode(model.answer(ids, seen, 12))


def _kind(word: str) -> str:
    places = ("left", "middle", "right")
    return "place" if word in places else "filler" if word in ("a", "on", "the", "in") else "colour"


def _summary(shares: list[float]) -> dict[str, float]:
    low, high = bootstrap_interval(torch.tensor(shares))
    return {"mean": float(np.nanmean(shares)), "low": float(low), "high": float(high)}


if __name__ == "__main__":
    main()
