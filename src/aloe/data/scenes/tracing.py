"""Casts camera rays at a list of primitives with numpy: nearest hit, normals, Lambert shading under one sun with a soft shadow,
and extra samples only where neighbouring pixels differ. Rays are arrays (3,n); a bounding sphere per primitive leaves most
ray-primitive pairs untouched, which is what makes tens of images a second on one core possible."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .geometry import Array, Primitive, intersect, local_normal
from .materials import albedo

Index = NDArray[np.intp]
_SUBPIXELS = ((-0.125, -0.375), (0.375, -0.125), (0.125, 0.375), (-0.375, 0.125))
_EDGE_CONTRAST = 0.08


@dataclass(frozen=True, eq=False)
class World:
    """All that a ray can meet: primitives, sun directions (S,3) towards the light, ambient share, sky colours (2,3)."""

    primitives: list[Primitive]
    suns: Array
    ambient: float
    sky: Array


@dataclass(frozen=True, eq=False)
class Hits:
    """Nearest hits of n rays: depth along the unnormalised direction (inf: none), primitive index (-1: none), unit normal."""

    depth: Array
    which: Index
    normal: Array


class Tracer:
    """Rays from one camera centre `eye` (3,) into a world."""

    def __init__(self, world: World, eye: Array) -> None:
        self.world, self.eye = world, eye
        self._inverses = [p.to_local for p in world.primitives]
        spheres = [p.bounding_sphere() for p in world.primitives]
        self._centres = np.array([centre for centre, _ in spheres])
        self._radii = np.array([radius for _, radius in spheres])

    def hits(self, rays: Array) -> Hits:
        """Nearest hits of the rays eye + t * rays, rays (3,n)."""
        n = rays.shape[1]
        depth, which = np.full(n, np.inf), np.full(n, -1)
        offset = self._centres - self.eye
        along = offset @ rays
        reach = (offset * offset).sum(1) - self._radii**2
        near = (along > 0) & (along * along >= reach[:, None] * (rays * rays).sum(0))
        near[~np.isfinite(self._radii) | (reach <= 0)] = True
        for i, primitive in enumerate(self.world.primitives):
            index = np.flatnonzero(near[i])
            if not index.size:
                continue
            inverse = self._inverses[i]
            origin = inverse @ (self.eye - primitive.origin)[:, None]
            t = intersect(primitive, origin, inverse @ rays[:, index])
            closer = t < depth[index]
            depth[index[closer]], which[index[closer]] = t[closer], i
        return Hits(depth, which, self._normals(rays, depth, which))

    def colours(self, rays: Array, hits: Hits) -> Array:
        """Shaded colours (3,n) in [0,1] of the rays and their hits."""
        up = rays[2] / np.sqrt((rays * rays).sum(0))
        colour = self.world.sky[0][:, None] + np.clip(2.5 * up, 0, 1) * self._sky_change()
        found = np.flatnonzero(hits.which >= 0)
        point = self.eye[:, None] + hits.depth[found] * rays[:, found]
        normal = hits.normal[:, found]
        base = np.empty_like(point)
        for i in np.unique(hits.which[found]):
            mine, primitive = np.flatnonzero(hits.which[found] == i), self.world.primitives[i]
            local = primitive.rotation.T @ (point[:, mine] - primitive.origin[:, None])
            base[:, mine] = albedo(primitive.material, local, hits.depth[found][mine])
        light = self.world.ambient * (0.75 + 0.25 * normal[2])
        for sun in self.world.suns:
            facing = sun @ normal
            lit = np.flatnonzero(facing > 0)
            lit = lit[~self._shadowed(point[:, lit] + 1e-4 * normal[:, lit], sun)]
            light[lit] += (1 - self.world.ambient) / len(self.world.suns) * facing[lit]
        colour[:, found] = np.clip(base * (1.15 * light), 0, 1)
        return colour

    def _sky_change(self) -> Array:
        return (self.world.sky[1] - self.world.sky[0])[:, None]

    def _normals(self, rays: Array, depth: Array, which: Index) -> Array:
        """World unit normals (3,n) turned towards the eye; zero where nothing is hit."""
        normal = np.zeros_like(rays)
        for i in np.unique(which[which >= 0]):
            mine, primitive = np.flatnonzero(which == i), self.world.primitives[i]
            start = self.eye - primitive.origin
            point = self._inverses[i] @ (start[:, None] + depth[mine] * rays[:, mine])
            outward = self._inverses[i].T @ local_normal(primitive, point)
            outward /= np.sqrt((outward * outward).sum(0))
            away = (outward * rays[:, mine]).sum(0) > 0
            normal[:, mine] = np.where(away, -outward, outward)
        return normal

    def _shadowed(self, point: Array, sun: Array) -> NDArray[np.bool_]:
        """Whether a bounded primitive lies between the points (3,n) and the sun (3,), (n,)."""
        along = (self._centres @ sun)[:, None] - sun @ point
        gap = self._centres @ point
        gap = (self._centres**2).sum(1)[:, None] - 2 * gap + (point * point).sum(0)
        radius = np.where(np.isfinite(self._radii), self._radii, 0.0)[:, None]
        near = (along > -radius) & (gap - along * along < radius * radius)
        dark = np.zeros(point.shape[1], dtype=bool)
        for i, primitive in enumerate(self.world.primitives):
            index = np.flatnonzero(near[i] & ~dark)
            if not index.size or primitive.kind == "plane":
                continue
            inverse = self._inverses[i]
            origin = inverse @ (point[:, index] - primitive.origin[:, None])
            ray = np.repeat(inverse @ sun[:, None], index.size, axis=1)
            dark[index] = np.isfinite(intersect(primitive, origin, ray))
        return dark


def pixel_rays(intrinsics: Array, rotation: Array, x: Array, y: Array) -> Array:
    """World directions (3,n) through image points (n,), scaled so that the ray parameter is the depth along camera z."""
    focal, cx, cy = intrinsics[0, 0], intrinsics[0, 2], intrinsics[1, 2]
    return rotation @ np.stack([(x - cx) / focal, (y - cy) / focal, np.ones_like(x)])


def draw(
    tracer: Tracer, intrinsics: Array, rotation: Array, resolution: int
) -> tuple[NDArray[np.uint8], Hits]:
    """Image (H,W,3) and the hits of the pixel centres, H = W = resolution."""
    centre = np.arange(resolution) + 0.5
    x, y = (grid.ravel() for grid in np.meshgrid(centre, centre))
    rays = pixel_rays(intrinsics, rotation, x, y)
    hits = tracer.hits(rays)
    colour = tracer.colours(rays, hits)
    edge = _edges(colour.reshape(3, resolution, resolution)).ravel()
    if edge.size:
        extra_x = np.concatenate([x[edge] + dx for dx, _ in _SUBPIXELS])
        extra_y = np.concatenate([y[edge] + dy for _, dy in _SUBPIXELS])
        extra = pixel_rays(intrinsics, rotation, extra_x, extra_y)
        samples = tracer.colours(extra, tracer.hits(extra))
        colour[:, edge] = samples.reshape(3, len(_SUBPIXELS), -1).mean(1)
    image = (255 * colour + 0.5).astype(np.uint8)
    return image.reshape(3, resolution, resolution).transpose(1, 2, 0).copy(), hits


def _edges(colour: Array) -> Index:
    """Flat indices of the pixels that differ from a neighbour to the right or below, and of those neighbours."""
    jagged = np.zeros(colour.shape[1:], dtype=bool)
    down = np.abs(colour[:, 1:] - colour[:, :-1]).max(0) > _EDGE_CONTRAST
    right = np.abs(colour[:, :, 1:] - colour[:, :, :-1]).max(0) > _EDGE_CONTRAST
    jagged[1:] |= down
    jagged[:-1] |= down
    jagged[:, 1:] |= right
    jagged[:, :-1] |= right
    return np.flatnonzero(jagged)
