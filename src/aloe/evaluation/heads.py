"""The head that a linear probe leaves: its logits, its files, and how it becomes part of its student."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aloe.bcos.functional import bcos_linear
from aloe.bcos.units import NORM_FLOOR
from aloe.core.errors import UserError
from aloe.core.files import read_bytes, read_json, whole
from aloe.models.labels import label_table
from aloe.models.modeling import BcosViTForImageClassification, BcosViTModel

HEAD_NAME, RECORD_NAME = "head.safetensors", "probe.json"
HEAD_LIMIT = 1 << 31  # bytes of a probe's weights
ROWS = 8192  # features whose logits are computed at a time


@dataclass(frozen=True)
class Probe:
    """A trained head: `weight` (C, D), `bias` (C,) of a plain head, `logit_bias` of a B-cos head trained with `bce`.

    `learning_rate` was chosen among the rates of `validation`, which gives each one's accuracy in [0, 1] on the validation
    split; rates whose training diverged are not in it.
    """

    weight: Tensor
    bias: Tensor | None
    logit_bias: float
    kind: str
    b: float
    learning_rate: float
    validation: dict[float, float]

    def logits(self, features: Tensor) -> Tensor:
        """Features (N, D) to logits (N, C)."""
        return head_outputs(features.to(self.weight), self.weight, self.bias, self.kind, self.b) + self.logit_bias

    def predict(self, features: Tensor) -> Tensor:
        """Features (N, D) to classes (N,)."""
        return torch.cat([self.logits(part).argmax(1) for part in features.split(ROWS)])


def save_probe(
    probe: Probe, folder: str | Path, *, classes: Sequence[str], backbone: str, feature: str = "pooled", **facts: Any
) -> None:
    """Write `head.safetensors` and `probe.json`, each whole, the record last with the weights' hash.

    Args:
        classes: names of the C classes.
        backbone: folder or hub id of the model whose features the head reads, and which of its `feature`s.
        facts: anything else to be kept in the record.

    Raises:
        UserError: the folder cannot be written.
    """
    from safetensors.torch import save

    home = Path(folder)
    tensors = {"weight": probe.weight} | ({} if probe.bias is None else {"bias": probe.bias})
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    record = {
        "backbone": backbone,
        "feature": feature,
        "classes": list(classes),
        **{name: getattr(probe, name) for name in ("kind", "b", "logit_bias", "learning_rate")},
        "validation": {f"{lr:g}": accuracy for lr, accuracy in probe.validation.items()},
        **facts,
        "sha256": hashlib.sha256(data).hexdigest(),
        "versions": {name: version(name) for name in ("aloe-vit", "torch")},
    }

    def fault(error: OSError) -> str:
        return f"The probe could not be written to {home}: {error.strerror or error}."

    for name, content in ((HEAD_NAME, data), (RECORD_NAME, (json.dumps(record, indent=2) + "\n").encode())):
        with whole(home / name, fault) as aside:
            aside.write_bytes(content)


def load_probe(folder: str | Path) -> tuple[Probe, dict[str, Any]]:
    """A saved probe and its record.

    Raises:
        UserError: no probe there, or weights that are not those of the record.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    home = Path(folder)
    try:
        record = read_json(home / RECORD_NAME)
        data = read_bytes(home / HEAD_NAME, HEAD_LIMIT)
        if record["sha256"] != hashlib.sha256(data).hexdigest():
            raise UserError(f"{home}: {HEAD_NAME} does not belong to {RECORD_NAME}; fit the probe again.")
        tensors = load(data)
        label_table({"id2label": dict(enumerate(record["classes"]))}, len(tensors["weight"]), f"{home}: {RECORD_NAME}")
        scalars = {name: record[name] for name in ("kind", "b", "logit_bias", "learning_rate")}
        validation = {float(lr): accuracy for lr, accuracy in record["validation"].items()}
        return Probe(tensors["weight"], tensors.get("bias"), validation=validation, **scalars), record
    except OSError as error:
        raise UserError(f"{home} holds no probe: {error.filename} cannot be read ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{home} holds no probe: {RECORD_NAME} or {HEAD_NAME} is damaged ({error}).") from error


def attach(
    student: BcosViTModel | BcosViTForImageClassification,
    probe: Probe,
    classes: Sequence[str],
    *,
    feature: str = "pooled",
) -> BcosViTForImageClassification:
    """A student and a B-cos probe on its features as one classifier, in eval mode, whose logits are W(x)x plus constants.

    Args:
        student: a backbone, or a classifier, whose own head is left behind; nothing of it is shared or changed.
        classes: names of the C classes.
        feature: what the probe was trained on: `pooled`, `cls` or `mean`; it becomes the classifier's pooling.

    Raises:
        UserError: a plain head, another feature, or a probe that does not fit the student.
    """
    backbone: Any = student.base_model
    if probe.kind != "bcos":
        raise UserError(
            "A plain head cannot become part of a B-cos model, its bias belongs to no pixel; fit a bcos head."
        )
    if feature not in ("pooled", "cls", "mean"):
        raise UserError(f"A head on the feature {feature!r} cannot be attached; fit one on pooled, cls or mean.")
    config = copy.deepcopy(backbone.config)
    if feature == "cls" and not config.use_cls_token:
        raise UserError("This student has no CLS token, so no head can read it; choose the feature pooled or mean.")
    if (probe.weight.shape[1], float(probe.b)) != (config.hidden_size, float(config.b)):
        raise UserError(
            f"The probe reads {probe.weight.shape[1]} features with exponent {probe.b:g}, the student gives "
            f"{config.hidden_size} and has exponent {config.b:g}; fit it on this student."
        )
    if len(set(classes)) != len(probe.weight) or len(classes) != len(probe.weight):
        raise UserError(
            f"The probe has {len(probe.weight)} classes, which need as many different names, got {len(classes)}."
        )
    config.pooling = config.pooling if feature == "pooled" else feature
    config.id2label = dict(enumerate(classes))
    config.label2id = {name: i for i, name in enumerate(classes)}
    config.logit_scale, config.logit_bias = 1.0, probe.logit_bias
    with torch.device("meta"):
        model = BcosViTForImageClassification(config)
    tensors = {f"vit.{name}": tensor.detach().clone() for name, tensor in backbone.state_dict().items()}
    weight = probe.weight.detach().clone()
    if config.bcos_variant == "unnormalized":  # the same outputs without ||w|| in the gate, from another length of w
        weight /= weight.norm(dim=1, keepdim=True).clamp_min(NORM_FLOOR) ** ((probe.b - 1) / probe.b)
    tensors["classifier.weight"] = weight.to(next(iter(tensors.values())))
    kept = model.state_dict()  # without the pooling head of a student whose pooling is replaced
    model.load_state_dict({name: tensor for name, tensor in tensors.items() if name in kept}, assign=True)
    return model.eval()


def head_outputs(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str, b: float) -> Tensor:
    """What heads of a kind give for features (N, D): `bcos`, a B-cos unit of exponent b, or `linear`. (N, C)."""
    return F.linear(x, weight, bias) if kind == "linear" else bcos_linear(x, weight, b)
