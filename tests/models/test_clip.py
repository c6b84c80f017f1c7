"""CLIP's vision tower: normed tokens, the norm before its blocks, and the full checkpoints it comes in."""

from __future__ import annotations

import pytest
import torch
import transformers as hf

from aloe.core.errors import UserError
from aloe.models.convert import bcosify
from aloe.models.families import OPENAI_MEAN, OPENAI_STD
from aloe.models.saving import load, save_student
from aloe.models.teachers import Teacher, load_teacher
from conftest import SIZE, VISION, build_teacher


def test_tokens_are_normed_and_the_pooled_output_is_transformers_own(images):
    teacher = build_teacher("clip")
    pixels = teacher.normalize(images)
    with torch.no_grad():
        out = teacher.model(pixels)
        found = teacher.features(pixels)
        expected = teacher.model.post_layernorm(out.last_hidden_state)
    torch.testing.assert_close(found.tokens, expected)
    torch.testing.assert_close(found.pooled, out.pooler_output)
    assert (found.tokens - out.last_hidden_state).abs().max() > 0.1, "vacuous: the final norm does nothing"
    assert (teacher.mean, teacher.std) == (OPENAI_MEAN, OPENAI_STD)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_a_student_keeps_what_is_special_about_clip(tmp_path, images, activation):
    model = hf.CLIPVisionModel(hf.CLIPVisionConfig(**VISION, hidden_act=activation))
    student, report = bcosify(Teacher(model), with_report=True)
    config = student.config
    assert (config.hidden_act, config.layer_norm_eps, config.pre_norm) == (activation, 1e-5, True)
    assert config.position_interpolation == "bicubic"
    assert torch.equal(student.pre_norm.weight, model.pre_layrnorm.weight)
    assert "pre_layrnorm.bias" in report.dropped
    assert config.teacher["family"] == "CLIP"
    save_student(student, tmp_path)
    with torch.no_grad():
        assert torch.equal(load(tmp_path)(images).pooler_output, student(images).pooler_output)


def test_hidden_state_0_comes_before_the_pre_norm(images):
    student = bcosify(build_teacher("clip", zero_bias=True), b=1.0)
    tower = build_teacher("clip", zero_bias=True).tower
    with torch.no_grad():
        states = student(images, output_hidden_states=True).hidden_states
        raw = tower.embeddings(Teacher(tower).normalize(images))
    assert (states[0] - raw).abs().max() < 1e-4 * raw.abs().max()


@pytest.mark.parametrize("projected", [False, True])
def test_whole_checkpoints(tmp_path, images, projected):
    """Both towers, or the vision tower with its projection: the rest is named in `unread`."""
    text = {**SIZE, "vocab_size": 20, "max_position_embeddings": 8, "eos_token_id": 1, "bos_token_id": 0}
    if projected:
        full = hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**VISION))
    else:
        full = hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=VISION))
    full.save_pretrained(tmp_path)
    loaded, live = load_teacher(tmp_path), load_teacher(full)
    left = {name.split(".")[0] for name in loaded.unread}
    assert left == {"visual_projection"} | (set() if projected else {"text_model", "text_projection", "logit_scale"})
    for k, state in loaded(images, after_block=[1, 3]).states.items():
        torch.testing.assert_close(state, live(images, after_block=[k]).states[k])
    torch.testing.assert_close(loaded(images).pooled, live(images).pooled)


def test_deit_with_a_distillation_token_is_refused(tmp_path):
    hf.DeiTModel(hf.DeiTConfig(**VISION)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"'deit' cannot be converted; ALOE takes vit, .*, clip, clip_vision_model"):
        load_teacher(tmp_path)
