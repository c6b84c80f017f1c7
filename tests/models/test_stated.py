"""What config.json, weight indices and image processors say is held against the weights before anything is built."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from aloe.core.errors import UserError
from aloe.models.convert import bcosify
from aloe.models.headers import weight_files
from aloe.models.processor import normalisation, pixels_of_use
from aloe.models.saving import load, save_student
from aloe.models.stated import hold_against, plain_fields
from aloe.models.teachers import load_teacher
from conftest import FAMILIES, build_teacher

KINDS = ("teacher", "student")


def opened(folder, kind):
    return (load_teacher if kind == "teacher" else load)(folder)


def saved(folder, kind="teacher", family="vit-classifier", **fields):
    teacher = build_teacher(family)
    if kind == "teacher":
        teacher.model.save_pretrained(folder)
    else:
        save_student(bcosify(teacher), folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return folder


def indexed(folder, kind, weight_map):
    """The folder with its weights under another name and an index that maps them."""
    saved(folder, kind)
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    names = load_file(folder / "part.safetensors")
    index = weight_map(names) if callable(weight_map) else weight_map
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_of_plain_names_is_read(tmp_path, kind, images):
    def parts(names):
        return {"metadata": {}, "weight_map": dict.fromkeys(names, "part.safetensors")}

    folder = indexed(tmp_path / "m", kind, parts)
    whole = opened(saved(tmp_path / "whole", kind), kind)
    found = opened(folder, kind)
    assert [p.name for p in weight_files(str(folder))] == ["part.safetensors"]
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), whole.parameters(), strict=True))


class Boom:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


INDICES = {
    "pickle": "w.bin",
    "outside": "../other/model.safetensors",
    "absolute": "/etc/passwd",
    "backslash": "..\\model.safetensors",
    "absent": "none.safetensors",
    "a folder": "folder.safetensors",
    "empty": "",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", INDICES.values(), ids=INDICES)
def test_an_index_names_safetensors_beside_it(tmp_path, kind, file):
    folder = indexed(tmp_path / "m", kind, lambda names: {"weight_map": dict.fromkeys(names, file)})
    (folder / "w.bin").write_bytes(pickle.dumps(Boom()))
    (folder / "folder.safetensors").mkdir()
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json"):
        opened(folder, kind)


BROKEN = {"another key": {"a": 1}, "a list": [], "names": {"weight_map": {"a": 1}}, "no table": {"weight_map": 3}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index", BROKEN.values(), ids=BROKEN)
def test_an_index_without_a_table(tmp_path, kind, index):
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json"):
        opened(indexed(tmp_path / "m", kind, index), kind)


CODE = {
    "_attn_implementation": "org/kernel",
    "attn_implementation": "org/kernel",
    "_attn_implementation_internal": "org/kernel",
    "_experts_implementation": "org/kernel",
    "experts_implementation": "org/kernel",
    "auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"},
    "use_kernels": True,
    "transformers_weights": "other.safetensors",
}


@pytest.mark.parametrize("kind", KINDS)
def test_fields_that_choose_code_are_not_read(tmp_path, kind, images):
    plain = opened(saved(tmp_path / "plain", kind), kind)
    found = opened(saved(tmp_path / "m", kind, **CODE), kind)
    assert found.config._attn_implementation == plain.config._attn_implementation == "sdpa"
    assert not {"auto_map", "use_kernels", "transformers_weights"} & vars(found.config).keys()


@pytest.mark.parametrize("kind", KINDS)
def test_quantised_weights_are_refused(tmp_path, kind):
    with pytest.raises(UserError, match="quantization_config"):
        opened(saved(tmp_path / "m", kind, quantization_config={"quant_method": "bitsandbytes"}), kind)


WRONG = {
    "hidden_size": (10**10, 0, -48, 47, "48", 48.5, None, True),
    "intermediate_size": (10**10, 0, 95, "x"),
    "num_hidden_layers": (10**10, 10**6, 0, 2, 4),
    "num_attention_heads": (10**10, 0, 5),
    "image_size": (10**10, 0, 64, 24),
    "patch_size": (10**10, 0, 4, 16),
    "layer_norm_eps": (float("inf"), float("nan"), -1.0),
    "hidden_act": ("x", 3, None),
    "num_labels": (10**10, 4),
}
CASES = [(field, value) for field, values in WRONG.items() for value in values]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("field", "value"), CASES)
def test_a_size_that_the_weights_do_not_have_is_named(tmp_path, kind, field, value):
    with pytest.raises(UserError) as told:
        opened(saved(tmp_path / "m", kind, **{field: value}), kind)
    words = str(told.value)
    assert "\n" not in words
    assert "ignore_mismatched" not in words
    assert field in words, words


@pytest.mark.parametrize("family", FAMILIES)
def test_sound_models_of_every_family_are_read(tmp_path, family):
    folder = saved(tmp_path / "m", family=family)
    load_teacher(folder)
    for stem in ("patch", "conv"):
        save_student(bcosify(load_teacher(folder), stem), tmp_path / stem)
        load(tmp_path / stem)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [torch.int32, torch.int8, torch.bool])
def test_weights_that_are_no_floats_are_refused(tmp_path, kind, wrong):
    folder = saved(tmp_path / "m", kind)
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.weight"] = tensors["classifier.weight"].to(wrong)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"'classifier\.weight' holds"):
        opened(folder, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named(tmp_path, kind, value):
    folder = saved(tmp_path / "m", kind)
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.weight"][0, 0] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"'classifier\.weight' is not finite"):
        opened(folder, kind)


PROCESSORS = {
    "a word in mean": ({"image_mean": ["x", None, "y"]}, "image_mean"),
    "two means": ({"image_mean": [0.5, 0.5]}, "image_mean"),
    "std 0": ({"image_std": 0}, "image_std"),
    "stds 0": ({"image_std": [0, 1, 1]}, "image_std"),
    "infinite": ({"image_std": [1e999, 1, 1]}, "image_std"),
    "a factor in words": ({"rescale_factor": "x"}, "rescale_factor"),
    "no factor": ({"rescale_factor": 0}, "rescale_factor"),
    "a switch in words": ({"do_rescale": "no"}, "do_rescale"),
    "a number for a switch": ({"do_normalize": 2}, "do_normalize"),
    "a size in words": ({"size": "big"}, "size"),
    "a rectangle": ({"crop_size": {"height": 32, "width": 64}}, "crop_size"),
}


@pytest.mark.parametrize(("fields", "name"), PROCESSORS.values(), ids=PROCESSORS)
def test_a_processor_that_is_not_understood_is_refused(tmp_path, fields, name):
    folder = saved(tmp_path / "m")
    (folder / "preprocessor_config.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match=name):
        load_teacher(folder)


@pytest.mark.parametrize("factor", [1 / 255, 1 / 127.5, 1.0, None])
def test_normalisation_is_what_the_processor_does(factor):
    """(bytes * factor - mean) / std, for images in [0, 1]."""
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
    fields = {"image_mean": mean, "image_std": std, "rescale_factor": factor}
    if factor is None:
        fields |= {"do_rescale": False}
    pixels = torch.rand(3, 4, dtype=torch.float64)
    m, s = (torch.tensor(v, dtype=torch.float64)[:, None] for v in (mean, std))
    theirs = (255 * pixels * (1.0 if factor is None else factor) - m) / s
    m, s = (torch.tensor(v, dtype=torch.float64)[:, None] for v in normalisation(fields, None, None, "x"))
    torch.testing.assert_close((pixels - m) / s, theirs)


def test_processors():
    assert normalisation({}, (0, 0, 0), (1, 1, 1), "x") == ((0, 0, 0), (1, 1, 1))
    assert normalisation({"do_normalize": False, "image_mean": [1, 2, 3]}, None, None, "x") == ((0, 0, 0), (1, 1, 1))
    stale = {"crop_size": 96, "do_center_crop": False, "size": {"height": 32, "width": 32}}
    assert [pixels_of_use(f, "x") for f in (stale, {**stale, "do_center_crop": True}, {})] == [32, 96, None]
    assert pixels_of_use({"size": {"shortest_edge": 256}}, "x") is None
    assert pixels_of_use({"size": 32, "do_resize": False}, "x") is None


def test_fields_are_checked_at_every_depth():
    deep = {"vision_config": {"a": [1, {"b": float("inf")}]}}
    with pytest.raises(UserError, match="a of config"):
        plain_fields(deep, "x")
    assert plain_fields({"vision_config": {"_attn_implementation": "x", "a": 1}}, "x") == {"vision_config": {"a": 1}}
    with pytest.raises(UserError, match="hidden_size"):
        hold_against({"vision_config": {"hidden_size": 10**10}}, {"w": (3, 4)}, "x")
