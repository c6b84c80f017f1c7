"""The teacher's features as alignment asks for them, against a plain call of the teacher."""

from __future__ import annotations

import pytest
import torch

from aloe.models.convert import bcosify
from aloe.train.align import teaching
from aloe.train.align.points import teacher_features
from aloe.train.align.settings import AlignSettings
from aloe.train.align.teaching import Teaching
from aloe.train.align.trainer import AlignmentModel
from conftest import build_teacher

BLOCKS = (1, 3)


def flat(features):
    return [features.pooled, *(features.states[k] for k in BLOCKS)]


def test_features_are_those_of_the_teacher_and_serve_a_backward_pass(family, images):
    teacher = build_teacher(family)
    student = bcosify(teacher)
    found = Teaching(teacher, student.config, BLOCKS)(images)
    wanted = teacher_features(teacher, images, student.config, BLOCKS)
    for ours, theirs in zip(flat(found), flat(wanted), strict=True):
        assert torch.equal(ours, theirs)
        assert not ours.requires_grad
    model = AlignmentModel(student.base_model, teacher, AlignSettings(), BLOCKS)
    torch.stack(list(model(images, found).values())).sum().backward()
    assert sum(bool(p.grad.abs().sum()) for p in model.parameters() if p.grad is not None) > 10


def test_low_precision_is_autocast_and_inference_mode_is_on(images, monkeypatch):
    teacher = build_teacher("dinov2")
    config, seen = bcosify(teacher).config, []

    def watch(*arguments):
        seen.append((torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")))
        return teacher_features(*arguments)

    monkeypatch.setattr(teaching, "teacher_features", watch)
    exact, low = (flat(Teaching(teacher, config, BLOCKS, p)(images)) for p in ("float32", "bf16"))
    assert seen == [(True, False), (True, True)]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        wanted = flat(teacher_features(teacher, images, config, BLOCKS))
    for a, b, c in zip(exact, low, wanted, strict=True):
        assert torch.equal(b, c)
        assert 1e-5 < float((a - b.float()).norm() / a.norm()) < 0.03


@pytest.mark.parametrize("family", ["vit", "dinov3", "siglip2"])
def test_compiled_blocks_are_compiled_once_and_give_the_same(family, images, monkeypatch):
    made, plain = [], torch.compile

    def compile_eagerly(forward):
        made.append(forward)
        return plain(forward, backend="eager")

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    teacher = build_teacher(family)
    config = bcosify(teacher).config
    wanted = Teaching(teacher, config, BLOCKS)(images)
    for _ in range(2):
        found = Teaching(teacher, config, BLOCKS, compiled=True)(images)
    assert len(made) == 3
    for ours, theirs in zip(flat(found), flat(wanted), strict=True):
        torch.testing.assert_close(ours, theirs)
