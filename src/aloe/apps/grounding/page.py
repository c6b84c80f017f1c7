"""A grounding as files: one picture per word, a self-contained page on which the answer's words show their maps, the numbers
as JSON."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from PIL import Image

from aloe.apps.grounding.ground import Grounding, WordGrounding
from aloe.core.errors import UserError
from aloe.core.files import write_whole
from aloe.core.smoothing import gaussian_smooth
from aloe.draw.explanations import NEGATIVE, POSITIVE, colour_explanation, over_white
from aloe.draw.gallery import data_uri, row, save_png, stack

SIDE = 448
_SHOWN = 60  # text tokens of largest relevance on the page


def write_grounding(found: Grounding, folder: Path) -> dict[str, Any]:
    """Write `NN_word.png` for every word, `sentence.png`, `index.html` and `grounding.json`; what was written.

    Raises:
        UserError: the folder cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give a folder as --output-dir.")
    numbers = found.row()
    plain = [re.sub(r"[^\w-]+", "_", word.span.text).strip("_")[:40] or "word" for word in found.words]
    names = [f"{number:02}_{name}.png" for number, name in enumerate(plain, 1)]
    for name, word, line in zip(names, found.words, numbers["words"], strict=True):
        save_png(word_picture(found, word), folder / name)
        line["picture"] = name
    save_png(sentence(found), folder / "sentence.png")
    write_whole(folder / "index.html", page(found))
    write_whole(folder / "grounding.json", json.dumps(numbers, indent=2, ensure_ascii=False) + "\n")
    return numbers


def word_picture(found: Grounding, word: WordGrounding, side: int = 224) -> Image.Image:
    """The picture, the word's map over it, and of a student the colours of its W(x)."""
    pictures = [np.asarray(found.picture), overlay(found.picture, word.map)]
    captions = ["", f"{_title(word)}: {word.value:.2f}"]
    if word.weights is not None:
        colours = over_white(colour_explanation(word.weights[None], word.map[None]))[0].numpy()
        pictures.append(colours)
        captions.append("W(x), its colours")
    return row(pictures, captions, side)


def sentence(found: Grounding, across: int = 6) -> Image.Image:
    """The answer as a line of pictures, one per grounded word."""
    cells = [(np.asarray(found.picture), "")] + [(overlay(found.picture, w.map), _title(w)) for w in found.words]
    lines = [cells[i : i + across] for i in range(0, len(cells), across)]
    return stack([row([c[0] for c in line], [c[1] for c in line], 160) for line in lines])


def overlay(picture: Image.Image, values: torch.Tensor) -> np.ndarray:
    """Signed relevance over the greyed picture, (H, W, 3) uint8: red adds to the value, blue takes away."""
    grey = torch.from_numpy(np.asarray(picture.convert("L"), np.float32)) / 255
    back = (0.35 + 0.65 * grey)[..., None].expand(-1, -1, 3)
    window = 2 * round(12 * values.shape[-1] / 224 / 2 - 0.5) + 1
    smooth = gaussian_smooth(values[None].float(), window)[0]
    size = torch.quantile(smooth.abs().flatten(), 0.995).clamp_min(1e-20)
    strength = (smooth / size).clamp(-1, 1)
    ink = torch.where((strength > 0)[..., None], torch.tensor(POSITIVE), torch.tensor(NEGATIVE))
    alpha = 0.85 * strength.abs()[..., None]
    return ((back * (1 - alpha) + ink * alpha) * 255).round().to(torch.uint8).numpy()


def page(found: Grounding) -> str:
    """The page, which needs nothing but itself."""
    template = resources.files("aloe.apps.grounding").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    pieces: list[dict[str, Any]] = []
    at = 0
    for n, word in enumerate(found.words):
        if word.span.start >= at:  # a phrase may hold a word that is grounded as well: its button comes after
            pieces.append({"text": found.answer[at : word.span.start], "word": None})
            at = word.span.stop
        pieces.append({"text": word.span.text, "word": n})
    pieces.append({"text": found.answer[at:], "word": None})
    return environment.from_string(template).render(
        found=found,
        image=_data_uri(np.asarray(found.picture)),
        pieces=pieces,
        words=[_panel(found, word) for word in found.words],
        side=SIDE,
    )


def _panel(grounding: Grounding, word: WordGrounding) -> dict[str, Any]:
    words = [i for i in range(grounding.start + word.span.tokens[-1]) if i not in set(grounding.visual)]
    shown = sorted(sorted(words, key=lambda i: -abs(float(word.tokens[i])))[:_SHOWN])
    size = max((abs(float(word.tokens[i])) for i in shown), default=0.0) or 1.0
    return {
        "title": _title(word),
        "map": _data_uri(overlay(grounding.picture, word.map)),
        "word": word,
        "text": [
            {"piece": grounding.pieces[i], "value": float(word.tokens[i]), "share": float(word.tokens[i]) / size}
            for i in shown
        ],
    }


def _title(word: WordGrounding) -> str:
    return word.span.text if word.against is None else f"{word.span.text}, not {word.against}"


def _data_uri(array: np.ndarray) -> str:
    image = Image.fromarray(array)
    if image.width < SIDE:
        image = image.resize((SIDE, SIDE), Image.Resampling.NEAREST)
    return data_uri(image, optimize=True)
