"""The model's own explanation W(x)x: one forward and one backward pass in explanation mode (docs/method.md section 1).

`explain` returns, for every image of a batch, the explained value, the six-channel row W(x) that produced it, the
contribution of each pixel, and the residual that the constants contributed, so that

    logit = sum of contributions + residual

holds to rounding error.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from aloe.attribution.inputs import as_batch, check_finite, check_loaded
from aloe.attribution.targets import Target, as_target, part_of, target_value
from aloe.bcos.dynamic import explanation_mode
from aloe.core.bounds import counted
from aloe.core.errors import UserError
from aloe.core.names import nearest
from aloe.core.torch_state import evaluating, in_plain_torch, trackable, uncompiled
from aloe.models.unwrap import unwrapped

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(repr=False)
class Explanation:
    """Explanations of B images, all on the model's device.

    Shapes: `logit` (B,) the explained value; `contributions` (B, H, W); `weights` (B, 6, H, W), W(x) of the explained
    value over the model's six channels, (r, g, b, 1-r, 1-g, 1-b); `residual` (B,) what the constants contributed;
    `logits` (B, C) and `prediction` (B,) where the model has a classifier; `pooled` (B, D) the image's features.
    """

    logit: Tensor
    contributions: Tensor
    weights: Tensor
    residual: Tensor
    logits: Tensor | None = None
    prediction: Tensor | None = None
    pooled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.logit)

    def __repr__(self) -> str:
        height, width = self.contributions.shape[-2:]
        values = ", ".join(f"{value:.4g}" for value in self.logit[:4].tolist()) + ", ..." * (len(self) > 4)
        classes = "" if self.prediction is None else f", prediction {self.prediction[:4].tolist()}"
        return (
            f"Explanation of {len(self)} images of {height} x {width} pixels: logit [{values}]{classes},"
            f" completeness error at most {float(self.completeness_error().max()) if len(self) else 0:.1e}"
        )

    def completeness_error(self) -> Tensor:
        """|logit - sum of contributions - residual| relative to the sum of absolute terms, (B,)."""
        total = self.contributions.sum((1, 2)) + self.residual
        size = self.contributions.abs().sum((1, 2)) + self.residual.abs() + self.logit.abs()
        return (self.logit - total).abs() / size.clamp_min(torch.finfo(size.dtype).tiny)

    def to_rgba(self, smooth: int | None = None) -> Tensor:
        """Colour explanations, (B, H, W, 4) uint8; see `aloe.draw.explanations.colour_explanation`."""
        from aloe.draw.explanations import colour_explanation

        return colour_explanation(self.weights, self.contributions, smooth)

    def to_pil(self, smooth: int | None = None, *, background: str | None = None) -> list[Image]:
        """The colour explanations as pictures.

        Args:
            background: a colour's name (`white`, `#204060`) that they are laid over, which makes them RGB and fit for
                JPEG; default: RGBA, transparent where little is explained. (`convert("RGB")` of those shows the colours
                that transparency hides.)

        Raises:
            UserError: there is no such colour, or `smooth` is no whole number.
        """
        from PIL import Image, ImageColor

        try:
            Image.new("RGBA", (1, 1), background)
        except (ValueError, TypeError) as error:
            near = nearest(background, ImageColor.colormap)
            meant = f", did you mean {near}" if near else ""
            raise UserError(
                f"There is no colour {background!r}{meant}; give a name such as white, or #204060."
            ) from error
        pictures = [Image.fromarray(a.cpu().numpy(), "RGBA") for a in self.to_rgba(smooth)]
        if background is None:
            return pictures
        page = [Image.new("RGBA", picture.size, background) for picture in pictures]
        return [Image.alpha_composite(*pair).convert("RGB") for pair in zip(page, pictures, strict=True)]


@in_plain_torch
def explain(model: nn.Module, images: Any, targets: Target = None, *, batch_size: int = 32) -> Explanation:
    """Explain a B-cos model's output for a batch of images.

    Args:
        model: a `BcosViTModel` or `BcosViTForImageClassification`; it is left exactly as it was.
        images: (B, 3, H, W) or (3, H, W) in [0, 1]; also PIL images, uint8 arrays (H, W, 3), paths, or a list of these,
            which are resized and cropped to the model's own resolution (see `attribution.inputs`).
        targets: class index or name (one, or one per image); float tensor (D,) or (B, D), a direction in the pooled
            output; `TextTarget`; None: the predicted class, or a backbone's own feature direction.
        batch_size: images per pass.

    Returns:
        `Explanation`. Computed in the model's dtype with autocast off: explanations of low-precision runs are not noise.

    Raises:
        UserError: images or targets of a wrong kind or shape, or a model that is not a B-cos ViT.
    """
    model = check_student(model)
    targets, model = as_target(targets), trackable(model)
    reference = next(model.parameters())
    pixels = as_batch(images, model).to(reference.device, reference.dtype)
    if not len(pixels):
        raise UserError("There are no images to explain.")
    batch_size = counted(batch_size, "batch_size")
    parts = [
        explain_batch(model, pixels[i : i + batch_size], part_of(targets, i, i + batch_size, len(pixels)))
        for i in range(0, len(pixels), batch_size)
    ]
    check_finite(torch.cat([part.contributions for part in parts]), "W(x)x")
    merged = {f.name: _concat([getattr(p, f.name) for p in parts]) for f in fields(Explanation)}
    return Explanation(**merged)  # type: ignore[arg-type]


def check_student(model: nn.Module) -> nn.Module:
    """The student itself, out of what it may be wrapped in.

    Raises:
        UserError: it is the name of one, or no B-cos model.
    """
    check_loaded(model)
    model = unwrapped(model)
    if getattr(getattr(model, "config", None), "model_type", None) != "bcos_vit":
        raise UserError(
            f"{type(model).__name__} is not a B-cos model: convert and align it first (aloe align), then explain it."
        )
    return model


def explain_batch(model: nn.Module, images: Tensor, target: Target) -> Explanation:
    """`explain` of one batch of pixels (B, 3, H, W) that is on the model's device, in its dtype and checked."""
    with (
        evaluating(model),
        uncompiled(model),
        explanation_mode(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(images.device.type, enabled=False),
    ):
        x = model.base_model.encode(images.detach().clone()).requires_grad_()  # type: ignore[union-attr, operator]
        frozen = {name: p.detach() for name, p in model.named_parameters()}
        options = {"output_hidden_states": True, "return_dict": True}
        outputs = torch.func.functional_call(model, frozen, (x,), options)
        value, constant = target_value(outputs, model.config, target)  # type: ignore[attr-defined]
        embedded = outputs.hidden_states[0]
        weights, at_tokens = torch.autograd.grad(value.sum(), (x, embedded))
    embeddings: Any = model.base_model.embeddings  # type: ignore[union-attr]
    constants = embeddings.constants(*embeddings.grid(*images.shape[-2:])).detach()
    logits = getattr(outputs, "logits", None)
    return Explanation(
        logit=value.detach(),
        contributions=(weights * x.detach()).sum(1),
        weights=weights,
        residual=(at_tokens * constants).sum((1, 2)) + constant,
        logits=None if logits is None else logits.detach(),
        prediction=None if logits is None else logits.detach().argmax(-1),
        pooled=outputs.pooler_output.detach(),
    )


def _concat(parts: list[Tensor | None]) -> Tensor | None:
    return None if any(p is None for p in parts) else torch.cat([p for p in parts if p is not None])
