"""Pixels of the colour explanation and the signed map against a literal twin of docs/method.md section 3."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aloe.core.smoothing import gaussian_smooth
from aloe.draw.explanations import NEGATIVE, POSITIVE, colour_explanation, over_white, signed_map


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 6, 9, 11, generator=generator), torch.randn(2, 9, 11, generator=generator)


def slow_colours(weights, contributions):
    """Section 3, one pixel at a time, without smoothing; RGBA as floats in [0, 255]."""
    _, height, width = weights.shape
    out = np.zeros((height, width, 4))
    for y in range(height):
        for x in range(width):
            six = [float(v) for v in weights[:, y, x]]
            largest = max(abs(v) for v in six)
            six = [max(v / largest, 0) for v in six]
            for c in range(3):
                total = six[c] + six[c + 3]
                out[y, x, c] = six[c] / total if total else 0
            norm = sum(float(v) ** 2 for v in weights[:, y, x]) ** 0.5
            out[y, x, 3] = norm if contributions[y, x] > 0 else 0
    out[..., 3] = np.clip(out[..., 3] / np.quantile(out[..., 3], 0.995), 0, 1)
    return out * 255


def test_colours_equal_the_literal_formula(maps):
    found = colour_explanation(*maps, smooth=1)
    assert found.dtype == torch.uint8
    for picture, weights, contributions in zip(found.numpy(), *maps, strict=True):
        assert np.abs(picture - slow_colours(weights.numpy(), contributions.numpy())).max() <= 0.51


def test_alpha_is_nothing_where_the_contribution_is_not_positive(maps):
    alpha = colour_explanation(*maps, smooth=1)[..., 3]
    assert (alpha[maps[1] <= 0] == 0).all()
    assert (alpha[maps[1] > 0] > 0).all()
    assert (colour_explanation(*maps, smooth=5)[..., 3] > 0).all(), "smoothed afterwards"


def test_a_pure_colour_comes_out_as_itself():
    """W(x) that looks for pure red (and for the absence of green and blue)."""
    weights = torch.tensor([3.0, -3.0, -3.0, -3.0, 3.0, 3.0])[None, :, None, None].expand(1, 6, 4, 4)
    picture = colour_explanation(weights, torch.ones(1, 4, 4))
    assert picture[0, 2, 2].tolist() == [255, 0, 0, 255]


def test_alpha_is_smoothed_by_a_gaussian_of_15_pixels_at_224():
    weights, contributions = torch.ones(1, 6, 224, 224), torch.zeros(1, 224, 224)
    contributions[0, 112, 112] = 1
    seen = colour_explanation(weights, contributions, smooth=None)[0, ..., 3] > 0
    rows = seen.any(1).nonzero()
    assert (rows.min(), rows.max()) == (105, 119)


@pytest.mark.parametrize("window", [1, 3, 15])
def test_the_gaussian_sums_to_1_and_keeps_constants(window):
    point = torch.zeros(1, 41, 41)
    point[0, 20, 20] = 1
    blurred = gaussian_smooth(point, window)
    assert blurred.sum().item() == pytest.approx(1, abs=1e-6)
    assert torch.allclose(blurred, blurred.flip(1))
    assert torch.allclose(blurred, blurred.transpose(1, 2))
    assert torch.allclose(gaussian_smooth(torch.full((2, 5, 6), 3.0), window), torch.full((2, 5, 6), 3.0))


@pytest.mark.parametrize("window", [2, 4, 14])
def test_an_even_window_becomes_the_next_odd_one(maps, window):
    assert torch.equal(gaussian_smooth(maps[1], window), gaussian_smooth(maps[1], window + 1))
    assert colour_explanation(*maps, smooth=window).shape == (2, 9, 11, 4)


def test_negating_the_contributions_swaps_the_ends(maps):
    values = maps[1]
    red, blue = (torch.tensor(c) for c in (POSITIVE, NEGATIVE))
    picture, negated = signed_map(values).float() / 255, signed_map(-values).float() / 255
    size = (values.abs() / torch.quantile(values.abs().flatten(1), 0.995, dim=1)[:, None, None]).clamp(max=1)[..., None]
    positive = (values > 0)[..., None]
    assert torch.allclose(picture, 1 + size * (torch.where(positive, red, blue) - 1), atol=0.003)
    assert torch.allclose(negated, 1 + size * (torch.where(positive, blue, red) - 1), atol=0.003)


def test_nothing_is_white_and_nothing_breaks():
    assert (signed_map(torch.zeros(1, 4, 4)) == 255).all()
    empty = colour_explanation(torch.zeros(1, 6, 4, 4), torch.zeros(1, 4, 4))
    assert (empty[..., 3] == 0).all()
    assert (over_white(empty) == 255).all()


@pytest.mark.parametrize("side", [1, 2, 8, 16])
def test_small_images(side):
    picture = colour_explanation(torch.randn(1, 6, side, side), torch.ones(1, side, side))
    assert picture.shape == (1, side, side, 4)
    assert signed_map(torch.randn(1, side, side)).shape == (1, side, side, 3)


def test_over_white_is_the_usual_blend(maps):
    rgba = colour_explanation(*maps)
    literal = rgba[..., :3].double() * (rgba[..., 3:].double() / 255) + 255 * (1 - rgba[..., 3:].double() / 255)
    assert (over_white(rgba).double() - literal).abs().max() <= 0.51


def test_half_precision_is_read(maps):
    exact, half = colour_explanation(*maps), colour_explanation(maps[0].half(), maps[1].half())
    assert (exact.int() - half.int()).abs().max() <= 2
