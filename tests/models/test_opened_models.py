"""What a model's files and wrappers say is checked when it is opened: labels, geometry, prefixes, heads, precision."""

from __future__ import annotations

import copy
import json
import os
import re

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import nn

import aloe
from aloe.attribution.targets import class_index
from aloe.core.errors import UserError
from aloe.evaluation.heads import load_probe
from aloe.models.convert import bcosify
from aloe.models.geometry import side
from aloe.models.labels import index_of, label_table
from aloe.models.saving import load, save_student
from aloe.models.teachers import Teacher, load_teacher
from aloe.models.unwrap import common_prefix, plain_name, unwrapped
from aloe.train.align.run import align
from aloe.train.finetune.run import finetune
from conftest import SIZE, VISION, build_teacher
from pictures import write_pictures

TINY = {"batch_size": 4, "workers": 0, "log_every": 1, "holdout": 0, "device": "cpu", "progress": False, "steps": 2}
NAMES = {str(k): f"c{k}" for k in range(5)}


def saved(folder, model=None, **fields):
    """A classifier's folder with fields of config.json changed; `...` takes one out."""
    (model or build_teacher("vit-classifier").model).save_pretrained(folder)
    path = folder / "config.json"
    values = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not ...}))
    return folder


def renamed(folder, prefix):
    path = folder / "model.safetensors"
    save_file({prefix + name: tensor for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    return folder


WRONG_LABELS = {
    "from 1": ({"id2label": {str(k + 1): f"c{k + 1}" for k in range(5)}}, "does not name the labels 0 to 4 but 1 to 5"),
    "fewer": ({"id2label": {"0": "a", "1": "b"}}, "the classifier has 5 rows, config.json names 2 labels"),
    "more": ({"id2label": {str(k): f"c{k}" for k in range(9)}}, "has 5 rows, config.json names 9 labels"),
    "null": ({"id2label": None}, "id2label of config.json is null"),
    "a list": ({"id2label": ["a", "b", "c", "d", "e"]}, "id2label of config.json is no table"),
    "a null name": ({"id2label": {**NAMES, "3": None}}, "has no name for the label 3, but None"),
    "words for numbers": ({"id2label": {f"c{k}": k for k in range(5)}}, "does not name the labels 0 to 4"),
    "another number": ({"id2label": ..., "num_labels": 7}, "num_labels of config.json is 7, but the classifier has 5"),
    "a huge number": ({"id2label": ..., "num_labels": 10**10}, "num_labels of config.json is 10000000000"),
}


@pytest.mark.parametrize("label2id", [..., None, {}])
@pytest.mark.parametrize(("fields", "words"), WRONG_LABELS.values(), ids=WRONG_LABELS)
@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_a_table_that_does_not_fit_is_refused_by_name(tmp_path, kind, fields, words, label2id):
    model = build_teacher("vit-classifier").model if kind == "teacher" else bcosify(build_teacher("vit-classifier"))
    folder = saved(tmp_path / "m", model, **fields, label2id=label2id)
    with pytest.raises(UserError, match=words) as told:
        (load_teacher if kind == "teacher" else load)(folder)
    assert "ignore_mismatched" not in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("label2id", [..., None, {}])
def test_a_table_without_its_inverse_is_enough(tmp_path, label2id):
    folder = saved(tmp_path / "m", id2label=NAMES, label2id=label2id)
    teacher = load_teacher(folder)
    student = bcosify(teacher)
    assert student.config.id2label == teacher.config.id2label == {k: f"c{k}" for k in range(5)}
    assert student.config.label2id == {f"c{k}": k for k in range(5)}
    save_student(student, tmp_path / "s")
    again = load(saved(tmp_path / "s", student, label2id=label2id))
    assert class_index("C4", again.config, 5) == 4
    unnamed = load_teacher(saved(tmp_path / "u", id2label=..., label2id=...))
    assert unnamed.config.id2label == {k: f"LABEL_{k}" for k in range(5)}


def test_an_ambiguous_name_is_refused_with_both_indices(tmp_path, images):
    names = {**NAMES, "1": "crane", "3": "crane", "2": "Maillot", "4": "maillot"}
    student = bcosify(load_teacher(saved(tmp_path / "m", id2label=names, label2id=...)))
    for name in ("crane", "Crane"):
        with pytest.raises(UserError, match=rf"The classes 1 and 3 are all called '{name}'; give the index"):
            aloe.explain(student, images, name)
    assert [class_index(n, student.config, 5) for n in ("maillot", "Maillot", "c0", "C0", "3", 3)] == [4, 2, 0, 0, 3, 3]
    with pytest.raises(UserError, match="2 and 4"):
        class_index("MAILLOT", student.config, 5)
    save_student(student, tmp_path / "s")
    assert load(tmp_path / "s").config.id2label == student.config.id2label


def test_tables():
    assert label_table({}, 3, "x") is None
    assert label_table({"id2label": {0: 7, 1: 8}}, 2, "x") == {0: "7", 1: "8"}
    assert index_of({0: "a", 1: "A"}, "a") == 0
    assert index_of({0: "a"}, "b") is None


def test_a_probe_with_another_number_of_classes(tmp_path):
    from aloe.evaluation.heads import Probe, save_probe

    weight = torch.randn(3, 48)
    probe = Probe(weight, None, kind="linear", b=1.0, logit_bias=0.0, learning_rate=0.1, validation={})
    save_probe(probe, tmp_path, classes=["a", "b"], backbone="x", feature="pooled")
    with pytest.raises(UserError, match=r"the classifier has 3 rows, config\.json names 2 labels"):
        load_probe(tmp_path)


GEOMETRIES = {
    "one channel": ({"num_channels": 1}, "num_channels is 1; ALOE converts models of RGB images"),
    "four channels": ({"num_channels": 4}, "num_channels is 4"),
    "rectangles": ({"patch_size": [8, 4]}, "Only square images and patches"),
    "a wide image": ({"image_size": [32, 64]}, "Only square images and patches"),
    "no pixels": ({"patch_size": 0}, "patch_size must be a whole number of pixels"),
    "half pixels": ({"patch_size": 7.5}, "patch_size|wrong type"),
    "smaller than a patch": ({"image_size": 4}, "image_size 4 is smaller than patch_size 8"),
}


@pytest.mark.parametrize(("fields", "words"), GEOMETRIES.values(), ids=GEOMETRIES)
def test_geometry_that_is_not_supported_is_refused_when_it_is_opened(tmp_path, fields, words):
    with pytest.raises(UserError, match=words) as told:
        load_teacher(saved(tmp_path / "m", **fields))
    assert "\n" not in str(told.value)


def test_a_live_module_of_one_channel_is_refused():
    with pytest.raises(UserError, match="num_channels is 1"):
        bcosify(hf.ViTModel(hf.ViTConfig(**VISION, num_channels=1), add_pooling_layer=False))


PAIRS = {"patch_size": [8, 8], "image_size": [32, 32]}


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("family", ["vit", "dinov2", "dinov2-registers", "dinov3", "siglip", "clip"])
def test_sides_given_as_pairs_are_sides(tmp_path, family, live, images):
    plain = build_teacher(family)
    if live and family in ("siglip", "clip"):
        pytest.skip("transformers does not build it")
    folder = saved(tmp_path / "m", plain.model, **PAIRS)
    if live:
        config = type(plain.model.config)(**{**plain.model.config.to_dict(), **PAIRS})
        options = {"add_pooling_layer": False} if family == "vit" else {}
        model = type(plain.model)(config, **options)
        model.load_state_dict(plain.model.state_dict())
    teacher = load_teacher(model if live else folder)
    assert (teacher.patch_size, teacher.image_size) == (8, 32)
    large = torch.rand(2, 3, 40, 40)
    torch.testing.assert_close(teacher(large).pooled, plain(large).pooled, rtol=1e-5, atol=1e-6)
    write_pictures(tmp_path / "i", 8)
    align(teacher, tmp_path / "i", tmp_path / "run", **TINY, resolution=40)


def test_sides():
    assert [side(v, "x") for v in (8, [8, 8], (8,))] == [8, 8, 8]
    for wrong in (True, "8", [], [8, 0], None, float("nan"), -8):
        with pytest.raises(UserError, match="whole number of pixels"):
            side(wrong, "x")


PREFIXES = ["module.", "_orig_mod.", "base_model.model.", "module._orig_mod.", "student."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("family", ["vit", "vit-classifier", "dinov2", "siglip"])
def test_a_prefix_on_every_name_is_taken_off(tmp_path, prefix, family, images):
    teacher = build_teacher(family)
    loaded = load_teacher(renamed(saved(tmp_path / "m", teacher.model), prefix))
    torch.testing.assert_close(loaded(images).pooled, teacher(images).pooled)
    student = bcosify(teacher)
    save_student(student, tmp_path / "s")
    again = load(renamed(tmp_path / "s", prefix))
    assert all(
        torch.equal(a, b) for a, b in zip(again.state_dict().values(), student.state_dict().values(), strict=True)
    )


def test_a_prefix_on_weights_that_do_not_fit_is_named(tmp_path):
    folder = renamed(saved(tmp_path / "m"), "base_model.model.")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors.pop(next(name for name in tensors if "layernorm_before" in name))
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"names of its weights begin with 'base_model\.model\.'"):
        load_teacher(folder)


def test_prefixes():
    assert common_prefix(["module.a.w", "module.b.w", "module.x"]) == "module."
    assert common_prefix(["m.n.a.w", "m.n.ab.w"]) == "m.n."
    assert common_prefix(["a.w", "b.w"]) == common_prefix([]) == ""
    assert plain_name("layer.0._orig_mod.mlp.weight") == "layer.0.mlp.weight"


def classifier(family):
    small = {"num_labels": 5}
    if family == "siglip":
        vision = {**VISION, "model_type": "siglip_vision_model"}
        return hf.SiglipForImageClassification(hf.SiglipConfig(vision_config=vision, text_config={}, **small))
    if family == "siglip2":
        vision = {**SIZE, "patch_size": 8, "num_patches": 16}
        return hf.Siglip2ForImageClassification(hf.Siglip2Config(vision_config=vision, text_config={}, **small))
    if family == "clip":
        return hf.CLIPForImageClassification(hf.CLIPConfig(vision_config=VISION, text_config={}, **small))
    plain = build_teacher(family).model.config.to_dict()
    kind = {"dinov2": "Dinov2", "dinov2-registers": "Dinov2WithRegisters"}[family]
    return getattr(hf, f"{kind}ForImageClassification")(getattr(hf, f"{kind}Config")(**{**plain, **small}))


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
@pytest.mark.parametrize("live", [False, True])
def test_a_head_on_the_mean_of_the_tokens_is_read(tmp_path, family, live, images):
    torch.manual_seed(0)
    model = classifier(family).eval()
    teacher = load_teacher(model if live else saved(tmp_path / "m", model, id2label=NAMES))
    assert teacher.note == ""
    if family == "siglip":
        with torch.no_grad():
            expected = model(teacher.normalize(images)).logits
        torch.testing.assert_close(teacher(images).logits, expected, rtol=1e-4, atol=1e-5)
    student = bcosify(teacher, b=1.0)
    assert student.config.pooling == teacher.pooling == "mean"
    assert torch.equal(student.classifier.weight, teacher.classifier.weight)
    if not live:
        assert student.config.id2label == teacher.config.id2label == {k: f"c{k}" for k in range(5)}
    assert aloe.explain(student, images, 2).logits.shape == (3, 5)


@pytest.mark.parametrize("family", ["dinov2", "dinov2-registers", "clip"])
@pytest.mark.parametrize("live", [False, True])
def test_a_head_on_something_else_is_left_out_and_said(tmp_path, family, live, capsys):
    model = classifier(family)
    source = model if live else saved(tmp_path / "m", model)
    teacher = load_teacher(source)
    assert teacher.classifier is None
    assert "does not read the pooled output alone" in teacher.note
    assert type(model).__name__ in teacher.note
    write_pictures(tmp_path / "i", 8)
    align(teacher, tmp_path / "i", tmp_path / "run", **{**TINY, "progress": True})
    assert " ".join(capsys.readouterr().err.split()).count("does not read the pooled output alone") == 1


def test_a_classifier_that_is_not_linear_is_said():
    model = build_teacher("vit-classifier").model
    model.classifier = nn.Sequential(nn.Linear(48, 8), nn.GELU(), nn.Linear(8, 5))
    assert "a Sequential" in Teacher(model).note
    assert Teacher(hf.ViTForImageClassification(hf.ViTConfig(**VISION, num_labels=0))).note == ""


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", ["vit-classifier", "siglip"])
def test_a_teacher_in_half_precision_makes_a_student_in_float32(tmp_path, dtype, family):
    model = build_teacher(family).model.to(dtype)
    before = copy.deepcopy(model.state_dict())
    images = write_pictures(tmp_path / "images", 12)
    as_floats = align(copy.deepcopy(model).float(), images, tmp_path / "floats", **TINY)
    student = align(model, images, tmp_path / "run", **TINY)
    assert {p.dtype for p in student.parameters()} == {torch.float32}
    assert all(
        torch.equal(a, b) for a, b in zip(student.state_dict().values(), as_floats.state_dict().values(), strict=True)
    )
    assert json.loads((tmp_path / "run" / "run.json").read_text())["precision"] == "float32"
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values(), strict=True))
    assert {p.dtype for p in bcosify(model, stem="conv").parameters()} == {torch.float32}
    explicit = load_teacher(saved(tmp_path / "m", model), dtype=dtype)
    assert {p.dtype for p in explicit.parameters()} == {dtype}
    again = align(explicit, images, tmp_path / "explicit", **TINY)
    assert all(
        torch.equal(a, b) for a, b in zip(student.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_a_student_in_half_precision_is_trained_in_float32(tmp_path):
    half = bcosify(build_teacher("vit")).to(torch.bfloat16)
    images = write_pictures(tmp_path / "images", 12)
    student = align(build_teacher("vit"), images, tmp_path / "run", student=half, **TINY)
    assert {p.dtype for p in student.parameters()} == {torch.float32}
    for name in ("a", "b"):
        write_pictures(tmp_path / "classes" / name, 4)
    tuned = finetune(half, tmp_path / "classes", tmp_path / "fine", calibrate=False, **TINY)
    assert {p.dtype for p in tuned.parameters()} == {torch.float32}
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


class Mine(hf.ViTForImageClassification):
    """A user's subclass."""


def one_process(model):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29631")
    torch.distributed.init_process_group("gloo", rank=0, world_size=1)
    try:
        return nn.parallel.DistributedDataParallel(model)
    finally:
        torch.distributed.destroy_process_group()


def compiled_blocks(model):
    for i, block in enumerate(model.vit.layers if hasattr(model.vit, "layers") else model.vit.encoder.layer):
        blocks = model.vit.layers if hasattr(model.vit, "layers") else model.vit.encoder.layer
        blocks[i] = torch.compile(block, backend="eager")
    return model


def compiled_parts(model):
    model.vit = torch.compile(model.vit, backend="eager")
    model.classifier = torch.compile(model.classifier, backend="eager")
    return model


WRAPPERS = {
    "compile": lambda m: torch.compile(m, backend="eager"),
    "DataParallel": nn.DataParallel,
    "DDP": lambda m: one_process(m.requires_grad_(True)),
    "both": lambda m: nn.DataParallel(torch.compile(m, backend="eager")),
    "average": lambda m: torch.optim.swa_utils.AveragedModel(m),
    "compiled blocks": compiled_blocks,
    "compiled parts": compiled_parts,
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrapped_teachers_are_what_they_wrap(wrap, images):
    plain = build_teacher("vit-classifier")
    teacher = load_teacher(wrap(copy.deepcopy(plain.model)))
    torch.testing.assert_close(teacher(images).logits, plain(images).logits)
    student, expected = bcosify(teacher), bcosify(plain)
    assert student.config.id2label == expected.config.id2label
    assert student.state_dict().keys() == expected.state_dict().keys()
    assert all(
        torch.equal(a, b) for a, b in zip(student.state_dict().values(), expected.state_dict().values(), strict=True)
    )


def test_a_subclass_counts_as_what_it_extends(images):
    plain = build_teacher("vit-classifier").model
    mine = Mine(plain.config)
    mine.load_state_dict(plain.state_dict())
    assert bcosify(mine).classifier.weight.shape == (5, 48)
    torch.testing.assert_close(Teacher(mine)(images).logits, Teacher(plain)(images).logits)


@pytest.mark.parametrize("wrap", ["compile", "DataParallel", "both"])
def test_wrapped_students_are_explained_and_trained(tmp_path, wrap, images):
    student = bcosify(build_teacher("vit-classifier"))
    wrapped = WRAPPERS[wrap](student)
    expected = aloe.explain(student, images, 1)
    assert torch.equal(aloe.explain(wrapped, images, 1).contributions, expected.contributions)
    assert torch.equal(aloe.attribute(wrapped, images, 1).maps, aloe.attribute(student, images, 1).maps)
    pictures = write_pictures(tmp_path / "images", 8)
    tuned = align(build_teacher("vit-classifier"), pictures, tmp_path / "run", student=wrapped, **TINY)
    assert type(tuned) is type(student)


def test_unwrapped():
    inner = nn.Linear(2, 2)
    assert unwrapped(nn.DataParallel(inner)) is inner
    assert unwrapped(inner) is inner
    assert unwrapped("a name") == "a name"


def test_a_module_without_a_configuration_is_one_sentence():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = build_teacher("vit").model
            self.head = nn.Linear(48, 2)

    with pytest.raises(UserError, match=r"Holder has no configuration of transformers.*give its backbone"):
        load_teacher(Holder())


def test_label2id_alone_names_the_rows_and_a_contradiction_is_told():
    from aloe.models.labels import label_table

    assert label_table({"label2id": {"b": 1, "a": 0}}, 2, "m") == {0: "a", 1: "b"}
    same = {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}
    assert label_table(same, 2, "m") == {0: "a", 1: "b"}
    with pytest.raises(UserError, match="contradicts itself: id2label gives the row 0 the name 'a'"):
        label_table({**same, "label2id": {"a": 1, "b": 0}}, 2, "m")
    twice = {"id2label": {"0": "crane", "1": "crane"}, "label2id": {"crane": 1}}
    assert label_table(twice, 2, "m") == {0: "crane", 1: "crane"}


def test_a_double_teacher_is_aligned_in_float32(tmp_path):
    import aloe as package
    from pictures import write_pictures

    write_pictures(tmp_path / "images", 12)
    teacher = build_teacher("vit-classifier", dtype=torch.float64)
    student = package.align(
        teacher.model,
        tmp_path / "images",
        tmp_path / "run",
        steps=1,
        batch_size=2,
        holdout=0,
        workers=0,
        device="cpu",
        progress=False,
    )
    assert {p.dtype for p in student.parameters()} == {torch.float32}


@pytest.mark.parametrize("family", ["vit-classifier", "dinov2", "siglip"])
def test_levels_of_wrappers_within_names_are_taken_off(tmp_path, family, images):
    """As torch.compile leaves them where blocks are compiled one by one, with DDP around the whole."""
    teacher = build_teacher(family)
    path = saved(tmp_path / "m", teacher.model) / "model.safetensors"
    inside = {re.sub(r"(layers?\.\d+\.|classifier\.)", r"\1_orig_mod.", k): v for k, v in load_file(path).items()}
    save_file({f"module.{name}": tensor for name, tensor in inside.items()}, path, metadata={"format": "pt"})
    assert any("._orig_mod." in name for name in inside)
    loaded = load_teacher(tmp_path / "m")
    torch.testing.assert_close(loaded(images).pooled, teacher(images).pooled)
    student = bcosify(teacher)
    save_student(student, tmp_path / "s")
    path = tmp_path / "s" / "model.safetensors"
    tensors = load_file(path)
    save_file({re.sub(r"(layers?\.\d+\.)", r"\1_orig_mod.", k): v for k, v in tensors.items()}, path, {"format": "pt"})
    assert all(
        torch.equal(value, student.state_dict()[name]) for name, value in load(tmp_path / "s").state_dict().items()
    )


@pytest.mark.parametrize(
    "fields",
    [
        *(
            {"layer_norm_eps": "x"},
            {"layer_norm_eps": None},
            {"b": True},
            {"rope_theta": 0},
            {"initializer_range": "x"},
        ),
        *({"teacher": {"resolution": value}} for value in ("x", -8, 33, 10**9, 16.0, True)),
    ],
)
def test_fields_of_students_that_no_student_has(tmp_path, fields):
    save_student(bcosify(build_teacher("vit-classifier")), tmp_path / "s")
    path = tmp_path / "s" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    name = "resolution" if "teacher" in fields else next(iter(fields))
    with pytest.raises(UserError, match=name):
        load(tmp_path / "s")


@pytest.mark.parametrize("what", ["twice", "long", "deep"])
def test_headers_of_safetensors_are_held_against_what_their_reader_takes(tmp_path, what):
    path = saved(tmp_path / "m") / "model.safetensors"
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + size], data[8 + size :]
    first = next(name for name in json.loads(header) if name != "__metadata__")
    again = header.rstrip()[:-1] + f", {json.dumps(first)}: {json.dumps(json.loads(header)[first])}}}".encode()
    header = {"twice": again, "long": header, "deep": b"[" * 100_000}[what]
    path.write_bytes((2**40 if what == "long" else len(header)).to_bytes(8, "little") + header + body)
    with pytest.raises(UserError, match=r"model\.safetensors.*header"):
        load_teacher(tmp_path / "m")
