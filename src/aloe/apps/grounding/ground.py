"""Token grounding (the paper's Figures C6 to C8): for words of an answer, where in the image they come from.

The answer is fixed; the logit of each of a word's tokens, read one position before it, is propagated by AttnLRP to the input
of the language model, through the projector, and from the visual tokens to pixels by the student's own W(x)x. Relevance is
input x gradient at every stage, so the parts of a value can be added up:

    value = pixels + constants of the encoder + prompt + answer before the word + rest

where the rest is what biases took and, in the full variant, what the rules for attention and gates do not conserve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from aloe.apps.grounding.language import Term, backward, explained, propagate
from aloe.apps.grounding.model import VisionLanguage
from aloe.apps.grounding.vision import PixelRelevance
from aloe.apps.grounding.words import Span, find, part, spell
from aloe.attribution.attnlrp import VARIANTS, LrpRules
from aloe.core.errors import UserError
from aloe.models.stages import standing

TOGETHER = 8


@dataclass
class WordGrounding:
    """One occurrence of a word.

    `map` (H, W): signed relevance of pixels of the picture that the encoder saw; `weights` (6, H, W): W(x) of it, of
    students; `tokens` (N,): signed relevance of every input embedding, visual ones included, 0 after the word. `image`,
    `constants`, `prompt`, `before` and `rest` are the parts of `value`; `against` the word it was compared with.
    """

    span: Span
    value: float
    map: Tensor
    tokens: Tensor
    image: float
    constants: float
    prompt: float
    before: float
    rest: float
    image_share: float
    """Of the size of all token relevance, |visual tokens| over |all|: 0 leans on words alone, 1 on the image alone."""
    weights: Tensor | None = None
    against: str | None = None


@dataclass
class Grounding:
    """An answer and its grounded words. `ids` and `pieces` are all input tokens and their spelling, of which those in
    `visual` are the image's and those from `start` on the answer's."""

    prompt: str
    answer: str
    words: list[WordGrounding]
    picture: Image.Image
    ids: list[int]
    pieces: list[str]
    visual: list[int]
    start: int
    variant: str
    path: str
    student: str = ""
    """What the student in the tower's place is, in one line; empty without one."""

    def row(self) -> dict[str, Any]:
        """The numbers, as JSON takes them."""
        return {
            "prompt": self.prompt,
            "answer": self.answer,
            "variant": self.variant,
            "visual_path": self.path,
            **({"student": self.student} if self.student else {}),
            "words": [
                {
                    "word": w.span.text,
                    "characters": [w.span.start, w.span.stop],
                    "tokens": list(w.span.tokens),
                    "against": w.against,
                    **{k: getattr(w, k) for k in ("value", "image", "constants", "prompt", "before", "rest")},
                    "image_share": w.image_share,
                    "text": [
                        {"token": self.pieces[i], "position": i, "relevance": float(w.tokens[i])}
                        for i in range(self.start + w.span.tokens[-1])
                        if i not in set(self.visual)
                    ],
                }
                for w in self.words
            ],
        }


def ground(
    model: VisionLanguage,
    image: Image.Image | str | Path,
    prompt: str,
    *,
    answer: str | Sequence[int] | None = None,
    words: Sequence[str | int] | None = None,
    against: str | None = None,
    variant: str = "full",
    plain: bool = False,
    limit: int = 64,
    together: int = TOGETHER,
) -> Grounding:
    """Ground words of the model's answer to a prompt about an image.

    Args:
        model: see `loading.load_vision_language`; left exactly as it was.
        prompt: the question; with `<image>` in it, the whole prompt as it stands.
        answer: the answer's text or token ids; default: what the model says, at most `limit` tokens.
        words: words or phrases of the answer, every occurrence of each, or numbers of its tokens; default: all words.
        against: what is explained is by how much the model prefers each word to this one, where the two part.
        variant: `full` AttnLRP, or `cp`, through attention values and ungated paths only, which conserves relevance.
        plain: through the plain tower by AttnLRP, also where the model has a student.
        together: words whose gradients pass a group of layers in one call.

    Raises:
        UserError: a prompt without its place for the image, a word that is not in the answer, a context too long, an image
            that cannot be read, an unknown variant.
    """
    if variant not in VARIANTS:
        raise UserError(f"AttnLRP takes variant {' or '.join(VARIANTS)}, got {variant!r}.")
    asked = model.ids(prompt)
    model.check_length(len(asked) + 1)
    picture = model.picture(open_image(image), plain=plain)
    modules = [model.model, *([] if model.student is None else [model.student])]
    with explained(*modules):
        seen, pull = model.see(picture, plain=plain, variant=variant)
        said = _answer(model, asked, seen, answer, limit)
        text, ends = spell(model.tokenizer, said)
        spans = find(text, ends, words)
        model.check_length(len(asked) + len(said))
        goals = [_goal(model, asked, said, text, span, against) for span in spans]
        ids = [*asked, *said]
        cut = 1 + max(term.position for goal in goals for term in goal)  # nothing after the last word has a say
        with LrpRules(variant):
            features = seen.float().requires_grad_()
            projected = model.projector(features)
        embedded = model.embed(ids[:cut], projected.detach(), torch.float32)
        relevances = propagate(
            model.decoder,
            model.model.lm_head,
            embedded,
            [goals],
            variant=variant,
            softcap=model.softcap,
            together=together,
        )
        gradients = relevances.gradients[:, 0]
        visual = [i for i, token in enumerate(ids) if token == model.image_token]
        at_features = backward(projected, features, gradients[:, visual][:, None])[:, 0]
        pixels = pull(at_features)
    relevance = (gradients * embedded[0]).sum(-1)
    relevance = torch.nn.functional.pad(relevance, (0, len(ids) - cut)).cpu()
    grounded = [
        _word(span, t, float(relevances.values[0, t]), relevance[t], pixels, visual, len(asked), against)
        for t, span in enumerate(spans)
    ]
    through = "attnlrp" if plain or model.student is None else "inherent"
    pieces = [model.tokenizer.decode([i]) for i in ids]
    student = standing(model.student.config.teacher) if through == "inherent" else ""
    return Grounding(prompt, text, grounded, picture, ids, pieces, visual, len(asked), variant, through, student)


def _word(
    span: Span,
    t: int,
    value: float,
    tokens: Tensor,
    pixels: PixelRelevance,
    visual: list[int],
    start: int,
    against: str | None,
) -> WordGrounding:
    """Word `t`, of which `tokens` (N,) is the relevance of every input embedding; the answer begins at `start`."""
    of_image, constants = float(pixels.maps[t].cpu().double().sum()), float(pixels.constants[t])
    text_only = tokens.clone()
    text_only[visual] = 0
    in_prompt, in_answer = float(text_only[:start].sum()), float(text_only[start:].sum())
    size = float(tokens.abs().sum())
    return WordGrounding(
        span=span,
        value=value,
        map=pixels.maps[t].cpu(),
        tokens=tokens,
        image=of_image,
        constants=constants,
        prompt=in_prompt,
        before=in_answer,
        rest=value - of_image - constants - in_prompt - in_answer,
        image_share=float(tokens[visual].abs().sum()) / size if size else 0.0,
        weights=None if pixels.weights is None else pixels.weights[t].cpu(),
        against=against,
    )


def open_image(image: Image.Image | str | Path) -> Image.Image:
    """A picture from a file.

    Raises:
        UserError: it cannot be read.
    """
    if isinstance(image, Image.Image):
        return image
    from aloe.data.decode import decode_image

    return decode_image(Path(image))


def _answer(
    model: VisionLanguage, asked: list[int], seen: Tensor, answer: str | Sequence[int] | None, limit: int
) -> list[int]:
    if answer is None:
        return model.answer(asked, seen, limit)
    if isinstance(answer, str):
        return list(model.tokenizer(answer, add_special_tokens=False)["input_ids"])
    return list(answer)


def _goal(
    model: VisionLanguage, asked: list[int], said: list[int], text: str, span: Span, against: str | None
) -> list[Term]:
    """What is explained of a word: the sum of its tokens' logits, or the preference where it parts from another word."""
    before = len(asked) - 1
    if against is None:
        return [Term(before + k, said[k]) for k in span.tokens]
    at, other = part(model.tokenizer, said, text, span, against)
    return [Term(before + at, said[at]), Term(before + at, other, -1.0)]
