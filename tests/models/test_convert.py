"""Conversion: parity with a zero-bias teacher at B = 1, and every tensor accounted for."""

from __future__ import annotations

import pytest
import torch

from aloe.core.errors import UserError
from aloe.models.convert import bcosify, fold_normalization
from aloe.models.modeling import BcosViTForImageClassification
from aloe.models.teachers import Teacher
from conftest import build_teacher


def _states(student, images):
    return student(images, output_hidden_states=True)


@pytest.mark.parametrize("size", [32, 48])
def test_a_zero_bias_teacher_is_reproduced_at_b_1(family, size):
    teacher = build_teacher(family, zero_bias=True)
    student = bcosify(teacher, stem="patch", b=1.0)
    images = torch.rand(2, 3, size, size)
    depth = teacher.num_layers
    with torch.no_grad():
        expected = teacher(images, after_block=range(1, depth + 1))
        got = _states(student, images)
    for k in range(1, depth + 1):
        scale = expected.states[k].abs().max()
        assert (got.hidden_states[k] - expected.states[k]).abs().max() < 1e-4 * scale, f"after block {k}"
    pooled = got.pooler_output
    assert (pooled - expected.pooled).abs().max() < 1e-4 * expected.pooled.abs().max()


def test_a_bias_or_b_2_breaks_the_parity(family, images):
    """The parity test could fail: with biases, or with B = 2, the hidden states do differ."""
    for zero_bias, b in ((False, 1.0), (True, 2.0)):
        teacher = build_teacher(family, zero_bias=zero_bias)
        student = bcosify(teacher, b=b)
        with torch.no_grad():
            expected = teacher(images, after_block=[3]).states[3]
            got = _states(student, images).hidden_states[3]
        assert (got - expected).abs().max() > 1e-2 * expected.abs().max()


def test_every_tensor_is_accounted_for(family):
    teacher = build_teacher(family)
    student, report = bcosify(teacher, with_report=True)
    made = {**report.copied, **report.fused, **report.folded, **report.new}
    assert set(made) == set(student.state_dict())
    assert sum(made.values()) == student.num_parameters()
    assert not report.new
    unused = [n for n in report.dropped if not n.endswith("bias")]
    assert all("mask_token" in n or n == "head.attention.in_proj_bias" for n in unused), unused


def test_a_conv_stem_is_new_and_seeded(family, images):
    teacher = build_teacher(family)
    first, report = bcosify(teacher, stem="conv", seed=3, with_report=True)
    second = bcosify(teacher, stem="conv", seed=3)
    other = bcosify(teacher, stem="conv", seed=4)
    assert {n.removeprefix("vit.").split(".")[1] for n in report.new} == {"stem", "patch_embedding"}
    with torch.no_grad():
        a, b, c = (m(images).last_hidden_state for m in (first, second, other))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_folding_equals_normalising_first():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 3, 4, 4, generator=generator, dtype=torch.float64)
    bias = torch.randn(5, generator=generator, dtype=torch.float64)
    mean, std = (0.4, 0.5, 0.3), (0.2, 0.3, 0.25)
    image = torch.rand(2, 3, 8, 8, generator=generator, dtype=torch.float64)
    folded = fold_normalization(weight, bias, mean, std)
    normal = (image - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    expected = torch.nn.functional.conv2d(normal.double(), weight, bias, stride=4)
    got = torch.nn.functional.conv2d(torch.cat((image, 1 - image), 1), folded, stride=4)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_patch_14_teacher_pairs_with_a_patch_16_conv_student():
    import transformers as hf

    config = hf.SiglipVisionConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=48, patch_size=14
    )
    teacher = Teacher(hf.SiglipVisionModel(config))
    student = bcosify(teacher, stem="conv")
    assert (teacher.grid_size, student.config.image_size, student.config.patch_size) == (3, 48, 16)
    assert teacher.input_size(3) == 48
    assert teacher.input_size(4) == 56


def test_a_classifier_is_carried_over(images):
    teacher = build_teacher("vit-classifier")
    student = bcosify(teacher)
    assert isinstance(student, BcosViTForImageClassification)
    assert torch.equal(student.classifier.weight, teacher.classifier.weight)
    assert student(images).logits.shape == (3, 5)


def test_a_level_around_the_tower_makes_no_difference(images):
    """Both layouts of the vision towers: with and without a `vision_model` level."""
    import transformers as hf

    bare = build_teacher("siglip")
    shell = torch.nn.Module()
    shell.vision_model, shell.config = bare.model, hf.SiglipVisionConfig(**bare.config.to_dict())
    wrapped = Teacher(shell)
    with torch.no_grad():
        assert torch.equal(bcosify(bare)(images).pooler_output, bcosify(wrapped)(images).pooler_output)
        assert torch.equal(bare(images).pooled, wrapped(images).pooled)


def test_a_live_module_is_left_as_it_was(images):
    import transformers as hf

    model = build_teacher("vit").model
    before = {n: p.clone() for n, p in model.state_dict().items()}
    student = bcosify(Teacher(model))
    with torch.no_grad():
        next(student.parameters()).add_(1)
    assert all(torch.equal(before[n], p) for n, p in model.state_dict().items())
    assert isinstance(model, hf.ViTModel)


def test_unknown_stem_and_unknown_architecture():
    with pytest.raises(UserError, match="stem must be one of patch, conv, conv-even"):
        bcosify(build_teacher("vit"), stem="cnn")
    import transformers as hf

    bert = hf.BertModel(hf.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8))
    with pytest.raises(UserError, match="'bert' cannot be converted"):
        bcosify(bert)
