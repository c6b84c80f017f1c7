"""timm's vision transformers, as data: which transformers tower hosts each layout, and from which tensors it is made.

Facts of timm 1.0: names and shapes of its state dicts, and what they do not tell: head counts, activations, norm epsilons and
normalisation. `timm.py` reads these tables; it is never installed here. A `Layout` is chosen by the architecture's name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from aloe.models.families import HALF, IMAGENET_MEAN, IMAGENET_STD, OPENAI_MEAN, OPENAI_STD
from aloe.models.rules import Concat, Copy, Part, Positions, Rule, Zeros


@dataclass(frozen=True)
class Layout:
    """One kind of timm model.

    Args:
        architectures: a pattern that the whole name of an architecture (without its `.tag`) matches.
        config_class, model_class: of the transformers tower that computes the same.
        tensors: the tower's tensor -> rule over timm's; `{i}` is the block number. Those the tower lacks are skipped.
        config: constant fields of the tower's configuration.
        aliases: (other name, this table's name) fragments of timm's tensors.
        unread: first parts of the names of tensors that may be left over.
        classifier_class, classifier: the class with a classifier on the pooled output and its tensors, where there is one.
        heads: attention heads by width, where they are not those of `HEADS`.
    """

    architectures: str
    config_class: str
    model_class: str
    tensors: dict[str, Rule]
    config: dict[str, Any] = field(default_factory=dict)
    aliases: tuple[tuple[str, str], ...] = ()
    unread: tuple[str, ...] = ("head",)
    classifier_class: str | None = None
    classifier: dict[str, Rule] = field(default_factory=dict)
    heads: dict[int, int] = field(default_factory=dict)


# Attention heads by width: of every architecture of the layouts below, but for their own exceptions.
HEADS = {
    **{192: 3, 256: 4, 384: 6, 512: 8, 640: 10, 768: 12, 896: 14, 1024: 16, 4096: 32},
    **{1152: 16, 1280: 16, 1408: 16, 1536: 24, 1664: 16},
}

# Activations that an architecture's name or its weights' tag (`name.tag`) tells; the first that is found, else GELU. The tags
# are of weights that were trained with quick GELU, which timm's plain CLIP names run with GELU.
ACTIVATIONS = (
    (r"_clip_quickgelu_", "quick_gelu"),
    (r"_clip_\d+\.(openai|metaclip_400m|metaclip_2pt5b|dfn5b)$", "quick_gelu"),
    (r"large_patch14_clip_224\.dfn2b$|base_patch32_clip_224\.laion400m_e32$", "quick_gelu"),
    (r"huge_patch14_clip_224\.metaclip2_worldwide$", "quick_gelu"),
    (r"patch32_siglip|so400m_patch16_siglip|giantopt|large_patch16_siglip(_gap)?_512", "gelu_pytorch_tanh"),
)
ACTIVATION_NAMES = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu"}

# Normalisation by `name.tag`, for files without a config.json: the first that is found. No entry, no guess.
NORMALISATIONS = (
    (r"\.(augreg|orig_in21k|sam_in1k)|^flexivit|_siglip_", (HALF, HALF)),
    (r"large_patch14_clip_\d+\.laion2b", (HALF, HALF)),
    (r"_clip_(quickgelu_)?\d+\.\w", (OPENAI_MEAN, OPENAI_STD)),
    (r"_dinov3\w*\.sat493m$", ((0.430, 0.411, 0.296), (0.213, 0.156, 0.143))),
    (r"_dinov2|_dinov3\w*\.\w|^deit|\.(dino|mae)$", (IMAGENET_MEAN, IMAGENET_STD)),
    (r"_tipsv2", ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))),
)

# Arguments in a config.json that its tensors' names and shapes tell as well, or that matter in training alone.
TOLD_BY_TENSORS = frozenset(
    (
        *("img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depth"),
        *("mlp_ratio", "qkv_bias", "init_values"),
        *("class_token", "no_embed_class", "reg_tokens", "num_reg_tokens", "pre_norm", "final_norm", "global_pool"),
        *("dynamic_img_size", "dynamic_img_pad", "strict_img_size", "weight_init", "fix_init", "head_init_scale"),
        *("drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"),
    )
)


def _linear(host: str, source: str) -> dict[str, Rule]:
    return {f"{host}.{part}": Copy(f"{source}.{part}") for part in ("weight", "bias")}


def _block(host: str, norm1: str, norm2: str, attention: str, out: str) -> dict[str, Rule]:
    """Norms, attention and output projection of one block; Q, K and V are equal pieces of one tensor."""
    block = "blocks.{i}"
    fused = {
        f"{host}.{attention}.{x}_proj.{part}": Part(f"{block}.attn.qkv.{part}", k, 3)
        for k, x in enumerate("qkv")
        for part in ("weight", "bias")
    }
    return {
        **_linear(f"{host}.{norm1}", f"{block}.norm1"),
        **_linear(f"{host}.{norm2}", f"{block}.norm2"),
        **fused,
        **_linear(f"{host}.{attention}.{out}", f"{block}.attn.proj"),
    }


def _mlp(host: str, *pairs: tuple[str, str]) -> dict[str, Rule]:
    return {k: v for ours, timm in pairs for k, v in _linear(f"{host}.mlp.{ours}", f"blocks.{{i}}.mlp.{timm}").items()}


def _packed(host: str) -> dict[str, Rule]:
    """timm's SwiGLU in one product, the gate first: the host's two products, or the one of older transformers releases."""
    block, parts = "blocks.{i}.mlp", ("weight", "bias")
    return {
        **{f"{host}.mlp.gate_proj.{part}": Part(f"{block}.fc1.{part}", 0, 2) for part in parts},
        **{f"{host}.mlp.up_proj.{part}": Part(f"{block}.fc1.{part}", 1, 2) for part in parts},
        **_mlp(host, ("weights_in", "fc1"), ("down_proj", "fc2")),
    }


def _scales(host: str, timm: str) -> dict[str, Rule]:
    return {f"{host}.layer_scale{n}.lambda1": Copy(f"blocks.{{i}}.{timm.format(n)}") for n in (1, 2)}


_PLAIN_MLP = (("fc1", "fc1"), ("fc2", "fc2"))

_VIT = Layout(
    architectures=r"(vit_(tiny|small|base|large|huge|giant|gigantic)_patch\d+_\d+|deit_(tiny|small|base)_patch16_\d+"
    r"|flexivit_(small|base|large))",
    config_class="ViTConfig",
    model_class="ViTModel",
    classifier_class="ViTForImageClassification",
    classifier=_linear("classifier", "head"),
    config={"layer_norm_eps": 1e-6},
    tensors={
        **_linear("embeddings.patch_embeddings.projection", "patch_embed.proj"),
        "embeddings.cls_token": Copy("cls_token"),
        "embeddings.position_embeddings": Positions("pos_embed"),
        **_block("layers.{i}", "layernorm_before", "layernorm_after", "attention", "o_proj"),
        **_mlp("layers.{i}", *_PLAIN_MLP),
        **_linear("layernorm", "norm"),
    },
)

_DINOV2 = Layout(
    architectures=r"(vit_(small|base|large|giant)_patch14_dinov2|deit3_(small|medium|base|large|huge)_patch\d+_\d+)",
    config_class="Dinov2Config",
    model_class="Dinov2Model",
    config={"layer_norm_eps": 1e-6},
    tensors={
        **_linear("embeddings.patch_embeddings.projection", "patch_embed.proj"),
        "embeddings.cls_token": Copy("cls_token"),
        "embeddings.mask_token": Zeros(),
        "embeddings.position_embeddings": Positions("pos_embed"),
        **_block("encoder.layer.{i}", "norm1", "norm2", "attention", "o_proj"),
        **_mlp("encoder.layer.{i}", *_PLAIN_MLP),
        **_packed("encoder.layer.{i}"),
        **_scales("encoder.layer.{i}", "ls{}.gamma"),
        **_linear("layernorm", "norm"),
    },
)

_DINOV2_REGISTERS = replace(
    _DINOV2,
    architectures=r"vit_(small|base|large|so400m|giant)_patch14_reg\d_(dinov2|tipsv2)",
    config_class="Dinov2WithRegistersConfig",
    model_class="Dinov2WithRegistersModel",
    tensors={**_DINOV2.tensors, "embeddings.register_tokens": Copy("reg_token")},
)

_DINOV3 = Layout(
    architectures=r"vit_(tiny|small|small_plus|base|large|huge_plus|7b)_patch16_dinov3(_qkvb)?",
    config_class="DINOv3ViTConfig",
    model_class="DINOv3ViTModel",
    config={"layer_norm_eps": 1e-5, "rope_theta": 100.0, "key_bias": False},
    tensors={
        **_linear("embeddings.patch_embeddings", "patch_embed.proj"),
        "embeddings.cls_token": Copy("cls_token"),
        "embeddings.mask_token": Zeros(),
        "embeddings.register_tokens": Copy("reg_token"),
        **_block("layer.{i}", "norm1", "norm2", "attention", "o_proj"),
        "layer.{i}.attention.q_proj.bias": Copy("blocks.{i}.attn.q_bias"),
        "layer.{i}.attention.v_proj.bias": Copy("blocks.{i}.attn.v_bias"),
        **_mlp("layer.{i}", ("gate_proj", "fc1_g"), ("up_proj", "fc1"), ("down_proj", "fc2")),
        **_scales("layer.{i}", "gamma_{}"),
        **_linear("norm", "norm"),
    },
    aliases=((".fc1_x.", ".fc1."),),
    heads={1280: 20},
)

_SIGLIP = Layout(
    architectures=r"vit_(base|large|so400m|giantopt)_patch\d+_siglip(_gap)?_\d+",
    config_class="SiglipVisionConfig",
    model_class="SiglipVisionModel",
    config={"layer_norm_eps": 1e-6},
    tensors={
        **_linear("embeddings.patch_embedding", "patch_embed.proj"),
        "embeddings.position_embedding.weight": Copy("pos_embed"),
        **_block("encoder.layers.{i}", "layer_norm1", "layer_norm2", "self_attn", "out_proj"),
        **_mlp("encoder.layers.{i}", *_PLAIN_MLP),
        **_linear("post_layernorm", "norm"),
        "head.probe": Copy("attn_pool.latent"),
        "head.attention.in_proj_weight": Concat(("attn_pool.q.weight", "attn_pool.kv.weight")),
        "head.attention.in_proj_bias": Concat(("attn_pool.q.bias", "attn_pool.kv.bias")),
        **_linear("head.attention.out_proj", "attn_pool.proj"),
        **_linear("head.layernorm", "attn_pool.norm"),
        **_linear("head.mlp.fc1", "attn_pool.mlp.fc1"),
        **_linear("head.mlp.fc2", "attn_pool.mlp.fc2"),
    },
    heads={1536: 16},
)

_CLIP = Layout(
    architectures=r"vit_(xsmall|medium|betwixt|base|large|huge|giant|gigantic)_patch\d+(_plus)?_clip(_quickgelu)?_\d+",
    config_class="CLIPVisionConfig",
    model_class="CLIPVisionModel",
    config={"layer_norm_eps": 1e-5},
    tensors={
        "embeddings.patch_embedding.weight": Copy("patch_embed.proj.weight"),
        "embeddings.class_embedding": Copy("cls_token"),
        "embeddings.position_embedding.weight": Positions("pos_embed"),
        **_linear("pre_layrnorm", "norm_pre"),
        **_block("encoder.layers.{i}", "layer_norm1", "layer_norm2", "self_attn", "out_proj"),
        **_mlp("encoder.layers.{i}", *_PLAIN_MLP),
        **_linear("post_layernorm", "norm"),
    },
)

LAYOUTS = (_VIT, _DINOV2, _DINOV2_REGISTERS, _DINOV3, _SIGLIP, _CLIP)


def layout_of(architecture: str) -> Layout | None:
    """The layout of a timm architecture (without its tag), or None for one that has no student."""
    return next((layout for layout in LAYOUTS if re.fullmatch(layout.architectures, architecture)), None)
