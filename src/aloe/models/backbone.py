"""What teachers and students have in common: whoever reads features or sizes need not ask which it is."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from aloe.core.errors import UserError
from aloe.models.geometry import check_side, patches_of

KNOWN = 0.5  # least probability of a class told by a sigmoid for an image to be called it


@dataclass
class Features:
    """What is compared between teacher and student.

    `states[k]` is the raw residual stream after block k, (B, N, D), k from 1 to L; `pooled` is (B, D); `logits` (B, C)
    where the model has a classifier; `tokens` (B, N, D) after the final norm where they were kept.
    """

    pooled: Tensor
    states: dict[int, Tensor] = field(default_factory=dict)
    logits: Tensor | None = None
    tokens: Tensor | None = None


class Backbone(nn.Module):
    """A vision transformer that takes images in [0, 1].

    `title` is what it is called; `resolution` the side in pixels at which it is meant to be used, `image_size` that of its
    own position grid; `use_cls_token` and `num_register_tokens` say what stands before the patch tokens.
    """

    interpretable: bool
    """Whether its output is W(x)x."""
    config: Any
    title: str
    patch_size: int
    image_size: int
    resolution: int
    use_cls_token: bool
    num_register_tokens: int
    head_loss: str | None = None
    """What a plain probe was trained with, where its record says so."""

    @property
    def num_layers(self) -> int:
        """Blocks."""
        return int(self.config.num_hidden_layers)

    @property
    def width(self) -> int:
        """Numbers of a token."""
        return int(self.config.hidden_size)

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches."""
        return int(self.use_cls_token) + self.num_register_tokens

    def read(self, images: Tensor, after_block: Iterable[int] = ()) -> Features:
        """Images (B, 3, H, W) in [0, 1] of whole patches -> `Features`, with the states after the named blocks.

        Square images reach a teacher at the size that gives its tokens as many as `patch_size` says.
        """
        raise NotImplementedError

    def classify(self, pooled: Tensor) -> Tensor | None:
        """Logits (B, C) of pooled outputs (B, D); None of a model without classifier."""
        return None

    @property
    def by_sigmoids(self) -> bool:
        """Whether every class has a probability of its own: the classifier was trained with binary cross-entropy.

        Its logit bias or its probe's record says so. Other classifiers share one out by the softmax, and cannot say that an
        image is none of their classes.
        """
        return bool(getattr(self.config, "logit_bias", 0.0)) or self.head_loss == "bce"

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (N, C) to each class's probability, as the classifier was trained."""
        return logits.sigmoid() if self.by_sigmoids else logits.softmax(-1)

    def knows(self, probability: float) -> bool:
        """Whether an image whose likeliest class has this probability is one of the classes, as far as they can say so."""
        return not self.by_sigmoids or probability >= KNOWN

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Token rows and columns of an image of that many pixels.

        Raises:
            UserError: neither whole patches nor the native size, which need not be a number of them (384 pixels, patch 14).
        """
        if height == width == self.image_size:
            return height // self.patch_size, width // self.patch_size
        return patches_of(height, width, self.patch_size)

    def side(self, wanted: int | None = None) -> int:
        """The side in pixels at which images go in: the one that is wanted, or the model's own.

        Raises:
            UserError: not a whole number of patches, or the model does not say its own.
        """
        if wanted is not None:
            return wanted if wanted == self.image_size else check_side(wanted, self.patch_size)
        with suppress(TypeError, ValueError):
            if (own := int(self.resolution)) > 0:
                return own
        raise UserError(f"{self.title} does not say what size of images it is made for; give one with --resolution.")
