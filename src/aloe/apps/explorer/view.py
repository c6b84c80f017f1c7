"""One image under the explorer's models: predictions, explanations, and what the models say when a part of it is taken away.

What is explained is the `Aim`: a class, a text, or what comes by itself (the predicted class; for a model without classes the
direction of its own features). Every number shown is the model's own: a pixel's contribution is the entry of W(x)x, and the
contributions and the residual of the constants add up to the explained value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aloe.apps.explorer.explorer import Entry, Explorer, Picture
from aloe.attribution.inherent import explain
from aloe.attribution.methods import attribute, find_methods
from aloe.attribution.subject import Subject, opened
from aloe.attribution.targets import Target, TextTarget, class_index
from aloe.core.errors import UserError
from aloe.draw.explanations import signed_map
from aloe.evaluation.zeroshot import text_targets
from aloe.metrics.deletion import FILLS, fill_image

TOP = 5
PROBABILITY, SIGMOID, COSINE = "probability", "sigmoid of the logit", "similarity to the whole image"


@dataclass(frozen=True)
class Aim:
    """What to explain: the class of a name (`index` tells two of one name apart) or a text; neither: what comes by itself."""

    label: str | None = None
    index: int | None = None
    text: str | None = None


@dataclass(frozen=True)
class Prediction:
    """A class or a typed text, its logit, and its probability: of classes as they were trained, of texts the sigmoid."""

    label: str
    index: int | None
    logit: float
    probability: float


@dataclass(frozen=True, eq=False)
class Panel:
    """One method's answer for one model.

    `values` (H, W) float32, one for every pixel; `colour` (H, W, 4) uint8, of W(x)x only; `signed` (H, W, 3) uint8. `value`
    is what was explained, `target` in words. Where the values add up to it (W(x)x), they do so with `residual`, what the
    constants contributed. `seconds` of computation. Where there is nothing to show, `note` says why and the maps are None.
    """

    title: str
    method: str
    target: str = ""
    values: np.ndarray | None = None
    colour: np.ndarray | None = None
    signed: np.ndarray | None = None
    value: float | None = None
    residual: float | None = None
    seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True, eq=False)
class Change:
    """What a model says of the whole image and of the changed one: `before` and `after` measure `what`; `value` and
    `value_after` are the explained value. `image` (H, W, 4) uint8 is what is left, transparent where the input is 0."""

    title: str
    target: str
    what: str
    before: float
    after: float
    value: float
    value_after: float
    image: np.ndarray


@dataclass(eq=False)
class View:
    """A picture and what it is asked about. Views of one picture share what does not depend on the aim (`aimed`)."""

    explorer: Explorer
    picture: Picture
    aim: Aim = Aim()
    texts: tuple[str, ...] = ()
    _logits: dict[str, Tensor] = field(default_factory=dict)
    _targets: dict[tuple[str, str], TextTarget] = field(default_factory=dict)
    _whole: dict[str, tuple[Target, tuple[float, float]]] = field(default_factory=dict)

    def aimed(self, aim: Aim) -> View:
        """The same picture with another aim; a text joins those that are predicted."""
        texts = self.texts if aim.text is None else tuple(dict.fromkeys((*self.texts, aim.text)))
        return View(self.explorer, self.picture, aim, texts, self._logits, self._targets)

    def jobs(self, titles: Sequence[str], methods: Sequence[str]) -> list[tuple[Entry, str]]:
        """Models and the methods that each supports, in the order of `METHODS`: the models' own explanations first."""
        entries = self.explorer.chosen(titles)
        return [(e, m.key) for m in find_methods(methods) for e in entries if m.key in e.methods]

    def panels(self, titles: Sequence[str], methods: Sequence[str]) -> Iterator[Panel]:
        """The explanations of all `jobs`."""
        return (self.panel(entry, method, titles) for entry, method in self.jobs(titles, methods))

    def panel(self, entry: Entry, method: str, titles: Sequence[str]) -> Panel:
        """One explanation; where the aim is open, of the class that the first model of `titles` with classes predicts."""
        try:
            target, words = self._target(entry, self.explorer.chosen(titles), alone=method == "inherent")
            return self._own(entry, target, words) if method == "inherent" else self._map(entry, method, target, words)
        except UserError as error:  # a class or text that this model does not know, a package that a method needs
            return Panel(entry.title, method, note=str(error))

    def predictions(self, title: str, count: int = TOP) -> list[Prediction]:
        """The top classes, or for a model without them the typed texts in the order of their logits."""
        entry = self.explorer.entries[title]
        if entry.classes:
            logits = self._class_logits(entry)
            shares, order = (
                entry.model.probabilities(logits),
                logits.argsort(descending=True, stable=True)[:count].tolist(),
            )
            names = entry.classes
            return [Prediction(names[i], i, float(logits[i]), float(shares[i])) for i in order]
        targets = {}
        for text in self.texts:
            with suppress(UserError):  # said where it was asked
                targets[text] = self._text(entry, text)
        if not targets:
            return []
        with self.explorer.lock, opened(entry.model) as subject, torch.no_grad():
            outputs = subject.forward(self._inputs(entry, subject))
            values = {text: subject.value(outputs, target)[0] for text, target in targets.items()}
        predictions = [Prediction(text, None, float(value), float(value.sigmoid())) for text, value in values.items()]
        return sorted(predictions, key=lambda p: -p.logit)[:count]

    def region(
        self, titles: Sequence[str], box: tuple[float, float, float, float], *, keep: bool = False, fill: str = "zero"
    ) -> list[Change]:
        """What each model says when a rectangle is deleted, or when only the rectangle is kept.

        Args:
            box: (left, top, right, bottom) as shares of the square that the models read; rounded to whole pixels of each.
            fill: what stands in place of removed pixels, as in `aloe.metrics.deletion`: `zero` (the model's input is 0),
                `black`, `mean` or `blur`.

        Raises:
            UserError: an unknown fill, or a rectangle that is empty or outside.
        """
        left, top, right, bottom = box
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise UserError("Drag a rectangle inside the image: its sides are shares from 0 to 1.")
        if fill not in FILLS:
            raise UserError(f"There is no fill {fill!r}; fills: {', '.join(FILLS)}.")
        entries = self.explorer.chosen(titles)
        return [c for e in entries if (c := self._change(e, entries, box, keep, fill)) is not None]

    def _own(self, entry: Entry, target: Target, words: str) -> Panel:
        start = perf_counter()
        with self.explorer.lock:
            own = explain(entry.model, self.picture.tensor(entry.side), target)
        if own.logits is not None:
            self._logits[entry.title] = own.logits[0].float().cpu()
            words = words or entry.classes[int(own.logits[0].argmax())]
        return Panel(
            entry.title,
            "inherent",
            words,
            own.contributions[0].float().cpu().numpy(),
            own.to_rgba()[0].cpu().numpy(),
            signed_map(own.contributions)[0].cpu().numpy(),
            float(own.logit[0]),
            float(own.residual[0]),
            perf_counter() - start,
        )

    def _map(self, entry: Entry, method: str, target: Target, words: str) -> Panel:
        options, start = self.explorer.options.get(method, {}), perf_counter()
        with self.explorer.lock:
            attribution = attribute(entry.model, self.picture.tensor(entry.side), target, method, **options)
        return Panel(
            entry.title,
            method,
            words,
            attribution.pixels()[0].cpu().numpy(),
            signed=signed_map(attribution.pixels())[0].cpu().numpy(),
            value=float(attribution.value[0]),
            seconds=perf_counter() - start,
        )

    def _target(self, entry: Entry, entries: Sequence[Entry], alone: bool = False) -> tuple[Target, str]:
        """What the aim is for one model, and in words; `alone`: the model will find its predicted class itself.

        Raises:
            UserError: the model has no such class, or no text tower.
        """
        if self.aim.text is not None:
            return self._text(entry, self.aim.text), f"“{self.aim.text}”"
        if not entry.classes:
            return None, "its own features"
        label, index = self.aim.label, self.aim.index
        if label is None:
            judge = next(e for e in entries if e.classes)
            if alone and judge is entry and entry.title not in self._logits:
                return None, ""  # one pass, instead of one to predict and one to explain
            index = int(self._class_logits(judge).argmax())
            label = judge.classes[index]
        names = entry.classes
        if index is None or not (0 <= index < len(names) and names[index] == label):
            index = class_index(label, entry.model.config, len(names))
        return index, names[index]

    def _text(self, entry: Entry, text: str) -> TextTarget:
        if entry.tower is None:
            raise UserError(f"{entry.title} has no text tower: it knows no texts.")
        key = (entry.title, text)
        if key not in self._targets:
            self._targets[key] = text_targets(entry.tower, [text])[text]
        return self._targets[key]

    def _class_logits(self, entry: Entry) -> Tensor:
        """(C,), computed once for each picture and model."""
        if entry.title not in self._logits:
            with self.explorer.lock, opened(entry.model) as subject, torch.no_grad():
                logits = subject.forward(self._inputs(entry, subject)).logits
            assert logits is not None
            self._logits[entry.title] = logits[0].float().cpu()
        return self._logits[entry.title]

    def _inputs(self, entry: Entry, subject: Subject) -> Tensor:
        return subject.prepare(self.picture.tensor(entry.side).to(subject.device, subject.dtype))

    def _change(
        self, entry: Entry, entries: Sequence[Entry], box: tuple[float, float, float, float], keep: bool, fill: str
    ) -> Change | None:
        try:
            target, words = self._target(entry, entries)
        except UserError:
            return None
        images = self.picture.tensor(entry.side)
        left, top, right, bottom = _whole_pixels(box, entry.side)
        gone = torch.full((1, 1, entry.side, entry.side), keep)
        gone[..., top:bottom, left:right] = not keep
        shown = torch.cat((images, torch.ones_like(images[:, :1])), 1)
        with self.explorer.lock, opened(entry.model) as subject, torch.no_grad():
            inputs = self._inputs(entry, subject)
            if entry.title not in self._whole:
                outputs = subject.forward(inputs)
                fixed = subject.resolve(outputs, target)
                self._whole[entry.title] = fixed, self._measured(entry, subject, outputs, fixed)
            fixed, (before, value) = self._whole[entry.title]
            if fill == "zero":
                filled, seen = torch.zeros_like(inputs), torch.zeros_like(shown)
            else:
                rgb = fill_image(images, fill)
                filled = subject.prepare(rgb.to(subject.device, subject.dtype))
                seen = torch.cat((rgb, torch.ones_like(rgb[:, :1])), 1)
            mixed = torch.where(gone.to(inputs.device), filled, inputs)
            after, value_after = self._measured(entry, subject, subject.forward(mixed), fixed)
        picture = (torch.where(gone, seen, shown)[0] * 255).round().byte().permute(1, 2, 0).numpy()
        return Change(entry.title, words, self._measure(entry), before, after, value, value_after, picture)

    def _measure(self, entry: Entry) -> str:
        return SIGMOID if self.aim.text is not None else PROBABILITY if entry.classes else COSINE

    def _measured(self, entry: Entry, subject: Subject, outputs: Any, fixed: Target) -> tuple[float, float]:
        """(probability or similarity, explained value)."""
        value = subject.value(outputs, fixed).float()
        if isinstance(fixed, TextTarget):
            return float(value.sigmoid()[0]), float(value[0])
        if isinstance(fixed, Tensor) and fixed.is_floating_point():
            return float(F.cosine_similarity(outputs.pooler_output.float(), fixed)[0]), float(value[0])
        return float(entry.model.probabilities(outputs.logits.float())[0, int(fixed)]), float(value[0])  # type: ignore[arg-type]


def _whole_pixels(box: tuple[float, float, float, float], side: int) -> tuple[int, int, int, int]:
    """Shares to pixels, at least one in each direction."""
    left, top, right, bottom = (min(side, int(share * side + 0.5)) for share in box)
    left, top = min(left, side - 1), min(top, side - 1)
    return left, top, max(right, left + 1), max(bottom, top + 1)
