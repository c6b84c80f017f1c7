"""The authors' published checkpoints: against a literal forward pass of their layout, and every way a file can be wrong."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from aloe.attribution.inherent import explain
from aloe.attribution.methods import attribute
from aloe.core.errors import UserError
from aloe.models.published import load_published
from aloe.models.published_layout import REPOSITORIES
from aloe.models.saving import is_student, load, save_student
from aloe.models.teachers import load_teacher
from published import MEANS, forward, make

STEM = {"aloe_add_conv_stem": [8, 12, 12, 16]}  # total stride 8
CASES = {
    "siglip2": ("siglip2", {}),
    "siglip2 conv stem": ("siglip2", STEM),
    "siglip2 v1": ("siglip2", {"aloe_bcos_impl": "v1"}),
    "siglip2 classifier": ("siglip2", {"labels": 5}),
    "siglip2 mean": ("siglip2", {"aloe_pooler_type": "mean"}),
    "dinov3": ("dinov3", {}),
    "dinov3 conv stem": ("dinov3", STEM | {"aloe_rope_theta": 10000, "rope_theta": 100}),
    "dinov3 theta": ("dinov3", {"aloe_rope_theta": 50.0, "aloe_num_registers": 2}),
    "dinov3 classifier": ("dinov3", {"labels": 4, "aloe_logit_temperature": 3.0} | STEM),
    "dinov3 one label": ("dinov3", {"labels": 1}),
    "dinov3 no layer scale": ("dinov3", {"aloe_use_layer_scale": False}),
    "vit": ("vit", {}),
    "vit conv stem": ("vit", STEM | {"aloe_b_conv": 1.5, "aloe_b_linear": 2.5}),
    "vit v2": ("vit", {"aloe_bcos_impl": "v2", "aloe_b_linear": 1.5}),
    "vit classifier": ("vit", {"labels": 3, "aloe_logit_bias": -0.7}),
    "vit no logit layer": ("vit", {"labels": 3, "aloe_use_logit_layer": False, "aloe_logit_bias": -0.7}),
    "vit stem of another stride": ("vit", {"aloe_add_conv_stem": [8, 12]}),  # stride 4, then patches of 2
}


@pytest.fixture
def photos():
    return torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("case", CASES)
def test_outputs_equal_the_literal_forward_and_explanations_are_complete(case, tmp_path, photos):
    kind, keys = CASES[case]
    values, tensors = make(kind, tmp_path, **keys)
    model = load(tmp_path).double()
    expected = forward(values, tensors, photos.double(), *MEANS[kind])
    found = model(photos.double(), output_hidden_states=True)
    pairs = [*zip(found.hidden_states, expected["states"], strict=True)]
    pairs += [(found.last_hidden_state, expected["tokens"]), (found.pooler_output, expected["pooled"])]
    if "logits" in expected:
        pairs.append((found.logits, expected["logits"]))
        assert model.config.id2label[0] == "class 0"
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    assert explain(model, photos.double()).completeness_error().max() < 1e-10
    single = load(tmp_path)(photos)
    assert (single.pooler_output - expected["pooled"]).norm() <= 1e-5 * expected["pooled"].norm()


def test_the_switches_matter(tmp_path, photos):
    """Each documented difference changes the output, so that the test above could see it missing."""
    make("dinov3", tmp_path, **STEM)
    model = load(tmp_path)
    before = model(photos).pooler_output
    config = model.config
    changes = [
        {"encoding": "unit", "image_mean": None, "image_std": None},
        {"bcos_variant": "unnormalized"},
        {"stem_norm": "rms"},
        {"b_conv": 1.5},
        {"conv_norm_eps": 0.1},
    ]
    for change in changes:
        other = type(model)(type(config)(**(config.to_dict() | change)))
        other.load_state_dict(model.state_dict())
        assert (other(photos).pooler_output - before).norm() > 1e-3 * before.norm(), change


def test_it_is_a_student_like_any_other(tmp_path, photos, caplog):
    make("siglip2", tmp_path / "theirs", labels=4, **STEM)
    assert is_student(tmp_path / "theirs")
    with caplog.at_level("WARNING", logger="aloe"):
        model = load(tmp_path / "theirs")
    assert "CC BY-NC-SA 4.0" in caplog.text
    assert model.config.teacher["name"] == "some/teacher"
    assert not model.training
    save_student(model, tmp_path / "ours")
    again = load(tmp_path / "ours")
    assert again.config.teacher["licence"] == "CC BY-NC-SA 4.0"
    assert torch.equal(again(photos).logits, model(photos).logits)
    own = explain(model, photos, targets=[1, 2]).contributions
    torch.testing.assert_close(attribute(model, photos, [1, 2], method="inherent").maps, own)
    cp = attribute(model, photos, [1, 2], method="attnlrp", variant="cp").maps
    torch.testing.assert_close(cp, own, rtol=1e-3, atol=1e-5 * float(own.abs().max()))


def test_weights_are_float32_unless_asked(tmp_path):
    _, tensors = make("dinov3", tmp_path)
    save_file({k: v.bfloat16() for k, v in tensors.items()}, tmp_path / "model.safetensors")
    assert next(load(tmp_path).parameters()).dtype == torch.float32
    assert next(load(tmp_path, dtype=torch.bfloat16).parameters()).dtype == torch.bfloat16


def test_the_image_processor_states_the_normalisation(tmp_path, photos):
    values, tensors = make("dinov3", tmp_path)
    stated = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stated))
    expected = forward(values, tensors, photos, *stated.values())["pooled"]
    torch.testing.assert_close(load(tmp_path)(photos).pooler_output, expected, rtol=1e-4, atol=1e-5)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False}))
    expected = forward(values, tensors, photos, (0, 0, 0), (1, 1, 1))["pooled"]
    torch.testing.assert_close(load(tmp_path)(photos).pooler_output, expected, rtol=1e-4, atol=1e-5)


def test_weights_in_several_files(tmp_path, photos):
    make("vit", tmp_path)
    whole = load(tmp_path)(photos).pooler_output
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    index: dict[str, str] = {}
    for n, names in enumerate((list(tensors)[:7], list(tensors)[7:])):
        save_file({k: tensors[k] for k in names}, tmp_path / f"part-{n}.safetensors")
        index |= dict.fromkeys(names, f"part-{n}.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert torch.equal(load(tmp_path)(photos).pooler_output, whole)
    index["vision_model.post_layernorm.weight"] = "../part-0.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(UserError, match=r"names '\.\./part-0.safetensors'; only safetensors files in its own folder"):
        load(tmp_path)
    index["vision_model.post_layernorm.weight"] = "part-9.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(UserError, match=r"names 'part-9.safetensors', which is no file beside it"):
        load(tmp_path)


@pytest.mark.parametrize("patch", [8, 6], ids=["its own size", "the teacher's, of smaller patches"])
def test_the_image_size_may_be_the_teachers(tmp_path, patch):
    make("siglip2", tmp_path, image_size=patch * 3, patch_size=patch)
    config = load(tmp_path).config
    assert (config.image_size, config.patch_size, config.resolution) == (24, 8, 24)
    make("siglip2", tmp_path, image_size=None, num_patches=9)
    assert load(tmp_path).config.image_size == 24


def test_a_patch_that_the_stem_outruns_is_the_stems_stride(tmp_path):
    """Patch 14 after strides of 16: one pixel of the stem is a token (aloe-siglip2-so400m-432 by its name)."""
    make("siglip2", tmp_path, aloe_patch_size=7, image_size=21, **STEM)
    config = load(tmp_path).config
    assert (config.patch_size, config.image_size) == (8, 24)


BAD_CONFIG = {
    "model type": ({"model_type": "aloe_clip_vision"}, "is a aloe_clip_vision model, not a published checkpoint"),
    "naflex": (
        {"aloe_position_embedding_type": "naflex_2d"},
        "aloe_position_embedding_type 'naflex_2d' is not supported",
    ),
    "pooling": ({"aloe_pooler_type": "none"}, "aloe_pooler_type 'none' is not supported"),
    "mean": ({"aloe_pooler_type": "mean"}, "beside CLS or register tokens"),
    "impl": ({"aloe_bcos_impl": "v3"}, "aloe_bcos_impl 'v3' is not supported; known: v2, v1"),
    "activation": ({"hidden_act": "silu"}, "hidden_act 'silu' is not supported"),
    "channels": ({"aloe_in_channels": 3}, "aloe_in_channels is 3"),
    "unknown key": ({"aloe_gate": "soft"}, "config key aloe_gate = 'soft' is not known.*--ignore aloe_gate"),
    "gated mlp": ({"use_gated_mlp": True}, "use_gated_mlp"),
    "wrong kind of value": ({"aloe_num_registers": "four"}, "aloe_num_registers is 'four', which is no number"),
    "zero": ({"aloe_patch_size": 0}, "aloe_patch_size is 0, which is no number"),
    "theta": ({"aloe_rope_theta": "x"}, "aloe_rope_theta is 'x', which is no number"),
    "odd heads": ({"num_attention_heads": 4}, "heads of a width that is a multiple of 4, got 6"),
    "stem": ({"aloe_add_conv_stem": "wide"}, "wrong type or value|could not be loaded"),
    "missing size": ({"hidden_size": None}, "does not state hidden_size|wrong type"),
    "heads": ({"num_attention_heads": 5}, "multiple of num_attention_heads"),
    "no CLS": ({"aloe_cls_token": False}, "pooling is 'cls' but use_cls_token is false"),
    "registers": (
        {"aloe_num_registers": 3},
        r"register_tokens.tokens' has shape \(1, 4, 24\), from .* \(1, 3, 24\) cannot",
    ),
    "layer scale": ({"aloe_use_layer_scale": False}, "4 tensors are no part of the published layout.*layer_scale1"),
    "width": ({"intermediate_size": 44}, r"fc1.linear.weight' has shape \(40, 24\)"),
    "depth": ({"num_hidden_layers": 3}, "'vision_model.encoder.layers.2.layer_norm1.weight' of .* is missing"),
    "stem missing": ({"aloe_add_conv_stem": [8, 12]}, "conv_stem.stem.0.conv.linear.weight' of .* is missing"),
}


@pytest.mark.parametrize("case", BAD_CONFIG)
def test_configs_that_are_refused(case, tmp_path):
    change, message = BAD_CONFIG[case]
    values, _ = make("dinov3", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in (values | change).items() if v is not None}))
    with pytest.raises(UserError, match=message) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


def test_an_unknown_key_can_be_passed_over(tmp_path, aloe):
    values, _ = make("dinov3", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(values | {"aloe_note": "hello"}))
    code, _, err = aloe("convert-checkpoint", tmp_path, "-o", "out")
    assert (code, "aloe_note = 'hello' is not known" in err) == (2, True)
    code, out, _ = aloe("convert-checkpoint", tmp_path, "-o", "out", "--ignore", "aloe_note", "--json")
    assert code == 0
    facts = json.loads(out)
    assert facts["licence"] == "CC BY-NC-SA 4.0"
    assert facts["teacher"] == "some/teacher"
    assert facts["parameters"] == sum(t.numel() for t in load_file(tmp_path / "model.safetensors").values())
    assert load("out").config.model_type == "bcos_vit"
    assert aloe("convert-checkpoint", tmp_path, "-o", "out")[0] == 2  # not empty


BAD_TENSORS = {
    "renamed": (
        lambda t: t | {"vision_model.post_layernorm.w": t.pop("vision_model.post_layernorm.weight")},
        "is missing",
    ),
    "left over": (
        lambda t: t | {"vision_model.extra": torch.ones(2)},
        "1 tensors are no part of the published layout, first 'vision_model.extra'",
    ),
    "outside the prefix": (
        lambda t: t | {"text_model.a": torch.ones(2)},
        "no part of the published layout, first 'text_model.a'",
    ),
    "shape": (
        lambda t: t | {"vision_model.post_layernorm.weight": torch.ones(7)},
        r"post_layernorm.weight' has shape \(7,\), from which norm.weight of shape \(24,\) cannot be made",
    ),
    "patch embedding": (
        lambda t: t | {"vision_model.embeddings.patch_embedding.linear.weight": torch.ones(24, 6, 8, 8)},
        r"patch_embedding.linear.weight' has shape \(24, 6, 8, 8\)",
    ),
    "positions": (
        lambda t: t | {"vision_model.embeddings.pos_embedding.embedding.weight": torch.ones(17, 24)},
        "16 patch rows, which is not the grid the config describes",
    ),
    "classifier of a backbone": (lambda t: t | {"classifier.linear.weight": torch.ones(2, 24)}, "left over"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_tensors_that_are_refused(case, tmp_path):
    change, message = BAD_TENSORS[case]
    _, tensors = make("vit", tmp_path)
    save_file(change(dict(tensors)), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_classifiers_that_are_refused(tmp_path):
    values, tensors = make("vit", tmp_path, labels=3)
    (tmp_path / "config.json").write_text(json.dumps(values | {"id2label": {"0": "a", "1": "b"}}))
    with pytest.raises(UserError, match=r"the classifier has 3 rows, config.json names 2 labels"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in values.items() if k != "id2label"}))
    assert load(tmp_path).config.num_labels == 3
    del tensors["classifier.linear.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"'classifier.linear.weight' is missing"):
        load(tmp_path)
    make("vit", tmp_path, labels=1, aloe_use_logit_layer=True)
    with pytest.raises(UserError, match="needs aloe_logit_bias"):
        load(tmp_path)


def test_files_that_are_refused(tmp_path):
    make("vit", tmp_path)
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="truncated or corrupt"):
        load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps({"weight": [1.0]}))
    with pytest.raises(UserError, match="truncated or corrupt"):
        load(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="only safetensors are loaded, never pickled weights"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(UserError, match="not a published checkpoint"):
        load_published(tmp_path)


@pytest.mark.slow
def test_by_its_hub_id_from_the_cache(tmp_path):
    """A hub id whose files are in the hub's cache: nothing but config and safetensors is asked for, and no code is run."""
    name = "rmaser/aloe-dinov3-base"
    assert name in REPOSITORIES
    assert len(set(REPOSITORIES)) == 21
    home = tmp_path / "hub" / "models--rmaser--aloe-dinov3-base"
    make("dinov3", home / "snapshots" / "abc")
    (home / "snapshots" / "abc" / "modeling_aloe.py").write_text("raise SystemExit('remote code was run')")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc")
    code = f"import aloe; m = aloe.load('{name}'); print(type(m).__name__, m.config.teacher['source'])"
    env = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["BcosViTModel", name], done.stderr
    assert "CC BY-NC-SA 4.0" in done.stderr


def test_options_as_for_other_students(tmp_path, photos):
    make("vit", tmp_path)
    eager = load(tmp_path, attn_implementation="eager", dtype="float32")
    assert eager(photos, output_attentions=True).attentions[0].shape == (2, 2, 10, 10)
    with pytest.raises(UserError, match="for which device_map cannot be given"):
        load(tmp_path, device_map="auto")
    with pytest.raises(UserError, match="no dtype 'int8'"):
        load(tmp_path, dtype="int8")


def test_it_is_no_teacher(tmp_path):
    make("vit", tmp_path)
    with pytest.raises(UserError, match="is a B-cos student, not a teacher"):
        load_teacher(tmp_path)


def test_a_grid_that_is_not_the_native_one(tmp_path):
    """RoPE is recomputed for any grid, so a rectangle is compared as well."""
    values, tensors = make("dinov3", tmp_path, **STEM)
    wide = torch.rand(2, 3, 16, 40, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    expected = forward(values, tensors, wide, *MEANS["dinov3"])["tokens"]
    torch.testing.assert_close(load(tmp_path).double()(wide).last_hidden_state, expected, rtol=1e-9, atol=1e-9)


def test_numbers_that_contradict_the_tensors(tmp_path):
    make("siglip2", tmp_path, image_size=None, num_patches=16)
    with pytest.raises(UserError, match="9 patch rows, which is not the grid"):
        load(tmp_path)
    values, tensors = make("vit", tmp_path, labels=3)
    (tmp_path / "config.json").write_text(json.dumps(values | {"id2label": {"5": "a", "6": "b", "7": "c"}}))
    with pytest.raises(UserError, match="does not name the labels 0 to 2"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(values))
    tensors["vision_model.post_layernorm.weight"] = torch.ones(24, dtype=torch.int64)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"holds torch.int64, not floating-point"):
        load(tmp_path)
    make("dinov3", tmp_path, image_size=25, aloe_in_channels=None)
    assert load(tmp_path).config.image_size == 24
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5, "a", 1]}))
    with pytest.raises(UserError, match=r"preprocessor_config.json: image_mean must be three numbers"):
        load(tmp_path)
