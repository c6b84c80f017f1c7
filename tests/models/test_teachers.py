"""Teachers from disk, from live modules and from other layouts; hidden states; every way in which loading can fail."""

from __future__ import annotations

import json

import pytest
import torch
import transformers as hf

from aloe.core.errors import UserError
from aloe.models import convert
from aloe.models.convert import bcosify
from aloe.models.hub import explain_hub_errors
from aloe.models.saving import load
from aloe.models.teachers import Teacher, load_teacher
from conftest import SIZE, VISION, build_teacher

MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]


def save(teacher, folder, **preprocessing):
    teacher.model.save_pretrained(folder)
    if preprocessing:
        stated = {"image_processor_type": "ViTImageProcessor", **preprocessing}
        (folder / "preprocessor_config.json").write_text(json.dumps(stated))


def assert_same_features(a, b, images):
    first, second = a(images, after_block=[1, 3]), b(images, after_block=[1, 3])
    torch.testing.assert_close(first.pooled, second.pooled, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(first.states, second.states, rtol=1e-5, atol=1e-5)
    assert (first.logits is None) == (second.logits is None)


def assert_same_student(a, b):
    mine, other = a.state_dict(), b.state_dict()
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[n], other[n]) for n in mine)


def test_a_saved_folder_loads(tmp_path, family, images):
    teacher = build_teacher(family)
    size = {"size": {"height": 40, "width": 40}}
    save(teacher, tmp_path, image_mean=MEAN, image_std=STD, **size)
    loaded = load_teacher(tmp_path)
    assert (loaded.mean, loaded.std, loaded.resolution) == (tuple(MEAN), tuple(STD), 40)
    assert (loaded.image_size, loaded.patch_size, loaded.num_layers, loaded.width) == (32, 8, 3, 48)
    assert loaded.name == tmp_path.name
    assert (loaded.classifier is None) == (family != "vit-classifier")
    assert not loaded.train().model.training
    assert not any(p.requires_grad for p in loaded.parameters())
    teacher.mean, teacher.std = loaded.mean, loaded.std
    assert_same_features(teacher, loaded, images)
    assert_same_student(bcosify(teacher), bcosify(loaded))
    given = load_teacher(tmp_path, mean=STD, std=MEAN, resolution=24)
    assert (given.mean, given.std, given.resolution) == (tuple(STD), tuple(MEAN), 24)


@pytest.mark.parametrize(
    ("stated", "resolution"),
    [
        ({}, 32),
        ({"crop_size": {"height": 24, "width": 24}, "size": {"shortest_edge": 40}}, 24),
        ({"size": 48}, 48),
        ({"size": {"shortest_edge": 40}}, 32),
        ({"size": {"height": 41, "width": 41}}, 32),
    ],
    ids=str,
)
def test_the_resolution_of_use(tmp_path, stated, resolution):
    save(build_teacher("vit"), tmp_path, **stated)
    loaded = load_teacher(tmp_path)
    assert loaded.resolution == resolution
    assert loaded.mean == loaded.std == (0.5, 0.5, 0.5)  # the family's own


def test_a_checkpoint_that_is_not_normalised(tmp_path):
    stated = {"do_normalize": False, "image_mean": MEAN, "image_std": STD}
    save(build_teacher("vit"), tmp_path, **stated)
    loaded = load_teacher(tmp_path)
    assert (loaded.mean, loaded.std) == ((0, 0, 0), (1, 1, 1))
    assert load_teacher(tmp_path, mean=MEAN, std=STD).mean == tuple(MEAN)


def test_what_was_not_read_is_named(tmp_path):
    hf.Dinov2ForImageClassification(build_teacher("dinov2").model.config).save_pretrained(tmp_path)
    loaded = load_teacher(tmp_path)
    assert loaded.unread == ("classifier.bias", "classifier.weight")
    report = bcosify(loaded, with_report=True)[1]
    assert report.unread == list(loaded.unread)
    assert "2 tensors not read" in str(report)
    assert [kind for kind, _, _ in report.rows()] == ["copied", "fused", "folded", "new", "dropped"]
    assert build_teacher("dinov2").unread == ()


@pytest.mark.parametrize("kind", ["siglip", "siglip2"])
def test_the_vision_tower_of_a_full_checkpoint(tmp_path, images, kind):
    text = {**SIZE, "vocab_size": 20, "max_position_embeddings": 8, "projection_size": 48}
    if kind == "siglip":
        config = hf.SiglipConfig(text_config=text, vision_config=VISION)
        full = hf.SiglipModel(config)
    else:
        config = hf.Siglip2Config(text_config=text, vision_config={**SIZE, "patch_size": 8, "num_patches": 16})
        full = hf.Siglip2Model(config)
    full.save_pretrained(tmp_path)
    loaded, live = load_teacher(tmp_path), load_teacher(full)
    assert not any("text" in name for name, _ in loaded.named_parameters())
    assert {name.split(".")[0] for name in loaded.unread} == {"text_model", "logit_scale", "logit_bias"}
    assert loaded.image_size == live.image_size == 32
    assert_same_features(loaded, live, images)
    assert_same_student(bcosify(loaded), bcosify(live))


def test_hidden_states_are_raw_and_counted_from_block_1(family, images):
    teacher = build_teacher(family)
    got = teacher(images, after_block=[1, 2, 3])
    assert sorted(got.states) == [1, 2, 3]
    assert teacher(images).states == {}
    assert not any(block._forward_hooks for block in teacher.blocks)
    tower, pixels = teacher.tower, teacher.normalize(images)
    if family == "siglip2":
        from aloe.models.teachers import _naflex

        with torch.no_grad():
            expected = tower(**_naflex(pixels, 8), output_hidden_states=True).hidden_states
    else:
        with torch.no_grad():
            expected = tower(pixels, output_hidden_states=True).hidden_states
    assert len(expected) == 4
    for k in (1, 2, 3):
        raw = got.states[k]
        if k == 3 and not torch.equal(raw, expected[k]):  # some releases norm the last entry
            final = next(m for n, m in tower.named_children() if n in ("norm", "layernorm", "post_layernorm"))
            raw = final(raw)
        torch.testing.assert_close(raw, expected[k])


def test_normalisation_and_classifier(images):
    teacher = build_teacher("vit-classifier")
    teacher.mean, teacher.std = tuple(MEAN), tuple(STD)
    pixels = torch.stack([(images[:, c] - MEAN[c]) / STD[c] for c in range(3)], 1)
    with torch.no_grad():
        torch.testing.assert_close(teacher(images).logits, teacher.model(pixels).logits)


OLD = ["vit", "vit-classifier", "dinov2", "dinov2-registers", "dinov3"]


@pytest.mark.parametrize("family", OLD)
def test_older_layouts_convert_to_the_same_student(monkeypatch, family):
    """Tensor names as other transformers releases write them."""
    teacher = build_teacher(family)
    expected = bcosify(teacher)
    renamed = {}
    for name, tensor in teacher.tower.state_dict().items():
        old = name
        if family.startswith("vit") and name.startswith("layers."):
            old = "encoder.layer." + name.removeprefix("layers.")
            old = old.replace(".mlp.fc1.", ".intermediate.dense.").replace(".mlp.fc2.", ".output.dense.")
        if family == "dinov3" and "layer." in name:
            old = name.removeprefix("model.") if name.startswith("model.") else f"model.{name}"
        elif family != "dinov3":
            for new, part in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
                old = old.replace(f".attention.{new}.", f".attention.attention.{part}.")
            old = old.replace(".attention.o_proj.", ".attention.output.dense.")
        renamed[old] = tensor
    assert len(renamed.keys() - teacher.tower.state_dict().keys()) >= 24
    monkeypatch.setattr(teacher.tower, "state_dict", lambda: renamed)
    student, report = bcosify(teacher, with_report=True)
    assert_same_student(student, expected)
    assert not report.new


def test_the_fused_gate_of_older_dinov2(monkeypatch):
    teacher = build_teacher("dinov2-swiglu")
    expected = bcosify(teacher)
    weights = teacher.tower.state_dict()
    for name in [n for n in weights if ".mlp.gate_proj." in n]:
        gate, up = weights.pop(name), weights.pop(name.replace("gate_proj", "up_proj"))
        weights[name.replace("gate_proj", "weights_in")] = torch.cat((gate, up))
    for name in [n for n in weights if ".mlp.down_proj." in n]:
        weights[name.replace("down_proj", "weights_out")] = weights.pop(name)
    monkeypatch.setattr(teacher.tower, "state_dict", lambda: weights)
    student, report = bcosify(teacher, with_report=True)
    assert_same_student(student, expected)
    assert sum("mlp" in name for name in report.fused) == 6


def test_a_layout_nobody_knows_names_the_tensor(monkeypatch):
    teacher = build_teacher("vit")
    weights = {n.replace("fc1", "first"): t for n, t in teacher.tower.state_dict().items()}
    monkeypatch.setattr(teacher.tower, "state_dict", lambda: weights)
    with pytest.raises(UserError, match=r"'layers.0.mlp.fc1.weight' of the ViT layout of transformers .* is missing"):
        convert.bcosify(teacher)


def sentence(caught):
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_folders_that_cannot_be_loaded(tmp_path):
    def refused(message, path=tmp_path):
        with pytest.raises(UserError, match=message) as caught:
            load_teacher(path)
        sentence(caught)

    refused("is not a folder; give a folder", tmp_path / "nothing")
    refused("holds no config.json; give a folder")
    build_teacher("vit").model.save_pretrained(tmp_path)
    refused("is not a folder", tmp_path / "config.json")
    weights, good = tmp_path / "model.safetensors", (tmp_path / "model.safetensors").read_bytes()
    weights.write_bytes(good[: len(good) // 2])
    refused("safetensors file is truncated or corrupt .* fetch it again")
    weights.unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    refused("has no model.safetensors; only safetensors are loaded, never pickled")
    (tmp_path / "config.json").write_text("{ not json")
    refused("config.json is not valid JSON .* fetch it again")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    refused("'bert' cannot be converted; ALOE takes vit, dinov2")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "my_own_vit"}))
    refused("could not be loaded|cannot be converted")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            {"model_type": "vit", "hidden_size": "big"},
            r"hidden_size of config\.json must be a whole number .* got 'big'",
        ),
        ({"model_type": "vit", "hidden_dropout_prob": "x"}, r"config\.json has a field .* 'hidden_dropout_prob'"),
        ({"model_type": "vit", "num_attention_heads": 0}, r"num_attention_heads of config\.json must be .* from 1"),
        ({"model_type": "bcos_vit", "hidden_size": "big"}, r"hidden_size of config\.json must be a whole number"),
        ({"model_type": "bcos_vit", "b": "two"}, r"config\.json .* b must be a number, got 'two'"),
        ({"model_type": "bcos_vit", "teacher": "x"}, r"config\.json .* teacher must be a dictionary"),
        (
            {"model_type": "bcos_vit", "num_attention_heads": 0},
            r"num_attention_heads of config\.json must be .* from 1",
        ),
        ({"model_type": "bcos_vit", "stem": "conv", "stem_widths": "ab"}, r"stem_widths of config\.json are 'ab'"),
        ([1], r"config\.json is not a JSON object"),
    ],
    ids=str,
)
def test_wrong_fields_name_the_file(tmp_path, wrong, words):
    build_teacher("vit").model.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(wrong))
    with pytest.raises(UserError, match=words) as caught:
        (load if "bcos" in str(wrong) else load_teacher)(tmp_path)
    sentence(caught)


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_error_without_words_is_named(tmp_path, text):
    build_teacher("vit").model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="could not be loaded: RuntimeError"), explain_hub_errors(str(tmp_path)):
        raise RuntimeError(text)


def test_missing_weights_are_named(tmp_path):
    from safetensors.torch import load_file, save_file

    build_teacher("dinov2").model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["layernorm.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 weights are missing .* first 'layernorm\.weight'") as caught:
        load_teacher(tmp_path)
    sentence(caught)


def _hub_error(kind):
    from huggingface_hub import errors

    refusal = getattr(errors, kind)
    cause = refusal.__new__(refusal, "refused")  # its constructor wants a response of whichever client is installed
    error = OSError("You are trying to access a repo\nacross several lines")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (lambda: _hub_error("GatedRepoError"), "is gated: accept its terms .* `hf auth login`, or download"),
        (lambda: _hub_error("RepositoryNotFoundError"), "There is no hub repository .*no such folder"),
        (lambda: OSError("We couldn't connect\nto the hub"), "neither a local folder nor reachable on the hub: check"),
    ],
    ids=["gated", "absent", "unreachable"],
)
def test_hub_failures_say_what_to_do(monkeypatch, error, message):
    def fail(*_args, **_kwargs):
        raise error()

    monkeypatch.setattr(hf.PreTrainedConfig, "get_config_dict", fail)  # the first thing asked of the hub
    with pytest.raises(UserError, match=message) as caught:
        load_teacher("somebody/vit")
    assert "somebody/vit" in sentence(caught)


def test_a_path_that_is_not_there_is_not_taken_for_a_hub_id():
    with pytest.raises(UserError, match="nowhere/near/here is neither a local folder nor") as caught:
        load_teacher("nowhere/near/here")
    sentence(caught)


def test_live_modules():
    teacher = build_teacher("dinov3")
    assert load_teacher(teacher) is teacher
    assert load_teacher(teacher.model, mean=MEAN, std=STD, resolution=64).resolution == 64
    with pytest.raises(UserError, match="None cannot be converted"):
        Teacher(torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match="Only square"):
        Teacher(hf.ViTModel(hf.ViTConfig(**{**VISION, "image_size": (32, 48)}), add_pooling_layer=False))
