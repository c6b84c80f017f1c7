"""What ALOE knows of each teacher family, as data: where its parts lie, and how they become a student's.

One `Family` per transformers architecture. `tensors` maps every student tensor to the teacher tensors it is made from;
`aliases` rename the layouts that other transformers releases have had to the one the table is written in. The engine
that reads the tables is `convert.py`; nothing else in the package knows a teacher's parameter names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Copy:
    """The teacher's tensor as it is (reshaped to the student's shape where only unit axes differ)."""

    source: str


@dataclass(frozen=True)
class Concat:
    """Several teacher tensors stacked along the output axis: Q, K and V in one product."""

    sources: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """Rows `index` of `parts` equal pieces of a fused teacher tensor, up to piece `stop` (default: that one)."""

    source: str
    index: int
    parts: int
    stop: int | None = None


@dataclass(frozen=True)
class Fold:
    """The patch embedding with the teacher's normalisation and its bias folded into six channels (METHOD.md 3)."""

    weight: str
    bias: str


Rule = Copy | Concat | Part | Fold


@dataclass(frozen=True)
class Family:
    """One teacher architecture.

    Args:
        name: short name shown to people.
        model_types: transformers' `config.model_type` values that belong to it.
        model_class: the transformers class of the vision tower.
        classifier_class: the class with a classifier that reads the pooled output, if there is one.
        towers: attribute names behind which the vision tower may sit.
        blocks: dotted path of the list of blocks inside the tower (the alternatives of other releases after it).
        mean, std: normalisation when the checkpoint does not state one.
        student: constant fields of the student's configuration.
        tensors: student tensor -> rule; `{i}` is the block number. Student tensors that do not exist are skipped.
        aliases: (other layout, this table's layout) name fragments.
    """

    name: str
    model_types: tuple[str, ...]
    model_class: str
    towers: tuple[str, ...]
    blocks: tuple[str, ...]
    tensors: dict[str, Rule]
    classifier_class: str | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    student: dict[str, Any] = field(default_factory=dict)
    aliases: tuple[tuple[str, str], ...] = ()

    @property
    def final_norm(self) -> str:
        """Dotted path of the norm after the last block."""
        rule = self.tensors["norm.weight"]
        assert isinstance(rule, Copy)
        return rule.source.removesuffix(".weight")


def _block(prefix: str, norm1: str, norm2: str, attention: str, out: str, mlp: tuple[str, str]) -> dict[str, Rule]:
    """The rules of one block from the teacher's names of its parts (no rule for LayerScale or a gate)."""
    return {
        "layers.{i}.norm1.weight": Copy(f"{prefix}.{norm1}.weight"),
        "layers.{i}.attention.qkv.weight": Concat(tuple(f"{prefix}.{attention}.{x}_proj.weight" for x in "qkv")),
        "layers.{i}.attention.out.weight": Copy(f"{prefix}.{attention}.{out}.weight"),
        "layers.{i}.norm2.weight": Copy(f"{prefix}.{norm2}.weight"),
        "layers.{i}.mlp.up.weight": Copy(f"{prefix}.mlp.{mlp[0]}.weight"),
        "layers.{i}.mlp.down.weight": Copy(f"{prefix}.mlp.{mlp[1]}.weight"),
    }


def _scales(prefix: str) -> dict[str, Rule]:
    return {f"layers.{{i}}.layer_scale{n}.weight": Copy(f"{prefix}.layer_scale{n}.lambda1") for n in (1, 2)}


_VIT = Family(
    name="ViT",
    model_types=("vit",),
    model_class="ViTModel",
    classifier_class="ViTForImageClassification",
    towers=("vit",),
    blocks=("layers", "encoder.layer"),
    mean=HALF,
    std=HALF,
    student={"pooling": "cls"},
    aliases=(
        ("encoder.layer.", "layers."),
        (".attention.attention.query.", ".attention.q_proj."),
        (".attention.attention.key.", ".attention.k_proj."),
        (".attention.attention.value.", ".attention.v_proj."),
        (".attention.output.dense.", ".attention.o_proj."),
        (".intermediate.dense.", ".mlp.fc1."),
        (".output.dense.", ".mlp.fc2."),
    ),
    tensors={
        "embeddings.patch_embedding.weight": Fold(
            "embeddings.patch_embeddings.projection.weight", "embeddings.patch_embeddings.projection.bias"
        ),
        "embeddings.cls_token": Copy("embeddings.cls_token"),
        "embeddings.position_embeddings": Copy("embeddings.position_embeddings"),
        **_block("layers.{i}", "layernorm_before", "layernorm_after", "attention", "o_proj", ("fc1", "fc2")),
        "norm.weight": Copy("layernorm.weight"),
    },
)

_DINOV2_BLOCK = {
    **_block("encoder.layer.{i}", "norm1", "norm2", "attention", "o_proj", ("fc1", "fc2")),
    **_scales("encoder.layer.{i}"),
}
_DINOV2 = Family(
    name="DINOv2",
    model_types=("dinov2",),
    model_class="Dinov2Model",
    towers=("dinov2",),
    blocks=("encoder.layer",),
    student={"pooling": "cls", "layer_scale": True},
    aliases=(
        (".attention.attention.query.", ".attention.q_proj."),
        (".attention.attention.key.", ".attention.k_proj."),
        (".attention.attention.value.", ".attention.v_proj."),
        (".attention.output.dense.", ".attention.o_proj."),
        (".mlp.weights_out.", ".mlp.down_proj."),
    ),
    tensors={
        "embeddings.patch_embedding.weight": Fold(
            "embeddings.patch_embeddings.projection.weight", "embeddings.patch_embeddings.projection.bias"
        ),
        "embeddings.cls_token": Copy("embeddings.cls_token"),
        "embeddings.position_embeddings": Copy("embeddings.position_embeddings"),
        **_DINOV2_BLOCK,
        "norm.weight": Copy("layernorm.weight"),
    },
)

_DINOV2_REGISTERS = Family(
    name="DINOv2 with registers",
    model_types=("dinov2_with_registers",),
    model_class="Dinov2WithRegistersModel",
    towers=("dinov2_with_registers",),
    blocks=("encoder.layer",),
    student={**_DINOV2.student, "position_interpolation": "bicubic-antialias"},
    aliases=_DINOV2.aliases,
    tensors={**_DINOV2.tensors, "embeddings.register_tokens": Copy("embeddings.register_tokens")},
)

_DINOV3 = Family(
    name="DINOv3",
    model_types=("dinov3_vit",),
    model_class="DINOv3ViTModel",
    towers=("dinov3_vit",),
    blocks=("model.layer", "layer"),
    student={"pooling": "cls", "layer_scale": True, "position_embedding": "rope"},
    aliases=(("model.layer.", "layer."),),
    tensors={
        "embeddings.patch_embedding.weight": Fold(
            "embeddings.patch_embeddings.weight", "embeddings.patch_embeddings.bias"
        ),
        "embeddings.cls_token": Copy("embeddings.cls_token"),
        "embeddings.register_tokens": Copy("embeddings.register_tokens"),
        **_block("layer.{i}", "norm1", "norm2", "attention", "o_proj", ("up_proj", "down_proj")),
        **_scales("layer.{i}"),
        "norm.weight": Copy("norm.weight"),
    },
)

_SIGLIP = Family(
    name="SigLIP",
    model_types=("siglip", "siglip_vision_model"),
    model_class="SiglipVisionModel",
    towers=("vision_model",),
    blocks=("encoder.layers",),
    mean=HALF,
    std=HALF,
    student={"pooling": "attention", "use_cls_token": False},
    tensors={
        "embeddings.patch_embedding.weight": Fold(
            "embeddings.patch_embedding.weight", "embeddings.patch_embedding.bias"
        ),
        "embeddings.position_embeddings": Copy("embeddings.position_embedding.weight"),
        **_block("encoder.layers.{i}", "layer_norm1", "layer_norm2", "self_attn", "out_proj", ("fc1", "fc2")),
        "norm.weight": Copy("post_layernorm.weight"),
        "pooler.probe": Copy("head.probe"),
        "pooler.q.weight": Part("head.attention.in_proj_weight", 0, 3),
        "pooler.kv.weight": Part("head.attention.in_proj_weight", 1, 3, stop=3),
        "pooler.out.weight": Copy("head.attention.out_proj.weight"),
        "pooler.norm.weight": Copy("head.layernorm.weight"),
        "pooler.mlp.up.weight": Copy("head.mlp.fc1.weight"),
        "pooler.mlp.down.weight": Copy("head.mlp.fc2.weight"),
    },
)

_SIGLIP2 = Family(
    name="SigLIP2 (NaFlex)",
    model_types=("siglip2", "siglip2_vision_model"),
    model_class="Siglip2VisionModel",
    towers=_SIGLIP.towers,
    blocks=_SIGLIP.blocks,
    mean=HALF,
    std=HALF,
    student={**_SIGLIP.student, "position_interpolation": "bilinear-antialias"},
    tensors=_SIGLIP.tensors,
)

FAMILIES = (_VIT, _DINOV2, _DINOV2_REGISTERS, _DINOV3, _SIGLIP, _SIGLIP2)

# A gated MLP where the teacher has one: separate projections, or the fused one of older DINOv2 layouts.
GATED: dict[str, tuple[Rule, ...]] = {
    "gate": (Copy("{block}.mlp.gate_proj.weight"), Part("{block}.mlp.weights_in.weight", 0, 2)),
    "up": (Copy("{block}.mlp.up_proj.weight"), Part("{block}.mlp.weights_in.weight", 1, 2)),
    "down": (Copy("{block}.mlp.down_proj.weight"),),
}
