"""Token grounding measured: whether words' maps lie on their own objects, and what a 9B language model costs.

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

from aloe.apps.grounding.ground import WordGrounding, ground
from aloe.apps.grounding.language import Term, propagate
from aloe.apps.grounding.loading import load_vision_language
from aloe.apps.grounding.model import VisionLanguage
from aloe.apps.grounding.page import sentence
from aloe.attribution.memory import peak_memory
from aloe.data.scenes import CLASSES
from aloe.data.scenes.pairs import render_pair
from aloe.draw.gallery import save_png, stack
from aloe.metrics.bootstrap import bootstrap_interval
from aloe.metrics.pointing import inside_share

QUESTION = "what is in the picture ?"
SEED = 3000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    inside = verbs.add_parser("inside")
    inside.add_argument("model", type=Path)
    inside.add_argument("--student", type=Path, required=True)
    inside.add_argument("--scenes", type=int, default=200, help=f"of two objects, of seed {SEED}")
    inside.add_argument("--picture", type=Path, help="PNG of the first scenes' words")
    layer = verbs.add_parser("layer")
    layer.add_argument("--tokens", type=int, default=729 + 64)
    layer.add_argument("--goals", type=int, nargs="+", default=[1, 4])
    args = parser.parse_args()
    print(json.dumps(measure_inside(args) if args.verb == "inside" else measure_layer(args), indent=2))


def measure_inside(args: argparse.Namespace) -> dict[str, Any]:
    """Of scenes of two objects that both models name: where the positive relevance of each object's words lies."""
    tower = load_vision_language(args.model)
    student = load_vision_language(args.model, vision=args.student)
    models = {"student, W(x)x": student, "tower, AttnLRP": tower}
    found: dict[str, list[list[list[float]]]] = {}  # of every kind of map: scenes, left and right, own and other
    named = dict.fromkeys((*models, "both"), 0)
    pictures: list[Image.Image] = []
    lean: list[float] = []
    for pair in (render_pair(SEED, i, 64) for i in range(args.scenes)):
        image, names = Image.fromarray(pair.image), [CLASSES[label] for label in pair.labels]
        says = {name: _says(model, image) for name, model in models.items()}
        right = [[w for w in answer.split() if w in CLASSES] == names for answer in says.values()]
        for name, yes in zip(named, (*right, all(right)), strict=True):
            named[name] += yes
        if not all(right):
            continue
        masks = torch.from_numpy(pair.masks)
        areas = masks.float().mean((1, 2)).tolist()
        found.setdefault("chance: the areas", []).append([areas, areas[::-1]])
        answer = says["student, W(x)x"]
        at = [answer.split().index(name) for name in names]  # the colour stands one word before
        for name, model in models.items():
            whole = ground(model, image, QUESTION, answer=answer)
            cp = ground(model, image, QUESTION, answer=answer, words=names, variant="cp")
            against = [
                ground(model, image, QUESTION, answer=answer, words=[a], against=b).words[0]
                for a, b in (names, names[::-1])
            ]
            kinds = {
                "": [whole.words[k] for k in at],
                ", cp": cp.words,
                ", against the other's word": against,
                ", colour": [whole.words[k - 1] for k in at],
            }
            for kind, words in kinds.items():
                found.setdefault(name + kind, []).append([_shares(w, masks, k) for k, w in enumerate(words)])
            if model is student:
                lean.extend(w.image_share for w in kinds[""])
                pictures += [sentence(whole, across=9)] * (len(pictures) < 6)
    if args.picture:
        save_png(stack(pictures), args.picture)
    return {
        "scenes": args.scenes,
        "names both objects": {who: count / args.scenes for who, count in named.items()},
        "positive relevance of a word on its own object and on the other": {k: _summary(v) for k, v in found.items()},
        "image's share of an object's word": float(np.mean(lean)),
    }


def _shares(word: WordGrounding, masks: torch.Tensor, own: int) -> list[float]:
    """The share of a word's positive relevance on its own object's mask of (2, H, W), and on the other's."""
    shares = inside_share(word.map.expand(2, -1, -1), masks).tolist()
    return [shares[own], shares[1 - own]]


def _summary(rows: list[list[list[float]]]) -> dict[str, Any]:
    """Means over words with 95 % intervals over scenes, of (scenes, words, own and other)."""
    values = torch.tensor(rows, dtype=torch.float64)
    more = (values[..., 0] > values[..., 1]).double()
    parts = {"own": values[..., 0], "other": values[..., 1], "words with own > other": more}
    parts["scenes with both so"] = more.amin(1, keepdim=True)
    ends = {name: bootstrap_interval(part, pool=True) for name, part in parts.items()}
    return {n: [round(float(v), 3) for v in (part.nanmean(), *ends[n])] for n, part in parts.items()}


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


if __name__ == "__main__":
    main()
