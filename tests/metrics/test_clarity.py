"""Speckle and seams against literal twins and against maps whose answer is known."""

from __future__ import annotations

import cmath
import math

import pytest
import torch

from aloe.core.errors import UserError
from aloe.metrics.clarity import FINE, fine_share, seams


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_fine(values):
    height, width = len(values), len(values[0])
    hann = [[0.5 - 0.5 * math.cos(2 * math.pi * i / n) for i in range(n)] for n in (height, width)]
    weights = [[a * b for b in hann[1]] for a in hann[0]]
    places = [(y, x) for y in range(height) for x in range(width)]
    mean = sum(values[y][x] * weights[y][x] for y, x in places) / sum(weights[y][x] for y, x in places)
    fine = total = 0.0
    for v, u in places:
        term = sum(
            (values[y][x] - mean) * weights[y][x] * cmath.exp(-2j * math.pi * (v * y / height + u * x / width))
            for y, x in places
        )
        total += abs(term) ** 2
        frequencies = (min(v, height - v) / height, min(u, width - u) / width)
        fine += abs(term) ** 2 * (max(frequencies) > FINE)
    return fine / total


def slow_seams(values, patch):
    at, other = [], []
    height, width = len(values), len(values[0])
    for y in range(height):
        for x in range(width):
            if x + 1 < width:
                (at if (x + 1) % patch == 0 else other).append(abs(values[y][x + 1] - values[y][x]))
            if y + 1 < height:
                (at if (y + 1) % patch == 0 else other).append(abs(values[y + 1][x] - values[y][x]))
    return (sum(at) / len(at)) / (sum(other) / len(other))


def test_both_equal_the_literal_formula():
    maps = noise(2, 8, 12)
    for found, row in zip(fine_share(maps), maps.tolist(), strict=True):
        assert found.item() == pytest.approx(slow_fine(row), rel=1e-9)
    for found, row in zip(seams(maps, 4), maps.tolist(), strict=True):
        assert found.item() == pytest.approx(slow_seams(row, 4), rel=1e-9)


def test_smooth_noisy_and_checkered_maps():
    line = torch.arange(32, dtype=torch.float64)
    bump = torch.exp(-((line - 16) ** 2) / 60)
    smooth, checkered = torch.outer(bump, bump), (-1.0) ** (line[:, None] + line)
    shares = fine_share(torch.stack((smooth, checkered, smooth + 0.2 * checkered)))
    assert shares[0] < 1e-3
    assert shares[1] > 0.999
    assert 0.1 < shares[2] < 0.9
    assert fine_share(noise(40, 32, 32)).mean().item() == pytest.approx(0.75, abs=0.03)


def test_blocks_have_seams_and_scale_and_offset_do_not_matter():
    patches = noise(3, 4, 4).repeat_interleave(8, 1).repeat_interleave(8, 2)
    assert seams(patches, 8).isinf().all()
    assert seams(noise(40, 32, 32), 8).mean().item() == pytest.approx(1, abs=0.05)
    blurred = patches + 0.1 * noise(3, 32, 32)
    assert (seams(blurred, 8) > 5).all()
    torch.testing.assert_close(seams(3 * blurred - 7, 8), seams(blurred, 8))
    torch.testing.assert_close(fine_share(3 * blurred - 7), fine_share(blurred))


def test_constant_maps_have_neither():
    assert fine_share(torch.ones(1, 8, 8)).isnan().all()
    assert seams(torch.ones(1, 8, 8), 4).isnan().all()


@pytest.mark.parametrize(
    ("measure", "words"),
    [
        (lambda: fine_share(torch.ones(1, 4, 8)), "at least 8 x 8"),
        (lambda: seams(torch.ones(1, 8, 8), 3), "patches of 3"),
        (lambda: seams(torch.ones(1, 8, 8), 8), "two or more patches"),
        (lambda: seams(torch.ones(1, 8, 8), 1), "at least 2"),
        (lambda: fine_share(torch.full((1, 8, 8), torch.nan)), "not finite"),
    ],
)
def test_maps_that_cannot_be_measured(measure, words):
    with pytest.raises(UserError, match=words):
        measure()
