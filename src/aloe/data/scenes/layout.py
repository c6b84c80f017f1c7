"""Draws the content of one scene from its seed: one object or two side by side, clutter around, ground, walls or sky, sun,
and a camera whose distance gives the objects their share of the frame. Nothing here depends on resolution or view."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .geometry import Array, Primitive, cross
from .materials import FLAT_PATTERNS, random_colour, random_material
from .objects import Rng, build, distractor, rotation
from .tracing import Tracer, World, pixel_rays

VIEW_STEP = np.deg2rad(12.0)
_PROBE = 24  # side of the coarse grid on which the object's share of the frame is measured
_PAIR = 1.6  # of a pair, what a single object's size is for its surroundings


@dataclass(frozen=True, eq=False)
class Layout:
    """A world, and the camera of its view 0: pose (4,4), focal length in frame widths, signed arc step in radians."""

    world: World
    camera_to_world: Array
    focal: float
    arc: float

    def pose(self, view: int) -> Array:
        """Camera to world (4,4) after `view` steps of the arc round the object's vertical axis."""
        turn = np.eye(4)
        turn[:3, :3] = rotation("z", self.arc * view)
        return turn @ self.camera_to_world

    def intrinsics(self, resolution: int) -> Array:
        """Pinhole matrix (3,3) in pixels; pixel (row, column) has its centre at (column + 0.5, row + 0.5)."""
        f, c = self.focal * resolution, resolution / 2
        return np.array([[f, 0, c], [0, f, c], [0, 0, 1.0]])


def compose(name: str, rng: Rng) -> Layout:
    """Draw a scene that shows the labelled object `name`."""
    size = rng.uniform(0.8, 1.25)
    return _surround(build(name, rng, size), size, rng)


def compose_pair(names: tuple[str, str], rng: Rng) -> tuple[Layout, tuple[int, int]]:
    """Draw a scene that shows two objects, the first to the left of the second, of about equal width or height; and how many
    of the world's first primitives are the first object's, and how many of those after them the second's."""
    objects = []
    for name, side in zip(names, (-1, 1), strict=True):
        parts = build(name, rng, 1.0)
        left, right, top = _extent(parts)
        size = rng.uniform(0.85, 1.0) * min(1.0 / (right - left), 1.25 / top)
        middle = side * (rng.uniform(0.02, 0.08) + 0.5 * size * (right - left))
        place = np.array([middle - 0.5 * size * (left + right), rng.uniform(-0.15, 0.15), 0.0])
        objects.append([part.moved(np.eye(3), size, place) for part in parts])
    layout = _surround([*objects[0], *objects[1]], _PAIR, rng, share=(0.3, 0.5), widest=0.95, clutter=3)
    return layout, (len(objects[0]), len(objects[1]))


def _surround(
    parts: list[Primitive],
    size: float,
    rng: Rng,
    share: tuple[float, float] = (0.16, 0.34),
    widest: float = 0.85,
    clutter: int = 9,
) -> Layout:
    """A camera, at most `clutter` distractors, a backdrop and light for the labelled `parts`, which are about `size` wide."""
    focal, pitch = 0.5 / np.tan(rng.uniform(0.34, 0.5)), rng.uniform(0.14, 0.6)
    camera = _frame_object(parts, focal, pitch, rng, share, widest)
    arc = VIEW_STEP * rng.choice([-1.0, 1.0])
    backdrop = _backdrop(size, rng)
    world = World(
        primitives=[*parts, *_clutter(parts, backdrop, size, camera, rng)[:clutter], *backdrop],
        suns=_suns(rng),
        ambient=float(rng.uniform(0.4, 0.6)),
        sky=np.stack([random_colour(rng, 0.6), random_colour(rng, 0.6)]),
    )
    return Layout(world, camera, focal, arc)


def _extent(parts: list[Primitive]) -> tuple[float, float, float]:
    """The least and largest x and the largest z that parts reach in a view from afar, in metres."""
    towards = np.array([0.0, 50.0, 0.0])
    grid = np.linspace(-1.2, 1.2, 2 * _PROBE)
    x, z = (axis.ravel() for axis in np.meshgrid(grid, grid + 1.2))
    world = World(parts, np.zeros((4, 3)), 1.0, np.zeros((2, 3)))
    rays = np.stack([x, np.full_like(x, 50.0), z])
    seen = Tracer(world, -towards).nearest(rays)[1] >= 0
    return float(x[seen].min()), float(x[seen].max()), float(z[seen].max())


def _look(eye: Array, target: Array) -> Array:
    """Camera to world (4,4) at `eye` with z towards `target`, x to the right, y down."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = cross(forward, np.array([0.0, 0.0, 1.0]))
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, cross(forward, right), forward], axis=1)
    pose[:3, 3] = eye
    return pose


def _frame_object(
    parts: list[Primitive], focal: float, pitch: float, rng: Rng, shares: tuple[float, float], widest: float
) -> Array:
    """A camera on the -y side that gives the parts a random share of the frame, at most `widest` of its side, and a random
    place in it."""
    spheres = [part.bounding_sphere() for part in parts]
    top = max(centre[2] + radius for centre, radius in spheres)
    middle = np.array([0.0, 0.0, 0.45 * min(top, 2.0)])
    towards = np.array([0.0, -np.cos(pitch), np.sin(pitch)])
    share, shift = rng.uniform(*shares), rng.uniform(-1, 1, size=2)
    world = World(parts, np.zeros((4, 3)), 1.0, np.zeros((2, 3)))
    grid = (np.arange(_PROBE) + 0.5) / _PROBE - 0.5
    x, y = (axis.ravel() for axis in np.meshgrid(grid, grid))
    lens = np.diag([focal, focal, 1.0])
    distance = 2.6 * focal * top
    pose = _look(middle + distance * towards, middle)
    seen = _covered(world, pose, lens, x, y)
    width = np.array([np.ptp(x[seen]), np.ptp(y[seen])]) + 1 / _PROBE
    centre = np.array([x[seen].min() + x[seen].max(), y[seen].min() + y[seen].max()]) / 2
    zoom = min(np.sqrt(share / seen.mean()), widest / width.max())
    distance /= zoom
    room = np.clip(0.5 - 0.5 * zoom * width, 0, 0.22)
    offset = (zoom * centre - shift * room) * distance / focal
    eye_shift = offset[0] * pose[:3, 0] + offset[1] * pose[:3, 1]
    return _look(middle + distance * towards + eye_shift, middle + eye_shift)


def _covered(world: World, pose: Array, lens: Array, x: Array, y: Array) -> np.ndarray:
    """Which of the rays through image points x, y (n,) meet the world, bool (n,)."""
    rays = pixel_rays(lens, pose[:3, :3], x, y)
    return Tracer(world, pose[:3, 3]).nearest(rays)[1] >= 0


def _backdrop(size: float, rng: Rng) -> list[Primitive]:
    """Textured ground, and no wall, one wall or a corner behind the object."""
    flat = np.ones(3)
    ground = random_material(rng, FLAT_PATTERNS, cell=0.6, contrast=0.5)
    planes = [Primitive("plane", np.eye(3), flat, np.zeros(3), ground, k=12.0)]
    style = rng.uniform()
    headings = [] if style < 0.3 else [0.0] if style < 0.65 else [-0.8, 0.8]
    heading = rng.uniform(-0.35, 0.35)
    for angle in headings:
        turn = rotation("z", heading + angle) @ rotation("x", np.pi / 2)
        away = -turn[:, 2] * size * rng.uniform(1.3, 2.6)
        paper = random_material(rng, FLAT_PATTERNS, cell=0.7, contrast=0.5)
        planes.append(Primitive("plane", turn, flat, away, paper, k=40.0))
    return planes


def _clutter(
    parts: list[Primitive], backdrop: list[Primitive], size: float, camera: Array, rng: Rng
) -> list[Primitive]:
    """Distractors on the ground, clear of the object, the walls, each other and the view of the object."""
    spheres = [part.bounding_sphere() for part in parts]
    own = max(float(np.hypot(c[0], c[1])) + r for c, r in spheres)
    placed: list[Primitive] = []
    taken = [(0.0, 0.0, min(own, 0.75 * size))]
    walls = [(wall.rotation[:2, 2], wall.origin[:2] @ wall.rotation[:2, 2]) for wall in backdrop[1:]]
    eye_x, eye_y = camera[:2, 3]
    count = rng.integers(4, 10)
    tries = rng.uniform((0.1, -np.pi, 0.6), (0.26, np.pi, 2.6), size=(24, 3)) * (size, 1, size)
    for scale, angle, reach in tries.tolist():
        x, y, radius = reach * math.sin(angle), reach * math.cos(angle), 1.5 * scale
        if (
            len(placed) < count
            and not (y < 0 and abs(x) < 0.45 * size + radius)
            and math.hypot(x - eye_x, y - eye_y) > radius + 1.2 * size
            and all(math.hypot(x - at_x, y - at_y) > radius + r for at_x, at_y, r in taken)
            and all(x * facing[0] + y * facing[1] - level > radius for facing, level in walls)
        ):
            placed.append(distractor(rng, scale, np.array([x, y, 0.0])))
            taken.append((x, y, radius))
    return placed


def _suns(rng: Rng) -> Array:
    """Four directions (4,3) close together, above and on the camera's side of the scene: one soft light."""
    side, height = rng.uniform(-1.2, 1.2), rng.uniform(0.6, 1.2)
    aim = np.array([np.sin(side) * np.cos(height), -np.cos(side) * np.cos(height), np.sin(height)])
    spread = aim + 0.06 * rng.normal(size=(4, 3))
    return spread / np.linalg.norm(spread, axis=1, keepdims=True)
