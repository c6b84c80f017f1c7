"""Dense features of every family: the right tokens of the right block in the right place."""

from __future__ import annotations

import pytest
import torch

from aloe.core.errors import UserError
from aloe.evaluation.dense.features import choose_blocks, dense_features
from aloe.models.convert import bcosify
from conftest import build_teacher


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_maps_are_the_patch_tokens_of_the_raw_stream(family, side, images):
    teacher = build_teacher(family)
    model = teacher if side == "teacher" else bcosify(teacher)
    first, last = dense_features(model, images, (1, 3))
    assert first.shape == last.shape == (3, 48, 4, 4)
    if side == "teacher":
        states = teacher(images, (1, 3)).states
    else:
        hidden = model(images, output_hidden_states=True).hidden_states
        states = {1: hidden[1], 3: hidden[3]}
    for block, found in ((1, first), (3, last)):
        for row in range(4):
            for column in range(4):
                assert torch.equal(found[:, :, row, column], states[block][:, -16 + row * 4 + column])


def test_the_grid_follows_the_image(images):
    student = bcosify(build_teacher("dinov3"))
    wide = torch.cat((images, images[..., :16]), dim=-1)
    (maps,) = dense_features(student, wide, (3,))
    assert maps.shape == (3, 48, 4, 6)
    teacher = build_teacher("dinov3")
    assert dense_features(teacher, torch.rand(1, 3, 48, 48), (2,))[0].shape == (1, 48, 6, 6)


def test_cls_is_repeated_over_the_grid(images):
    teacher = build_teacher("dinov2-registers")
    (both,) = dense_features(teacher, images, (3,), cls=True)
    (plain,) = dense_features(teacher, images, (3,))
    assert torch.equal(both[:, :48], plain)
    assert torch.equal(both[:, 48:, 2, 1], teacher(images, (3,)).states[3][:, 0])
    with pytest.raises(UserError, match="no CLS token"):
        dense_features(build_teacher("siglip"), images, (3,), cls=True)


def test_blocks_and_sides():
    teacher = build_teacher("vit")
    assert choose_blocks(teacher) == (3,)
    assert choose_blocks(teacher, [1, 2]) == (1, 2)
    teacher.config.num_hidden_layers = 12
    assert choose_blocks(teacher, "four") == (3, 6, 9, 12)
    teacher.config.num_hidden_layers = 3
    for wrong, words in (
        ("four", "needs four blocks"),
        ([4], "Block 4 does not exist"),
        ("best", "Block best"),
        ([], "none"),
    ):
        with pytest.raises(UserError, match=words):
            choose_blocks(teacher, wrong)
    assert teacher.side() == 32
    assert bcosify(teacher).side(64) == 64
    with pytest.raises(UserError, match="Resolution 30 is not a whole number of 8-pixel patches; 32 is"):
        teacher.side(30)
    with pytest.raises(UserError, match="30x32 are not a whole number of 8-pixel patches"):
        dense_features(teacher, torch.rand(1, 3, 30, 32), (1,))
