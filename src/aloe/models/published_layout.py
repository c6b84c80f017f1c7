"""What ALOE knows of the authors' published checkpoints, as data: their config keys with defaults, and their tensor names.

21 repositories exist (`REPOSITORIES`), licensed CC BY-NC-SA 4.0, in three kinds: `model_type` is `aloe_<kind>_vision` or
`aloe_<kind>_image_classification`. `published.py` reads these tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aloe.models.families import HALF, IMAGENET_MEAN, IMAGENET_STD
from aloe.models.rules import Copy, Kernel, Rule

LICENCE = "CC BY-NC-SA 4.0"
_SIZES = (
    *("dinov3-small", "dinov3-base", "dinov3-large", "siglip2-base", "siglip2-large"),
    *("siglip2-so400m", "siglip2-so400m-432"),
)
_MULTIRES = ("v2-dinov3-small", "v2-dinov3-base", "v2-dinov3-large")
REPOSITORIES = tuple(f"rmaser/aloe-{name}{probe}" for name in (*_SIZES, *_MULTIRES) for probe in ("", "-in1k-lp")) + (
    "rmaser/aloe-vit-base",
)


@dataclass(frozen=True)
class Kind:
    """One of the three kinds of published model: what a key means where the config leaves it out."""

    family: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    defaults: dict[str, Any]


_COMMON: dict[str, Any] = {
    "aloe_patch_size": 16,
    "aloe_in_channels": 6,
    "aloe_cls_token": True,
    "aloe_num_registers": 0,
    "aloe_b_linear": 2.0,
    "aloe_b_conv": 2.0,
    "aloe_add_conv_stem": None,
    "aloe_position_embedding_type": "absolute",
    "aloe_rope_theta": 100.0,
    "aloe_pooler_type": "cls_token",
    "aloe_use_layer_scale": False,
    "aloe_bcos_impl": "v2",
    "aloe_base_model_name": "",
    "aloe_use_logit_layer": None,  # on where there is more than one label
    "aloe_logit_bias": None,  # -log(C - 1)
    "aloe_logit_temperature": None,
}
KINDS = {
    "siglip2": Kind(
        *("SigLIP", HALF, HALF), _COMMON | {"aloe_cls_token": False, "aloe_pooler_type": "multihead_attention"}
    ),
    "dinov3": Kind(
        *("DINOv3", IMAGENET_MEAN, IMAGENET_STD),
        _COMMON | {"aloe_num_registers": 4, "aloe_position_embedding_type": "rope_2d", "aloe_use_layer_scale": True},
    ),
    "vit": Kind(
        *("ViT", HALF, HALF), _COMMON | {"aloe_position_embedding_type": "absolute_1d", "aloe_bcos_impl": "v1"}
    ),
}

# Values of theirs -> values of `BcosViTConfig`; any other value is refused by name.
POSITIONS = {"absolute": "learned", "absolute_1d": "learned", "rope_2d": "rope"}
POOLINGS = {"multihead_attention": "attention", "cls_token": "cls", "mean": "mean"}
VARIANTS = {"v2": "cosine", "v1": "unnormalized"}
ACTIVATIONS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu"}  # their forward takes the exact GELU for both

# Tensor of `BcosViTModel` -> theirs; {i} is a block, {j} a convolution of the stem.
TENSORS: dict[str, Rule] = {
    "embeddings.stem.{j}.0.weight": Copy("vision_model.embeddings.conv_stem.stem.{j}.conv.linear.weight"),
    "embeddings.stem.{j}.1.weight": Copy("vision_model.embeddings.conv_stem.stem.{j}.norm.weight"),
    "embeddings.patch_embedding.weight": Kernel("vision_model.embeddings.patch_embedding.linear.weight"),
    "embeddings.position_embeddings": Copy("vision_model.embeddings.pos_embedding.embedding.weight"),
    "embeddings.cls_token": Copy("vision_model.embeddings.cls_token"),
    "embeddings.register_tokens": Copy("vision_model.embeddings.register_tokens.tokens"),
    "layers.{i}.norm1.weight": Copy("vision_model.encoder.layers.{i}.layer_norm1.weight"),
    "layers.{i}.attention.qkv.weight": Copy("vision_model.encoder.layers.{i}.self_attn.qkv_proj.weight"),
    "layers.{i}.attention.out.weight": Copy("vision_model.encoder.layers.{i}.self_attn.out_proj.linear.weight"),
    "layers.{i}.layer_scale1.weight": Copy("vision_model.encoder.layers.{i}.layer_scale1.lambda1"),
    "layers.{i}.norm2.weight": Copy("vision_model.encoder.layers.{i}.layer_norm2.weight"),
    "layers.{i}.mlp.up.weight": Copy("vision_model.encoder.layers.{i}.mlp.fc1.linear.weight"),
    "layers.{i}.mlp.down.weight": Copy("vision_model.encoder.layers.{i}.mlp.fc2.linear.weight"),
    "layers.{i}.layer_scale2.weight": Copy("vision_model.encoder.layers.{i}.layer_scale2.lambda1"),
    "norm.weight": Copy("vision_model.post_layernorm.weight"),
    "pooler.probe": Copy("vision_model.head.probe"),
    "pooler.q.weight": Copy("vision_model.head.attention.q_proj.weight"),
    "pooler.kv.weight": Copy("vision_model.head.attention.kv_proj.weight"),
    "pooler.out.weight": Copy("vision_model.head.attention.out_proj.linear.weight"),
    "pooler.norm.weight": Copy("vision_model.head.layernorm.weight"),
    "pooler.mlp.up.weight": Copy("vision_model.head.mlp.fc1.linear.weight"),
    "pooler.mlp.down.weight": Copy("vision_model.head.mlp.fc2.linear.weight"),
}
CLASSIFIER = "classifier.linear.weight"
LEVEL, FINAL_NORM = "vision_model.", "post_layernorm.weight"
POSITION_TABLE = "vision_model.embeddings.pos_embedding.embedding.weight"
