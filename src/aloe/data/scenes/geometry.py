"""Ray intersection and normals of the primitives that scenes are made of: each is a canonical solid (unit sphere,
frustum, capsule, torus, convex polyhedron, plane) under an affine map, so that the ray parameter found in the
primitive's frame is the one of the world and a scaled sphere is an ellipsoid for free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from .materials import Material

Array = NDArray[np.float64]
_TORUS_NEAR = 5e-3
EPSILON = 1e-6  # hits nearer than this are the surface that the ray leaves


@dataclass(frozen=True, eq=False)
class Primitive:
    """One solid: x_world = rotation @ (scale * x_local) + origin.

    `kind` names the canonical solid and `k` is its one shape parameter:
    "sphere" (unit; only z >= k is kept, k = -1 keeps all), "frustum" (radius 1 at z = 0, k at z = 1, capped),
    "shell" (the same without caps, seen from both sides), "capsule" (radius 1 round the segment z = 0..k; uniform
    scale), "torus" (ring radius 1 in the plane z = 0, tube radius k), "polyhedron" (rows (n, c) of `planes` (K,4) say
    n.x <= c; within [-1, 1]^3), "plane" (disc z = 0 of radius k, seen from z > 0 only).
    """

    kind: str
    rotation: Array
    scale: Array
    origin: Array
    material: Material
    k: float = -1.0
    planes: Array = field(default_factory=lambda: np.zeros((0, 4)))
    labelled: bool = False

    @property
    def to_local(self) -> Array:
        """The (3,3) matrix of world vectors to local ones."""
        return self.rotation.T / self.scale[:, None]

    def moved(self, rotation: Array, scale: float, origin: Array) -> Primitive:
        """The primitive after x -> rotation @ (scale * x) + origin."""
        return replace(
            self,
            rotation=rotation @ self.rotation,
            scale=self.scale * scale,
            origin=rotation @ (scale * self.origin) + origin,
        )

    def bounding_sphere(self) -> tuple[Array, float]:
        """World centre (3,) and radius of a sphere round the solid; the radius of a plane is infinite."""
        if self.kind == "plane":
            return self.origin, np.inf
        if self.kind == "polyhedron":
            return self.origin, float(np.linalg.norm(self.scale))
        if self.kind in ("frustum", "shell"):
            half = self.scale * (max(1.0, self.k), 0.0, 0.5)
            half[0] = max(half[0], self.scale[1] * max(1.0, self.k))
            return self.origin + self.rotation[:, 2] * half[2], float(np.linalg.norm(half))
        if self.kind == "capsule":
            reach = 0.5 * self.k * self.scale[2]
            return self.origin + self.rotation[:, 2] * reach, reach + self.scale[0]
        return self.origin, float(self.scale.max() * (1 + self.k if self.kind == "torus" else 1))


def intersect(primitive: Primitive, origin: Array, direction: Array) -> Array:
    """First t > EPSILON (n,) at which origin (3,1 or n) + t direction (3,n), both local, enters; inf where none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return _SOLIDS[primitive.kind][0](primitive, origin, direction)


def local_normal(primitive: Primitive, point: Array) -> Array:
    """Outward normal (3,n), of any length, at local surface points (3,n)."""
    return _SOLIDS[primitive.kind][1](primitive, point)


def dot(a: Array, b: Array) -> Array:
    """Inner products (n,) of columns (3,n)."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a: Array, b: Array) -> Array:
    """Vector product (3,) of a (3,) and b (3,), ten times faster than numpy's general one."""
    return np.array([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def box_planes() -> Array:
    """Planes (K,4) of the cube [-1, 1]^3."""
    return np.hstack([np.vstack([np.eye(3), -np.eye(3)]), np.ones((6, 1))])


def roof_planes() -> Array:
    """Planes (K,4) of a gabled prism in [-1, 1]^3: base z = -1, ridge along x at z = 1."""
    slope = 1 / np.sqrt(5)
    return np.array(
        [
            [1, 0, 0, 1],
            [-1, 0, 0, 1],
            [0, 0, -1, 1],
            [0, 2 * slope, slope, slope],
            [0, -2 * slope, slope, slope],
        ]
    )


def pyramid_planes(top: float) -> Array:
    """Planes (K,4) of a square frustum in [-1, 1]^3: base half-width 1, top half-width `top`."""
    lean = (1 - top) / 2
    side, offset = 1 / np.hypot(1, lean), (1 - lean) / np.hypot(1, lean)
    rows = [[0, 0, -1, 1], [0, 0, 1, 1]]
    rows += [[sx * side, sy * side, lean * side, offset] for sx, sy in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    return np.array(rows, dtype=float)


def fin_planes() -> Array:
    """Planes (K,4) of a right-angled triangular plate: x, z >= -1, x + z <= 0, |y| <= 1."""
    s = np.sqrt(0.5)
    return np.array([[-1, 0, 0, 1], [0, 0, -1, 1], [s, 0, s, 0], [0, 1, 0, 1], [0, -1, 0, 1]])


def _quadratic(a: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """Ordered-by-sign roots of a t^2 + 2 b t + c (nan where complex)."""
    root = np.sqrt(b * b - a * c)
    return (-b - root) / a, (-b + root) / a


def _first(hit: NDArray[np.bool_], t: Array) -> Array:
    return np.where(hit & (t > EPSILON), t, np.inf)


def _plane(p: Primitive, o: Array, d: Array) -> Array:
    t = -o[2] / d[2]
    x, y = o[0] + t * d[0], o[1] + t * d[1]
    return _first((o[2] > 0) & (d[2] < 0) & (x * x + y * y <= p.k * p.k), t)


def _sphere(p: Primitive, o: Array, d: Array) -> Array:
    near, far = _quadratic(dot(d, d), dot(o, d), dot(o, o) - 1)
    if p.k > -1:
        cut = (p.k - o[2]) / d[2]
        near = np.where(d[2] > 0, np.maximum(near, cut), near)
        far = np.where(d[2] > 0, far, np.minimum(far, cut))
    return _first(near < far, near)


def _frustum(p: Primitive, o: Array, d: Array, capped: bool = True) -> Array:
    slope = p.k - 1
    width = 1 + slope * o[2]
    a = d[0] * d[0] + d[1] * d[1] - (slope * d[2]) ** 2
    roots = _quadratic(
        np.where(np.abs(a) < 1e-12, 1e-12, a),
        o[0] * d[0] + o[1] * d[1] - slope * d[2] * width,
        o[0] * o[0] + o[1] * o[1] - width * width,
    )
    best = np.full(d.shape[1], np.inf)
    for t in roots:
        z = o[2] + t * d[2]
        best = np.minimum(best, _first((z >= 0) & (z <= 1), t))
    if capped:
        for z, radius in ((0.0, 1.0), (1.0, p.k)):
            t = (z - o[2]) / d[2]
            x, y = o[0] + t * d[0], o[1] + t * d[1]
            best = np.minimum(best, _first(x * x + y * y <= radius * radius, t))
    return best


def _capsule(p: Primitive, o: Array, d: Array) -> Array:
    flat = d[0] * d[0] + d[1] * d[1]
    plan, level = o[0] * d[0] + o[1] * d[1], o[0] * o[0] + o[1] * o[1] - 1
    near, _ = _quadratic(flat, plan, level)
    z = o[2] + near * d[2]
    best = _first((z >= 0) & (z <= p.k), near)
    for end in (0.0, p.k):
        above = o[2] - end
        near, _ = _quadratic(flat + d[2] * d[2], plan + above * d[2], level + above * above)
        best = np.minimum(best, _first(near == near, near))
    return best


def _polyhedron(p: Primitive, o: Array, d: Array) -> Array:
    normals, offsets = p.planes[:, :3], p.planes[:, 3:]
    speed = normals @ d
    t = (offsets - normals @ o) / np.where(speed == 0, 1e-12, speed)
    near = np.where(speed < 0, t, -np.inf).max(0)
    far = np.where(speed < 0, np.inf, t).min(0)
    return _first(near < far, near)


def _torus(p: Primitive, o: Array, d: Array) -> Array:
    """March the exact distance field, which cannot overshoot, until close; then Newton steps to rounding error."""
    speed2 = dot(d, d)
    enter, leave = _quadratic(speed2, dot(o, d), dot(o, o) - (1 + p.k) ** 2)
    middle, half = -o[2] / d[2], np.abs(p.k / d[2])
    enter = np.maximum(np.maximum(enter, middle - half), EPSILON)
    leave = np.minimum(leave, middle + half)
    live = np.flatnonzero(leave > enter)
    origin, ray = np.broadcast_to(o, d.shape).take(live, axis=1), d.take(live, axis=1)
    step, t, end = 1 / np.sqrt(speed2[live]), enter[live], leave[live]
    best = np.full(d.shape[1], np.inf)
    for _ in range(24):
        gap, _ = _torus_gap(p, origin + t * ray)
        near, going = gap < _TORUS_NEAR, t < end
        best[live[near & going]] = t[near & going]
        t = t + gap * step
        going &= ~near
        if not going.any():
            break
        if 2 * going.sum() < going.size:  # compacting costs as much as a step
            kept = np.flatnonzero(going)
            origin, ray = origin.take(kept, axis=1), ray.take(kept, axis=1)
            live, t, end, step = live[kept], t[kept], end[kept], step[kept]
        else:
            end = np.where(going, end, -np.inf)
    hits = np.flatnonzero(np.isfinite(best))
    origin, ray = np.broadcast_to(o, d.shape).take(hits, axis=1), d.take(hits, axis=1)
    t = best[hits]
    for _ in range(5):
        gap, gradient = _torus_gap(p, origin + t * ray)
        t = t - gap / dot(gradient, ray)
    gap, _ = _torus_gap(p, origin + t * ray)
    best[hits] = np.where(np.abs(gap) < 1e-9, t, np.inf)
    return _first(np.isfinite(best), best)


def _torus_gap(p: Primitive, x: Array) -> tuple[Array, Array]:
    """Distance (n,) of points (3,n) from the torus, and its gradient (3,n)."""
    ring = np.sqrt(x[0] * x[0] + x[1] * x[1])
    across = ring - 1
    centre = np.sqrt(across * across + x[2] * x[2])
    pull = across / (centre * ring)
    return centre - p.k, np.stack([x[0] * pull, x[1] * pull, x[2] / centre])


def _normal_plane(p: Primitive, x: Array) -> Array:
    return np.broadcast_to(np.array([[0.0], [0.0], [1.0]]), x.shape)


def _normal_sphere(p: Primitive, x: Array) -> Array:
    if p.k <= -1:
        return x
    return np.where(x[2] - p.k < 1e-7, np.array([[0.0], [0.0], [-1.0]]), x)


def _normal_frustum(p: Primitive, x: Array) -> Array:
    cap = np.where(x[2] > 1 - 1e-7, 1.0, np.where(x[2] < 1e-7, -1.0, 0.0))
    return np.where(cap == 0, _normal_shell(p, x), np.stack([0 * cap, 0 * cap, cap]))


def _normal_shell(p: Primitive, x: Array) -> Array:
    return np.stack([x[0], x[1], (1 - p.k) * (1 + (p.k - 1) * x[2])])


def _normal_capsule(p: Primitive, x: Array) -> Array:
    return np.stack([x[0], x[1], x[2] - np.clip(x[2], 0, p.k)])


def _normal_torus(p: Primitive, x: Array) -> Array:
    return _torus_gap(p, x)[1]


def _normal_polyhedron(p: Primitive, x: Array) -> Array:
    face = (p.planes[:, :3] @ x - p.planes[:, 3:]).argmax(0)
    return p.planes[face, :3].T


# Of every canonical solid: what `intersect` and `local_normal` call.
_SOLIDS: dict[str, tuple[Callable[[Primitive, Array, Array], Array], Callable[[Primitive, Array], Array]]] = {
    "plane": (_plane, _normal_plane),
    "sphere": (_sphere, _normal_sphere),
    "frustum": (_frustum, _normal_frustum),
    "shell": (partial(_frustum, capped=False), _normal_shell),
    "capsule": (_capsule, _normal_capsule),
    "torus": (_torus, _normal_torus),
    "polyhedron": (_polyhedron, _normal_polyhedron),
}
