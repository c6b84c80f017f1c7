"""The cosine of two images' features, as the pixels of either image make it.

With f(a) = W(a) a + r(a) the cosine f(a).f(b) / (|f(a)| |f(b)|) is linear in a once W(a) and b are fixed, and the other way
round: the sum of a map over a and what a's constants contribute, and the sum of a map over b with b's. Regions of b
(`regions`) and pairs of patches (`pairs`) split it further.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from aloe.attribution.alike.operator import Operator, Read
from aloe.attribution.alike.pairs import Pairs, patch_pairs, token_pairs
from aloe.attribution.alike.regions import check_masks, check_region, listed, shares
from aloe.attribution.inherent import Explanation, check_student, explain
from aloe.attribution.inputs import as_batch
from aloe.attribution.subject import opened
from aloe.bcos.units import NORM_FLOOR
from aloe.core.bounds import counted, numbered
from aloe.core.errors import UserError
from aloe.core.torch_state import in_plain_torch, trackable

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(repr=False)
class Similarity:
    """B pairs of images, explained. `a` and `b` explain the same cosines (their `logit`) in the pixels of either image.

    Shapes: `cosine` (B,), float; `features_a` and `features_b` (B, D), pooled; `images_a` and `images_b` (B, 3, H, W),
    whose sizes may differ.
    """

    cosine: Tensor
    a: Explanation
    b: Explanation
    features_a: Tensor
    features_b: Tensor
    images_a: Tensor
    images_b: Tensor
    _student: Any
    _reads: tuple[Read | None, Read | None] = (None, None)  # what the vectors are; default: pooled features
    _kept: dict[tuple[str, int], Operator] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.cosine)

    def __repr__(self) -> str:
        values = ", ".join(f"{value:.4g}" for value in self.cosine[:4].tolist()) + ", ..." * (len(self) > 4)
        error = float(torch.cat([self.a.completeness_error(), self.b.completeness_error()]).max())
        return f"Similarity of {len(self)} pairs: cosine [{values}], completeness error at most {error:.1e}"

    def swapped(self) -> Similarity:
        """The same with the two sides exchanged."""
        features, images = (self.features_b, self.features_a), (self.images_b, self.images_a)
        kept = {("b" if side == "a" else "a", i): operator for (side, i), operator in self._kept.items()}
        return Similarity(self.cosine, self.b, self.a, *features, *images, self._student, self._reads[::-1], kept)

    def regions(self, boxes: Any, index: int = 0) -> Regions:
        """What regions of b contribute to the cosine of pair `index`, and where in a: see `Regions`.

        Args:
            boxes: a list of (x, y, width, height) in pixels of `images_b`, or `"x,y,w,h"`; or one of these alone.

        Raises:
            UserError: none, or one that does not lie in the image.
        """
        boxes = listed(boxes)
        if not boxes:
            raise UserError("There is no region; give boxes (x, y, width, height) in pixels of the second image.")
        height, width = self.images_b.shape[-2:]
        return self.masked(shares([check_region(box, height, width) for box in boxes], height, width), index)

    @in_plain_torch
    def masked(self, masks: Any, index: int = 0) -> Regions:
        """`regions` for shares of b's pixels, (R, H, W) in [0, 1], or (H, W) of one region.

        Raises:
            UserError: another size, or values outside [0, 1].
        """
        index, masks = self._checked(index), check_masks(masks, *self.images_b.shape[-2:]).to(self.images_b)
        features, scale = self.operator("b", index).parts(masks), self._scale(index)
        explanation = _along(self.operator("a", index), features / scale)
        residual = self.operator("b", index).residual / scale @ self.features_a[index]
        return Regions(explanation.logit, explanation, features, masks, residual)

    def pairs(self, between: str = "patches", *, after_block: int | None = None, index: int = 0) -> Pairs:
        """What every patch of a contributes together with every patch of b to the cosine of pair `index`: see `Pairs`.

        Args:
            between: `patches` of pixels, or `tokens`, the patch tokens after a block.
            after_block: of tokens, 1 the first; default: the last.

        Raises:
            UserError: another word, or no such block.
        """
        index = self._checked(index)
        scale = self._scale(index)
        if between == "patches":
            if after_block is not None:
                raise UserError("after_block belongs to pairs of tokens: pairs('tokens', after_block=...).")
            return patch_pairs(self.operator("a", index), self.operator("b", index), scale, self._student.config)
        if between != "tokens":
            raise UserError(f"Pairs are between patches or tokens, got {between!r}.")
        if self._reads != (None, None):
            raise UserError("Pairs of tokens are of images; of a match of two patches ask for pairs of patches.")
        block = checked_block(self._student.config, after_block)
        sides = [Operator(self._student, images[index], after_block=block) for images in (self.images_a, self.images_b)]
        sizes = [images.shape[-2:] for images in (self.images_a, self.images_b)]
        return token_pairs(sides[0], sides[1], scale, self._student.config, sizes)

    def match(self, patch_a: int, patch_b: int, *, after_block: int | None = None, index: int = 0) -> Similarity:
        """Why one patch matches another: the cosine of two patch tokens after a block, in the pixels of both images.

        Args:
            patch_a, patch_b: numbers of the patches, row by row. after_block: 1 the first; default: the last.

        Raises:
            UserError: no such patch or block.
        """
        index, config = self._checked(index), self._student.config
        block, reads = checked_block(config, after_block), []
        for images, patch in ((self.images_a, patch_a), (self.images_b, patch_b)):
            count = images.shape[-2] // config.patch_size * (images.shape[-1] // config.patch_size)
            reads.append(_token(block, config.num_prefix_tokens + numbered(patch, "patch", count, "the image has")))
        return recorded(self._student, self.images_a[index], self.images_b[index], (reads[0], reads[1]))

    def operator(self, side: str, index: int = 0) -> Operator:
        """W(a) or W(b) of pair `index`; side `a` or `b`. Kept, so that further questions cost one pass.

        Raises:
            UserError: another side.
        """
        if side not in ("a", "b"):
            raise UserError(f"The side of a pair is 'a' or 'b', got {side!r}.")
        index = self._checked(index)
        key = (side, index)
        if key not in self._kept:
            images, read = (self.images_a, self._reads[0]) if side == "a" else (self.images_b, self._reads[1])
            for other in [k for k in self._kept if k[1] != index]:  # those of one pair at a time
                del self._kept[other]
            self._kept[key] = Operator(self._student, images[index], read=read)
        return self._kept[key]

    def to_pil(self, smooth: int | None = None) -> list[Image]:
        """One picture per pair: both images, what in a looks like b and what in b looks like a, and the signed maps."""
        from aloe.draw.alike import pair_pictures

        return list(pair_pictures(self.images_a, self.images_b, self.a, self.b, smooth=smooth))

    def _scale(self, index: int) -> Tensor:
        return _length(self.features_a[index]) * _length(self.features_b[index])

    def _checked(self, index: int) -> int:
        return numbered(index, "pair", len(self), "there are")


@dataclass
class Regions:
    """R regions of b: what each contributes to the cosine, and where in a.

    Shapes: `value` (R,), the share of the cosine, also `in_a.logit`; `in_a` explains each in a's pixels, its maps and
    residual add up to it; `features` (R, D), W(b) applied to b with all but the region masked; `shares` (R, H, W) of b's
    pixels; `residual` (), what b's constants contribute. Regions that tile b: their values and the residual are the cosine.
    """

    value: Tensor
    in_a: Explanation
    features: Tensor
    shares: Tensor
    residual: Tensor


@in_plain_torch
def similarity(student: nn.Module, a: Any, b: Any, *, batch_size: int = 32) -> Similarity:
    """Explain how alike images are: the cosine of the pooled features, split exactly.

    Args:
        student: a B-cos student, which is left as it was.
        a, b: images in any form that `explain` takes, equally many, or one against many. Sizes may differ between them.
        batch_size: images per pass.

    Returns:
        `Similarity`: the cosine, and for each image the map and the residual that add up to it.

    Raises:
        UserError: images of a wrong kind or number, or a model that is not a B-cos student.
    """
    model = trackable(check_student(student))
    reference = next(model.parameters())
    batch_size = counted(batch_size, "batch_size")
    images = [as_batch(side, model).to(reference.device, reference.dtype) for side in (a, b)]
    first, second = _matched(*images)
    features = [pooled(model, side, batch_size) for side in images]
    f_a, f_b = (f.expand(len(first), -1) for f in features)
    scale = _length(f_a) * _length(f_b)
    in_a = explain(model, first, f_b / scale, batch_size=batch_size)
    in_b = explain(model, second, f_a / scale, batch_size=batch_size)
    return Similarity((f_a * f_b).sum(1) / scale[:, 0], in_a, in_b, f_a, f_b, first, second, model)


def pooled(model: Any, images: Tensor, batch_size: int = 32) -> Tensor:
    """Pooled features (B, D) of images (B, 3, H, W), in eval mode; the model is left as it was."""
    with opened(model), torch.no_grad():
        return torch.cat([model.base_model(part, return_dict=True).pooler_output for part in images.split(batch_size)])


def checked_block(config: Any, after_block: int | None) -> int:
    """The number of a block, the last where none is named.

    Raises:
        UserError: there is none of that number.
    """
    count = config.num_hidden_layers
    if after_block is None:
        return count
    if not isinstance(after_block, Integral) or isinstance(after_block, bool) or not 1 <= int(after_block) <= count:
        raise UserError(f"There is no block {after_block!r}; the student has {count}, 1 to {count}.")
    return int(after_block)


@in_plain_torch
def recorded(
    student: Any, image_a: Tensor, image_b: Tensor, reads: tuple[Read | None, Read | None] = (None, None)
) -> Similarity:
    """`similarity` of one pair (3, H, W) from the operators of both sides, which further questions then find made.

    Args:
        student: checked. image_a, image_b: on its device and in its dtype. reads: of a side's outputs the vector (1, D)
            that is compared; default: the pooled output.
    """
    sides = [Operator(student, image, read=read) for image, read in zip((image_a, image_b), reads, strict=True)]
    f_a, f_b = (side.value[None] for side in sides)
    scale = _length(f_a) * _length(f_b)
    in_a, in_b = _along(sides[0], f_b / scale), _along(sides[1], f_a / scale)
    kept = {("a", 0): sides[0], ("b", 0): sides[1]}
    return Similarity(in_a.logit, in_a, in_b, f_a, f_b, image_a[None], image_b[None], student, reads, kept)


def _along(operator: Operator, directions: Tensor) -> Explanation:
    """The products of an operator's vector with K directions (K, D), explained in its image."""
    weights = operator.transpose(directions)
    contributions = (weights * operator.inputs).sum(1)
    return Explanation(directions @ operator.value, contributions, weights, directions @ operator.residual)


def _token(block: int, number: int) -> Read:
    return lambda outputs: outputs.hidden_states[block][:, number]


def _matched(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    counts = len(first), len(second)
    if not all(counts):
        raise UserError("There are no images to compare; give at least one on either side.")
    if counts[0] != counts[1] and 1 not in counts:
        raise UserError(f"{counts[0]} images cannot be compared with {counts[1]}; give equally many, or one on a side.")
    return tuple(side.expand(max(counts), -1, -1, -1) for side in (first, second))  # type: ignore[return-value]


def _length(features: Tensor) -> Tensor:
    """|f|, never 0: (..., D) -> (..., 1)."""
    return features.norm(dim=-1, keepdim=True).clamp_min(NORM_FLOOR)
