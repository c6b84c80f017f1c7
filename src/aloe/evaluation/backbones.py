"""Any backbone by its folder or hub id: a teacher, a student, or either with a saved linear probe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aloe.core.errors import UserError
from aloe.evaluation.heads import RECORD_NAME, load_probe
from aloe.models.backbone import Backbone
from aloe.models.fingerprint import configuration_of, fingerprint
from aloe.models.saving import is_student, load
from aloe.models.teachers import Teacher, load_teacher

# Fields of a student's configuration that came after results had been measured, and what they were until then: at that value
# they are left out of the hash, so that those rows and cached features stay valid.
_LATER = {
    **{"encoding": "unit", "image_mean": None, "image_std": None, "bcos_variant": "cosine", "b_conv": None},
    **{"conv_norm_eps": 0.0, "stem_norm": "rms", "stem_norm_eps": 1e-6, "pre_norm": False, "logit_scale": 1.0},
    "stem_kernel": 3,
}


def load_any(name: str | Path) -> Backbone:
    """A student of ALOE, a teacher, or a saved linear probe with its backbone, whichever the folder or hub id holds."""
    text = str(name)
    if (Path(text) / RECORD_NAME).is_file() and not (Path(text) / "config.json").is_file():
        return _with_probe(Path(text))
    return load(text) if is_student(text) else load_teacher(text)


def model_fingerprint(model: Backbone) -> str:
    """A hash of everything a model's features depend on: its weights, its configuration, a teacher's normalisation."""
    config: Any = model.config
    settings = {k: v for k, v in configuration_of(config).items() if k not in _LATER or v != _LATER[k]}
    constants: Any = () if not isinstance(model, Teacher) else (model.mean, model.std)
    module: Any = model.model if isinstance(model, Teacher) else model
    return fingerprint(module, json.dumps(settings, sort_keys=True, default=str), constants)


def _with_probe(folder: Path) -> Teacher:
    """The teacher that a plain probe was fitted on, with the probe as its classifier."""
    probe, record = load_probe(folder)
    model = load_any(record["backbone"])
    if not isinstance(model, Teacher) or probe.kind != "linear" or record["feature"] != "pooled":
        raise UserError(
            f"{folder} holds a {probe.kind} head on the {record['feature']} feature of {record['backbone']}, no model"
            " by itself; fit a linear head to a teacher's pooled output, or a bcos head to a student's."
        )
    if model_fingerprint(model) != record["fingerprint"]:
        raise UserError(
            f"{record['backbone']} is no longer the model that {folder} was fitted on; fit the probe again."
        )
    head = nn.Linear(probe.weight.shape[1], probe.weight.shape[0], bias=probe.bias is not None)
    with torch.no_grad():
        head.weight.copy_(probe.weight)
        if probe.bias is not None:
            head.bias.copy_(probe.bias)
    model.classifier = head.requires_grad_(False)
    model.head_loss = record.get("loss")
    model.config.id2label = dict(enumerate(record["classes"]))
    return model
