"""Augmentation: hues as the standard library turns them, colours in range, targets moving along, all from a seed."""

from __future__ import annotations

import colorsys
from itertools import pairwise

import pytest
import torch

from aloe.data.frames.frame import Frame
from aloe.evaluation.dense import augment
from aloe.evaluation.dense.augment import augmented, hue_shifted, jittered


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def picture(side=16, seed=3):
    return torch.rand(3, side, side, generator=draws(seed))


@pytest.mark.parametrize("turn", [0.0, 0.17, -0.2, 0.5])
def test_hues_are_turned_as_in_the_standard_library(turn):
    image = picture(6)
    image[:, 0, 0] = 0.4  # grey has no hue
    image[:, 0, 1] = 0
    found = hue_shifted(image, turn)
    for y in range(6):
        for x in range(6):
            h, s, v = colorsys.rgb_to_hsv(*image[:, y, x].tolist())
            assert found[:, y, x].tolist() == pytest.approx(colorsys.hsv_to_rgb((h + turn) % 1, s, v), abs=2e-6)


def test_jitter_changes_colours_a_little_and_nothing_else():
    image = picture()
    seen = [jittered(image, draws(seed)) for seed in range(40)]
    for new in seen:
        assert new.shape == image.shape
        assert 0 <= new.min() <= new.max() <= 1
    assert not any(torch.equal(a, b) for a, b in pairwise(seen))
    grey = torch.full((3, 4, 4), 0.5)
    levels = torch.stack([jittered(grey, draws(seed)) for seed in range(200)])
    assert (levels - levels[:, :, :1, :1]).abs().max() < 1e-6, "a flat picture stays flat"
    assert (levels - levels[:, :1]).abs().max() < 1e-6, "and grey stays grey"
    assert levels.min() >= 0.4 - 1e-6
    assert levels.max() <= 0.6 + 1e-6
    assert levels.min() < 0.42, "brightness is used to its ends"
    assert levels.max() > 0.58


@pytest.mark.parametrize("index", [1, 2])
def test_contrast_and_saturation_by_hand(monkeypatch, index):
    """The other three factors at 1, in the order 0 1 2 3."""
    image = picture(5) * 0.5 + 0.25
    monkeypatch.setattr(augment.torch, "randperm", lambda n, generator: torch.arange(n))
    draw = torch.full((4,), 0.5)
    draw[index] = 1.0  # the largest: a factor of 1.2
    monkeypatch.setattr(augment.torch, "rand", lambda n, generator: draw)
    grey = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
    towards = grey.mean() if index == 1 else grey
    expected = (0.2 * -towards + 1.2 * image).clamp(0, 1)
    torch.testing.assert_close(jittered(image, draws()), expected, rtol=1e-5, atol=1e-5)


def test_targets_move_with_the_picture():
    """A frame whose depth and normals repeat its picture still does when parts are taken; colours are left alone here."""
    side = 32
    ramp = torch.linspace(0.1, 0.9, side).expand(side, side)
    image = torch.stack([ramp, ramp.T, torch.full_like(ramp, 0.5)])
    sizes = set()
    for seed in range(60):
        new = augmented(Frame(image, depth=ramp, normals=image), draws(seed))
        assert new.image.shape == (3, side, side)
        assert new.depth.shape == (side, side)
        assert torch.equal(new.normals[0], new.depth), "depth and normals are cut alike"
        sizes.add(round(float(new.depth[0, -1] - new.depth[0, 0]), 3))
        if torch.equal(new.depth, ramp):
            continue
        assert set(new.depth.unique().tolist()) <= set(ramp.unique().tolist()), "depths are taken, not mixed"
        part = float(new.depth[0, -1] - new.depth[0, 0]) / 0.8
        assert 0.5**0.5 - 0.08 < part <= 1
    assert len(sizes) > 5


def test_pictures_and_depth_show_the_same_part(monkeypatch):
    monkeypatch.setattr(augment, "JITTER_SHARE", 0.0)
    ramp = torch.linspace(0.1, 0.9, 32).expand(32, 32)
    for seed in range(20):
        new = augmented(Frame(ramp.expand(3, 32, 32), depth=ramp), draws(seed))
        assert (new.image[0] - new.depth).abs().max() < 0.03


def test_the_shares_of_changed_frames():
    image, depth = picture(48), torch.rand(48, 48, generator=draws(1))
    seen = [augmented(Frame(image, depth=depth), draws(seed)) for seed in range(300)]
    kept = [torch.equal(new.depth, depth) for new in seen]
    assert 0.42 < sum(kept) / 300 < 0.62, "half are not cut (and a few cuts are whole)"
    same = [torch.equal(new.image, image) for new, whole in zip(seen, kept, strict=True) if whole]
    assert 0.1 < sum(same) / len(same) < 0.3


def test_the_same_seed_gives_the_same_frame():
    frame = Frame(picture(), depth=picture()[0])
    a, b = augmented(frame, draws(4)), augmented(frame, draws(4))
    assert torch.equal(a.image, b.image)
    assert torch.equal(a.depth, b.depth)
