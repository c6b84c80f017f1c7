"""The ten labelled objects, each built from primitives with random proportions (z up, standing on z = 0, about one
metre), and the single primitives that clutter a scene without being any of them. Shape tells the class; materials are
drawn independently of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .geometry import Primitive, box_planes, cross, fin_planes, pyramid_planes, roof_planes
from .materials import SOLID_PATTERNS, Material, random_material

Array = NDArray[np.float64]
Rng = np.random.Generator


def build(name: str, rng: Rng, size: float) -> list[Primitive]:
    """The labelled object `name` (a key of BUILDERS), `size` times its usual size, with random proportions, materials
    and heading."""
    materials = [random_material(rng, SOLID_PATTERNS, cell=0.3) for _ in range(3)]
    parts = BUILDERS[name](rng, materials)
    spread = _TURN.get(name, np.pi)
    turn = rotation("z", rng.uniform(-spread, spread))
    return [replace(part.moved(turn, size, np.zeros(3)), labelled=True) for part in parts]


def distractor(rng: Rng, size: float, place: Array) -> Primitive:
    """One primitive that stands or lies on the ground, within 1.5 `size` of the vertical axis through `place` (3,)."""
    kind = ("ball", "box", "cylinder", "cone", "pill", "wedge")[rng.integers(6)]
    tall = rng.uniform(0.5, 1.7)
    paint = random_material(rng, SOLID_PATTERNS, cell=0.25)
    if kind == "ball":
        solid = ball((0, 0, size * tall), (size, size, size * tall), paint)
    elif kind == "box":
        solid = box((0, 0, size * tall), (size, size * rng.uniform(0.6, 1), size * tall), paint)
    elif kind == "wedge":
        solid = solid_of(roof_planes(), (0, 0, size * 0.7), (size, size, size * 0.7), paint)
    elif kind == "pill":
        solid = pill((-0.4 * size, 0, 0.6 * size), (1, 0, 0), 0.6 * size, 0.8 * size, paint)
    else:
        top = rng.uniform(0.6, 1.0) if kind == "cylinder" else 0.0
        solid = tube((0, 0, 0), (0, 0, 1), size, 2 * size * tall, paint, top)
    return solid.moved(rotation("z", rng.uniform(-np.pi, np.pi)), 1.0, place)


def rotation(axis: str, angle: float) -> Array:
    """Right-handed rotation (3,3) by `angle` radians about the axis "x", "y" or "z"."""
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = np.cos(angle)
    matrix[j, i], matrix[i, j] = np.sin(angle), -np.sin(angle)
    return matrix


Point = tuple[float, float, float]


def ball(at: Point, radii: Point, paint: Material, cut: float = -1.0) -> Primitive:
    """An ellipsoid; `cut` in (-1, 1) keeps the part above that fraction of the vertical radius."""
    return Primitive("sphere", np.eye(3), np.array(radii), np.array(at, float), paint, k=cut)


def box(at: Point, half: Point, paint: Material) -> Primitive:
    """A box of half-widths `half` centred at `at`."""
    return solid_of(box_planes(), at, half, paint)


def solid_of(planes: Array, at: Point, half: Point, paint: Material) -> Primitive:
    """A convex polyhedron of [-1, 1]^3 stretched by `half` and centred at `at`."""
    origin, scale = np.array(at, float), np.array(half)
    return Primitive("polyhedron", np.eye(3), scale, origin, paint, planes=planes)


def tube(
    at: Point,
    axis: Point,
    radius: float,
    length: float,
    paint: Material,
    top: float = 1.0,
    kind: str = "frustum",
) -> Primitive:
    """A cylinder from `at` along `axis`; `top` is the ratio of end radius to start radius (0 is a cone)."""
    scale = np.array([radius, radius, length])
    return Primitive(kind, _frame(axis), scale, np.array(at, float), paint, k=top)


def pill(at: Point, axis: Point, radius: float, length: float, paint: Material) -> Primitive:
    """A capsule: all points within `radius` of the segment of `length` from `at` along `axis`."""
    scale, origin = np.full(3, radius), np.array(at, float)
    return Primitive("capsule", _frame(axis), scale, origin, paint, k=length / radius)


def ring(at: Point, axis: Point, radius: float, thickness: float, paint: Material) -> Primitive:
    """A torus about `axis` with a centre circle of `radius` and a tube radius of `thickness`."""
    scale, origin = np.full(3, radius), np.array(at, float)
    return Primitive("torus", _frame(axis), scale, origin, paint, k=thickness / radius)


def _frame(axis: Point) -> Array:
    """A rotation (3,3) whose third column is along `axis`."""
    if axis == _UP:
        return np.eye(3)
    z = np.array(axis, float) / np.linalg.norm(axis)
    helper = np.array([1.0, 0.0, 0.0]) if abs(z[0]) < 0.9 else np.array([0.0, 1.0, 0.0])
    y = cross(z, helper)
    y /= np.linalg.norm(y)
    return np.stack([cross(y, z), y, z], axis=1)


_UP: Point = (0, 0, 1)
# Radians either way; others turn freely. Keeps handle and hole in sight.
_TURN = {"cup": 0.8, "donut": 0.9}


def _cactus(rng: Rng, paint: list[Material]) -> list[Primitive]:
    body, thick = paint[0], rng.uniform(0.13, 0.17)
    parts = [
        tube((0, 0, 0), _UP, 0.22, 0.24, paint[1], top=1.35),
        pill((0, 0, 0.2), _UP, thick, rng.uniform(0.65, 0.8), body),
    ]
    start = rng.uniform(-np.pi, np.pi)
    for arm in range(3):
        angle, height = start + 2.1 * arm, rng.uniform(0.42, 0.65)
        x, y, reach = np.cos(angle), np.sin(angle), rng.uniform(0.3, 0.36)
        parts.append(pill((0, 0, height), (x, y, 0), 0.085, reach, body))
        elbow = (reach * x, reach * y, height)
        parts.append(pill(elbow, _UP, 0.085, rng.uniform(0.16, 0.32), body))
    return parts


def _car(rng: Rng, paint: list[Material]) -> list[Primitive]:
    long, wide, wheel = rng.uniform(0.55, 0.65), rng.uniform(0.26, 0.3), rng.uniform(0.12, 0.15)
    low, tall = rng.uniform(0.1, 0.13), rng.uniform(0.11, 0.16)
    back = rng.uniform(-0.2, 0.05)
    parts = [
        box((0, 0, wheel + low), (long, wide, low), paint[0]),
        solid_of(pyramid_planes(0.7), (back, 0, wheel + 2 * low + tall), (0.34, wide, tall), paint[1]),
    ]
    for x in (-0.6 * long, 0.6 * long):
        for side in (-1, 1):
            hub = (x, side * (wide - 0.06), wheel)
            parts.append(tube(hub, (0, side, 0), wheel, 0.1, paint[2]))
    return parts


def _cup(rng: Rng, paint: list[Material]) -> list[Primitive]:
    foot, mouth, height = rng.uniform(0.25, 0.33), rng.uniform(1.05, 1.35), rng.uniform(0.6, 0.75)
    reach = rng.choice([-1, 1]) * (foot * (1 + mouth) / 2 + 0.12)
    return [
        tube((0, 0, 0), _UP, foot, height, paint[0], top=mouth, kind="shell"),
        tube((0, 0, 0), _UP, foot, 0.8 * height, paint[1], top=0.2 + 0.8 * mouth - 0.03),
        ring((reach, 0, 0.52 * height), (0, 1, 0), 0.19, 0.05, paint[0]),
    ]


def _donut(rng: Rng, paint: list[Material]) -> list[Primitive]:
    thick, lean = rng.uniform(0.13, 0.19), rng.uniform(0.4, 1.45)
    height = 0.4 * np.sin(lean) + thick
    return [ring((0, 0, height), (0, -np.sin(lean), np.cos(lean)), 0.4, thick, paint[0])]


def _house(rng: Rng, paint: list[Material]) -> list[Primitive]:
    long, wide, tall = rng.uniform(0.4, 0.5), rng.uniform(0.32, 0.42), rng.uniform(0.2, 0.3)
    roof = rng.uniform(0.16, 0.24)
    chimney = (rng.choice([-0.5, 0.5]) * long, 0.35 * wide, 2 * tall + 1.5 * roof)
    return [
        box((0, 0, tall), (long, wide, tall), paint[0]),
        solid_of(roof_planes(), (0, 0, 2 * tall + roof), (long + 0.08, wide + 0.1, roof), paint[1]),
        box(chimney, (0.06, 0.06, roof), paint[2]),
        box((long, 0, 0.55 * tall), (0.02, 0.1, 0.55 * tall), paint[2]),
        box((0, -wide, 0.5 * tall), (0.1, 0.02, 0.5 * tall), paint[2]),
        box((0, wide, 1.1 * tall), (0.12, 0.02, 0.1), paint[2]),
    ]


def _mushroom(rng: Rng, paint: list[Material]) -> list[Primitive]:
    tall, cap = rng.uniform(0.4, 0.6), rng.uniform(0.4, 0.5)
    return [
        tube((0, 0, 0), _UP, rng.uniform(0.15, 0.2), tall + 0.05, paint[1], top=0.75),
        ball((0, 0, tall), (cap, cap, rng.uniform(0.28, 0.42)), paint[0], cut=0.0),
    ]


def _rocket(rng: Rng, paint: list[Material]) -> list[Primitive]:
    wide, tall, nose = rng.uniform(0.16, 0.2), rng.uniform(0.6, 0.7), rng.uniform(0.3, 0.4)
    parts = [
        tube((0, 0, 0), _UP, 0.75 * wide, 0.15, paint[2]),
        tube((0, 0, 0.15), _UP, wide, tall, paint[0]),
        tube((0, 0, 0.15 + tall), _UP, wide, nose, paint[1], top=0.0),
        ball((0, -wide, 0.6 * tall), (0.09, 0.04, 0.09), paint[2]),
    ]
    fin = solid_of(fin_planes(), (wide + 0.16, 0, 0.3), (0.2, 0.03, 0.3), paint[1])
    for turn in range(4):
        quarter = rotation("z", np.pi / 4 + turn * np.pi / 2)
        parts.append(fin.moved(quarter, 1.0, np.zeros(3)))
    lean = rotation("y", rng.uniform(-0.25, 0.25))
    return [part.moved(lean, 1.0, np.array([0, 0, 0.06])) for part in parts]


def _snowman(rng: Rng, paint: list[Material]) -> list[Primitive]:
    low, middle, head = rng.uniform(0.3, 0.36), rng.uniform(0.22, 0.26), rng.uniform(0.16, 0.19)
    chest = 1.75 * low + 0.75 * middle
    face = chest + 0.75 * middle + 0.8 * head
    crown = face + 0.75 * head
    return [
        ball((0, 0, 0.95 * low), (low, low, low), paint[0]),
        ball((0, 0, chest), (middle, middle, middle), paint[0]),
        ball((0, 0, face), (head, head, head), paint[0]),
        tube((0.8 * head, 0, face), (1, 0, 0), 0.05, 0.2, paint[1], top=0.0),
        tube((0, 0, crown), _UP, 1.2 * head, 0.04, paint[2]),
        tube((0, 0, crown), _UP, 0.75 * head, 0.2, paint[2]),
    ]


def _table(rng: Rng, paint: list[Material]) -> list[Primitive]:
    long, wide, tall = rng.uniform(0.45, 0.6), rng.uniform(0.3, 0.42), rng.uniform(0.45, 0.6)
    leg, inset = rng.uniform(0.04, 0.06), 0.82
    parts = [box((0, 0, tall), (long, wide, 0.05), paint[0])]
    if rng.uniform() < 0.4:
        wide, inset = long, 0.6
        parts = [tube((0, 0, tall - 0.05), _UP, long, 0.1, paint[0])]
    for x in (-inset * long, inset * long):
        for y in (-inset * wide, inset * wide):
            parts.append(tube((x, y, 0), _UP, leg, tall, paint[1], top=1.2))
    return parts


def _tree(rng: Rng, paint: list[Material]) -> list[Primitive]:
    trunk, wide, layers = rng.uniform(0.2, 0.28), rng.uniform(0.36, 0.45), 3
    parts = [tube((0, 0, 0), _UP, 0.09, trunk + 0.05, paint[1])]
    for layer in range(layers):
        base, size = trunk + 0.26 * layer, wide * (1 - 0.24 * layer)
        parts.append(tube((0, 0, base), _UP, size, 0.42 - 0.03 * layer, paint[0], top=0.0))
    return parts


BUILDERS: dict[str, Callable[[Rng, list[Material]], list[Primitive]]] = {
    "cactus": _cactus,
    "car": _car,
    "cup": _cup,
    "donut": _donut,
    "house": _house,
    "mushroom": _mushroom,
    "rocket": _rocket,
    "snowman": _snowman,
    "table": _table,
    "tree": _tree,
}
