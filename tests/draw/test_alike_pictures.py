"""Pictures of similarity: what stands where, at which size, and lines that follow the pairs."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from aloe.draw.alike import (
    FRAME,
    line_pictures,
    neighbour_lines,
    pair_pictures,
    pairs_picture,
    region_picture,
    squared,
    sum_words,
)
from aloe.draw.explanations import POSITIVE


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def explained(count, height, width):
    weights, maps = rand(count, 6, height, width) - 0.5, rand(count, height, width, seed=1) - 0.5
    return SimpleNamespace(
        weights=weights, contributions=maps, logit=torch.full((count,), 0.7), residual=torch.full((count,), -0.1)
    )


def test_the_words_are_the_identity():
    assert sum_words(explained(1, 4, 4), 0) == "0.8000 - constants 0.1000 = 0.7000"


def test_two_lines_of_three_for_each_pair_of_any_two_sizes():
    sheets = list(
        pair_pictures(rand(2, 3, 32, 32), rand(2, 3, 16, 48, seed=2), explained(2, 32, 32), explained(2, 16, 48))
    )
    assert [sheet.size for sheet in sheets] == [(3 * 232 - 8, 2 * (224 + 26) + 8)] * 2


def test_a_line_for_each_region_with_its_frame():
    image = torch.zeros(3, 32, 32)
    sheet = region_picture(image, [(0, 0, 16, 16), (8, 8, 8, 8)], rand(3, 32, 32), explained(2, 32, 32), "b.jpg")
    assert sheet.size == (3 * 232 - 8, 2 * (224 + 26) + 8)
    pixels = np.asarray(sheet)
    assert tuple(pixels[0, 50]) == FRAME, "the first begins at the upper edge"
    assert tuple(pixels[224 + 26 + 8 + 7 * 8 + 1, 7 * 10]) == FRAME
    assert tuple(pixels[100, 50]) == (0, 0, 0)


def test_lines_join_the_patches_and_negative_pairs_are_not_drawn():
    white = torch.ones(3, 32, 32)
    drawn = np.asarray(pairs_picture(white, white, [(0, 3, 1.0), (1, 1, -1.0)], ((2, 2), (2, 2)), height=200))
    red = np.abs(drawn - np.round(255 * np.array(POSITIVE))).max(-1) < 30
    assert red[50, 50], "the centre of the first patch of a"
    assert red[150, 200 + 8 + 150], "the centre of the last patch of b"
    assert red[100, 204], "half way"
    assert not red[50, 150], "the second pair takes away"
    assert pairs_picture(white, white, [], ((2, 2), (2, 2)), height=200, caption="none").size == (408, 226)


def test_lines_of_images_and_of_neighbours():
    images, found = rand(2, 3, 32, 32), explained(2, 32, 32)
    assert [line.size for line in line_pictures(images, found, ["a", "b"], "toward")] == [(3 * 232 - 8, 250)] * 2
    lines = list(neighbour_lines(images, images, found, found, "query", ["a", "b"]))
    assert [line.size for line in lines] == [(4 * 232 - 8, 250)] * 2


def test_pictures_stand_in_the_middle_of_white_squares():
    page = squared(torch.zeros(1, 2, 6, 3, dtype=torch.uint8))
    assert page.shape == (1, 6, 6, 3)
    assert (page[0, 2:4] == 0).all()
    assert (page[0, :2] == 255).all()
    assert (page[0, 4:] == 255).all()
