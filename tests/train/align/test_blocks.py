"""Blocks that learn alone: the error against its equation, what every family gives, resume, and what it is worth."""

from __future__ import annotations

import json

import pytest
import torch

from aloe.core.errors import UserError
from aloe.models.convert import bcosify
from aloe.train.align.blocks import FOLDER, LEAST, BlocksModel, relative_error
from aloe.train.align.points import teacher_features
from aloe.train.align.settings import AlignSettings
from aloe.train.checkpoints import checkpoints
from aloe.train.progress import read_log
from conftest import build_teacher
from pictures import write_pictures
from train.align.test_run import losses, tiny
from train.align.test_stem import cut_and_resumed

BLOCKS = {"block_steps": 4, "save_every": 2, "holdout": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("images"), 24)


@pytest.fixture
def images():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_error_is_that_of_the_equation():
    ours, theirs = torch.randn(2, 5, 4, 3, generator=torch.Generator().manual_seed(1))
    theirs[0, 0] = 1e-4  # hardly changed: it counts no more than a hundredth of the mean
    wanted = []
    for a, b in zip(ours, theirs, strict=True):
        mean = sum(float((t**2).sum()) for t in b) / len(b)
        wanted += [
            float(((x - t) ** 2).sum()) / max(float((t**2).sum()), LEAST * mean) for x, t in zip(a, b, strict=True)
        ]
    assert relative_error(ours, theirs).item() == pytest.approx(sum(wanted) / len(wanted), rel=1e-5)


@pytest.mark.parametrize("family", ["vit", "siglip", "dinov2", "dinov3", "clip"])
def test_every_block_is_given_the_teacher_s_state_before_it(family, images):
    teacher = build_teacher(family)
    student = bcosify(teacher).base_model
    with torch.no_grad():
        found = BlocksModel(student, teacher, "float32")(images)
        states = teacher_features(teacher, images, student.config, (1, 2)).states
        x = student.encode(images)
        rope = student._rope(*student.embeddings.grid(*x.shape[-2:]), x)
        after, _ = student.layers[1](states[1], student._attention(False), rope)
    assert list(found) == [*(f"after_block_{k}" for k in range(1, teacher.num_layers + 1)), "pooled"]
    wanted = relative_error(after - states[1], states[2] - states[1])
    assert found["after_block_2"].item() == pytest.approx(wanted.item(), rel=1e-4)


def test_no_gradient_passes_from_one_block_to_another(images):
    teacher = build_teacher("vit")
    student = bcosify(teacher).base_model
    BlocksModel(student, teacher, "float32")(images)["after_block_2"].backward()
    touched = {name.split(".")[1] for name, p in student.named_parameters() if p.grad is not None}
    assert touched == {"1"}


def test_the_errors_fall_and_the_alignment_begins_with_what_was_learnt(folder, tmp_path):
    tiny(folder, tmp_path / "run", **{**BLOCKS, "block_steps": 30, "steps": 1, "batch_size": 8})
    found = losses(tmp_path / "run" / FOLDER)
    assert len(found) == 30
    assert sum(found[-5:]) < 0.8 * sum(found[:5])
    assert any("eval_error_after_block_1" in row for row in read_log(tmp_path / "run" / FOLDER))
    assert not checkpoints(tmp_path / "run" / FOLDER)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["block_steps"] == 30
    tiny(folder, tmp_path / "plain", holdout=2, steps=1, batch_size=8)
    assert losses(tmp_path / "run")[0] < losses(tmp_path / "plain")[0]


@pytest.mark.parametrize("step", [3, 7])
def test_interrupted_in_either_stage_it_goes_on_as_if_nothing_had_happened(folder, tmp_path, monkeypatch, step):
    cut_and_resumed(folder, tmp_path, monkeypatch, step, FOLDER, {**BLOCKS, "steps": 4})


def test_a_student_that_goes_on_has_its_blocks_behind_it(folder, tmp_path):
    with pytest.raises(UserError, match="block_steps is of the conversion"):
        tiny(folder, tmp_path / "run", student=bcosify(build_teacher("vit")), block_steps=3)
    with pytest.raises(UserError, match="block_steps"):
        AlignSettings.resolve(overrides={"block_steps": -1})
