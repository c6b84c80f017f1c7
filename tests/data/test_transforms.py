"""Transforms against slow, literal twins of their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aloe.data.transforms import Compose, RandomHorizontalFlip, RandomResizedCrop, ResizeCenterCrop, to_tensor


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(generator(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


def triangle_weights(start: float, stop: float, size: int, inside: int) -> np.ndarray:
    """(size, inside): antialiased bilinear resampling of [start, stop) to `size` pixels."""
    step = (stop - start) / size
    reach = max(step, 1.0)
    weights = np.zeros((size, inside))
    for row in range(size):
        centre = start + (row + 0.5) * step
        for k in range(inside):
            weights[row, k] = max(0.0, 1 - abs(k + 0.5 - centre) / reach)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("size", [(53, 41), (20, 90), (16, 16)])
def test_random_resized_crop_equals_its_twin(size: tuple[int, int]) -> None:
    crop, image = RandomResizedCrop(12), noise(*size)
    for seed in range(5):
        left, top, right, bottom = crop.box(size, generator(seed))
        rows = triangle_weights(top, bottom, 12, size[1])
        columns = triangle_weights(left, right, 12, size[0])
        pixels = np.asarray(image).astype(float)
        expected = np.einsum("yh,xw,hwc->yxc", rows, columns, pixels)
        got = np.asarray(crop(image, generator(seed))).astype(float)
        np.testing.assert_allclose(got, expected, atol=1.6)  # two roundings to 8 bits


def customary_box(
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[int, int, int, int]:
    """The usual definition with the usual calls, to compare distributions."""
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
            return left, top, left + w, top + h
    if width / height < ratio[0]:
        w, h = width, round(width / ratio[0])
    elif width / height > ratio[1]:
        w, h = round(height * ratio[1]), height
    else:
        w, h = width, height
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


@pytest.mark.parametrize("size", [(60, 40), (30, 90), (200, 20)])
def test_boxes_have_the_customary_distribution(size: tuple[int, int]) -> None:
    crop, rng, other = RandomResizedCrop(8), generator(2), generator(3)
    ours = np.array([crop.box(size, rng) for _ in range(6000)], dtype=float)
    theirs = np.array([customary_box(size, crop.scale, crop.ratio, other) for _ in range(6000)], dtype=float)
    for k in range(4):  # Kolmogorov-Smirnov distance; 0.035 has probability below 0.002
        points = np.sort(np.unique(np.concatenate([ours[:, k], theirs[:, k]])))
        below = [np.searchsorted(np.sort(x[:, k]), points, "right") / 6000 for x in (ours, theirs)]
        assert np.abs(below[0] - below[1]).max() < 0.035


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 1000))
def test_boxes_lie_inside(width: int, height: int, seed: int) -> None:
    left, top, right, bottom = RandomResizedCrop(8).box((width, height), generator(seed))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_whole_image_at_scale_one() -> None:
    image = noise(16, 16)
    crop = RandomResizedCrop(16, scale=(1, 1), ratio=(1, 1))
    assert crop(image, generator()).tobytes() == image.tobytes()


@settings(max_examples=50, deadline=None)
@given(st.integers(100, 3000), st.integers(100, 3000), st.integers(0, 1000))
def test_enough_is_the_smallest_decoding_that_is_not_enlarged(width: int, height: int, seed: int) -> None:
    crop, shorter = RandomResizedCrop(32), min(width, height)
    enough = crop.enough((width, height), lambda: generator(seed))
    left, top, right, bottom = crop.box((width, height), generator(seed))
    side = min(right - left, bottom - top)
    assert side * enough / shorter >= min(32, side) - 1e-9
    assert enough == shorter or side * (enough - 1) / shorter < 32


def test_flip() -> None:
    image = noise(5, 4)
    mirrored = np.asarray(image)[:, ::-1]
    np.testing.assert_array_equal(np.asarray(RandomHorizontalFlip(1)(image, generator())), mirrored)
    assert RandomHorizontalFlip(0)(image, generator()).tobytes() == image.tobytes()
    rng = generator()
    flips = sum(RandomHorizontalFlip()(image, rng).tobytes() != image.tobytes() for _ in range(2000))
    assert 900 < flips < 1100


def test_random_transforms_ask_for_a_generator() -> None:
    for transform in (RandomResizedCrop(4), RandomHorizontalFlip()):
        with pytest.raises(TypeError, match="generator"):
            transform(noise(8, 8))


def test_compose_draws_in_order_and_reports_the_first_step() -> None:
    crop, flip = RandomResizedCrop(8), RandomHorizontalFlip()
    rng = generator(4)
    expected = flip(crop(noise(30, 20), rng), rng)
    both = Compose(crop, flip)
    assert both(noise(30, 20), generator(4)).tobytes() == expected.tobytes()
    size = (400, 300)
    assert both.enough(size, generator) == crop.enough(size, generator)
    assert Compose(flip, crop).enough(size, generator) == 400


@pytest.mark.parametrize(
    ("size", "fraction", "shape", "resized"),
    [
        (32, 1.0, (50, 40), (40, 32)),
        (32, 1.0, (41, 77), (32, 60)),
        (28, 0.875, (64, 64), (32, 32)),
        (224, 0.875, (500, 375), (341, 256)),
        (10, 1.0, (5, 5), (10, 10)),
    ],
)
def test_resize_center_crop_equals_resize_then_crop(
    size: int, fraction: float, shape: tuple[int, int], resized: tuple[int, int]
) -> None:
    image = noise(*shape)
    large = np.asarray(image.resize(resized, Image.Resampling.BICUBIC))
    top, left = round((resized[1] - size) / 2), round((resized[0] - size) / 2)
    expected = large[top : top + size, left : left + size]
    np.testing.assert_array_equal(np.asarray(ResizeCenterCrop(size, fraction)(image)), expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 64))
def test_resize_center_crop_always_gives_its_size(width: int, height: int, size: int) -> None:
    assert ResizeCenterCrop(size, 0.9)(Image.new("RGB", (width, height))).size == (size, size)


def test_resize_center_crop_refuses_other_fractions() -> None:
    with pytest.raises(ValueError, match="crop_fraction"):
        ResizeCenterCrop(8, 1.2)


def test_to_tensor() -> None:
    image = noise(5, 4)
    tensor = to_tensor(image)
    assert tensor.dtype == torch.float32
    assert tensor.shape == (3, 4, 5)
    assert tensor.is_contiguous()
    for x, y in ((0, 0), (4, 3), (2, 1)):
        expected = torch.tensor(image.getpixel((x, y)), dtype=torch.float32) / 255
        assert torch.equal(tensor[:, y, x], expected)
