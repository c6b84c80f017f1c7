"""Scenes of two objects: repeatable, each object with its own mask, the first on the left; and scenes of one as they were."""

from __future__ import annotations

import numpy as np
import pytest

from aloe.core.errors import UserError
from aloe.data.scenes import CLASSES, render
from aloe.data.scenes.pairs import render_pair


def test_same_arguments_give_the_same_bits_and_other_arguments_do_not() -> None:
    first, again = render_pair(5, 3, 32), render_pair(5, 3, 32)
    for field in ("image", "labels", "masks"):
        assert np.array_equal(getattr(first, field), getattr(again, field))
    assert not np.array_equal(first.image, render_pair(5, 4, 32).image)
    assert not np.array_equal(first.image, render_pair(6, 3, 32).image)


def test_fields_have_the_stated_shapes_and_types() -> None:
    pair = render_pair(0, 1, 24)
    assert (pair.image.shape, pair.image.dtype) == ((24, 24, 3), np.uint8)
    assert (pair.masks.shape, pair.masks.dtype) == ((2, 24, 24), np.bool_)
    assert (pair.labels.shape, pair.labels.dtype) == ((2,), np.int64)


def test_two_classes_left_and_right_with_masks_that_share_no_pixel() -> None:
    pairs = [render_pair(8, i, 32) for i in range(40)]
    seen = np.concatenate([pair.labels for pair in pairs])
    assert set(seen) == set(range(len(CLASSES)))
    for pair in pairs:
        assert pair.labels[0] != pair.labels[1]
        assert not (pair.masks[0] & pair.masks[1]).any()
        across = [np.nonzero(mask)[1].mean() for mask in pair.masks]
        assert across[0] + 5 < across[1]
    shares = np.array([pair.masks.mean((1, 2)) for pair in pairs])
    assert shares.min() > 0.03
    assert 0.1 < shares.mean() < 0.25


def test_each_mask_is_that_of_its_own_object() -> None:
    """A table stands on thin legs, a snowman is round: of its box a table fills less."""
    filled: dict[str, list[float]] = {"table": [], "snowman": []}
    for pair in (render_pair(9, i, 48) for i in range(60)):
        for label, mask in zip(pair.labels, pair.masks, strict=True):
            rows, columns = np.nonzero(mask)
            if CLASSES[label] in filled:
                filled[CLASSES[label]].append(np.ptp(rows) / np.ptp(columns))
    assert min(map(len, filled.values())) >= 5
    assert max(filled["table"]) < min(filled["snowman"]), "a snowman is taller than wide, a table is not"


def test_masks_hold_at_another_resolution() -> None:
    coarse, fine = render_pair(14, 2, 32), render_pair(14, 2, 64)
    assert np.array_equal(coarse.labels, fine.labels)
    assert np.allclose(coarse.masks.mean((1, 2)), fine.masks.mean((1, 2)), atol=0.01)


@pytest.mark.parametrize("mistake", [{"seed": -1}, {"index": -1}, {"resolution": 4}])
def test_impossible_arguments_are_the_users_mistake(mistake: dict[str, int]) -> None:
    with pytest.raises(UserError, match="resolution >= 8"):
        render_pair(**{"seed": 0, "index": 0, **mistake})


@pytest.mark.parametrize(
    ("scene", "label", "pixels", "colour", "depth", "eye"),
    [
        ((0, 0, 0), 8, 50, (112.83, 90.94, 121.64), 2.3423, -2.1644),
        ((3, 7, 0), 2, 69, (131.80, 131.39, 118.40), 1.1599, -1.7558),
        ((1000, 12, 2), 3, 73, (107.83, 133.34, 117.55), 1.6568, -1.6407),
    ],
)
def test_scenes_of_one_object_are_what_they_were_before_there_were_pairs(
    scene: tuple[int, int, int], label: int, pixels: int, colour: tuple[float, ...], depth: float, eye: float
) -> None:
    """Numbers of the renderer before `layout` drew pairs: the shipped teacher and published tables rest on those scenes."""
    seed, index, view = scene
    found = render(seed, index, 16, view)
    assert (found.label, int(found.mask.sum())) == (label, pixels)
    assert found.image.mean((0, 1)) == pytest.approx(colour, abs=0.02)
    assert float(found.depth.mean()) == pytest.approx(depth, abs=1e-4)
    assert found.camera_to_world[1, 3] == pytest.approx(eye, abs=1e-4)
