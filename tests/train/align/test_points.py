"""Alignment points: which residual stream `after_block = k` names, and which tokens are compared."""

from __future__ import annotations

import pytest
import torch

from aloe.core.errors import UserError
from aloe.models.convert import bcosify
from aloe.train.align.points import (
    check_pair,
    cosines,
    match_tokens,
    resolve_blocks,
    student_features,
    teacher_features,
)
from aloe.train.align.settings import AlignSettings
from aloe.train.align.trainer import AlignmentModel
from conftest import build_teacher


def literal_stream(student, images):
    """The residual stream entering and leaving every block, read by hooks on the blocks themselves."""
    seen, backbone = [], student.base_model

    def entering(_module, args):
        seen.append(args[0])

    def leaving(_module, _args, output):
        seen.append(output[0])

    hooks = [backbone.layers[0].register_forward_pre_hook(entering)]
    hooks += [layer.register_forward_hook(leaving) for layer in backbone.layers]
    with torch.no_grad():
        student(images)
    for hook in hooks:
        hook.remove()
    return seen


def test_after_block_k_is_the_raw_stream_after_block_k(family, images):
    student = bcosify(build_teacher(family))
    stream = literal_stream(student, images)
    with torch.no_grad():
        features = student_features(student, images, (1, 2, 3))
    assert list(features.states) == [1, 2, 3]
    for k, state in features.states.items():
        assert torch.equal(state, stream[k])
        assert not torch.equal(state, stream[k - 1])


def test_the_last_block_is_aligned(images):
    teacher = build_teacher("vit")
    student = bcosify(teacher)
    model = AlignmentModel(student, teacher, AlignSettings(pooled=False), (3,))
    losses = model(images, teacher(images, (3,)))
    assert list(losses) == ["after_block_3"]
    losses["after_block_3"].backward()
    assert student.layers[2].mlp.down.weight.grad.abs().sum() > 0
    assert student.norm.weight.grad is None, "the final norm comes after the raw stream"


@pytest.mark.parametrize(
    ("wanted", "depth", "expected"),
    [
        ("default", 12, (4, 8, 12)),
        ("paper", 12, (3, 7, 11)),
        ("default", 24, (8, 16, 24)),
        ("paper", 24, (7, 15, 23)),
        ("default", 6, (2, 4, 6)),
        ("paper", 6, (1, 3, 5)),
        ("default", 1, (1,)),
        ("paper", 1, (1,)),
        ("all", 3, (1, 2, 3)),
        ([12, 1, 12], 12, (1, 12)),
        ([], 12, ()),
    ],
)
def test_resolved_blocks(wanted, depth, expected):
    assert resolve_blocks(wanted, depth) == expected


@pytest.mark.parametrize("wanted", [[0], [13], [4, -1]])
def test_blocks_out_of_range(wanted):
    with pytest.raises(UserError, match="blocks 1 to 12"):
        resolve_blocks(wanted, 12)


def test_every_family_matches_token_by_token(family, images):
    teacher = build_teacher(family)
    student = bcosify(teacher)
    with torch.no_grad():
        ours = student_features(student, images, (1, 3))
        theirs = teacher_features(teacher, images, student.config, (1, 3))
    for k in (1, 3):
        a, b = match_tokens(ours.states[k], theirs.states[k], student.config, teacher)
        assert a is ours.states[k]
        assert b is theirs.states[k]
    found = cosines(ours, theirs, student.config, teacher)
    literal = torch.cosine_similarity(ours.states[3], theirs.states[3], dim=-1).mean()
    assert found["after_block_3"] == pytest.approx(literal.item(), abs=1e-6)
    assert list(found) == ["after_block_1", "after_block_3", "pooled"]


def test_registers_that_one_side_lacks_are_left_out(images):
    with_registers, without = build_teacher("dinov2-registers"), build_teacher("dinov2")
    config = bcosify(without).config
    state = with_registers(images, (3,)).states[3]  # CLS, 3 registers, 16 patches
    ours = torch.randn(3, 17, 48)
    a, b = match_tokens(ours, state, config, with_registers)
    assert torch.equal(a, ours)
    assert torch.equal(b, torch.cat((state[:, :1], state[:, 4:]), 1))


def test_a_cls_token_that_one_side_lacks_is_left_out():
    siglip, vit = build_teacher("siglip"), build_teacher("vit")
    a, b = match_tokens(torch.zeros(1, 17, 48), torch.ones(1, 16, 48), bcosify(vit).config, siglip)
    assert a.shape == b.shape == (1, 16, 48)


@pytest.mark.parametrize("theirs", [(1, 18, 48), (1, 16, 48), (1, 17, 32)])
def test_other_grids_are_refused_never_cut(theirs):
    teacher = build_teacher("vit")
    with pytest.raises(UserError, match="do not match"):
        match_tokens(torch.zeros(1, 17, 48), torch.zeros(theirs), bcosify(teacher).config, teacher)


@pytest.mark.parametrize(
    ("change", "words"), [({"hidden_size": 64}, "width is 64"), ({"num_hidden_layers": 2}, "blocks is 2")]
)
def test_pairs_that_cannot_be_aligned(change, words):
    teacher = build_teacher("vit")
    config = bcosify(teacher).config
    check_pair(config, teacher, 48)
    for key, value in change.items():
        setattr(config, key, value)
    with pytest.raises(UserError, match=words):
        check_pair(config, teacher, 48)


@pytest.mark.parametrize(("resolution", "proposal"), [(33, 32), (39, 40), (3, 8)])
def test_a_resolution_that_is_no_whole_number_of_patches(resolution, proposal):
    teacher = build_teacher("vit")
    with pytest.raises(UserError, match=rf"{proposal} is\."):
        check_pair(bcosify(teacher).config, teacher, resolution)
