"""Graphs on disk against PyTorch: forward and explanation, any batch, every family, and nothing left behind by a failure."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import aloe
from aloe.apps.export import formats, run
from aloe.apps.export.graphs import EXPLANATION, FORWARD
from aloe.apps.export.int8 import read_images
from aloe.apps.export.run import export_student
from aloe.attribution.inherent import Explanation, explain
from aloe.core.errors import UserError
from aloe.models.configuration import BcosViTConfig
from aloe.models.convert import bcosify
from aloe.models.modeling import BcosViTForImageClassification
from apps.export.students import CLASSES, NAMES, POOLED, PUBLISHED, ROPE, SIZE, WIDTH, build, rand
from conftest import FAMILIES, build_teacher

for needed in formats.PACKAGES["onnx"]:
    pytest.importorskip(needed)


def session(path):
    """The file under plain onnxruntime: a function of inputs by name, and the session."""
    import onnxruntime

    opened = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [o.name for o in opened.get_outputs()]
    return lambda **feeds: dict(zip(names, opened.run(names, feeds), strict=True)), opened


def check_explanation(found, expected, tolerance=1e-4):
    """Every output equals `explain`'s, relative to its largest value, and the graph adds up by itself."""
    for name, value in found.items():
        reference = getattr(expected, name).numpy()
        assert value.shape == reference.shape
        assert np.abs(value - reference).max() <= tolerance * np.abs(reference).max(), name
    parts = found["contributions"].astype(np.float64).sum((1, 2))
    terms = np.abs(found["contributions"]).sum((1, 2)) + np.abs(found["residual"])
    assert (np.abs(parts) > 1e-3 * terms).all(), "vacuous: pixels cancel"
    assert (np.abs(found["residual"]) > 1e-4 * terms).all(), "vacuous: constants do not matter"
    assert (np.abs(found["logit"] - parts - found["residual"]) <= 1e-5 * terms).all()


def check_forward(found, model, images, tolerance=1e-4):
    with torch.no_grad():
        outputs = model(images)
    assert set(found) == {name for name in FORWARD if name in outputs}
    for name, value in found.items():
        reference = outputs[name].numpy()
        assert value.shape == reference.shape
        assert np.abs(value - reference).max() <= tolerance * np.abs(reference).max(), name


def test_explanation_of_a_class_in_onnx(tmp_path):
    """The target is an input; the caller's model is left as it was; the file says what it is and nothing of this machine."""
    model = build(classifier=True, **ROPE).train()
    before = {name: (p.requires_grad, p.clone()) for name, p in model.named_parameters()}
    done = export_student(model, tmp_path / "x.onnx", what="explanation", target="class")
    assert model.training
    assert model.config._attn_implementation == "sdpa"
    assert all(
        p.requires_grad == r and torch.equal(p, v)
        for (_, p), (r, v) in zip(model.named_parameters(), before.values(), strict=True)
    )
    assert [p.name for p in tmp_path.iterdir()] == ["x.onnx"]
    run_file, opened = session(done.path)
    model.eval()
    for count in (1, 3):
        images, target = rand(count, 3, SIZE, SIZE, seed=count), torch.arange(count) + 1
        found = run_file(image=images.numpy(), target=target.numpy())
        assert list(found) == done.outputs == list(EXPLANATION)
        check_explanation(found, explain(model, images, target))
        Explanation(**{k: torch.from_numpy(v) for k, v in found.items()}).to_pil()
    assert done.differences.keys() == set(EXPLANATION) - {"prediction"}
    assert max(done.differences.values()) < 1e-4
    assert done.completeness < 1e-5
    assert [i.shape for i in opened.get_inputs()] == [["batch", 3, SIZE, SIZE], ["batch"]]
    said = opened.get_modelmeta().custom_metadata_map
    assert json.loads(said["aloe.id2label"]) == {str(i): name for i, name in NAMES.items()}
    assert (said["aloe.image_size"], said["aloe.version"]) == (str(SIZE), aloe.__version__)
    written = done.path.read_bytes()
    assert str(tmp_path).encode() not in written
    assert b".py" not in written


@pytest.mark.slow
@pytest.mark.parametrize("switches", [POOLED, PUBLISHED], ids=["pooled", "published"])
def test_explanation_of_a_backbones_own_direction_in_onnx(tmp_path, switches):
    model = build(classifier=False, **switches)
    done = export_student(model, tmp_path / "x.onnx", what="explanation")
    run_file, opened = session(done.path)
    assert [i.name for i in opened.get_inputs()] == ["image"]
    assert done.outputs == ["logit", "contributions", "weights", "residual"]
    for count in (1, 3):
        images = rand(count, 3, SIZE, SIZE, seed=count)
        check_explanation(run_file(image=images.numpy()), explain(model, images))


def test_explanation_of_a_direction_in_torch(tmp_path):
    model = build(classifier=True, **ROPE)
    images, direction = rand(3, 3, SIZE, SIZE), rand(3, WIDTH, seed=4) - 0.5
    done = export_student(model, tmp_path / "x.pt2", what="explanation", target="direction")
    graph = torch.export.load(done.path).module()
    for count in (1, 3):
        found = graph(images[:count], direction[:count])
        assert list(found) == done.outputs
        check_explanation({k: v.numpy() for k, v in found.items()}, explain(model, images[:count], direction[:count]))


def test_forward_at_another_size_with_weights_beside_the_file(tmp_path, monkeypatch):
    """What is larger than protobuf allows lies in a second file; both arrive under their final names."""
    monkeypatch.setattr(formats, "EXTERNAL_ABOVE", 0)
    model = build(classifier=False)
    side = SIZE + 16  # positions are interpolated
    done = export_student(model, tmp_path / "x.onnx", image_size=side)
    assert {p.name for p in tmp_path.iterdir()} == {"x.onnx", "x.onnx.data"}
    assert done.bytes == sum(p.stat().st_size for p in tmp_path.iterdir())
    run_file, _ = session(done.path)
    for count in (1, 3):
        images = rand(count, 3, side, side, seed=count)
        check_forward(run_file(image=images.numpy()), model, images)


def test_int8_is_measured(tmp_path):
    """The numbers reported are those that the file on disk gives."""
    model = build(classifier=True, hidden_size=64, intermediate_size=128)
    images = rand(6, 3, SIZE, SIZE)
    done = export_student(model, tmp_path / "x.onnx", int8=True, images=images)
    assert [p.name for p in tmp_path.iterdir()] == ["x.onnx"]
    assert max(done.differences.values()) < 1e-4
    run_file, _ = session(done.path)
    found = run_file(image=images.numpy())
    with torch.no_grad():
        expected = model(images)
    cosines = torch.cosine_similarity(torch.from_numpy(found["pooler_output"]), expected.pooler_output)
    assert not np.allclose(found["pooler_output"], expected.pooler_output, rtol=1e-5), "not quantised"
    assert done.int8.cosine_mean == pytest.approx(float(cosines.mean()), abs=1e-4)
    assert done.int8.cosine_least == pytest.approx(float(cosines.min()), abs=1e-4)
    assert 0.9 < done.int8.cosine_least < 1
    same = (torch.from_numpy(found["logits"]).argmax(-1) == expected.logits.argmax(-1)).double().mean()
    assert done.int8.top1_agreement == pytest.approx(float(same))
    assert done.int8.images == 6
    assert done.bytes == done.int8.bytes == done.path.stat().st_size
    assert done.bytes < done.int8.float_bytes / 1.5
    assert json.loads(json.dumps(done.row()))["int8"]["image_source"] == "given"


def test_a_graph_that_differs_is_not_written(tmp_path, monkeypatch):
    wrong = {"logits": 1.001, "pooler_output": np.nan}
    original = formats.run_torch
    for name, factor in wrong.items():

        def spoiled(path, name=name, factor=factor):
            found = original(path)
            return lambda feeds: {k: v * factor if k == name else v for k, v in found(feeds).items()}

        monkeypatch.setattr(formats, "run_torch", spoiled)
        with pytest.raises(UserError, match=f"differs from the model in {name}"):
            export_student(build(classifier=True), tmp_path / "x.pt2")
        assert not list(tmp_path.iterdir())


def test_a_model_that_cannot_be_traced_says_why(tmp_path, monkeypatch):
    def forward(self, x):
        return x * (1 if float(x.detach().sum()) > 0 else 2)

    model = build(classifier=True).requires_grad_(False)
    monkeypatch.setattr(type(model.classifier), "forward", forward)
    for what in ("forward", "explanation"):
        with pytest.raises(UserError, match=r"cannot be traced: .*[a-z]{4}"):
            export_student(model, tmp_path / "x.pt2", what=what)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x.onnx", "x.onnx.data"])
def test_neither_a_file_nor_weights_beside_it_are_replaced(tmp_path, name):
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(UserError, match=f"{name} exists"):
        export_student(build(classifier=False), tmp_path / "x.onnx")
    assert (tmp_path / name).read_bytes() == b"mine"


def test_a_file_is_replaced_only_when_told(tmp_path):
    path = tmp_path / "x.pt2"
    path.write_bytes(b"mine")
    model = build(classifier=False)
    with pytest.raises(UserError, match="exists"):
        export_student(model, path)
    assert path.read_bytes() == b"mine"
    export_student(model, path, overwrite=True)
    images = rand(1, 3, SIZE, SIZE)
    found = torch.export.load(path).module()(images)
    check_forward({k: v.numpy() for k, v in found.items()}, model, images)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"what": "attention"}, "what must be forward or explanation"),
        ({"format": "tflite"}, "format must be onnx or torch"),
        ({"output": "x.bin"}, "neither .onnx nor .pt2"),
        ({"what": "explanation", "target": "text"}, "target must be own or class or direction"),
        ({"target": "class"}, "belongs to an explanation"),
        ({"what": "explanation", "target": "class"}, "no classifier"),
        ({"int8": True, "output": "x.pt2"}, "int8 is for the forward graph in ONNX"),
        ({"int8": True, "what": "explanation"}, "int8 is for the forward graph in ONNX"),
        ({"int8": True, "images": torch.zeros(2, 3, 8, 8)}, r"must be \(B, 3, 32, 32\)"),
        ({"opset": 17}, "opset is for ONNX, 18 to 23, got 17"),
        ({"opset": 20, "output": "x.pt2"}, "opset is for ONNX"),
        ({"image_size": 30}, "not a whole number of 8-pixel patches"),
        ({"image_size": 0}, "not a whole number of 8-pixel patches"),
        ({"output": "missing/x.onnx"}, "does not exist"),
        ({"output": "."}, "format|neither"),
        ({"model": nn.Linear(2, 2)}, "Linear is not a B-cos student"),
    ],
)
def test_bad_requests(tmp_path, monkeypatch, options, words):
    for name in ("forward_program", "explanation_program"):  # nothing is traced for a request that cannot be served
        monkeypatch.setattr(run, name, None)
    model, output = options.pop("model", None) or build(classifier=False), tmp_path / options.pop("output", "x.onnx")
    with pytest.raises(UserError, match=words):
        export_student(model, output, **options)
    assert not list(tmp_path.iterdir())


def test_images_for_int8_are_spread_over_the_source(tmp_path):
    for i in range(5):
        Image.new("RGB", (40, 50), (50 * i, 0, 0)).save(tmp_path / f"{i}.png")
    found = read_images(str(tmp_path), SIZE, 3)
    assert found.shape == (3, 3, SIZE, SIZE)
    torch.testing.assert_close(found[:, 0].mean((1, 2)) * 255, torch.tensor([0.0, 100.0, 200.0]))
    assert read_images(str(tmp_path), SIZE, 100).shape[0] == 5
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match="could be read"):
        read_images(str(tmp_path / "bad"), SIZE, 3)


# Explanations, which hold the forward pass, take long to trace: these families have every operation that the others have.
EXPLAINED = ("vit", "dinov3-swiglu", "siglip", "clip")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_in_onnx(tmp_path, family):
    """A converted student with one block and a classifier, its stem scaled up so that pixels decide."""
    what = "explanation" if family in EXPLAINED else "forward"
    backbone = bcosify(build_teacher(family), stem="conv" if family == "vit" else "patch")
    backbone = getattr(backbone, "vit", backbone)
    backbone.layers = backbone.layers[:1]
    config = BcosViTConfig.from_dict({**backbone.config.to_dict(), "num_hidden_layers": 1, "id2label": NAMES})
    model = BcosViTForImageClassification(config)
    model.vit = backbone
    with torch.no_grad():
        model.classifier.weight.normal_(0, 5, generator=torch.Generator().manual_seed(2))
        backbone.embeddings.patch_embedding.weight.mul_(30)
    model.eval()
    run_file, _ = session(export_student(model, tmp_path / "x.onnx", what=what).path)
    for count in (1, 3):
        images = rand(count, 3, SIZE, SIZE, seed=count)
        found = run_file(image=images.numpy())
        assert found["logits"].shape == (count, CLASSES)
        if what == "forward":
            check_forward(found, model, images)
        else:
            check_explanation(found, explain(model, images, torch.from_numpy(found["prediction"])))
