"""Teachers in timm's state-dict layout, without timm: a hub id or folder with its config.json, or a safetensors file.

The layout (`timm_layouts.py`) is chosen by the architecture's name and names the transformers tower that computes the same;
its configuration is read off the tensors' shapes, and every tensor is either used or named in the teacher's `unread`. What
shapes cannot tell comes from the config.json, else from the architecture's name; what neither tells is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aloe.core.bounds import MAX_SIDE
from aloe.core.errors import UserError
from aloe.core.files import read_json
from aloe.models.headers import check_finite, check_header
from aloe.models.processor import normalisation
from aloe.models.rules import assemble, renamed, same_but_for_unit_axes, sources_of
from aloe.models.stated import plain_fields
from aloe.models.teachers import Teacher, family_of, head_note
from aloe.models.timm_layouts import (
    ACTIVATION_NAMES,
    ACTIVATIONS,
    HEADS,
    NORMALISATIONS,
    TOLD_BY_TENSORS,
    HostRule,
    Layout,
    Positions,
    Zeros,
    layout_of,
)
from aloe.models.unwrap import common_prefix, plain_name

DINOV3_IMAGE_SIZE = 256  # timm's, where a file alone does not say it: rotary positions leave no trace in the tensors


@dataclass
class _Source:
    """One checkpoint: its tensors, and what is stated beside them (fields of timm's config.json and `pretrained_cfg`)."""

    name: str
    architecture: str
    tag: str
    tensors: dict[str, Tensor]
    stated: dict[str, Any] = field(default_factory=dict)

    @property
    def full_name(self) -> str:
        return f"{self.architecture}.{self.tag}"

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.stated.get("model_args") or {})


def is_timm_config(values: dict[str, Any]) -> bool:
    """Whether the fields of a config.json are timm's (transformers calls such a folder `timm_wrapper`)."""
    return "architecture" in values and values.get("model_type", "timm_wrapper") == "timm_wrapper"


def load_timm(
    source: str | Path,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resolution: int | None = None,
    dtype: torch.dtype = torch.float32,
    architecture: str | None = None,
) -> Teacher:
    """A teacher from a hub id, a folder with timm's config.json, or a safetensors file.

    Args:
        source: a file alone is taken for the architecture that its name (or its folder's, for `model.safetensors`) says,
            as in `vit_base_patch16_224.augreg_in21k.safetensors`; a config.json of timm beside it goes first.
        mean, std, resolution: as in `load_teacher`.
        architecture: timm's name, with or without `.tag`; default: what is stated.

    Raises:
        UserError: not safetensors, truncated, an architecture or argument that has no student, a tensor that is missing, left
            over or of another shape than its layout has, or normalisation or head count that nothing tells.
    """
    try:
        found = _open(str(source), architecture)
        layout = layout_of(found.architecture)
        if layout is None or "dist_token" in found.tensors:
            raise UserError(
                f"{found.name}: timm's architecture {found.architecture!r} cannot be converted; ALOE takes its ViT, DeiT, "
                "DeiT III, DINOv2, TIPSv2, DINOv3, SigLIP and CLIP towers, not distilled ones, hybrids or variants."
            )
        found.tensors = {_alias(name, layout): tensor for name, tensor in found.tensors.items()}
        config, class_name = _host(found, layout)
        mean, std = _normalisation(found, mean, std)
    except UserError:
        raise
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:  # how wrong fields show
        raise UserError(f"{source}: its config.json has a field of a wrong type or value: {error}.") from error
    tower, unread = _build(found, layout, config, class_name, dtype)
    check_finite(tower, found.name)
    teacher = Teacher(tower, found.name, mean, std, resolution or _resolution(found, config), keep_half=True)
    teacher.unread = tuple(unread)
    if "head.weight" in unread:
        teacher.note = head_note(found.name, "timm's head.weight")
    return teacher


def _open(name: str, architecture: str | None) -> _Source:
    """The tensors and what is stated beside them."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(name)
    single = path.suffix == ".safetensors"
    if single and not path.is_file():
        raise UserError(f"There is no file {name}.")
    weights, stated = (path, _read_json(path.parent)) if single else _fetch(name)
    label = path.stem if single and path.stem != "model" else (path.absolute().parent if single else path).name
    known = architecture or str(stated.get("architecture") or label)
    known, _, tag = known.partition(".")
    tag = tag or str(stated.get("tag") or label.partition(".")[2])
    try:
        check_header(weights)
        tensors = load_file(weights)
        if odd := next((k for k, t in tensors.items() if not t.is_floating_point()), None):
            raise UserError(f"{name}: {odd!r} holds {tensors[odd].dtype}, not floating-point numbers.")
    except SafetensorError as error:
        raise UserError(f"{name}: the safetensors file is truncated or corrupt ({error}); fetch it again.") from error
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error}.") from error
    tensors = _without_prefix(tensors)
    return _Source(label if path.exists() else name, known, tag, tensors, stated)


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors whose every name stands behind `module.`, `_orig_mod.` or the like, under timm's names."""
    plain = {plain_name(name): tensor for name, tensor in tensors.items()}
    prefix = common_prefix(list(plain))
    return {name.removeprefix(prefix): tensor for name, tensor in plain.items()}


def _fetch(name: str) -> tuple[Path, dict[str, Any]]:
    """model.safetensors and the stated fields of a folder or hub id."""
    from transformers.utils import cached_file

    from aloe.models.hub import explain_hub_errors

    with explain_hub_errors(name):
        config = Path(str(cached_file(name, "config.json")))
        weights = cached_file(name, "model.safetensors", _raise_exceptions_for_missing_entries=False)
    if weights is None:
        raise UserError(f"{name} has no model.safetensors; only safetensors are loaded, never pickled weights.")
    return Path(str(weights)), _read_json(config.parent)


def _read_json(folder: Path) -> dict[str, Any]:
    """The fields of timm's config.json with those of its `pretrained_cfg`; nothing where there is none or it is another's."""
    path = folder / "config.json"
    try:
        values = read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); fetch it again or take it away.") from error
    if not isinstance(values, dict) or not is_timm_config(values):
        return {}
    return plain_fields({**(values.get("pretrained_cfg") or {}), **values}, str(path))


def _host(found: _Source, layout: Layout) -> tuple[Any, str]:
    """Configuration and class name of the transformers tower, from the shapes of the tensors."""
    import transformers

    extra = sorted(found.arguments.keys() - TOLD_BY_TENSORS - {"num_heads", "act_layer"})
    if extra:
        raise UserError(f"{found.name}: the argument {extra[0]!r} of its config.json has no form here.")
    patch = _tensor(found, "patch_embed.proj.weight")
    down = _tensor(found, "blocks.0.mlp.fc2.weight")
    if patch.ndim != 4 or patch.shape[1] != 3 or patch.shape[2] != patch.shape[3] or down.ndim != 2:
        raise UserError(f"{found.name}: patch embedding {tuple(patch.shape)} is not of square patches of RGB images.")
    width, side, hidden = patch.shape[0], patch.shape[2], down.shape[1]
    gated = "blocks.0.mlp.fc1_g.weight" in found.tensors or len(_tensor(found, "blocks.0.mlp.fc1.weight")) == 2 * hidden
    blocks = {name.split(".")[1] for name in found.tensors if name.startswith("blocks.")}
    values: dict[str, Any] = {
        **layout.config,
        "hidden_size": width,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": _heads(found, layout, width),
        "patch_size": side,
        "image_size": _image_size(found, side),
        "hidden_act": "silu" if gated else _activation(found),
    }
    if "Dinov2" in layout.config_class:
        values["use_swiglu_ffn"], values["mlp_ratio"] = gated, 4 if gated else hidden // width
        wanted = (int(width * 4 * 2 / 3) + 7) // 8 * 8 if gated else hidden // width * width
        if hidden != wanted:
            raise UserError(
                f"{found.name}: an MLP of {hidden} hidden units at width {width} has no form in transformers."
            )
    else:
        values["intermediate_size"] = hidden
    if "reg_token" in found.tensors:
        values["num_register_tokens"] = found.tensors["reg_token"].shape[1]
    if layout.model_class == "DINOv3ViTModel":
        biased = "blocks.0.attn.q_bias" in found.tensors
        values |= {"use_gated_mlp": gated, "query_bias": biased, "value_bias": biased}
    if layout.model_class == "SiglipVisionModel":
        values["vision_use_head"] = "attn_pool.latent" in found.tensors
    head = found.tensors.get("head.weight")
    reads_cls = found.stated.get("global_pool", "token") == "token"
    classifies = head is not None and layout.classifier_class is not None and reads_cls
    if classifies and head is not None:
        values |= _labels(found.stated.get("label_names"), len(head))
    config = getattr(transformers, layout.config_class)(**values)
    return config, layout.classifier_class if classifies and layout.classifier_class else layout.model_class


def _build(
    found: _Source, layout: Layout, config: Any, class_name: str, dtype: torch.dtype
) -> tuple[torch.nn.Module, list[str]]:
    """The tower with timm's tensors, and the names of those left over."""
    import transformers

    model_class: Any = getattr(transformers, class_name)
    options = {"add_pooling_layer": False} if class_name == "ViTModel" else {}
    with torch.device("meta"):
        shell = model_class(config, **options)
    made, left = _assemble(found, layout, shell)
    model, report = model_class.from_pretrained(
        None, config=config, state_dict=made, dtype=dtype, output_loading_info=True, **options
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return model, left


def _assemble(found: _Source, layout: Layout, shell: Any) -> tuple[dict[str, Tensor], list[str]]:
    """Every tensor of the tower from timm's, and the names of those left over."""
    family = family_of(shell.config.model_type)
    rules = _rules(layout, shell.config.num_hidden_layers)
    made: dict[str, Tensor] = {}
    used: set[str] = set()
    for name, like in shell.state_dict().items():
        inner = name
        for level in family.towers:
            inner = inner.removeprefix(f"{level}.")
        rule = rules.get(family.table_name(inner))
        if rule is None:
            raise UserError(
                f"{found.name}: transformers' {type(shell).__name__} has a tensor {name!r} that this layout does not know; "
                "releases 5.17 to 5.23 are known."
            )
        made[name] = _make(rule, found, like, used)
    left = sorted(found.tensors.keys() - used)
    strange = [name for name in left if name.split(".")[0] not in layout.unread]
    if strange:
        raise UserError(
            f"{found.name}: {len(strange)} tensors are no part of {found.architecture} as timm has it, first {strange[0]!r}."
        )
    return made, left


def _rules(layout: Layout, depth: int) -> dict[str, HostRule]:
    """The layout's table with its blocks written out."""
    rules: dict[str, HostRule] = {}
    for name, rule in (layout.tensors | layout.classifier).items():
        for i in range(depth if "{i}" in name else 1):
            fixed = isinstance(rule, Positions | Zeros)
            rules[name.format(i=i)] = rule if fixed else renamed(rule, "{i}", str(i))  # type: ignore[arg-type]
    return rules


def _make(rule: HostRule, found: _Source, like: Tensor, used: set[str]) -> Tensor:
    if isinstance(rule, Zeros):
        return torch.zeros(like.shape)
    names = (rule.source,) if isinstance(rule, Positions) else sources_of(rule)
    parts = [_tensor(found, name) for name in names]
    used.update(names)
    if isinstance(rule, Positions):
        rows = parts[0].flatten(0, -2)
        lacking = like.shape[-2] - len(rows)
        value = torch.cat((rows.new_zeros(max(lacking, 0), rows.shape[1]), rows))
    else:
        value = assemble(rule, found.tensors)  # type: ignore[arg-type]
    if not same_but_for_unit_axes(value, like):
        raise UserError(
            f"{found.name}: {names[0]} has shape {tuple(parts[0].shape)}, which does not fit {found.architecture} of width "
            f"{_tensor(found, 'patch_embed.proj.weight').shape[0]}."
        )
    return value.reshape(like.shape)


def _tensor(found: _Source, name: str) -> Tensor:
    if name not in found.tensors:
        raise UserError(f"{found.name}: tensor {name!r} of timm's {found.architecture} is missing from the file.")
    return found.tensors[name]


def _alias(name: str, layout: Layout) -> str:
    for other, ours in layout.aliases:
        name = name.replace(other, ours)
    return name


def _heads(found: _Source, layout: Layout, width: int) -> int:
    heads = found.arguments.get("num_heads") or layout.heads.get(width) or HEADS.get(width)
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise UserError(
            f"{found.name}: how many attention heads a width of {width} has cannot be seen; add num_heads to model_args in a "
            "config.json beside it."
        )
    return int(heads)


def _activation(found: _Source) -> str:
    given = found.arguments.get("act_layer")
    if given is not None:
        if given not in ACTIVATION_NAMES:
            raise UserError(
                f"{found.name}: the activation {given!r} has no B-cos form; known: {', '.join(ACTIVATION_NAMES)}."
            )
        return ACTIVATION_NAMES[given]
    return next((name for pattern, name in ACTIVATIONS if re.search(pattern, found.full_name)), "gelu")


def _image_size(found: _Source, patch: int) -> int:
    """Native pixels on a side: the stated ones where they have the grid of the position embeddings, else its own."""
    stated = _input_side(found)
    if "pos_embed" not in found.tensors:
        return stated or DINOV3_IMAGE_SIZE
    rows = found.tensors["pos_embed"].shape[-2]
    side = next((isqrt(n) for n in (rows, rows - 1) if n > 0 and isqrt(n) ** 2 == n), None)
    if side is None:
        raise UserError(
            f"{found.name}: {rows} position embeddings are not those of a square image with at most a CLS token."
        )
    return stated if stated and stated // patch == side else side * patch


def _input_side(found: _Source) -> int | None:
    size = found.arguments.get("img_size") or (found.stated.get("input_size") or [3, None])[1:]
    sides = set(size) if isinstance(size, list | tuple) else {size}
    if len(sides) != 1:
        raise UserError(f"{found.name}: only square images are supported, its config.json says {size}.")
    side = sides.pop()
    if side is not None and (not isinstance(side, int) or not 1 <= side <= MAX_SIDE):
        raise UserError(f"{found.name}: its config.json states an image size of {side!r} pixels.")
    return side


def _resolution(found: _Source, config: Any) -> int:
    side = _input_side(found)
    return side if side and side % config.patch_size == 0 else int(config.image_size)


def _normalisation(
    found: _Source, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[Sequence[float], Sequence[float]]:
    known = next((pair for pattern, pair in NORMALISATIONS if re.search(pattern, found.full_name)), (None, None))
    mean = mean or found.stated.get("mean") or known[0]
    std = std or found.stated.get("std") or known[1]
    if mean is None or std is None:
        raise UserError(
            f"{found.name}: its normalisation cannot be told from the name {found.full_name.rstrip('.')!r}; keep timm's "
            "config.json beside it, name the file as timm does (vit_base_patch16_224.augreg_in21k) or give mean and std."
        )
    return normalisation({}, mean, std, found.name, prefix="")


def _labels(names: Any, count: int) -> dict[str, Any]:
    """`num_labels`, with the names of classes where all of them are stated."""
    if isinstance(names, dict):
        names = [names.get(str(i)) for i in range(count)]
    if not isinstance(names, list) or len(names) != count or None in names:
        return {"num_labels": count}
    return {"id2label": dict(enumerate(map(str, names))), "label2id": {str(n): i for i, n in enumerate(names)}}
