"""Teachers in timm's state-dict layout, without timm: a hub id or folder with its config.json, or a safetensors file.

The layout (`timm_layouts.py`) is chosen by the architecture's name and names the transformers tower that computes the same;
its configuration is read off the tensors' shapes, and every tensor is either used or named in the teacher's `unread`. What
shapes cannot tell comes from the config.json, else from the architecture's name; what neither tells is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aloe.core.bounds import MAX_SIDE
from aloe.core.errors import UserError
from aloe.core.files import read_json
from aloe.models.families import family_of
from aloe.models.geometry import square_grid
from aloe.models.headers import check_finite
from aloe.models.importer import Tower, import_tensors, read_tensors, translated, written_out
from aloe.models.processor import normalisation
from aloe.models.stated import plain_fields
from aloe.models.timm_layouts import (
    ACTIVATION_NAMES,
    ACTIVATIONS,
    HEADS,
    NORMALISATIONS,
    TOLD_BY_TENSORS,
    Layout,
    layout_of,
)
from aloe.models.unwrap import common_prefix, plain_name

DINOV3_IMAGE_SIZE = 256  # timm's, where a file alone does not say it: rotary positions leave no trace in the tensors


@dataclass
class _Source:
    """Its tensors, and what is stated beside them (fields of timm's config.json and `pretrained_cfg`)."""

    name: str
    architecture: str
    tag: str
    tensors: dict[str, Tensor]
    stated: dict[str, Any] = field(default_factory=dict)

    def tensor(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise UserError(f"{self.name}: tensor {name!r} of timm's {self.architecture} is missing.")
        return self.tensors[name]

    @property
    def full_name(self) -> str:
        return f"{self.architecture}.{self.tag}"

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.stated.get("model_args") or {})


def is_timm_config(values: dict[str, Any]) -> bool:
    """Whether the fields of a config.json are timm's (transformers calls such a folder `timm_wrapper`)."""
    return "architecture" in values and values.get("model_type", "timm_wrapper") == "timm_wrapper"


def read_timm(
    place: str,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: torch.dtype = torch.float32,
    architecture: str | None = None,
) -> Tower:
    """The tower of a hub id, a folder with timm's config.json, or a safetensors file.

    Args:
        place: a file alone is taken for the architecture that its name (or its folder's, for `model.safetensors`) says,
            as in `vit_base_patch16_224.augreg_in21k.safetensors`; a config.json of timm beside it goes first.
        mean, std: override what is stated.
        architecture: timm's name, with or without `.tag`; default: what is stated.

    Raises:
        UserError: not safetensors, truncated, an architecture or argument that has no student, a tensor that is missing, left
            over or of another shape than its layout has, or normalisation or head count that nothing tells.
    """
    try:
        source = _open(place, architecture)
        layout = layout_of(source.architecture)
        if layout is None or "dist_token" in source.tensors:
            raise UserError(
                f"{source.name}: timm's architecture {source.architecture!r} cannot be converted; ALOE takes its ViT, "
                "DeiT, DeiT III, DINOv2, TIPSv2, DINOv3, SigLIP and CLIP towers, not distilled ones, hybrids or variants."
            )
        source.tensors = {translated(name, layout.aliases): t for name, t in source.tensors.items()}
        config, class_name = _host(source, layout)
        mean, std = _normalisation(source, mean, std)
    except UserError:
        raise
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:  # how wrong fields show
        raise UserError(f"{place}: its config.json has a field of a wrong type or value: {error}.") from error
    model, unread = _build(source, layout, config, class_name, dtype)
    check_finite(model, source.name)
    resolution = _resolution(source, config)
    other = "timm's head.weight" if "head.weight" in unread else ""
    return Tower(model, source.name, tuple(mean), tuple(std), resolution, tuple(unread), other)


def _open(name: str, architecture: str | None) -> _Source:
    """The tensors and what is stated beside them."""
    path = Path(name)
    if path.suffix == ".safetensors":
        if not path.is_file():
            raise UserError(f"There is no file {name}.")
        fields, tensors = _read_json(path.parent), read_tensors(path, name)
        label = path.parent.absolute().name if path.stem == "model" else path.stem
    else:
        label = path.name
        fields, tensors = _fetch_fields(name), read_tensors(name, name)
    stated_name = architecture or str(fields.get("architecture") or label)
    base, _, tag = stated_name.partition(".")
    tag = tag or str(fields.get("tag") or label.partition(".")[2])
    return _Source(label if path.exists() else name, base, tag, _without_prefix(tensors), fields)


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors whose every name stands behind `module.`, `_orig_mod.` or the like, under timm's names."""
    plain = {plain_name(name): tensor for name, tensor in tensors.items()}
    prefix = common_prefix(list(plain))
    return {name.removeprefix(prefix): tensor for name, tensor in plain.items()}


def _fetch_fields(name: str) -> dict[str, Any]:
    """The stated fields of a folder or hub id."""
    from transformers.utils import cached_file

    return _read_json(Path(str(cached_file(name, "config.json"))).parent)


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


def _host(source: _Source, layout: Layout) -> tuple[Any, str]:
    """Configuration and class name of the transformers tower, from the shapes of the tensors."""
    import transformers

    extra = sorted(source.arguments.keys() - TOLD_BY_TENSORS - {"num_heads", "act_layer"})
    if extra:
        raise UserError(f"{source.name}: the argument {extra[0]!r} of its config.json has no form here.")
    patch = source.tensor("patch_embed.proj.weight")
    down = source.tensor("blocks.0.mlp.fc2.weight")
    if patch.ndim != 4 or patch.shape[1] != 3 or patch.shape[2] != patch.shape[3] or down.ndim != 2:
        raise UserError(f"{source.name}: patch embedding {tuple(patch.shape)} is not of square patches of RGB images.")
    width, side, hidden = patch.shape[0], patch.shape[2], down.shape[1]
    gated = "blocks.0.mlp.fc1_g.weight" in source.tensors or len(source.tensor("blocks.0.mlp.fc1.weight")) == 2 * hidden
    blocks = {name.split(".")[1] for name in source.tensors if name.startswith("blocks.")}
    values: dict[str, Any] = {
        **layout.config,
        "hidden_size": width,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": _heads(source, layout, width),
        "patch_size": side,
        "image_size": _native_side(source, side),
        "hidden_act": "silu" if gated else _activation(source),
    }
    if "Dinov2" in layout.config_class:
        values["use_swiglu_ffn"], values["mlp_ratio"] = gated, 4 if gated else hidden // width
        expected = (int(width * 4 * 2 / 3) + 7) // 8 * 8 if gated else hidden // width * width
        if hidden != expected:
            raise UserError(
                f"{source.name}: an MLP of {hidden} hidden units at width {width} has no form in transformers."
            )
    else:
        values["intermediate_size"] = hidden
    if "reg_token" in source.tensors:
        values["num_register_tokens"] = source.tensors["reg_token"].shape[1]
    if layout.model_class == "DINOv3ViTModel":
        biased = "blocks.0.attn.q_bias" in source.tensors
        values |= {"use_gated_mlp": gated, "query_bias": biased, "value_bias": biased}
    if layout.model_class == "SiglipVisionModel":
        values["vision_use_head"] = "attn_pool.latent" in source.tensors
    head = source.tensors.get("head.weight")
    reads_cls = source.stated.get("global_pool", "token") == "token"
    classifies = head is not None and layout.classifier_class is not None and reads_cls
    if classifies and head is not None:
        values |= _labels(source.stated.get("label_names"), len(head))
    config = getattr(transformers, layout.config_class)(**values)
    return config, layout.classifier_class if classifies and layout.classifier_class else layout.model_class


def _build(
    source: _Source, layout: Layout, config: Any, class_name: str, dtype: torch.dtype
) -> tuple[torch.nn.Module, list[str]]:
    """The tower with timm's tensors, and the names of those left over."""
    import transformers

    model_class: Any = getattr(transformers, class_name)
    options = {"add_pooling_layer": False} if class_name == "ViTModel" else {}
    with torch.device("meta"):
        shell = model_class(config, **options)
    weights, left = _assemble(source, layout, shell)
    model, report = model_class.from_pretrained(
        None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True, **options
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return model, left


def _assemble(source: _Source, layout: Layout, shell: Any) -> tuple[dict[str, Tensor], list[str]]:
    """Every tensor of the tower from timm's, and the names of those left over."""
    family, own = family_of(shell.config.model_type), shell.state_dict()
    table = written_out(layout.tensors | layout.classifier, i=shell.config.num_hidden_layers)
    rows = {name: family.table_name(family.inner_name(name)) for name in own}
    if strange := next((name for name, row in rows.items() if row not in table), None):
        raise UserError(
            f"{source.name}: transformers' {type(shell).__name__} has a tensor {strange!r} that this layout does not know; "
            "releases 5.17 to 5.23 are known."
        )
    rules = {name: table[row] for name, row in rows.items()}
    timm = f"timm's {source.architecture}"
    result = import_tensors(own, rules, source.tensors, source.name, timm, layout.unread)
    return result.tensors, sorted(result.left)


def _heads(source: _Source, layout: Layout, width: int) -> int:
    heads = source.arguments.get("num_heads") or layout.heads.get(width) or HEADS.get(width)
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise UserError(
            f"{source.name}: how many attention heads a width of {width} has cannot be seen; add num_heads to model_args in "
            "a config.json beside it."
        )
    return int(heads)


def _activation(source: _Source) -> str:
    activation = source.arguments.get("act_layer")
    if activation is not None:
        if activation not in ACTIVATION_NAMES:
            raise UserError(
                f"{source.name}: the activation {activation!r} has no B-cos form; known: {', '.join(ACTIVATION_NAMES)}."
            )
        return ACTIVATION_NAMES[activation]
    return next((name for pattern, name in ACTIVATIONS if re.search(pattern, source.full_name)), "gelu")


def _native_side(source: _Source, patch: int) -> int:
    """Native pixels on a side: the stated ones where they have the grid of the position embeddings, else its own."""
    stated = _input_side(source)
    if "pos_embed" not in source.tensors:
        return stated or DINOV3_IMAGE_SIZE
    rows = source.tensors["pos_embed"].shape[-2]
    grid = square_grid(rows, (0, 1))
    if grid is None:
        raise UserError(
            f"{source.name}: {rows} position embeddings are not those of a square image with at most a CLS token."
        )
    return stated if stated and stated // patch == grid else grid * patch


def _input_side(source: _Source) -> int | None:
    size = source.arguments.get("img_size") or (source.stated.get("input_size") or [3, None])[1:]
    sides = set(size) if isinstance(size, list | tuple) else {size}
    if len(sides) != 1:
        raise UserError(f"{source.name}: only square images are supported, its config.json says {size}.")
    side = sides.pop()
    if side is not None and (not isinstance(side, int) or not 1 <= side <= MAX_SIDE):
        raise UserError(f"{source.name}: its config.json states an image size of {side!r} pixels.")
    return side


def _resolution(source: _Source, config: Any) -> int:
    side = _input_side(source)
    return side if side and side % config.patch_size == 0 else int(config.image_size)


def _normalisation(
    source: _Source, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[Sequence[float], Sequence[float]]:
    by_name = next((pair for pattern, pair in NORMALISATIONS if re.search(pattern, source.full_name)), (None, None))
    mean = mean or source.stated.get("mean") or by_name[0]
    std = std or source.stated.get("std") or by_name[1]
    if mean is None or std is None:
        raise UserError(
            f"{source.name}: its normalisation cannot be told from the name {source.full_name.rstrip('.')!r}; keep timm's "
            "config.json beside it, name the file as timm does (vit_base_patch16_224.augreg_in21k) or give mean and std."
        )
    return normalisation({}, mean, std, source.name, prefix="")


def _labels(names: Any, count: int) -> dict[str, Any]:
    """`num_labels`, with the names of classes where all of them are stated."""
    if isinstance(names, dict):
        names = [names.get(str(i)) for i in range(count)]
    if not isinstance(names, list) or len(names) != count or None in names:
        return {"num_labels": count}
    return {"id2label": dict(enumerate(map(str, names))), "label2id": {str(n): i for i, n in enumerate(names)}}
