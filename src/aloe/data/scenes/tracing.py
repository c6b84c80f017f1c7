"""Casts camera rays at a list of primitives with numpy: nearest hit, normals, Lambert shading under one sun with a soft
shadow, and extra samples only where neighbouring pixels differ. Rays are arrays (3,n); a bounding sphere per primitive
leaves most ray-primitive pairs untouched, which makes tens of images a second on one core possible."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .geometry import Array, Primitive, dot, intersect, local_normal
from .materials import albedo

Index = NDArray[np.intp]
_SUBPIXELS = np.array([(-0.125, -0.375), (0.375, -0.125), (0.125, 0.375), (-0.375, 0.125)])


@dataclass(frozen=True, eq=False)
class World:
    """All that a ray can meet: primitives, four unit directions (4,3) spread over one sun, the ambient share of the
    light, and the colours (2,3) of the sky at the horizon and above."""

    primitives: list[Primitive]
    suns: Array
    ambient: float
    sky: Array


@dataclass(frozen=True, eq=False)
class Hits:
    """Nearest hits of n rays: depth along the unnormalised direction (inf: none), primitive index (-1: none), unit
    normal (3,n) towards the eye (zero: none), and the rays grouped by primitive."""

    depth: Array
    which: Index
    normal: Array
    groups: list[tuple[int, Index]]


class Tracer:
    """Rays from one camera centre `eye` (3,) into a world."""

    def __init__(self, world: World, eye: Array) -> None:
        self.world, self.eye = world, eye
        self._inverses = [p.to_local for p in world.primitives]
        spheres = [p.bounding_sphere() for p in world.primitives]
        self._centres = np.array([centre for centre, _ in spheres])
        self._radii = np.array([radius for _, radius in spheres])

    def nearest(self, rays: Array) -> tuple[Array, Index]:
        """Depth (inf: none) and primitive index (-1: none) of the first hit of eye + t * rays, rays (3,n)."""
        n = rays.shape[1]
        depth, which = np.full(n, np.inf), np.full(n, -1)
        near = self._near_rays(rays)
        for i, primitive in enumerate(self.world.primitives):
            index = np.flatnonzero(near[i])
            if not index.size:
                continue
            inverse = self._inverses[i]
            origin = inverse @ (self.eye - primitive.origin)[:, None]
            t = intersect(primitive, origin, inverse @ rays.take(index, axis=1))
            closer = np.flatnonzero(t < depth[index])
            index = index[closer]
            depth[index], which[index] = t[closer], i
        return depth, which

    def hits(self, rays: Array) -> Hits:
        """Nearest hits of the rays eye + t * rays, rays (3,n), with normals."""
        depth, which = self.nearest(rays)
        groups = _grouped(which)
        return Hits(depth, which, self._normals(rays, depth, groups), groups)

    def colours(self, rays: Array, hits: Hits, sun: Index, pixel: float) -> tuple[Array, Array]:
        """Shaded colours (3,n) in [0,1] of rays and their hits, and a signature (n,) that jumps by more than 1 across
        outlines, shadow borders and creases.

        Ray j is shadowed from sun direction sun[j]; `pixel` is the width of a pixel at depth 1, over which textures are
        filtered.
        """
        surface = hits.which >= 0
        distance = np.where(surface, hits.depth, 0)
        point = self.eye[:, None] + distance * rays
        blur = pixel * distance / np.maximum(-dot(hits.normal, rays), 0.25)
        base = np.zeros_like(rays)
        for i, mine in hits.groups:
            primitive = self.world.primitives[i]
            local = primitive.rotation.T @ (point.take(mine, axis=1) - primitive.origin[:, None])
            base[:, mine] = albedo(primitive.material, local, blur[mine])
        light, dark = self._light(point, hits.normal, self.world.suns.T.take(sun, axis=1))
        signature = np.where(surface, 10 * light + 20 * dark + 40 * hits.which, -10.0)
        return np.where(surface, np.clip(base * light, 0, 1), self._sky(rays)), signature

    def _sky(self, rays: Array) -> Array:
        low, high = self.world.sky[:, :, None]
        return low + np.clip(2.5 * rays[2] / np.sqrt(dot(rays, rays)), 0, 1) * (high - low)

    def _near_rays(self, rays: Array) -> NDArray[np.bool_]:
        """Which primitives' bounding spheres each ray meets, (P,n)."""
        offset = self._centres - self.eye
        reach = (offset * offset).sum(1) - self._radii**2
        always = ~np.isfinite(self._radii) | (reach <= 0)
        cosine = np.sqrt(np.where(always, 0, reach))  # of the cone round the sphere, times its distance
        length = np.sqrt(dot(rays, rays))
        return (offset @ (rays / length) >= cosine[:, None]) | always[:, None]

    def _normals(self, rays: Array, depth: Array, groups: list[tuple[int, Index]]) -> Array:
        normal = np.zeros_like(rays)
        for i, mine in groups:
            inverse, primitive = self._inverses[i], self.world.primitives[i]
            start = (self.eye - primitive.origin)[:, None]
            outward = local_normal(primitive, inverse @ (start + depth[mine] * rays.take(mine, axis=1)))
            normal[:, mine] = inverse.T @ outward
        length = np.sqrt(dot(normal, normal))
        return normal * (np.where(dot(normal, rays) > 0, -1, 1) / np.where(length > 0, length, 1))

    def _light(self, point: Array, normal: Array, suns: Array) -> tuple[Array, NDArray[np.bool_]]:
        """Ambient plus direct light (n,) at the points (3,n), and which of them are shadowed towards suns (3,n)."""
        ambient = self.world.ambient
        facing = np.maximum(self.world.suns.mean(0) @ normal, 0)
        dark, lit = np.zeros(len(facing), dtype=bool), np.flatnonzero(facing)
        start = point.take(lit, axis=1) + 1e-4 * normal.take(lit, axis=1)
        dark[lit] = self._shadowed(start, suns.take(lit, axis=1))
        direct = np.where(dark, 0, (1 - ambient) * facing)
        return 1.15 * (ambient * (0.75 + 0.25 * normal[2]) + direct), dark

    def _shadowed(self, point: Array, sun: Array) -> NDArray[np.bool_]:
        """Whether a bounded primitive lies between the points (3,n) and the suns (3,n), (n,)."""
        solid = np.flatnonzero(np.isfinite(self._radii))
        centre, radius = self._centres[solid], self._radii[solid, None]
        where, towards, middle = (a.astype(np.float32) for a in (point, sun, centre))  # half the traffic
        along = middle @ towards - (towards * where).sum(0)
        apart = ((centre**2).sum(1)[:, None] - 1.02 * radius**2).astype(np.float32)
        apart = apart - (2 * middle) @ where + (where * where).sum(0)
        near = (apart < along * along) & (along > -radius.astype(np.float32))
        dark = np.zeros(point.shape[1], dtype=bool)
        for i, close in zip(solid, near, strict=True):
            index = np.flatnonzero(close & ~dark)
            if not index.size:
                continue
            inverse, start = self._inverses[i], self.world.primitives[i].origin[:, None]
            origin, ray = inverse @ (point.take(index, axis=1) - start), inverse @ sun.take(index, axis=1)
            dark[index] = np.isfinite(intersect(self.world.primitives[i], origin, ray))
        return dark


def pixel_rays(intrinsics: Array, rotation: Array, x: Array, y: Array) -> Array:
    """World directions (3,n) through image points (n,), of length 1 along camera z so that t is the depth."""
    focal, cx, cy = intrinsics[0, 0], intrinsics[0, 2], intrinsics[1, 2]
    return rotation @ np.stack([(x - cx) / focal, (y - cy) / focal, np.ones_like(x)])


def draw(tracer: Tracer, intrinsics: Array, rotation: Array, resolution: int) -> tuple[NDArray[np.uint8], Hits]:
    """Image (H,W,3) and the hits of the pixel centres, H = W = resolution.

    Neighbouring pixels look at different suns, so that pixels in half-shadow differ from their neighbours; these
    pixels, and all others whose signature differs, get four samples, one for each sun, instead of one.
    """
    row, column = np.divmod(np.arange(resolution**2), resolution)
    rays = pixel_rays(intrinsics, rotation, column + 0.5, row + 0.5)
    hits = tracer.hits(rays)
    pixel = 1 / intrinsics[0, 0]
    colour, signature = tracer.colours(rays, hits, row % 2 * 2 + column % 2, pixel)
    edge = _edges(signature.reshape(resolution, resolution))
    if edge.size:
        x, y = (np.stack([column[edge], row[edge]]) + 0.5 + _SUBPIXELS[..., None]).swapaxes(0, 1)
        extra = pixel_rays(intrinsics, rotation, x.ravel(), y.ravel())
        sun = np.repeat(np.arange(4), edge.size)
        samples, _ = tracer.colours(extra, tracer.hits(extra), sun, pixel)
        colour[:, edge] = samples.reshape(3, 4, -1).mean(1)
    image = (255 * colour + 0.5).astype(np.uint8)
    return image.reshape(3, resolution, resolution).transpose(1, 2, 0).copy(), hits


def _grouped(which: Index) -> list[tuple[int, Index]]:
    """The indices of the rays that hit each primitive, as (primitive, rays)."""
    order = np.argsort(which, kind="stable")
    counts = np.bincount(which + 1)
    parts = np.split(order, np.cumsum(counts)[:-1])
    return [(i, rays) for i, rays in enumerate(parts, start=-1) if i >= 0 and rays.size]


def _edges(signature: Array) -> Index:
    """Flat indices of the pixels of (H,W) that share a 2 x 2 window with a pixel that differs by more than 1."""
    corners = [(slice(i, i - 1 or None), slice(j, j - 1 or None)) for i in (0, 1) for j in (0, 1)]
    windows = np.stack([signature[corner] for corner in corners])
    jump = np.ptp(windows, axis=0) > 1
    jagged = np.zeros(signature.shape, dtype=bool)
    for corner in corners:
        jagged[corner] |= jump
    return np.flatnonzero(jagged)
