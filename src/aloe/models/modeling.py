"""`BcosViTModel` and `BcosViTForImageClassification`: transformers models whose output is W(x)x plus constants.

The forward pass reads as in any ViT. `hidden_states[k]` is the raw residual stream after block k, entry 0 the embedding
output. Everything that enters as a constant (CLS, registers, position embeddings) is added in one place,
`BcosViTEmbeddings.constants`, so that its contribution can be read off the same backward pass as the pixels'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import can_return_tuple

from aloe.bcos.functional import encode
from aloe.bcos.layers import (
    AttentionFunction,
    BcosAttention,
    BcosAttentionPooling,
    BcosConv2d,
    BcosLinear,
    BcosMLP,
    BcosSwiGLU,
    LayerNorm,
    LayerScale,
    ScaleNorm2d,
)
from aloe.models.backbone import Backbone, Features
from aloe.models.configuration import BcosViTConfig
from aloe.models.embeddings import BcosPatchEmbedding, BcosViTEmbeddings
from aloe.models.pixels import PixelCheck, can_be_checked, check_range


@dataclass
class BcosClassifierOutput(ImageClassifierOutput):
    """Logits with the backbone's last hidden state and pooled output, which explanations and probes read."""

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None


class BcosViTLayer(GradientCheckpointingLayer):
    """Pre-norm block: attention and MLP, each on a residual branch with an optional LayerScale."""

    def __init__(self, config: BcosViTConfig) -> None:
        super().__init__()
        width, eps, weight_norm = config.hidden_size, config.layer_norm_eps, config.weight_norm
        mlp = BcosSwiGLU if config.mlp == "swiglu" else BcosMLP
        self.norm1 = LayerNorm(width, eps)
        self.attention = BcosAttention(width, config.num_attention_heads, config.b, weight_norm)
        self.layer_scale1 = LayerScale(width) if config.layer_scale else nn.Identity()
        self.norm2 = LayerNorm(width, eps)
        self.mlp = mlp(width, config.intermediate_size, config.hidden_act, config.b, weight_norm)
        self.layer_scale2 = LayerScale(width) if config.layer_scale else nn.Identity()

    def forward(
        self, x: Tensor, attend: AttentionFunction, rope: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor | None]:
        mixed, weights = self.attention(self.norm1(x), attend, rope)
        x = x + self.layer_scale1(mixed)
        return x + self.layer_scale2(self.mlp(self.norm2(x))), weights


class BcosViTPreTrainedModel(PreTrainedModel, Backbone):
    interpretable = True
    config_class = BcosViTConfig
    base_model_prefix = "vit"
    main_input_name = "pixel_values"
    input_modalities = ("image",)  # type: ignore[assignment]
    supports_gradient_checkpointing = True
    _no_split_modules = ["BcosViTEmbeddings", "BcosViTLayer"]  # noqa: RUF012  (transformers' own convention)
    _supports_sdpa = True
    _supports_attention_backend = True

    @property
    def title(self) -> str:  # type: ignore[override]
        return (self.config.teacher or {}).get("name", "") or type(self).__name__

    @property
    def patch_size(self) -> int:  # type: ignore[override]
        return int(self.config.patch_size)

    @property
    def image_size(self) -> int:  # type: ignore[override]
        return int(self.config.image_size)

    @property
    def resolution(self) -> int:  # type: ignore[override]
        return self.config.resolution

    @property
    def use_cls_token(self) -> bool:  # type: ignore[override]
        return bool(self.config.use_cls_token)

    @property
    def num_register_tokens(self) -> int:  # type: ignore[override]
        return int(self.config.num_register_tokens)

    def read(self, images: Tensor, after_block: Iterable[int] = ()) -> Features:
        blocks = sorted(set(after_block))
        out: Any = self(images, output_hidden_states=bool(blocks))
        states = {k: out.hidden_states[k] for k in blocks}
        return Features(out.pooler_output, states, getattr(out, "logits", None), out.last_hidden_state)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, BcosLinear | BcosConv2d | BcosPatchEmbedding | nn.Linear):
            _trunc_normal(module.weight, std)
        elif isinstance(module, LayerNorm | ScaleNorm2d | LayerScale):
            nn.init.ones_(module.weight)
        elif isinstance(module, BcosAttentionPooling):
            _trunc_normal(module.probe, std)
        elif isinstance(module, BcosViTEmbeddings):
            for constant in (module.cls_token, module.register_tokens, module.position_embeddings):
                if constant is not None:
                    _trunc_normal(constant, std)


class BcosViTModel(BcosViTPreTrainedModel):
    """B-cos ViT backbone.

    Inputs: `pixel_values` (B, 3, H, W) in [0, 1], encoded to six channels here, or (B, 6, H, W) already encoded.
    Outputs: `last_hidden_state` (B, N, D) after the final norm, `pooler_output` (B, D), and on request
    `hidden_states` (num_hidden_layers + 1 tensors, raw residual stream, entry k after block k, entry 0 the embeddings'
    output, before a `pre_norm`) and `attentions`.

    Raises:
        ValueError: for another channel count, an image that is not a whole number of patches, or attentions asked of
            an attention implementation that does not return them; and for values outside [0, 1], see `check_pixels`.
    """

    check_pixels: PixelCheck = "error"
    """What becomes of pixel values outside [0, 1]: `error`, `warn` or `off`. On a CPU every batch is looked at, elsewhere
    the first one, so that no later step waits for the device."""

    def __init__(self, config: BcosViTConfig) -> None:
        super().__init__(config)
        self._pixels_seen = False
        self.embeddings = BcosViTEmbeddings(config)
        self.pre_norm = LayerNorm(config.hidden_size, config.layer_norm_eps) if config.pre_norm else None
        self.layers = nn.ModuleList([BcosViTLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.pooler: BcosAttentionPooling | None = None
        if config.pooling == "attention":
            self.pooler = BcosAttentionPooling(
                config.hidden_size,
                config.num_attention_heads,
                config.intermediate_size,
                config.hidden_act,
                config.layer_norm_eps,
                config.b,
                config.weight_norm,
            )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embedding

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        interpolate_pos_encoding: bool = True,
        **kwargs: object,
    ) -> BaseModelOutputWithPooling:
        config = self.config
        keep_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        keep_weights = config.output_attentions if output_attentions is None else output_attentions
        attend = self._attention(bool(keep_weights))
        x = self.encode(pixel_values).to(self.norm.weight.dtype)
        if not interpolate_pos_encoding and x.shape[-2:] != (config.image_size, config.image_size):
            raise ValueError(f"Image size {x.shape[-2]}x{x.shape[-1]} is not the native {config.image_size}.")
        hidden = self.embeddings(x)
        rope = self._rope(*self.embeddings.grid(x.shape[-2], x.shape[-1]), hidden)
        states, attentions = [hidden], []
        if self.pre_norm is not None:
            hidden = self.pre_norm(hidden)
        for layer in self.layers:
            hidden, weights = layer(hidden, attend, rope)
            if keep_states:
                states.append(hidden)
            if keep_weights:
                attentions.append(weights)
        hidden = self.norm(hidden)
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden,
            pooler_output=self.pool(hidden),
            hidden_states=tuple(states) if keep_states else None,
            attentions=tuple(attentions) if keep_weights else None,
        )

    def encode(self, pixels: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] to the six channels that are x in W(x)x; (B, 6, H, W) is taken as encoded."""
        if not pixels.is_floating_point():
            raise ValueError(f"pixel_values must be floats in [0, 1], got {pixels.dtype}; divide by 255.")
        if pixels.ndim == 4 and pixels.shape[1] == 6:
            return pixels
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ValueError(
                f"pixel_values must be (B, 3, H, W) in [0, 1] or (B, 6, H, W) encoded, got {tuple(pixels.shape)}."
            )
        if (
            self.check_pixels != "off"
            and not (self._pixels_seen and pixels.device.type != "cpu")
            and can_be_checked(pixels)
        ):
            check_range(pixels, self.check_pixels)
            self._pixels_seen = True
        if self.config.encoding == "normalized":
            mean = pixels.new_tensor(self.config.image_mean)[:, None, None]
            pixels = (pixels - mean) / pixels.new_tensor(self.config.image_std)[:, None, None]
        return encode(pixels)

    def pool(self, tokens: Tensor) -> Tensor:
        """Normed tokens (B, N, D) to the pooled output (B, D)."""
        if self.config.pooling == "cls":
            return tokens[:, 0]
        patches = tokens[:, self.config.num_prefix_tokens :]
        if self.pooler is not None:
            return self.pooler(patches, self._attention(False))
        return patches.mean(dim=1)

    def _attention(self, need_weights: bool) -> AttentionFunction:
        name = self.config._attn_implementation
        if need_weights and name != "eager":
            raise ValueError(
                f"Attention implementation {name!r} does not return attentions; "
                "load the model with attn_implementation='eager' or call set_attn_implementation('eager')."
            )
        function: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention)

        def attend(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, scaling: float) -> tuple[Tensor, Tensor | None]:
            return function(module, q, k, v, None, scaling=scaling, dropout=0.0, is_causal=False)

        return attend

    def _rope(self, rows: int, columns: int, like: Tensor) -> tuple[Tensor, Tensor] | None:
        """(cos, sin), each (rows*columns, D/heads): angles 2 pi coordinate theta^(-4k/d), as in DINOv3."""
        config = self.config
        if config.position_embedding != "rope":
            return None
        dim = config.hidden_size // config.num_attention_heads
        dtype = torch.promote_types(like.dtype, torch.float32)
        centres = [2 * (torch.arange(n, device=like.device, dtype=dtype) + 0.5) / n - 1 for n in (rows, columns)]
        coordinates = torch.stack(torch.meshgrid(*centres, indexing="ij"), dim=-1).flatten(0, 1)
        periods = config.rope_theta ** torch.arange(0, 1, 4 / dim, device=like.device, dtype=dtype)
        angles = (2 * torch.pi * coordinates[:, :, None] / periods).flatten(1).tile(2)
        return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


class BcosViTForImageClassification(BcosViTPreTrainedModel):
    """B-cos ViT with a B-cos classifier: logits (B, C) = logit_scale * unit(pooled) + logit_bias."""

    def __init__(self, config: BcosViTConfig) -> None:
        super().__init__(config)
        self.num_labels: int = config.num_labels  # type: ignore[assignment]
        self.vit = BcosViTModel(config)
        self.classifier = BcosLinear(config.hidden_size, self.num_labels, config.b, config.weight_norm)
        self.post_init()

    def classify(self, pooled: Tensor) -> Tensor:
        """Logits (B, C) of pooled outputs (B, D)."""
        return self.classifier(pooled) * self.config.logit_scale + self.config.logit_bias

    @can_return_tuple
    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: object) -> BcosClassifierOutput:
        outputs = self.vit(pixel_values, return_dict=True, **kwargs)
        logits = self.classify(outputs.pooler_output)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return BcosClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            last_hidden_state=outputs.last_hidden_state,
            pooler_output=outputs.pooler_output,
        )


def eager_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **_: object
) -> tuple[Tensor, Tensor]:
    """Attention with its matrix at hand: (B, heads, N, d) -> (B, N, heads, d) and weights (B, heads, N, N)."""
    scores = query @ key.transpose(-1, -2) * scaling
    weights = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
    return (weights @ value).transpose(1, 2), weights


def _trunc_normal(tensor: Tensor, std: float) -> None:
    nn.init.trunc_normal_(tensor, std=std, a=-2 * std, b=2 * std)


AutoConfig.register(BcosViTConfig.model_type, BcosViTConfig)
AutoModel.register(BcosViTConfig, BcosViTModel)
AutoModelForImageClassification.register(BcosViTConfig, BcosViTForImageClassification)
