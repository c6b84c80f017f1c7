"""The authors' published checkpoints as students of ALOE: read natively from safetensors, without their code.

`load_published` translates the config, whose differences in the forward pass become fields of `BcosViTConfig` (normalised
encoding, unit without ||w||, variance norm in the stem, exact GELU), and renames every tensor by the one table of
`published_layout.py`: none left over, none missing, every shape checked.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aloe.core.errors import UserError
from aloe.core.files import read_object
from aloe.models.configuration import BcosViTConfig, stem_stride
from aloe.models.geometry import side, square_grid
from aloe.models.hub import explain_hub_errors
from aloe.models.importer import import_tensors, read_tensors, written_out
from aloe.models.labels import label_table, labels_of
from aloe.models.modeling import BcosViTForImageClassification, BcosViTModel
from aloe.models.processor import NAME as PROCESSOR
from aloe.models.processor import normalisation
from aloe.models.published_layout import (
    ACTIVATIONS,
    CLASSIFIER,
    FINAL_NORM,
    KINDS,
    LEVEL,
    LICENCE,
    POOLINGS,
    POSITION_TABLE,
    POSITIONS,
    TENSORS,
    VARIANTS,
    Kind,
)
from aloe.models.rules import Copy
from aloe.models.stated import plain_fields
from aloe.models.unwrap import common_prefix

FILES = ("config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json")
BACKBONE_KEYS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
COUNTS = (*BACKBONE_KEYS, "num_patches", "aloe_patch_size", "aloe_in_channels", "aloe_num_registers")
REALS = (
    "layer_norm_eps",
    "aloe_b_linear",
    "aloe_b_conv",
    "aloe_rope_theta",
    "aloe_logit_temperature",
    "aloe_logit_bias",
)
NOT_IN_LAYOUT = ("use_gated_mlp", "use_swiglu_ffn")
_SUFFIXES = ("_vision", "_image_classification")


def is_published(model_type: Any) -> bool:
    """Whether a config's `model_type` is one of the authors' checkpoints (also of a kind that is not known here)."""
    return isinstance(model_type, str) and model_type.startswith("aloe_") and model_type.endswith(_SUFFIXES)


def load_published(
    source: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    attn_implementation: str | None = None,
    ignore: Collection[str] = (),
    **others: Any,
) -> BcosViTModel | BcosViTForImageClassification:
    """One of the authors' checkpoints, from a hub id or a local copy, in eval mode.

    Args:
        dtype: of the parameters; default: float32, whatever the file holds.
        revision: of the hub repository. attn_implementation: as for other students, `sdpa` or `eager`.
        ignore: config keys that this version does not know and that are to be passed over.

    `config.teacher` names the teacher, the source and the licence, which is also logged.

    Raises:
        UserError: nothing there or unreachable, not safetensors or truncated, another model type, a config key or value
            that is not known, or a tensor that is missing, left over or of another shape; or an option that only
            transformers' own checkpoints take.
    """
    name = str(source)
    if others:
        raise UserError(
            f"{name} is a published checkpoint, for which {min(others)} cannot be given; convert it once instead."
        )
    parameters = _dtype(dtype)
    with explain_hub_errors(name):
        folder = Path(name) if Path(name).is_dir() else _download(name, revision)
        values = plain_fields(read_object(folder / "config.json", "fetch it again"), name)
        kind = _kind(name, values.get("model_type"))
        tensors = _own_names(name, read_tensors(folder, name))
        head, positions = tensors.get(CLASSIFIER), tensors.get(POSITION_TABLE)
        rows = None if positions is None else len(positions)
        config = _translate(name, values, kind, rows, head, _processor(folder), ignore)
        wants_head = str(values["model_type"]).endswith("_image_classification")
        if wants_head != (head is not None):
            raise UserError(f"{name}: {CLASSIFIER!r} is {'missing' if wants_head else 'left over'}.")
        model_class = BcosViTForImageClassification if wants_head else BcosViTModel
        with torch.device("meta"):
            student: Any = model_class(config)
        student.load_state_dict(_import(name, student, tensors, parameters), assign=True)
        if attn_implementation:
            student.set_attn_implementation(attn_implementation)
    logging.getLogger("aloe").warning("%s is licensed %s (its authors' terms, not ALOE's).", name, LICENCE)
    return student.requires_grad_(True).eval()


def _translate(
    name: str,
    values: dict[str, Any],
    kind: Kind,
    rows: int | None,
    head: Tensor | None,
    processor: dict[str, Any],
    ignore: Collection[str],
) -> BcosViTConfig:
    """Their config, its defaults and the tensors' shapes -> ours. rows: of the table of positions, if there is one."""
    facts = kind.defaults | {k: v for k, v in values.items() if v is not None}
    _check_keys(name, facts, kind, ignore)
    widths = list(facts["aloe_add_conv_stem"] or []) or None
    stride = stem_stride(widths or [])
    patch = math.ceil(facts["aloe_patch_size"] / stride) * stride
    theta = float(facts["aloe_rope_theta"])
    position = _choice(name, "aloe_position_embedding_type", facts, POSITIONS)
    pooling = _choice(name, "aloe_pooler_type", facts, POOLINGS)
    cls, registers = bool(facts["aloe_cls_token"]), facts["aloe_num_registers"]
    if pooling == "mean" and (cls or registers):
        raise UserError(f"{name}: aloe_pooler_type 'mean' beside CLS or register tokens is not a known layout.")
    mean, std = _normalisation(kind, processor)
    config = BcosViTConfig(
        **{key: values[key] for key in BACKBONE_KEYS},
        hidden_act=_choice(name, "hidden_act", {"hidden_act": "gelu"} | facts, ACTIVATIONS),
        layer_norm_eps=float(facts.get("layer_norm_eps", 1e-6)),
        image_size=_native_side(name, facts, None if position == "rope" else rows, patch, int(cls)),
        patch_size=patch,
        b=facts["aloe_b_linear"],
        b_conv=facts["aloe_b_conv"] if widths else None,
        stem="conv" if widths else "patch",
        stem_widths=widths,
        conv_norm_eps=1e-6 if widths else 0.0,
        stem_norm="variance" if widths else "rms",
        stem_norm_eps=1e-5 if widths else 1e-6,
        encoding="normalized",
        image_mean=mean,
        image_std=std,
        bcos_variant=_choice(name, "aloe_bcos_impl", facts, VARIANTS),
        use_cls_token=cls,
        num_register_tokens=registers,
        position_embedding=position,
        rope_theta=100.0 if theta == 10000 and facts.get("rope_theta") == 100 else theta,
        layer_scale=bool(facts["aloe_use_layer_scale"]),
        pooling=pooling,
        teacher={
            "name": facts["aloe_base_model_name"],
            "stage": "aligned",
            "family": kind.family,
            "source": Path(name).name if Path(name).exists() else name,
            "licence": LICENCE,
        },
        **({} if head is None else _labels(name, values, len(head))),
    )
    if head is not None:
        on = facts["aloe_use_logit_layer"]
        on = len(head) > 1 if on is None else bool(on)
        bias = facts["aloe_logit_bias"]
        if on and bias is None and len(head) < 2:
            raise UserError(f"{name}: aloe_use_logit_layer with one label needs aloe_logit_bias.")
        config.logit_bias = float(-math.log(len(head) - 1) if bias is None else bias) if on else 0.0
        config.logit_scale = float(facts["aloe_logit_temperature"] or 1.0)
    return config


def _check_keys(name: str, values: dict[str, Any], kind: Kind, ignore: Collection[str]) -> None:
    missing = [key for key in BACKBONE_KEYS if key not in values]
    if missing:
        raise UserError(f"{name}: config.json does not state {missing[0]}.")
    for key, value in values.items():
        count = key in COUNTS and (not isinstance(value, int) or value < (key != "aloe_num_registers"))
        if count or (key in REALS and not isinstance(value, int | float | None)):
            raise UserError(f"{name}: {key} is {value!r}, which is no number that a model can have.")
    unknown = sorted(k for k in values if k.startswith("aloe_") and k not in kind.defaults and k not in ignore)
    if unknown:
        told = ", ".join(f"{key} = {values[key]!r}" for key in unknown)
        flags = " ".join(f"--ignore {key}" for key in unknown)
        raise UserError(
            f"{name}: config key {told} is not known to this version, and may change the forward pass; if it does not, "
            f"pass it over: aloe convert-checkpoint {name} -o FOLDER {flags}."
        )
    channels = values.get("aloe_in_channels", 6)
    if channels != 6:
        raise UserError(f"{name}: aloe_in_channels is {channels}; only six channels are known.")
    gated = next((key for key in NOT_IN_LAYOUT if values.get(key)), None)
    if gated:
        raise UserError(f"{name}: {gated} is not part of the published layout.")


def _choice(name: str, key: str, values: dict[str, Any], choices: dict[str, str]) -> str:
    if values[key] not in choices:
        raise UserError(f"{name}: {key} {values[key]!r} is not supported; known: {', '.join(choices)}.")
    return choices[values[key]]


def _native_side(name: str, facts: dict[str, Any], rows: int | None, patch: int, cls: int) -> int:
    """Native pixels on a side: of the position table's square grid where there is one, else as the config says.

    The config's image size may be the teacher's (384 pixels of patch 14), so its grid counts by any patch size it states.
    """
    count, stated = facts.get("num_patches"), facts.get("image_size")
    pixels = None if stated is None else side(stated, f"{name}: image_size")
    if rows is None:
        return (pixels // facts["aloe_patch_size"] if pixels else math.isqrt(int(count or 196))) * patch
    grid = square_grid(rows, (cls,))
    patches = {patch, facts["aloe_patch_size"], facts.get("patch_size") or patch}
    grids = {pixels // p for p in patches} if pixels else {grid} if count is None else set()
    if grid is None or not (grid in grids or count == grid**2):
        raise UserError(
            f"{name}: the position table has {rows - cls} patch rows, which is not the grid the config describes."
        )
    return grid * patch


def _labels(name: str, values: dict[str, Any], rows: int) -> dict[str, Any]:
    names = label_table(values, rows, name)
    return {"num_labels": rows} if names is None else labels_of(names)


def _normalisation(kind: Kind, processor: dict[str, Any]) -> tuple[list[float], list[float]]:
    """The teacher's mean and std, which come before 1 - x is appended: as the image processor says, else the family's."""
    mean, std = normalisation(processor, kind.mean, kind.std, "preprocessor_config.json")
    return list(mean), list(std)


def _import(name: str, student: Any, tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Our state dict from their tensors, each used once."""
    level = "vit." if isinstance(student, BcosViTForImageClassification) else ""
    stages = len(student.config.stem_widths or [])
    table = written_out(TENSORS, i=student.config.num_hidden_layers, j=stages)
    rules = {level + key: rule for key, rule in table.items()} | {"classifier.weight": Copy(CLASSIFIER)}
    result = import_tensors(student.state_dict(), rules, tensors, name, "the published layout")
    return {key: tensor.to(dtype) for key, tensor in result.tensors.items()}


def _own_names(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the layout's names, whatever stands before those of the backbone, which its final norm shows."""
    prefixes = [key.removesuffix(FINAL_NORM) for key in tensors if key.endswith(FINAL_NORM)]
    if len(prefixes) != 1:
        raise UserError(f"{name}: tensor {LEVEL + FINAL_NORM!r} is missing, so this is not the published layout.")
    head = common_prefix(list(tensors)) + CLASSIFIER  # a wrapper's level stands before it as well
    own = {key: LEVEL + key.removeprefix(prefixes[0]) for key in tensors if key.startswith(prefixes[0])}
    return {CLASSIFIER if key == head else own.get(key, key): tensor for key, tensor in tensors.items()}


def _dtype(choice: torch.dtype | str | None) -> torch.dtype:
    dtype = getattr(torch, choice, None) if isinstance(choice, str) else choice or torch.float32
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise UserError(f"There is no dtype {choice!r} for a model; give float32, bfloat16 or float16.")
    return dtype


def _kind(name: str, model_type: Any) -> Kind:
    types = [f"aloe_{kind}{suffix}" for kind in KINDS for suffix in _SUFFIXES]
    if model_type not in types:
        raise UserError(f"{name} is a {model_type} model, not a published checkpoint; known: {', '.join(types)}.")
    return KINDS[str(model_type).split("_")[1]]


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))


def _processor(folder: Path) -> dict[str, Any]:
    path = folder / PROCESSOR
    return read_object(path, "fetch it again") if path.is_file() else {}
