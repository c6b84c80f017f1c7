"""What ALOE knows of each teacher family, as data: where its parts lie, and how they become a student's.

One `Family` per transformers architecture. `tensors` maps every student tensor to the teacher tensors it is made from;
`aliases` rename the layouts that other transformers releases have had to the one the table is written in. `convert.py`
makes students by them; nothing else in the package knows a teacher's parameter names.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from aloe.core.errors import UserError
from aloe.models.importer import translated
from aloe.models.rules import Concat, Copy, Either, Fold, Part, Rule

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)


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
        asks_to_interpolate: whether its forward must be told to interpolate positions for other sizes than the native one.
        norms_pooled_only: whether the tower's `last_hidden_state` is raw, its final norm applied to the CLS token alone.
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
    asks_to_interpolate: bool = False
    norms_pooled_only: bool = False
    student: dict[str, Any] = field(default_factory=dict)
    aliases: tuple[tuple[str, str], ...] = ()

    @property
    def final_norm(self) -> str:
        """Dotted path of the norm after the last block."""
        rule = self.tensors["norm.weight"]
        assert isinstance(rule, Copy)
        return rule.source.removesuffix(".weight")

    def table_name(self, name: str) -> str:
        """A tensor's name in this table's layout, whichever transformers release wrote it."""
        return translated(name, self.aliases)

    def inner_name(self, name: str) -> str:
        """A tensor's name inside the vision tower, without the levels around it."""
        for level in self.towers:
            name = name.removeprefix(f"{level}.")
        return name


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


def _gated(prefix: str) -> dict[str, Rule]:
    """DINOv2's MLP, plain or gated; older layouts have one product for gate and values."""
    fused = f"{prefix}.mlp.weights_in.weight"
    return {
        "layers.{i}.mlp.gate.weight": Either((Copy(f"{prefix}.mlp.gate_proj.weight"), Part(fused, 0, 2))),
        "layers.{i}.mlp.up.weight": Either(
            (Copy(f"{prefix}.mlp.fc1.weight"), Copy(f"{prefix}.mlp.up_proj.weight"), Part(fused, 1, 2))
        ),
        "layers.{i}.mlp.down.weight": Either(
            (Copy(f"{prefix}.mlp.fc2.weight"), Copy(f"{prefix}.mlp.down_proj.weight"))
        ),
    }


def _embedding(projection: str) -> Fold:
    return Fold(f"{projection}.weight", f"{projection}.bias")


_EARLIER_ATTENTION = (
    (".attention.attention.query.", ".attention.q_proj."),
    (".attention.attention.key.", ".attention.k_proj."),
    (".attention.attention.value.", ".attention.v_proj."),
    (".attention.output.dense.", ".attention.o_proj."),
)
_VIT = Family(
    name="ViT",
    model_types=("vit",),
    model_class="ViTModel",
    classifier_class="ViTForImageClassification",
    towers=("vit",),
    blocks=("layers", "encoder.layer"),
    mean=HALF,
    std=HALF,
    asks_to_interpolate=True,
    student={"pooling": "cls"},
    aliases=(
        ("encoder.layer.", "layers."),
        *_EARLIER_ATTENTION,
        (".intermediate.dense.", ".mlp.fc1."),
        (".output.dense.", ".mlp.fc2."),
    ),
    tensors={
        "embeddings.patch_embedding.weight": _embedding("embeddings.patch_embeddings.projection"),
        "embeddings.cls_token": Copy("embeddings.cls_token"),
        "embeddings.position_embeddings": Copy("embeddings.position_embeddings"),
        **_block("layers.{i}", "layernorm_before", "layernorm_after", "attention", "o_proj", ("fc1", "fc2")),
        "norm.weight": Copy("layernorm.weight"),
    },
)

_DINOV2_BLOCK = {
    **_block("encoder.layer.{i}", "norm1", "norm2", "attention", "o_proj", ("fc1", "fc2")),
    **_gated("encoder.layer.{i}"),
    **_scales("encoder.layer.{i}"),
}
_DINOV2 = Family(
    name="DINOv2",
    model_types=("dinov2",),
    model_class="Dinov2Model",
    towers=("dinov2",),
    blocks=("encoder.layer",),
    student={"pooling": "cls", "layer_scale": True},
    aliases=(*_EARLIER_ATTENTION, (".mlp.weights_out.", ".mlp.down_proj.")),
    tensors={
        "embeddings.patch_embedding.weight": _embedding("embeddings.patch_embeddings.projection"),
        "embeddings.cls_token": Copy("embeddings.cls_token"),
        "embeddings.position_embeddings": Copy("embeddings.position_embeddings"),
        **_DINOV2_BLOCK,
        "norm.weight": Copy("layernorm.weight"),
    },
)

_DINOV2_REGISTERS = replace(
    _DINOV2,
    name="DINOv2 with registers",
    model_types=("dinov2_with_registers",),
    model_class="Dinov2WithRegistersModel",
    towers=("dinov2_with_registers",),
    student={**_DINOV2.student, "position_interpolation": "bicubic-antialias"},
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
        "embeddings.patch_embedding.weight": _embedding("embeddings.patch_embeddings"),
        "embeddings.cls_token": Copy("embeddings.cls_token"),
        "embeddings.register_tokens": Copy("embeddings.register_tokens"),
        **_block("layer.{i}", "norm1", "norm2", "attention", "o_proj", ("up_proj", "down_proj")),
        "layers.{i}.mlp.gate.weight": Copy("layer.{i}.mlp.gate_proj.weight"),
        **_scales("layer.{i}"),
        "norm.weight": Copy("norm.weight"),
    },
)

_SIGLIP = Family(
    name="SigLIP",
    model_types=("siglip", "siglip_vision_model"),
    model_class="SiglipVisionModel",
    classifier_class="SiglipForImageClassification",
    towers=("vision_model",),
    blocks=("encoder.layers",),
    mean=HALF,
    std=HALF,
    asks_to_interpolate=True,
    student={"pooling": "attention", "use_cls_token": False},
    tensors={
        "embeddings.patch_embedding.weight": _embedding("embeddings.patch_embedding"),
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

_SIGLIP2 = replace(
    _SIGLIP,
    name="SigLIP2 (NaFlex)",
    model_types=("siglip2", "siglip2_vision_model"),
    model_class="Siglip2VisionModel",
    classifier_class="Siglip2ForImageClassification",
    asks_to_interpolate=False,
    student={**_SIGLIP.student, "position_interpolation": "bilinear-antialias"},
)

_CLIP = Family(
    name="CLIP",
    model_types=("clip", "clip_vision_model"),
    model_class="CLIPVisionModel",
    towers=("vision_model",),
    blocks=("encoder.layers",),
    mean=OPENAI_MEAN,
    std=OPENAI_STD,
    asks_to_interpolate=True,
    norms_pooled_only=True,
    student={"pooling": "cls", "pre_norm": True},
    tensors={
        "embeddings.patch_embedding.weight": Fold("embeddings.patch_embedding.weight", None),
        "embeddings.cls_token": Copy("embeddings.class_embedding"),
        "embeddings.position_embeddings": Copy("embeddings.position_embedding.weight"),
        "pre_norm.weight": Copy("pre_layrnorm.weight"),
        **_block("encoder.layers.{i}", "layer_norm1", "layer_norm2", "self_attn", "out_proj", ("fc1", "fc2")),
        "norm.weight": Copy("post_layernorm.weight"),
    },
)

FAMILIES = (_VIT, _DINOV2, _DINOV2_REGISTERS, _DINOV3, _SIGLIP, _SIGLIP2, _CLIP)


def family_of(model_type: str | None) -> Family:
    """The family of a transformers `model_type`.

    Raises:
        UserError: for any other architecture, listing the supported ones.
    """
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    types = ", ".join(t for f in FAMILIES for t in f.model_types)
    raise UserError(f"Model type {model_type!r} cannot be converted; ALOE takes {types}.")
