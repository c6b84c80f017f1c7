"""Depth and normal pictures: the scale, the axes, what is unknown, what stands beside what."""

from __future__ import annotations

import math

import numpy as np
import torch

from aloe.draw.dense import GREY, _scale, depth_colours, depth_row, normal_colours, normal_row
from aloe.draw.gallery import GAP


def lightness(colours):
    """OKLab's, of (N, 3) uint8."""
    c = colours / 255
    c = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    cones = c @ np.array([[0.4122, 0.2119, 0.0883], [0.5363, 0.6807, 0.2817], [0.0514, 0.1074, 0.6300]])
    return np.cbrt(cones) @ np.array([0.2105, 0.7936, -0.0041])


def test_the_scale_darkens_evenly():
    found = lightness(_scale().astype(float))
    steps = -np.diff(found)
    assert found[0] > 0.94
    assert found[-1] < 0.25
    assert abs(steps - steps.mean()).max() < 2 * steps.mean(), "rounding to 255 levels, no more"
    assert abs(found - np.linspace(found[0], found[-1], 256)).max() < 0.01
    assert len(np.unique(_scale(), axis=0)) == 256


def test_near_is_bright_and_far_dark_and_unknown_grey():
    depth = torch.tensor([[1.0, 2.0, 3.0, 0.5], [9.0, math.nan, math.inf, 2.0]])
    valid = torch.ones(2, 4, dtype=torch.bool)
    valid[1, 3] = False
    found = depth_colours(depth, 1.0, 3.0, valid)
    scale = _scale()
    assert found.dtype == np.uint8
    assert (found[0, [0, 2, 3]] == scale[[0, 255, 0]]).all()
    assert (found[0, 1] == scale[128]).all()
    assert (found[1, 0] == scale[255]).all()
    assert (found[1, 1:] == GREY).all()


def test_a_flat_depth_can_be_drawn():
    assert depth_colours(torch.full((2, 2), 3.0), 3.0, 3.0).shape == (2, 2, 3)


def test_normals_are_red_right_green_up_blue_towards_us():
    """In the camera frame y goes down and z away."""
    directions = [[1, 0, 0], [0, -2, 0], [0, 0, -1], [0, 0, 0], [math.nan, 0, 1], [0, 0, -1]]
    normals = torch.tensor(directions, dtype=torch.float32).T[:, None]
    valid = torch.tensor([[True] * 5 + [False]])
    found = normal_colours(normals, valid)[0].tolist()
    assert found == [[255, 128, 128], [128, 255, 128], [128, 128, 255], *[[GREY] * 3] * 3]
    assert normal_colours(normals)[0, 5].tolist() == [128, 128, 255]


def test_rows_of_image_truth_and_models():
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    truth = torch.linspace(1, 3, 64).view(8, 8)
    valid = truth < 2.9
    sheet = depth_row(image, truth, valid, {"a": truth, "b": torch.full_like(truth, 99.0)}, side=16)
    assert sheet.size == (4 * (16 + GAP) - GAP, 16 + 26)
    pixels = np.asarray(sheet)[:16]
    shown = [pixels[::2, k * (16 + GAP) : k * (16 + GAP) + 16 : 2] for k in range(4)]
    assert (shown[0] == (image * 255).round().byte().permute(1, 2, 0).numpy()).all()
    assert (shown[1][~valid.numpy()] == GREY).all(), "unknown only in the truth"
    assert (shown[1][valid.numpy()] == shown[2][valid.numpy()]).all(), "on one scale"
    assert (shown[3] == _scale()[255]).all()
    normals = torch.zeros(3, 8, 8)
    normals[2] = -1
    sheet = normal_row(image, normals, valid, {"a": normals}, side=16)
    assert sheet.size == (3 * (16 + GAP) - GAP, 16 + 26)
    assert sheet.getpixel((2 * (16 + GAP), 15)) == (128, 128, 255)
    assert sheet.getpixel((16 + GAP + 15, 15)) == (GREY, GREY, GREY)
