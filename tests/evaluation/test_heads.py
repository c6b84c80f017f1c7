"""Heads of linear probes: their files, and a head as part of its student: same logits, complete explanations."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace

import pytest
import torch

import aloe
from aloe.attribution.inherent import explain
from aloe.core.errors import UserError
from aloe.evaluation.heads import Probe, attach, load_probe, save_probe
from aloe.models.convert import bcosify
from aloe.models.saving import save_student
from conftest import build_teacher

NAMES = ["cat", "dog", "owl"]


def build_head(kind="bcos"):
    """Three classes, random weights in float64."""
    weight = torch.randn(3, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    bias = torch.arange(3.0, dtype=torch.float64) if kind == "linear" else None
    return Probe(weight, bias, -math.log(2), kind, 2.0, 3e-3, {1e-2: 0.25, 3e-3: 0.5})


@pytest.mark.parametrize("kind", ["bcos", "linear"])
def test_saved_and_loaded(tmp_path, kind):
    probe = build_head(kind)
    save_probe(probe, tmp_path / "p", classes=["a", "b", "ü"], backbone="model", feature="mean", note="a fact")
    found, record = load_probe(tmp_path / "p")
    assert torch.equal(found.weight, probe.weight)
    assert (found.bias is None) == (probe.bias is None)
    assert found.bias is None or torch.equal(found.bias, probe.bias)
    assert replace(found, weight=None, bias=None) == replace(probe, weight=None, bias=None)  # type: ignore[arg-type]
    assert record["classes"] == ["a", "b", "ü"]
    assert (record["backbone"], record["feature"], record["note"]) == ("model", "mean", "a fact")
    assert {p.name for p in (tmp_path / "p").iterdir()} == {"head.safetensors", "probe.json"}
    save_probe(replace(found, weight=-found.weight), tmp_path / "p", classes=NAMES, backbone="model")
    torch.testing.assert_close(load_probe(tmp_path / "p")[0].weight, -probe.weight)


def test_damaged_probes(tmp_path):
    probe = build_head()
    with pytest.raises(UserError, match="holds no probe"):
        load_probe(tmp_path)
    save_probe(probe, tmp_path, classes=NAMES, backbone="model")
    record = json.loads((tmp_path / "probe.json").read_text())
    (tmp_path / "probe.json").write_text(json.dumps({**record, "sha256": "0"}))
    with pytest.raises(UserError, match="does not belong"):
        load_probe(tmp_path)
    (tmp_path / "probe.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        load_probe(tmp_path)
    with pytest.raises(UserError, match="could not be written"):
        save_probe(probe, tmp_path / "probe.json", classes=NAMES, backbone="model")


def build_student(family, feature, images):
    """A student whose pixels and not its constants decide, and one of its features, (B, 48)."""
    student = bcosify(build_teacher(family)).double()
    with torch.no_grad():
        student.base_model.embeddings.patch_embedding.weight.mul_(30)
        out = student.base_model(images.double())
    patches = out.last_hidden_state[:, student.config.num_prefix_tokens :]
    features = {"pooled": out.pooler_output, "cls": out.last_hidden_state[:, 0], "mean": patches.mean(1)}
    return student, features[feature]


@pytest.mark.parametrize(
    ("family", "feature"),
    [
        ("vit", "pooled"),
        ("vit-classifier", "cls"),
        ("vit", "mean"),
        ("dinov2-registers", "mean"),
        ("siglip", "pooled"),
        ("siglip", "mean"),
    ],
)
def test_attached_to_its_student(tmp_path, images, family, feature):
    student, features = build_student(family, feature, images)
    probe = build_head()
    before, config = copy.deepcopy(student.state_dict()), student.config.to_dict()
    model = attach(student, probe, NAMES, feature=feature)
    assert not model.training
    assert (model.config.num_labels, model.config.logit_bias) == (3, probe.logit_bias)
    assert model.config.label2id == {"cat": 0, "dog": 1, "owl": 2}
    with torch.no_grad():
        torch.testing.assert_close(model(images.double()).logits, probe.logits(features), rtol=1e-9, atol=1e-9)
    explanation = explain(model, images.double(), "dog")
    assert (explanation.completeness_error() < 1e-9).all()
    assert (explanation.contributions.abs().sum((1, 2)) > 1e-3 * (explanation.logit - probe.logit_bias).abs()).all()
    torch.testing.assert_close(explanation.logit, probe.logits(features)[:, 1], rtol=1e-9, atol=1e-9)

    with torch.no_grad():
        spare = attach(student, probe, NAMES, feature=feature)
        for parameter in spare.parameters():
            parameter.zero_()
    assert student.config.to_dict() == config
    assert all(torch.equal(before[name], tensor) for name, tensor in student.state_dict().items())

    save_student(model.float(), tmp_path)
    loaded = aloe.load(tmp_path)
    assert loaded.config.id2label == {0: "cat", 1: "dog", 2: "owl"}
    with torch.no_grad():
        torch.testing.assert_close(loaded(images).logits, model(images).logits)


@pytest.mark.parametrize(
    ("family", "change", "arguments", "words"),
    [
        ("vit", {"kind": "linear"}, {}, "fit a bcos head"),
        ("vit", {}, {"feature": "concat"}, "'concat' cannot be attached"),
        ("vit", {"b": 1.5}, {}, "exponent 1.5"),
        ("vit", {"weight": torch.ones(3, 47)}, {}, "reads 47 features"),
        ("vit", {}, {"classes": ["cat", "dog"]}, "3 classes"),
        ("vit", {}, {"classes": ["cat", "dog", "cat"]}, "different names"),
        ("siglip", {}, {"feature": "cls"}, "no CLS token"),
    ],
)
def test_what_cannot_be_attached(family, change, arguments, words):
    probe = replace(build_head(), **change)
    with pytest.raises(UserError, match=words):
        attach(bcosify(build_teacher(family)), probe, **{"classes": NAMES, **arguments})
