"""Where a fine-tuning starts: conversions, students, heads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aloe.core.errors import UserError
from aloe.models.convert import bcosify
from aloe.models.modeling import BcosViTForImageClassification
from aloe.models.saving import save_student
from aloe.models.teachers import Teacher
from aloe.train.finetune.settings import FinetuneSettings
from aloe.train.finetune.start import stage_after, starting_student, with_head
from conftest import build_teacher

NAMES = ["ant", "bee", "cat", "dog", "emu"]


def named_teacher():
    teacher = build_teacher("vit-classifier")
    teacher.model.config.id2label = dict(enumerate(NAMES))
    return teacher


def starting_name(model) -> str:
    return model.name if isinstance(model, Teacher) else type(model).__name__


def staged(stage: str | None):
    student = bcosify(named_teacher())
    student.config.teacher = {**student.config.teacher, "stage": stage}
    return student


def same_backbone(a, b) -> bool:
    left, right = a.base_model.state_dict(), b.base_model.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_a_teacher_is_converted_as_the_settings_say(tmp_path):
    teacher = named_teacher()
    teacher.model.save_pretrained(tmp_path / "teacher")
    expected = bcosify(teacher, b=1.5)
    for model in (teacher, teacher.model, tmp_path / "teacher", str(tmp_path / "teacher")):
        student, name = starting_student(model, FinetuneSettings(b=1.5))
        assert same_backbone(student, expected)
        assert student.config.b == 1.5
        assert student.config.teacher["stage"] == "converted"
        assert name == ("teacher" if isinstance(model, Path | str) else starting_name(model))
    conv, _ = starting_student(teacher, FinetuneSettings(stem="conv", seed=4))
    assert same_backbone(conv, bcosify(teacher, stem="conv", seed=4))


def test_a_student_is_taken_as_it_is(tmp_path):
    student = bcosify(build_teacher("vit"), b=1.5)
    save_student(student, tmp_path / "mine")
    found, name = starting_student(tmp_path / "mine", FinetuneSettings())
    assert (name, found.config.b) == ("mine", 1.5)
    assert same_backbone(found, student)
    assert starting_student(student, FinetuneSettings(b=1.5))[0] is student


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"b": 2.0}, "b cannot be 2.0: .* whose b is 1.5"),
        ({"stem": "conv"}, "stem cannot be conv: .* whose stem is patch"),
        ({"calibrate": True}, "only converted"),
    ],
)
def test_settings_that_a_student_cannot_follow(settings, words):
    student = bcosify(build_teacher("vit"), b=1.5)
    student.config.teacher["stage"] = "aligned"
    with pytest.raises(UserError, match=words):
        starting_student(student, FinetuneSettings(**settings))


def test_a_new_stem_cannot_stay_as_it_is():
    with pytest.raises(UserError, match="conv stem is new"):
        starting_student(build_teacher("vit"), FinetuneSettings(stem="conv", freeze="backbone"))


def test_a_converted_student_may_be_calibrated():
    student = bcosify(build_teacher("vit"))
    assert starting_student(student, FinetuneSettings(calibrate=True))[0] is student


@pytest.mark.parametrize("classes", [NAMES, NAMES[::-1], ["Bee", "ANT", "dog", "cat", "emu"]])
def test_a_head_for_the_same_classes_is_kept_in_the_data_s_order(classes, images):
    start = bcosify(named_teacher())
    student, kept = with_head(start, classes, FinetuneSettings())
    assert kept
    assert list(student.config.id2label.values()) == classes
    assert student.config.label2id == {name: k for k, name in enumerate(classes)}
    with torch.no_grad():
        before, after = start(images).logits, student(images).logits - student.config.logit_bias
    order = [NAMES.index(name.lower()) for name in classes]
    torch.testing.assert_close(after, before[:, order])


@pytest.mark.parametrize(
    "classes", [[*NAMES[:4], "fox"], NAMES[:4], [*NAMES, "fox"], ["ant", "Ant", "cat", "dog", "emu"]]
)
def test_a_head_for_other_classes_is_new_and_seeded(classes):
    start = bcosify(named_teacher())
    (first, kept), (again, _), (other, _) = (with_head(start, classes, FinetuneSettings(seed=s)) for s in (1, 1, 2))
    assert not kept
    assert first.classifier.weight.shape == (len(classes), 48)
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert 0.01 < first.classifier.weight.std() < 0.03
    assert same_backbone(first, start)


def test_a_backbone_gets_a_head_and_the_start_is_left_alone(images):
    start = bcosify(build_teacher("siglip"))
    before = {k: v.clone() for k, v in start.state_dict().items()}
    facts = dict(start.config.teacher)
    state = torch.random.get_rng_state()
    student, kept = with_head(start, ["yes", "no"], FinetuneSettings(loss="cross-entropy"))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert isinstance(student, BcosViTForImageClassification)
    assert (kept, student.config.logit_bias) == (False, 0.0)
    with torch.no_grad():
        assert student(images).logits.shape == (3, 2)
        student.vit.norm.weight.add_(1)
    student.config.teacher["stage"] = "x"
    assert start.config.teacher == facts
    assert all(torch.equal(before[k], v) for k, v in start.state_dict().items())


def test_half_precision_students_learn_in_float32():
    start = bcosify(build_teacher("vit")).to(torch.bfloat16)
    student, _ = with_head(start, ["yes", "no"], FinetuneSettings())
    assert {p.dtype for p in student.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("stage", "after"),
    [
        ("converted", "b-cosified"),
        ("b-cosified", "b-cosified"),
        ("aligned", "finetuned"),
        ("finetuned", "finetuned"),
        (None, "finetuned"),
    ],
)
def test_only_a_model_that_learned_from_labels_alone_is_b_cosified(stage, after):
    assert stage_after(staged(stage)) == after
