"""Folders and hub ids that transformers reads: its loader, with one rule for weights that do not fit their config.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from aloe.core.errors import UserError
from aloe.models.families import family_of
from aloe.models.geometry import native_side, settle
from aloe.models.headers import check_finite, classifier_rows, shapes_of
from aloe.models.importer import Tower
from aloe.models.labels import STATED as LABELS
from aloe.models.labels import label_table, set_labels
from aloe.models.processor import normalisation, pixels_of_use, read_processor
from aloe.models.stated import check_activation, hold_against, mismatch, vision_of
from aloe.models.unwrap import common_prefix, renaming

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".tar")


def is_weight_file(source: str | Path) -> bool:
    """Whether a teacher is named by its weights alone.

    Raises:
        UserError: for weights that are not safetensors.
    """
    path = Path(source)
    if path.suffix in PICKLES and path.is_file():
        raise UserError(f"{source} is not a safetensors file; only safetensors are loaded, never pickled weights.")
    return path.suffix == ".safetensors"


def read_pretrained(
    model_class: Any, name: str, config: Any, shapes: Mapping[str, tuple[int, ...]], **options: Any
) -> tuple[Any, Mapping[str, Any]]:
    """A model of transformers and its report of names; where wrappers have changed those, it reads without their levels.

    Raises:
        UserError: weights of other sizes than config.json asks for.
    """
    options |= {
        "config": config,
        "use_safetensors": True,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,
    }
    model, report = model_class.from_pretrained(name, **options)
    if report["missing_keys"] and (mapping := renaming(list(shapes))):
        model, report = model_class.from_pretrained(name, key_mapping=mapping, **options)
    if report["mismatched_keys"]:
        raise UserError(mismatch(name, report["mismatched_keys"]))
    return model, report


def stated_classes(values: Mapping[str, Any], shapes: dict[str, tuple[int, ...]], where: str) -> dict[int, str] | None:
    """Names for the rows of the classifier, those that config.json states or LABEL_0 and on; None without a classifier."""
    if (rows := classifier_rows(shapes)) is None:
        return None
    return label_table(values, rows, where) or {i: f"LABEL_{i}" for i in range(rows)}


def read_transformers(name: str, label: str, values: dict[str, Any], dtype: torch.dtype) -> Tower:
    """The vision tower of one of transformers' checkpoints.

    Args:
        name: a folder or hub id. label: what the user called it.
        values: the fields of its config.json.

    Raises:
        UserError: an architecture that ALOE cannot convert, or weights that do not fit config.json.
    """
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    shapes = shapes_of(name)
    family = family_of(values.get("model_type"))
    architectures = [str(architecture) for architecture in values.get("architectures") or []]
    classifies = family.classifier_class in architectures
    names = stated_classes(values, shapes, label) if classifies else None
    hold_against(vision_of(values), shapes, label)
    check_activation(vision_of(values), label)
    plain = {key: value for key, value in values.items() if key not in LABELS}
    config: Any = CONFIG_MAPPING[str(values["model_type"])].from_dict({**plain, "_name_or_path": name})
    if names is not None:
        set_labels(config, names)
    vision = getattr(config, "vision_config", config)
    settle(vision, label)
    model_class: Any = getattr(transformers, str(family.classifier_class if classifies else family.model_class))
    options: dict[str, Any] = {"add_pooling_layer": False} if model_class.__name__ == "ViTModel" else {}
    model, report = read_pretrained(model_class, name, config if classifies else vision, shapes, dtype=dtype, **options)
    if report["missing_keys"]:
        raise UserError(missing_weights(name, sorted(report["missing_keys"]), list(shapes)))
    check_finite(model, name)
    processor, where = read_processor(name), f"{name}: its image processor"
    mean, std = normalisation(processor, family.mean, family.std, where)
    other = next((a for a in architectures if "Classification" in a), "") if not classifies else ""
    return Tower(
        model,
        Path(label).name if Path(label).exists() else label,
        mean,
        std,
        _resolution(processor, vision, where),
        tuple(sorted(report["unexpected_keys"])),
        other,
    )


def missing_weights(name: str, missing: Sequence[str], present: Sequence[str]) -> str:
    """A sentence on weights that a checkpoint lacks, with what stands before their names where that is all."""
    prefix = common_prefix(present)
    if prefix:
        return (
            f"{name}: the names of its weights begin with {prefix!r}, and without it {len(missing)} do not fit either; save"
            " the model inside its wrapper (merge an adapter first)."
        )
    return f"{name}: {len(missing)} weights are missing from the checkpoint, first {missing[0]!r}."


def _resolution(processor: dict[str, Any], config: Any, where: str) -> int | None:
    """The side the checkpoint's preprocessing crops or resizes to, if it is a whole number of patches."""
    pixels, patch = pixels_of_use(processor, where), int(config.patch_size)
    if not pixels or pixels < patch:
        return None
    return pixels if pixels == native_side(config, where) or pixels % patch == 0 else None
