"""The graph that the page runs: the explanation of one chosen target, of the image or of a part of it.

    image (B, 3, S, S) in [0, 1], keep (B, 1, S, S) of zeros and ones, and
    target (B,) int64, a class or a text (negative: the one of the largest logit), or without both
    direction (B, D) (zeros: that of the pooled output itself)

`keep` multiplies the six channels that the model reads: where it is 0 the input is 0, so that nothing there contributes. The
outputs are those of an explanation (`aloe.apps.export.graphs.EXPLANATION`), and for features `pooler_output`.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import ExportedProgram

from aloe.apps.export.formats import Arrays, Runner
from aloe.apps.export.graphs import example_inputs, frozen_copy, program_of, traced
from aloe.apps.export.verify import SEED, completeness_error, difference, random_inputs
from aloe.attribution.inherent import Explanation, explain, explain_batch
from aloe.attribution.targets import ClassIndices, GivenDirections, TextTarget
from aloe.bcos.dynamic import is_explaining
from aloe.bcos.units import NORM_FLOOR
from aloe.core.errors import UserError

MAPS = ("logit", "contributions", "weights", "residual")
CHECKED_IMAGES = 2


@dataclass(frozen=True)
class Texts:
    """T texts as targets: `names`, unit `embeddings` (T, D), and the scale and bias of their logits."""

    names: tuple[str, ...]
    embeddings: Tensor
    scale: float
    bias: float

    def target(self, index: int) -> TextTarget:
        """The text as `aloe.explain` takes it."""
        return TextTarget(self.embeddings[index], self.scale, self.bias)


class TextStudent(nn.Module):
    """A backbone with T texts in the place of classes: logits (B, T) = scale * cos(pooled, text) + bias."""

    def __init__(self, model: nn.Module, texts: Texts) -> None:
        super().__init__()
        self.base_model = model
        self.config = SimpleNamespace(logit_bias=texts.bias)
        self.register_buffer("directions", texts.embeddings.float().cpu() * texts.scale)

    def forward(self, x: Tensor, **options: Any) -> Any:
        """As a classifier: `logits`, `pooler_output`, `hidden_states`."""
        outputs = self.base_model(x, **options)
        pooled = outputs.pooler_output
        norm = (pooled.detach() if is_explaining() else pooled).norm(dim=-1, keepdim=True).clamp_min(NORM_FLOOR)
        logits = F.linear(pooled, self.directions) / norm + self.config.logit_bias  # type: ignore[arg-type]
        return SimpleNamespace(pooler_output=pooled, hidden_states=outputs.hidden_states, logits=logits)


class _Page(nn.Module):
    """What is traced."""

    def __init__(self, model: nn.Module, kind: str) -> None:
        super().__init__()
        self.model, self.kind = model, kind

    def forward(self, image: Tensor, keep: Tensor, given: Tensor) -> dict[str, Tensor]:
        encoded = self.model.base_model.encode(image) * keep  # type: ignore[operator, union-attr]
        target = GivenDirections(given) if self.kind == "features" else ClassIndices(given)
        explanation = explain_batch(self.model, encoded, target)
        outputs = {name: getattr(explanation, name) for name in MAPS}
        if self.kind == "features":
            assert explanation.pooled is not None
            return {**outputs, "pooler_output": explanation.pooled}
        assert explanation.logits is not None
        return {**outputs, "logits": explanation.logits}


def kind_of(model: nn.Module, texts: Texts | None) -> str:
    """What can be chosen on the page: `classes`, `texts`, or nothing but the image's own `features`.

    Raises:
        UserError: texts for a model with a classifier.
    """
    if texts is None:
        return "classes" if hasattr(model, "classifier") else "features"
    check_texts(model)
    return "texts"


def check_texts(model: nn.Module) -> None:
    """Raises: UserError where a model has classes, which go before texts."""
    if hasattr(model, "classifier"):
        raise UserError("This student has a classifier, whose classes the page explains; --texts is for one without.")


def inputs_of(kind: str) -> list[str]:
    """The names of the graph's inputs."""
    return ["image", "keep", "direction" if kind == "features" else "target"]


def outputs_of(kind: str) -> list[str]:
    """The names of the graph's outputs."""
    return [*MAPS, "pooler_output" if kind == "features" else "logits"]


def page_program(model: nn.Module, size: int, texts: Texts | None, webgpu: bool = False) -> ExportedProgram:
    """The graph of a student, in float32 on the CPU, for images of `size` pixels; the caller's model is left as it was."""
    kind = kind_of(model, texts)
    student: Any = frozen_copy(model, "eager")
    page = _Page(student if texts is None else TextStudent(student, texts), kind)
    examples = example_inputs(model, size, "direction" if kind == "features" else "class")
    image = examples.pop("image")
    inputs = {"image": image, "keep": torch.ones_like(image[:, :1]), **examples}
    return program_of(traced(page, inputs, plain_norms=webgpu), inputs)


def verify_page(
    model: nn.Module, run: Runner, size: int, texts: Texts | None, tolerance: float
) -> tuple[dict[str, float], float]:
    """A written graph against `aloe.explain` on whole images, and against the forward pass on parts of them.

    Returns:
        The largest difference of each output relative to its largest value, and the graph's completeness error.

    Raises:
        UserError: an output that differs by more than `tolerance`, is not finite, or has another shape.
    """
    kind, generator = kind_of(model, texts), torch.Generator().manual_seed(SEED)
    targets = {"classes": "class", "features": "direction", "texts": "own"}
    differences: dict[str, float] = {}
    completeness = 0.0
    for count in (1, CHECKED_IMAGES):
        feeds = random_inputs(model, size, targets[kind], count, generator)
        if texts is not None:
            feeds["target"] = torch.randint(len(texts.names), (count,), generator=generator)
        whole = torch.ones(count, 1, size, size)
        parts = (torch.rand(count, 1, size, size, generator=generator) > 0.3).float()
        for keep in (whole, parts):
            outputs = run({name: t.numpy() for name, t in {"image": feeds["image"], "keep": keep, **feeds}.items()})
            expected = _forward(model, feeds, keep, texts)
            if keep is whole:
                expected |= _explained(model, feeds, texts)
            for name, value in expected.items():
                differences[name] = max(differences.get(name, 0.0), difference(name, outputs[name], value))
            completeness = max(completeness, completeness_error(outputs))
    bad = [f"{name} by {value:.1e}" for name, value in differences.items() if not value <= tolerance]
    if bad:
        raise UserError(
            f"Nothing was written: the graph differs from the model in {', '.join(bad)} of its largest value."
        )
    return differences, completeness


def _explained(model: nn.Module, feeds: dict[str, Tensor], texts: Texts | None) -> dict[str, Tensor]:
    if texts is None:
        explanation = explain(model, feeds["image"], feeds.get("target", feeds.get("direction")))
        return {name: getattr(explanation, name) for name in MAPS}
    each: list[Explanation] = [
        explain(model, image[None], texts.target(int(index)))
        for image, index in zip(feeds["image"], feeds["target"], strict=True)
    ]
    return {name: torch.cat([getattr(one, name) for one in each]) for name in MAPS}


def _forward(model: Any, feeds: dict[str, Tensor], keep: Tensor, texts: Texts | None) -> dict[str, Tensor]:
    """Logits or features, and the explained value, of what is kept."""
    with torch.no_grad():
        outputs = model(model.base_model.encode(feeds["image"]) * keep, return_dict=True)
    pooled = outputs.pooler_output
    if "direction" in feeds:
        return {"pooler_output": pooled, "logit": (pooled * feeds["direction"]).sum(-1)}
    if texts is None:
        logits = outputs.logits
    else:
        logits = texts.scale * F.cosine_similarity(pooled[:, None], texts.embeddings[None], dim=-1) + texts.bias
    return {"logits": logits, "logit": logits.gather(1, feeds["target"][:, None])[:, 0]}


def run_one(run: Runner, kind: str, image: Tensor, width: int, target: int = -1) -> Arrays:
    """One whole image (3, S, S) with a chosen target; outputs (1, ...)."""
    targets = torch.zeros(1, width) if kind == "features" else torch.tensor([target])
    feeds = dict(zip(inputs_of(kind), (image[None], torch.ones_like(image[None, :1]), targets), strict=True))
    return run({name: value.numpy() for name, value in feeds.items()})
