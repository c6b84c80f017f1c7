"""What a config.json states is checked before anything is built from it: finite numbers, and sizes that the weights have.

Fields that choose code never do: attention, kernels and remote code are dropped, quantised weights are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from numbers import Integral
from typing import Any

from aloe.core.bounds import MAX_SIDE
from aloe.core.errors import UserError
from aloe.models.geometry import SIDES, side

CHOOSES_CODE = re.compile(r"_?(attn|experts)_implementation\w*|auto_map|custom_pipelines|use_kernels|kernel_config\w*")
"""Fields that name code to run."""
NAMES_WEIGHTS = ("transformers_weights", "adapter_config", "_adapter_model_path")
WIDTHS = ("hidden_size", "intermediate_size", "vocab_size")
"""Every one of them is a dimension of some tensor."""
COUNTS = (*WIDTHS, "num_hidden_layers", "num_attention_heads")
SIZES = (*COUNTS, "num_register_tokens", "num_patches", "num_key_value_heads")
_BLOCK = re.compile(r"(?:^|\.)(?:layers?|blocks)\.(\d+)\.")


def stated(name: str, revision: str | None = None) -> dict[str, Any]:
    """The fields of the config.json of a folder or hub id, without those that choose code.

    Raises:
        UserError: a number that is not finite, or quantised weights; naming the field. OSError, ValueError: as transformers.
    """
    from transformers import PreTrainedConfig

    return plain_fields(PreTrainedConfig.get_config_dict(name, revision=revision)[0], name)


def plain_fields(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields without those that choose code or other weights, at every depth.

    Raises:
        UserError: a number that is not finite, or quantised weights; naming the field.
    """
    if values.get("quantization_config") is not None:
        raise UserError(f"{where}: quantization_config of config.json asks for quantised weights; give those in float.")
    kept: dict[str, Any] = {}
    for field, value in values.items():
        if CHOOSES_CODE.fullmatch(str(field)) or field in NAMES_WEIGHTS:
            continue
        if isinstance(value, dict) and field.endswith("_config"):
            kept[field] = plain_fields(value, where)
            continue
        if wrong := next((v for v in _numbers(value) if not math.isfinite(v)), None):
            raise UserError(f"{where}: {field} of config.json holds {wrong}, which is no finite number.")
        if field.endswith("eps") and isinstance(value, int | float) and value < 0:
            raise UserError(f"{where}: {field} of config.json must be at least 0, got {value}.")
        kept[field] = value
    return kept


def hold_against(values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Hold the sizes in a config.json against the shapes in the safetensors header; without shapes only by themselves.

    Raises:
        UserError: a size that no model has, or that the weights do not have; naming the field.
    """
    inner = {key: value for key, value in values.items() if key.endswith("_config") and isinstance(value, dict)}
    texts = any("text_model" in key or "language_model" in key for key in shapes)
    for key, level in inner.items():
        hold_against(level, shapes if texts or key != "text_config" else {}, where)
    for field in SIZES:
        value = values.get(field)
        sides = value if isinstance(value, list | tuple) else [value]
        least = 0 if field == "num_register_tokens" else 1
        for v in sides if value is not None else []:
            if not isinstance(v, Integral) or isinstance(v, bool) or v < least:
                raise UserError(f"{where}: {field} of config.json must be a whole number from {least} on, got {v!r}.")
    for field in SIDES:
        if values.get(field) is not None and side(values[field], f"{where}: {field}") > MAX_SIDE:
            raise UserError(f"{where}: {field} of config.json is {values[field]}; at most {MAX_SIDE} pixels are taken.")
    patch, image = values.get("patch_size"), values.get("image_size")
    if None not in (patch, image) and side(image, "image_size") < side(patch, "patch_size"):
        raise UserError(f"{where}: image_size {image} is smaller than patch_size {patch}.")
    width, heads = values.get("hidden_size"), values.get("num_attention_heads")
    if width is not None and heads is not None and width % heads:
        raise UserError(f"{where}: hidden_size {width} of config.json is no multiple of num_attention_heads {heads}.")
    if shapes:
        _hold_widths(values, shapes, where)
        _hold_depth(values, shapes, where, whole=not inner)
        _hold_sides(values, shapes, where)


def mismatch(where: str, mismatched: Iterable[Any]) -> str:
    """A sentence on tensors whose shape is not the one that config.json asks for, as transformers reports them."""
    first = min(mismatched, key=str)
    name, shape, expected = first if isinstance(first, tuple) else (first, None, None)
    shapes = "" if shape is None else f", {tuple(shape)} in the weights and {tuple(expected)} by config.json"
    return f"{where}: the sizes in config.json do not fit the weights, first {name!r}{shapes}; fetch both again."


def _hold_widths(values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    dimensions = {size for shape in shapes.values() for size in shape}
    for field in WIDTHS:
        # 3: queries, keys and values in one matrix; 2: the two halves of a gated MLP.
        if (value := values.get(field)) is not None and not dimensions & {value, 2 * value, 3 * value}:
            raise UserError(f"{where}: {field} of config.json is {value}, but no tensor of the weights has that size.")
    ratio, width = values.get("mlp_ratio"), values.get("hidden_size")
    if ratio is not None:
        if not isinstance(ratio, int | float) or isinstance(ratio, bool) or ratio <= 0:
            raise UserError(f"{where}: mlp_ratio of config.json must be a positive number, got {ratio!r}.")
        if width is not None and ratio * width > 2 * max(dimensions, default=0):
            raise UserError(f"{where}: mlp_ratio of config.json is {ratio}, more than the weights have.")
    widths = values.get("stem_widths") or []
    if not isinstance(widths, list) or not all(isinstance(w, int) and w in dimensions for w in widths):
        raise UserError(f"{where}: stem_widths of config.json are {widths!r}, which the weights do not have.")


def _hold_depth(values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], where: str, whole: bool) -> None:
    depth = values.get("num_hidden_layers")
    blocks = [int(match[1]) for key in shapes if (match := _BLOCK.search(key))]
    if depth is None or not blocks:
        return
    count = max(blocks) + 1
    towers = any("text_model" in key for key in shapes) or not whole
    if depth > count or (depth < count and not towers):
        raise UserError(f"{where}: num_hidden_layers of config.json is {depth}, but the weights have {count} blocks.")


def _hold_sides(values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    if (registers := values.get("num_register_tokens") or 0) and not any(registers in s for s in shapes.values()):
        raise UserError(f"{where}: num_register_tokens of config.json is {registers}, which the weights do not have.")
    if values.get("patch_size") is None:
        return
    patch = side(values["patch_size"], f"{where}: patch_size")
    kernels = [s for key, s in shapes.items() if "patch_embed" in key and key.endswith("weight") and len(s) in (2, 4)]
    sizes = {patch} if not values.get("stem_widths") else {patch >> k for k in range(7)}
    if kernels and not any(s[-1] in (sizes if len(s) == 4 else {3 * patch**2, 6 * patch**2}) for s in kernels):
        raise UserError(f"{where}: patch_size of config.json is {patch}, but its patch embedding is {kernels[0]}.")
    tables = [s for key, s in shapes.items() if "position_embedding" in key and "text_model" not in key and len(s) > 1]
    if not tables:
        return
    rows, image = tables[0][-2], values.get("image_size")
    grid = None if image is None else (side(image, f"{where}: image_size") // patch) ** 2
    count = values.get("num_patches") if image is None else grid
    if count is not None and not 0 <= rows - count <= 1 + registers:
        field = "num_patches" if image is None else "image_size"
        raise UserError(
            f"{where}: {field} of config.json is {values[field]}, {count} patches, but the weights have {rows} positions."
        )


def _numbers(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _numbers(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _numbers(inner)
    elif isinstance(value, float):
        yield value


def vision_of(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of the vision tower, of a config.json of one or two towers."""
    inner = values.get("vision_config")
    return inner if isinstance(inner, dict) else values


def check_activation(values: dict[str, Any], where: str) -> None:
    from transformers.activations import ACT2FN

    name = values.get("hidden_act", "gelu")
    if not isinstance(name, str) or name not in ACT2FN:
        raise UserError(f"{where}: hidden_act of config.json is {name!r}, which is no activation; ViTs have 'gelu'.")
