"""`BcosViTConfig`: one student architecture for every teacher family, described by a few named switches."""

from __future__ import annotations

import dataclasses
from math import isfinite
from numbers import Integral
from typing import Any

from transformers import PreTrainedConfig

from aloe.bcos.functional import ACTIVATIONS
from aloe.core.bounds import MAX_SIDE
from aloe.core.errors import UserError

STEMS = ("patch", "conv")
STEM_NAMES = ("patch", "conv", "conv-even")  # what a conversion may be asked for: `conv-even` has the even kernel
EVEN_KERNEL = 4
POSITIONS = ("learned", "rope")
POOLINGS = ("cls", "mean", "attention")
MLPS = ("mlp", "swiglu")
ENCODINGS = ("unit", "normalized")
BCOS_VARIANTS = ("cosine", "unnormalized")
STEM_NORMS = ("rms", "variance")
INTERPOLATIONS = ("bicubic", "bicubic-antialias", "bilinear-antialias")
WHOLE_NUMBERS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("image_size", "patch_size", "num_register_tokens"),
)
REALS = (
    *("b", "b_conv", "layer_norm_eps", "conv_norm_eps", "stem_norm_eps", "logit_scale", "logit_bias"),
    *("rope_theta", "initializer_range"),
)
# Stride 2 where the width grows: total stride 16 (docs/method.md section 4).
CONV_STEM_WIDTHS = (64, 128, 128, 256, 256, 512)


class BcosViTConfig(PreTrainedConfig):
    """Configuration of a B-cos ViT.

    Args:
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, hidden_act, layer_norm_eps:
            as in transformers' ViT; `hidden_act` is `gelu`, `gelu_pytorch_tanh`, `quick_gelu`, `silu` or `relu`.
        image_size, patch_size: pixels, square; the native token grid is image_size // patch_size on a side.
        b: exponent B >= 1 of every B-cos unit; 1 makes the network a plain bias-free ViT.
        stem: `patch` (one B-cos unit per patch) or `conv` (B-cos convolutions of `stem_widths`, then a B-cos unit).
        stem_widths: widths of the convolutional stem, stride 2 wherever the width grows over the one before it.
        stem_kernel: side of the stem's kernels of stride 2: 3 (the paper's), or 4, which reads every pixel equally often.
        encoding: `unit`, the six channels are x and 1 - x of x in [0, 1]; `normalized`, of (x - image_mean) / image_std.
        image_mean, image_std: three numbers each, for that encoding alone.
        bcos_variant: `cosine`, the gate is |cos(x, w)|^(b-1); `unnormalized`, |w . x / ||x|| |^(b-1).
        b_conv: exponent of the stem's convolutions where it is not `b`.
        conv_norm_eps: added under the root of the stem's patch norms.
        stem_norm, stem_norm_eps: divisor of the stem's norms: `rms`, the root of the mean square, or `variance`, of the
            variance (the numerator is not centred).
        pre_norm: a LayerNorm between the embeddings and the first block (CLIP).
        use_cls_token, num_register_tokens: prefix tokens, CLS first.
        position_embedding: `learned` (interpolated to other grids) or `rope` (recomputed).
        position_interpolation: `bicubic` (ViT, DINOv2, SigLIP), `bicubic-antialias` (DINOv2 with
            registers) or `bilinear-antialias` (SigLIP2).
        rope_theta: base period of the rotary embedding (DINOv3).
        mlp: `mlp` or `swiglu`.
        layer_scale: whether residual branches carry a constant diagonal.
        pooling: `cls`, `mean` (of patch tokens) or `attention` (SigLIP's head).
        logit_scale, logit_bias: what the classifier's units are multiplied with, and the constant added then.
        teacher: where the weights came from: name, family, image_size, patch_size, mean, std, and `resolution`, the
            student pixels at which the teacher is used (DINOv2 stores positions for 518 pixels and is used at 224).

    Raises:
        ValueError: for a value that no B-cos ViT can have, naming the field. TypeError: for one of a wrong type.
    """

    model_type = "bcos_vit"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    image_size: int = 224
    patch_size: int = 16
    b: float = 2.0
    stem: str = "patch"
    stem_widths: list[int] | None = None
    stem_kernel: int = 3
    use_cls_token: bool = True
    num_register_tokens: int = 0
    position_embedding: str = "learned"
    position_interpolation: str = "bicubic"
    rope_theta: float = 100.0
    mlp: str = "mlp"
    layer_scale: bool = False
    pooling: str = "cls"
    encoding: str = "unit"
    image_mean: list[float] | None = None
    image_std: list[float] | None = None
    bcos_variant: str = "cosine"
    b_conv: float | None = None
    conv_norm_eps: float = 0.0
    stem_norm: str = "rms"
    stem_norm_eps: float = 1e-6
    pre_norm: bool = False
    logit_scale: float = 1.0
    logit_bias: float = 0.0
    initializer_range: float = 0.02
    teacher: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self, **kwargs: Any) -> None:
        widths = self.stem_widths or conv_stem_widths(self.patch_size) if self.stem == "conv" else None
        self.stem_widths, self.teacher = widths, self.teacher or {}
        self._check_types()
        super().__post_init__(**kwargs)
        self._check()

    @property
    def num_channels(self) -> int:
        """Channels of the images the model takes; it appends 1 - x itself."""
        return 3

    @property
    def num_prefix_tokens(self) -> int:
        """CLS and register tokens, which come before the patch tokens."""
        return int(self.use_cls_token) + self.num_register_tokens

    @property
    def grid_size(self) -> int:
        """Patch tokens on a side at the native image size."""
        return self.image_size // self.patch_size

    @property
    def stem_stride(self) -> int:
        """Total stride of the convolutional stem: a factor of two wherever its width grows."""
        return stem_stride(self.stem_widths or [])

    @property
    def stem_name(self) -> str:
        """The stem as `bcosify` is asked for it: one of `STEM_NAMES`."""
        return "conv-even" if self.stem == "conv" and self.stem_kernel == EVEN_KERNEL else self.stem

    @property
    def weight_norm(self) -> bool:
        """Whether the weights of B-cos units are taken at length 1."""
        return self.bcos_variant == "cosine"

    @property
    def resolution(self) -> int:
        """Pixels on a side at which the model is meant to be used."""
        return int(self.teacher.get("resolution") or self.image_size)

    def _check_types(self) -> None:
        for field in WHOLE_NUMBERS:
            value, least = getattr(self, field), 0 if field == "num_register_tokens" else 1
            if not isinstance(value, Integral):
                raise TypeError(f"{field} must be a whole number, got {value!r}.")
            if value < least:
                raise ValueError(f"{field} must be at least {least}, got {value}.")
        for field in REALS:
            number = getattr(self, field)
            if isinstance(number, bool) or not (
                isinstance(number, int | float) or (field == "b_conv" and number is None)
            ):
                raise TypeError(f"{field} must be a number, got {number!r}.")
        if not isinstance(self.teacher, dict):
            raise TypeError(f"teacher must be a dictionary, got {self.teacher!r}.")
        side = self.teacher.get("resolution")
        if side is not None and (
            not isinstance(side, int) or isinstance(side, bool) or not 0 <= side <= MAX_SIDE or side % self.patch_size
        ):
            raise ValueError(
                f"resolution of teacher must be whole patches of {self.patch_size} pixels, at most {MAX_SIDE}, got {side!r}."
            )

    def _check(self) -> None:
        choices = {
            "stem": STEMS,
            "hidden_act": ACTIVATIONS,
            "position_embedding": POSITIONS,
            "position_interpolation": INTERPOLATIONS,
            "mlp": MLPS,
            "pooling": POOLINGS,
            "encoding": ENCODINGS,
            "bcos_variant": BCOS_VARIANTS,
            "stem_norm": STEM_NORMS,
        }
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field} must be one of {', '.join(allowed)}, got {getattr(self, field)!r}.")
        for field, exponent in (("b", self.b), ("b_conv", self.b if self.b_conv is None else self.b_conv)):
            if not exponent >= 1:
                raise ValueError(f"{field} must be at least 1, got {exponent}.")
        if self.stem_kernel not in (3, EVEN_KERNEL):
            raise ValueError(f"stem_kernel must be 3 or {EVEN_KERNEL}, got {self.stem_kernel}.")
        if self.rope_theta <= 0:
            raise ValueError(f"rope_theta must be positive, got {self.rope_theta}.")
        if self.conv_norm_eps < 0 or self.stem_norm_eps < 0:
            raise ValueError("conv_norm_eps and stem_norm_eps must be at least 0.")
        self._check_encoding()
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of num_attention_heads {self.num_attention_heads}."
            )
        if self.position_embedding == "rope" and self.hidden_size // self.num_attention_heads % 4:
            raise ValueError(
                f"rotary positions need heads of a width that is a multiple of 4, got "
                f"{self.hidden_size // self.num_attention_heads}."
            )
        if self.pooling == "cls" and not self.use_cls_token:
            raise ValueError("pooling is 'cls' but use_cls_token is false.")
        if self.patch_size % self.stem_stride:
            raise ValueError(
                f"stem_widths have total stride {self.stem_stride}, which patch_size {self.patch_size} is not a multiple of."
            )
        if self.image_size < self.patch_size:
            raise ValueError(f"image_size {self.image_size} is smaller than patch_size {self.patch_size}.")

    def _check_encoding(self) -> None:
        statistics = (self.image_mean, self.image_std)
        if self.encoding == "unit" and statistics != (None, None):
            raise ValueError("image_mean and image_std are for the encoding 'normalized'.")
        if self.encoding == "normalized" and not all(v is not None and len(v) == 3 for v in statistics):
            raise ValueError("The encoding 'normalized' needs image_mean and image_std, three numbers each.")
        numbers = [*(self.image_mean or []), *(self.image_std or [])]
        if not all(isinstance(v, int | float) and isfinite(v) for v in numbers):
            raise TypeError(f"image_mean and image_std must be numbers, got {statistics}.")
        if self.image_std is not None and min(self.image_std) <= 0:
            raise ValueError(f"image_std must be positive, got {self.image_std}.")


def stem_stride(widths: list[int]) -> int:
    """Total stride of a convolutional stem of these widths, the six input channels before the first."""
    return 2 ** sum(now > before for before, now in zip([6, *widths], widths, strict=False))


def conv_stem_widths(patch_size: int) -> list[int]:
    """The stem's widths for a patch size: one stride-2 step per factor of two (patch 16, 8, 4 or 2).

    Raises:
        UserError: for a patch size that strides of two cannot reach.
    """
    steps = {16: 6, 8: 5, 4: 3, 2: 1}
    if patch_size not in steps:
        raise UserError(f"The conv stem has patch size 16, 8, 4 or 2, not {patch_size}; use stem='patch'.")
    return list(CONV_STEM_WIDTHS[: steps[patch_size]])
