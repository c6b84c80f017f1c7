"""The paper's eight teachers at full size on the meta device: conversion, parameter counts and token grids."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from aloe.models.convert import bcosify
from aloe.models.teachers import Teacher
from aloe.models.zoo import TEACHERS, build_random

# Published sizes of the vision towers with their heads, in millions of parameters.
PUBLISHED = [86.6, 92.9, 316, 428, 428, 21.6, 85.7, 303.1]


def _teacher_parameters(t):
    """Counted from the architecture: an encoder with biases, and what each family adds to it."""
    d, h, grid = t.width, t.hidden, t.grid_size**2
    patch = 3 * t.patch_size**2 * d + d
    norms = 2 * 2 * d
    if t.family == "DINOv3":  # no bias on keys, LayerScale, a mask token, rotary positions
        block = 4 * d * d + 3 * d + norms + 2 * d * h + h + d + 2 * d
        return patch + t.layers * block + 2 * d + (1 + t.registers + 1) * d
    block = 4 * d * d + 4 * d + norms + 2 * d * h + h + d
    encoder = patch + t.layers * block + 2 * d
    if t.family == "ViT":
        return encoder + (grid + 1) * d + d + 1000 * d + 1000
    head = d + 4 * d * d + 4 * d + 2 * d + 2 * d * h + h + d
    return encoder + grid * d + head


def _student_parameters(t, stem):
    """No biases; six channels folded into the patch embedding, or the convolutional stem before a unit of 512."""
    d, h, grid = t.width, t.hidden, t.grid_size**2
    if stem == "patch":
        embedding = 6 * t.patch_size**2 * d
    else:
        widths = [6, 64, 128, 128, 256, 256, 512]
        embedding = sum(9 * a * b + b for a, b in pairwise(widths)) + 512 * d
    block = 4 * d * d + 2 * d * h + 2 * d + (2 * d if t.family == "DINOv3" else 0)
    total = embedding + t.layers * block + d
    if t.family == "ViT":
        return total + (grid + 1) * d + d + 1000 * d
    if t.family == "DINOv3":
        return total + (1 + t.registers) * d
    return total + grid * d + d + 4 * d * d + d + 2 * d * h


@pytest.fixture(scope="module", params=range(len(TEACHERS)), ids=lambda i: TEACHERS[i].id.split("/")[1])
def pair(request):
    """(row of the table, teacher on the meta device)."""
    row = TEACHERS[request.param]
    with torch.device("meta"):
        return row, Teacher(build_random(row), name=row.id), PUBLISHED[request.param]


def test_the_teacher_has_the_size_of_its_architecture(pair):
    row, teacher, published = pair
    count = teacher.model.num_parameters()
    assert count == _teacher_parameters(row)
    assert count / 1e6 == pytest.approx(published, rel=0.005)
    assert (teacher.grid_size, teacher.num_layers, teacher.width) == (row.grid_size, row.layers, row.width)


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_the_student_has_all_of_it(pair, stem):
    row, teacher, _ = pair
    student, report = bcosify(teacher, stem=stem, with_report=True)
    assert {p.device.type for p in student.parameters()} == {"meta"}
    assert student.num_parameters() == _student_parameters(row, stem)
    made = {**report.copied, **report.fused, **report.folded, **report.new}
    assert made == {name: t.numel() for name, t in student.state_dict().items()}
    new = {name.removeprefix("vit.").split(".")[1] for name in report.new}
    assert new == (set() if stem == "patch" else {"stem", "patch_embedding"})
    assert bool(report.folded) == (stem == "patch")
    kept = [n for n in report.dropped if not n.endswith("bias") and "patch_embed" not in n]
    assert set(kept) <= {"embeddings.mask_token", "head.attention.in_proj_bias"}

    config = student.config
    assert config.grid_size == row.grid_size == teacher.grid_size
    assert config.image_size == (row.student_image_size if stem == "conv" else row.grid_size * row.patch_size)
    tokens = student(torch.empty(1, 3, config.image_size, config.image_size, device="meta")).last_hidden_state
    assert tokens.shape == (1, row.grid_size**2 + config.num_prefix_tokens, row.width)
    if row.family == "ViT":
        assert student.classifier.weight.shape == (1000, row.width)


def test_the_384_pixel_teacher_pairs_with_a_432_pixel_student():
    (row,) = [t for t in TEACHERS if t.patch_size == 14]
    assert (row.image_size, row.grid_size, row.student_image_size) == (384, 27, 432)
    with torch.device("meta"):
        teacher = Teacher(build_random(row))
        student = bcosify(teacher, stem="conv")
        states = student(torch.empty(1, 3, 432, 432)).last_hidden_state
        assert teacher.input_size(27) == 384
        features = teacher(torch.empty(1, 3, 384, 384), after_block=[row.layers])
    assert states.shape == features.states[row.layers].shape == (1, 27 * 27, 1152)
