"""Match pictures: which lines, in which colour, from where to where."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aloe.draw.gallery import GAP
from aloe.draw.matches import evenly, match_picture


def grey(height, width, value=0.5):
    return torch.full((3, height, width), value)


def reds_and_greens(picture):
    """Masks of the pixels that are clearly red and clearly green."""
    r, g, b = np.asarray(picture).astype(int).transpose(2, 0, 1)
    return (r > g + 60) & (r > b + 60), (g > r + 60) & (g > b + 60)


def test_lines_are_chosen_evenly_with_both_ends():
    assert evenly(5, 60) == [0, 1, 2, 3, 4]
    assert evenly(101, 5) == [0, 25, 50, 75, 100]
    assert evenly(1, 60) == [0]
    assert evenly(0, 60) == []
    chosen = evenly(1000, 60)
    assert len(set(chosen)) == 60
    assert (chosen[0], chosen[-1]) == (0, 999)
    assert set(np.diff(chosen).tolist()) <= {16, 17}


def test_right_ones_are_green_and_wrong_ones_red_from_end_to_end():
    pixels = torch.tensor([[[10.0, 5.0], [30.0, 10.0]], [[10.0, 15.0], [30.0, 30.0]]])
    picture = match_picture(grey(20, 20), grey(40, 40), pixels, torch.tensor([0.019, 0.02]), height=100, caption="")
    assert picture.size == (100 + GAP + 100, 100)
    red, green = reds_and_greens(picture)
    # View 0 is enlarged five times, view 1 by two and a half, and starts after the gap.
    for mask, start, end in ((green, (50, 25), (183, 25)), (red, (50, 75), (183, 75))):
        rows, columns = mask.nonzero()
        assert rows.min() >= start[1] - 6
        assert rows.max() <= start[1] + 6
        assert columns.min() == pytest.approx(start[0], abs=5)
        assert columns.max() == pytest.approx(end[0], abs=5)
        assert mask[start[1], start[0] + 20]
        assert mask[start[1], 100 + GAP // 2], "across the gap"


def test_not_more_lines_than_asked_for_and_a_caption_that_counts_them():
    pixels = torch.full((100, 2, 2), 5.0)
    pixels[:, :, 1] = torch.arange(100)[:, None] * 0.1
    errors = torch.zeros(100)
    errors[1:] = 1.0  # the best alone is right
    few = match_picture(grey(10, 10), grey(10, 10), pixels, errors, lines=1, height=200, caption="")
    red, green = reds_and_greens(few)
    assert green.any()
    assert not red.any()
    told = match_picture(grey(10, 10), grey(10, 10), pixels, errors, height=200)
    assert told.height > 200
    assert (np.asarray(told)[200:] < 128).any(), "words"


def test_pictures_of_other_shapes_and_no_matches():
    none = torch.zeros(0, 2, 2)
    picture = match_picture(grey(30, 60, 0.0), grey(60, 30, 1.0), none, torch.zeros(0), height=60, caption="")
    assert picture.size == (120 + GAP + 30, 60)
    assert picture.getpixel((60, 30)) == (0, 0, 0)
    assert picture.getpixel((120 + GAP + 15, 30)) == (255, 255, 255)
    assert picture.getpixel((120 + GAP // 2, 30)) == (255, 255, 255)
