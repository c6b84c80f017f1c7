"""`attribute`: any attribution method on any teacher or student, behind one protocol: images and targets in, maps and what
they cost out. `METHODS` lists them in the order of tables and pictures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, get_type_hints

import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from aloe.attribution.attention import chefercam, legrad, rollout
from aloe.attribution.attnlrp import attnlrp, default_gammas
from aloe.attribution.baselines import input_x_gradient, random_map
from aloe.attribution.inherent import explain
from aloe.attribution.inputs import as_batch, check_finite, check_loaded
from aloe.attribution.memory import peak_memory
from aloe.attribution.perturbation import REGRESSIONS, integrated_gradients, lime
from aloe.attribution.presets import preset_options
from aloe.attribution.subject import Subject, check_model, opened
from aloe.attribution.targets import Target, as_target, part_of
from aloe.bcos.functional import ACTIVATIONS
from aloe.core.bounds import counted
from aloe.core.errors import UserError
from aloe.core.names import chosen as chosen_name
from aloe.core.names import meant
from aloe.core.torch_state import in_plain_torch, trackable
from aloe.models.unwrap import unwrapped

MapFunction = Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Method:
    """An attribution method.

    Args:
        key, title: for the command line and for tables.
        run: (subject, images (B, 3, H, W), target, **options) -> (map, explained value (B,)).
        granularity: `pixel` for maps (B, H, W), `token` for (B, h, w).
        batch_size: images that pass together by default.
    """

    key: str
    title: str
    run: MapFunction
    granularity: str
    batch_size: int = 32

    def resolved(self, options: Mapping[str, Any], model: Any) -> dict[str, Any]:
        """Every option that a map depends on with its value, given or default.

        Raises:
            UserError: as `check_options`.
        """
        values = {**(self.run.__kwdefaults__ or {}), **check_options(self, options)}
        if self.key == "attnlrp":
            gammas = default_gammas(model.interpretable)
            values |= {name: value for name, value in gammas.items() if values[name] is None}
        if self.key == "lime":
            values |= {"alpha": REGRESSIONS.get(values["regression"])} if values["alpha"] is None else {}
            hidden = {"square": None, "regression": "ridge"}  # as rows of earlier versions, which had neither option
            hidden |= {"segments": values["segments"]} if values["square"] is not None else {}
            values = {n: v for n, v in values.items() if n not in hidden or v != hidden[n]}
        return {name: value for name, value in values.items() if name != "internal_batch_size"}


@dataclass
class Cost:
    """What maps cost: passes forward and backward per image, seconds per image, and the peak of memory in bytes.

    LeGrad's backward passes run through one block each. Memory is that of the largest batch above what was there before,
    None where it was not asked for.
    """

    forward: float
    backward: float
    seconds: float
    peak_bytes: int | None


@dataclass(repr=False)
class Attribution:
    """Maps of B images: `maps` (B, H, W) at pixel or (B, h, w) at token granularity, signed, float32; `value` (B,), what was
    explained; `size` the pixels (H, W) of the images."""

    maps: Tensor
    value: Tensor
    method: str
    granularity: str
    size: tuple[int, int]
    cost: Cost
    options: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.maps)

    def __repr__(self) -> str:
        (height, width), title = self.size, METHODS[self.method].title
        values = ", ".join(f"{value:.4g}" for value in self.value[:4].tolist()) + ", ..." * (len(self) > 4)
        return (
            f"{title} of {len(self)} images of {height} x {width} pixels, maps {tuple(self.maps.shape[1:])}:"
            f" value [{values}], {self.cost.seconds:.3g} s an image"
        )

    def pixels(self) -> Tensor:
        """The maps at pixel granularity, (B, H, W): token maps are upsampled bilinearly."""
        if self.maps.shape[-2:] == self.size:
            return self.maps
        return F.interpolate(self.maps[:, None], size=self.size, mode="bilinear", align_corners=False)[:, 0]


@in_plain_torch
def attribute(
    model: nn.Module,
    images: Any,
    targets: Target = None,
    method: str = "inherent",
    *,
    preset: str = "best",
    batch_size: int | None = None,
    memory: bool = False,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> Attribution:
    """Attribution maps of a model's output for a batch of images.

    Args:
        model: a teacher (`aloe.load_teacher`) or a student (`aloe.load`); it is left exactly as it was.
        images, targets: as in `aloe.explain`; a target of None is the predicted class, without a classifier the features'
            own direction.
        method: a key of `aloe.attribution.methods.METHODS`.
        preset: whose options the method has where none are given: `best`, this project's, or `paper`, the paper's
            (`aloe.attribution.presets`).
        batch_size: images per pass; default: the method's.
        memory: measure the peak of memory as well; the seconds are then not to be trusted.
        progress: called with the number of images done after every batch.
        options: the method's own.

    Raises:
        UserError: an unknown method, preset or option, a method that the model cannot support, wrong images or targets.
    """
    check_loaded(model)
    entry, targets, model = find_method(method), as_target(targets), unwrapped(model)
    options = preset_options(preset, method, options)
    check_model(model)
    model = trackable(model)
    if reason := unsupported(model, method):
        raise UserError(f"{entry.title}: {reason}.")
    backbone: Any = model
    reference = next(model.parameters())
    pixels = as_batch(images, model).to(reference.device, reference.dtype).clone()  # none of inference mode
    size = entry.batch_size if batch_size is None else counted(batch_size, "batch_size")
    if not len(pixels):
        raise UserError("There are no images to explain.")
    backbone.grid(*pixels.shape[-2:])
    checked = check_options(entry, options)
    maps, values, start = [], [], time.perf_counter()
    watched = peak_memory(reference.device) if memory else nullcontext(None)
    with watched as peak, opened(model) as subject:
        for i in range(0, len(pixels), size):
            target = part_of(targets, i, i + size, len(pixels))
            part, value = entry.run(subject, pixels[i : i + size], target, **checked)
            maps.append(part.detach().float())
            values.append(value.detach().float())
            if progress is not None:
                progress(min(i + size, len(pixels)))
        if reference.is_cuda:
            torch.cuda.synchronize(reference.device)  # kernels still run when Python is done
    count = len(pixels)
    spent = (time.perf_counter() - start) / count
    cost = Cost(subject.forwards / count, subject.backwards / count, spent, None if peak is None else peak.bytes)
    shape = (pixels.shape[-2], pixels.shape[-1])
    check_finite(torch.cat(maps), entry.title)
    return Attribution(torch.cat(maps), torch.cat(values), method, entry.granularity, shape, cost, options)


def find_method(key: str) -> Method:
    """The method of that name.

    Raises:
        UserError: there is none.
    """
    name = chosen_name(str(key), METHODS)
    if name is None:
        raise UserError(f"There is no attribution method {key!r}{meant(str(key), METHODS, 'methods')}")
    return METHODS[name]


def find_methods(keys: Sequence[str]) -> list[Method]:
    """Methods by name, in the order of `METHODS`, each once; `all` is every one."""
    names = set(METHODS) if "all" in keys else {find_method(k).key for k in keys}
    return [m for m in METHODS.values() if m.key in names]


def unsupported(model: Any, method: str) -> str | None:
    """Why a model cannot be explained by a method, or None where it can."""
    if method == "inherent" and not model.interpretable:
        return f"{model.title} is a teacher, whose output is no W(x)x; align a student to it first (aloe align)"
    if method == "attnlrp" and not model.interpretable and model.config.hidden_act not in ACTIVATIONS:
        return f"it has no rule for {model.title}'s activation {model.config.hidden_act}; it knows {', '.join(ACTIVATIONS)}"
    return None


def check_options(method: Method, options: Mapping[str, Any]) -> dict[str, Any]:
    """A method's options as the types that it wants.

    Raises:
        UserError: one that it has not, or of a wrong type.
    """
    allowed = [n for n in method.run.__kwdefaults__ or {}]
    if unknown := [n for n in options if n not in allowed]:
        hint = f"it takes {', '.join(allowed)}" if allowed else "it takes none"
        raise UserError(f"{method.title} has no option {unknown[0]!r}; {hint}.")
    hints, typed = get_type_hints(method.run, include_extras=True), {}
    for name, value in options.items():
        try:
            typed[name] = TypeAdapter(hints[name]).validate_python(value)
        except ValidationError as error:
            words = error.errors()[0]["msg"]
            raise UserError(f"{method.title}, {name}: {words[0].lower()}{words[1:]} (got {value!r}).") from None
    return typed


def _inherent(subject: Subject, images: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """The model's own W(x)x; see `aloe.explain`."""
    subject.forwards += len(images)
    subject.backwards += len(images)
    explanation = explain(subject.model, images, target, batch_size=len(images))
    return explanation.contributions, explanation.logit


METHODS: dict[str, Method] = {
    m.key: m
    for m in (
        Method("inherent", "W(x)x", _inherent, "pixel"),
        Method("attnlrp", "AttnLRP", attnlrp, "pixel"),
        Method("intgrad", "Integrated Gradients", integrated_gradients, "pixel"),
        Method("legrad", "LeGrad", legrad, "token"),
        Method("chefercam", "CheferCAM", chefercam, "token"),
        Method("lime", "LIME", lime, "pixel"),
        Method("inputxgrad", "Input x gradient", input_x_gradient, "pixel"),
        Method("rollout", "Attention rollout", rollout, "token"),
        Method("random", "Random", random_map, "pixel"),
    )
}
