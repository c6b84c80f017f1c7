"""Procedural solid textures: a material mixes two colours by a pattern of the surface point in the primitive's own
frame, in metres, so textures stick to objects, need no image files and are the same from every view."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
FLAT_PATTERNS = ("checks", "bricks", "stripes", "noise", "marble", "gradient", "plain")
SOLID_PATTERNS = (
    "plain",
    "plain",
    "plain",
    "plain",
    "plain",
    "checks",
    "stripes",
    "dots",
    "noise",
    "marble",
    "gradient",
)


@dataclass(frozen=True, eq=False)
class Material:
    """Pattern name, two colours (3,) in [0,1], cells per metre, and the pattern's random axes (6,3) and phases (6,)."""

    pattern: str
    colours: tuple[Array, Array]
    frequency: float
    axes: Array
    phases: Array


def random_material(
    rng: np.random.Generator, patterns: tuple[str, ...], cell: float, contrast: float = 1.0
) -> Material:
    """Draw a material whose pattern repeats about every `cell` metres.

    `contrast` in [0,1] scales the saturation of both colours and pulls the second towards the first.
    """
    first = random_colour(rng, contrast)
    second = first + contrast * (random_colour(rng, contrast) - first)
    axes = rng.normal(size=(6, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    return Material(
        pattern=patterns[rng.integers(len(patterns))],
        colours=(first, second),
        frequency=float(rng.uniform(0.7, 1.5) / cell),
        axes=axes,
        phases=rng.uniform(0, 1, size=6),
    )


def random_colour(rng: np.random.Generator, saturation: float = 1.0) -> Array:
    """A colour (3,) with uniform hue, from greyish to the given saturation, never near black."""
    hue, saturation, value = rng.uniform(), saturation * rng.uniform(0.1, 0.95), rng.uniform(0.4, 1.0)
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value))


def albedo(material: Material, point: Array, blur: Array) -> Array:
    """Colours (3,n) in [0,1] at points (3,n) (metres, primitive frame), filtered over `blur` (n,) metres of surface."""
    first, second = (colour[:, None] for colour in material.colours)
    if material.pattern == "plain":
        return np.repeat(first, point.shape[1], axis=1)
    sharpness = 1 / np.maximum(material.frequency * blur, 0.02)
    return first + PATTERNS[material.pattern](material, point, sharpness) * (second - first)


def _step(x: Array, sharpness: Array) -> Array:
    """A step from 0 to 1 at x = 0 that is 1 / sharpness wide."""
    return np.clip(0.5 + sharpness * x, 0, 1)


def _cells(m: Material, x: Array) -> Array:
    return m.frequency * x + m.phases[:3, None]


def _checks(m: Material, x: Array, sharpness: Array) -> Array:
    signs = np.clip(np.sin(np.pi * _cells(m, x)) * sharpness, -1, 1)
    return 0.5 + 0.5 * signs[0] * signs[1] * signs[2]


def _bricks(m: Material, x: Array, sharpness: Array) -> Array:
    u, v, _ = _cells(m, x)
    row = np.floor(2 * v)
    side = np.abs((u + 0.5 * (row % 2)) % 1 - 0.5)
    bed = 0.5 * np.abs((2 * v) % 1 - 0.5)
    near = np.maximum(side - 0.46, bed - 0.21) * np.minimum(sharpness, 12)
    return np.clip(0.5 + near, 0, 1)


def _stripes(m: Material, x: Array, sharpness: Array) -> Array:
    wave = np.sin(2 * np.pi * (m.frequency * (m.axes[0] @ x) + m.phases[0]))
    return 0.5 + 0.5 * np.clip(wave * 0.5 * sharpness, -1, 1)


def _dots(m: Material, x: Array, sharpness: Array) -> Array:
    offset = _cells(m, x) % 1 - 0.5
    return _step(0.42 - np.sqrt((offset * offset).sum(0)), sharpness)


def _waves(m: Material, x: Array, sharpness: Array) -> Array:
    """Smooth noise (n,) about in [-1, 1]: six plane waves over two octaves, flattened where a pixel spans a period."""
    octave = np.array([0.7, 0.9, 1.2, 1.6, 2.1, 2.8])
    angle = 2 * np.pi * ((m.axes * (m.frequency * octave)[:, None]) @ x + m.phases[:, None])
    return (0.55 / octave) @ np.sin(angle) * np.minimum(0.5 * sharpness, 1)


def _noise(m: Material, x: Array, sharpness: Array) -> Array:
    return np.clip(0.5 + 0.8 * _waves(m, x, sharpness), 0, 1)


def _marble(m: Material, x: Array, sharpness: Array) -> Array:
    bend = 4 * _waves(m, x, sharpness)
    wave = np.sin(2 * np.pi * m.frequency * (m.axes[0] @ x) + bend)
    return 0.5 + 0.5 * wave * np.minimum(0.3 * sharpness, 1)


def _gradient(m: Material, x: Array, sharpness: Array) -> Array:
    return np.clip(0.5 + 0.6 * m.frequency * (m.axes[0] @ x), 0, 1)


PATTERNS: dict[str, Callable[[Material, Array, Array], Array]] = {
    "checks": _checks,
    "bricks": _bricks,
    "stripes": _stripes,
    "dots": _dots,
    "noise": _noise,
    "marble": _marble,
    "gradient": _gradient,
}
