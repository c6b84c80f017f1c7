"""Pinhole geometry of frames: pixels to points and back, relative poses, rotation angles, normals from depth, overlap.

Everything is float64. A pixel (row, column) has its centre at the image point (u, v) = (column + 0.5, row + 0.5); the camera
frame is x right, y down, z forward, and depth is measured along z.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aloe.core.errors import UserError

SAME_DEPTH = 0.05  # two depths of one point agree when they differ by no more than this share of the depth
ROUGHNESS = 0.01  # a window whose inverse depth leaves its plane by more than this share has an edge in it
RIGID = 1e-2  # how far R R^T may be from the identity: poses from files are rounded


def pixel_centres(height: int, width: int) -> Tensor:
    """(3, H, W) homogeneous image points (u, v, 1) of all pixels."""
    v, u = torch.meshgrid(
        torch.arange(height, dtype=torch.float64) + 0.5, torch.arange(width, dtype=torch.float64) + 0.5, indexing="ij"
    )
    return torch.stack([u, v, torch.ones_like(u)])


def back_project(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """(3, H, W) camera points in metres of a depth map (H, W) seen with `intrinsics` (3, 3): z K^-1 (u, v, 1); zero where
    the depth is 0."""
    rays = torch.linalg.inv(intrinsics.double()) @ pixel_centres(*depth.shape).flatten(1)
    return rays.reshape(3, *depth.shape) * depth.double()


def project(points: Tensor, intrinsics: Tensor) -> Tensor:
    """(2, ...) image points (u, v) of camera points (3, ...); not finite or meaningless where z <= 0."""
    flat = intrinsics.double() @ points.double().reshape(3, -1)
    return (flat[:2] / flat[2]).reshape(2, *points.shape[1:])


def transform(pose: Tensor, points: Tensor) -> Tensor:
    """(3, ...) points moved by the rigid motion `pose` (4, 4)."""
    pose = pose.double()
    moved = pose[:3, :3] @ points.double().reshape(3, -1) + pose[:3, 3:]
    return moved.reshape(points.shape)


def relative_pose(first: Tensor, second: Tensor) -> Tensor:
    """(4, 4) motion of the first camera's points into the second's frame, from both camera-to-world poses."""
    return torch.linalg.inv(second.double()) @ first.double()


def rotation_angle(pose: Tensor) -> float:
    """Degrees in [0, 180] of the rotation in `pose` (3, 3) or (4, 4).

    acos((trace R - 1) / 2), found from sine and cosine so that small angles and those near 180 keep their digits.
    """
    r = pose.double()[:3, :3]
    axis = torch.stack([r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]])
    return math.degrees(math.atan2(float(axis.norm()), float(r.trace()) - 1))


def checked_pose(pose: Tensor, name: str) -> Tensor:
    """`pose` as (4, 4) float64 when it is a rigid motion of finite numbers.

    Raises:
        UserError: not 4 x 4, not finite (a lost track), not invertible, or not a rotation and a translation.
    """
    pose = pose.double()
    if pose.shape != (4, 4):
        raise UserError(f"{name} is not a 4 x 4 camera-to-world matrix; its shape is {tuple(pose.shape)}.")
    if not pose.isfinite().all():
        raise UserError(f"{name} has numbers that are not finite (a lost track?); remove the frame.")
    rotation = pose[:3, :3]
    if abs(float(torch.linalg.det(rotation))) < 1e-6:
        raise UserError(f"{name} cannot be inverted, so it is not a camera pose; correct it or remove the frame.")
    last = pose.new_tensor([0.0, 0.0, 0.0, 1.0])
    skewed = (rotation @ rotation.T - torch.eye(3, dtype=torch.float64)).abs().max() > RIGID
    if skewed or torch.linalg.det(rotation) < 0 or not torch.allclose(pose[3], last, atol=1e-6):
        raise UserError(f"{name} is not a rigid motion (a rotation and a translation in metres, last row 0 0 0 1).")
    return pose


def checked_intrinsics(intrinsics: Tensor, name: str) -> Tensor:
    """`intrinsics` as (3, 3) float64 when it is a pinhole matrix; raises UserError otherwise."""
    matrix = intrinsics.double()
    pinhole = matrix.shape == (3, 3) and bool(matrix.isfinite().all()) and bool((matrix.diagonal() > 0).all())
    pinhole = pinhole and float(matrix[1, 0]) == 0 and matrix[2].tolist() == [0, 0, 1]
    if not pinhole:
        raise UserError(f"{name} is not a 3 x 3 pinhole matrix in pixels (fx 0 cx, 0 fy cy, 0 0 1).")
    return matrix


def normals_from_depth(depth: Tensor, intrinsics: Tensor, radius: int = 1, roughness: float = ROUGHNESS) -> Tensor:
    """Unit surface normals towards the camera from a depth map; zero where they cannot be told.

    The inverse depth of a plane is linear in the pixel: with unnormalised normal m, m . (z K^-1 (u, v, 1)) = 1 gives
    1 / z = (a, b, c) . (u, v, 1) with (a, b, c) = K^-T m. So a plane is fitted to 1 / z by least squares in each window
    of 2 radius + 1 pixels, and the normal is -K^T (a, b, c), normalised: exact on planes at any slant, where the cross
    product of neighbouring points is too, and less noisy with a larger window. A pixel is invalid where its window
    leaves the image, holds an invalid depth, or leaves its plane by more than `roughness` times the mean inverse depth
    (root mean square): a depth edge, which a fit would smear into a slope.

    Args:
        depth: (H, W) metres, 0 where unknown.
        intrinsics: (3, 3).
        radius: of the window, in pixels, 1 or more.

    Returns:
        (3, H, W) float32 in the camera frame.
    """
    if radius < 1:
        raise ValueError(f"radius must be 1 or more, not {radius}")
    valid = depth > 0
    inverse = torch.where(valid, 1 / depth.double().clamp_min(1e-9), 0.0)
    side = 2 * radius + 1
    count, spread = side**2, side * 2 * sum(k * k for k in range(1, radius + 1))
    # Zeros outside the map make the windows there incomplete.
    whole = _sums(_sums(valid.double(), 0, radius), 1, radius) > count - 0.5
    rows = _sums(inverse, 0, radius)
    a = _slopes(rows, 1, radius) / spread
    b = _sums(_slopes(inverse, 0, radius), 1, radius) / spread
    c = _sums(rows, 1, radius) / count
    # About one offset for the whole map, so that the difference of squares keeps its digits.
    offset = inverse[valid].mean() if valid.any() else inverse.new_zeros(())
    square = _sums(_sums((inverse - offset).square(), 0, radius), 1, radius) / count
    residual = square - (c - offset).square() - (a.square() + b.square()) * spread / count
    smooth = whole & (residual <= (roughness * c).square() + 1e-12)
    u, v, _ = pixel_centres(*depth.shape)
    plane = torch.stack([a, b, c - a * u - b * v])
    normal = -(intrinsics.double().T @ plane.flatten(1)).reshape(plane.shape)
    length = (normal[0].square() + normal[1].square() + normal[2].square()).sqrt()
    return (normal * (smooth / length.clamp_min(1e-12))).float()


def register(
    depth: Tensor, normals: Tensor | None, intrinsics: Tensor, target: Tensor, motion: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Depth and normals of one camera as a second camera of the same image size sees them.

    Every point moves to the pixel that it falls in, the nearest point wins, and pixels that none falls in stay invalid:
    what the first camera does not see, a rim outside its view, pinholes where the second has the finer pixels.

    Args:
        depth: (H, W) metres, 0 where unknown; normals (3, H, W) or None.
        intrinsics: (3, 3) of the first camera; `target` those of the second.
        motion: (4, 4) of the first camera's points into the second's frame.
    """
    source = (depth.flatten() > 0).nonzero()[:, 0]
    points = transform(motion, back_project(depth, intrinsics).flatten(1)[:, source])
    u, v = project(points, target).floor()
    height, width = depth.shape
    seen = (points[2] > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    pixel, z, source = (v * width + u)[seen].long(), points[2, seen], source[seen]
    far_first = z.argsort(descending=True, stable=True)
    winner = np.full(height * width, -1)
    # Of several points in one pixel the last, the nearest, is kept: numpy's rule for repeated indices.
    winner[pixel[far_first].numpy()] = far_first.numpy()
    nearest = torch.from_numpy(winner).reshape(height, width)
    filled, nearest = nearest >= 0, nearest.clamp_min(0)
    if not filled.any():
        return torch.zeros_like(depth), None if normals is None else torch.zeros_like(normals)
    moved = torch.where(filled, z[nearest], 0).float()
    if normals is None:
        return moved, None
    turned = motion[:3, :3].double() @ normals.double().flatten(1)[:, source]
    return moved, turned.float()[:, nearest] * filled


def visible_share(points: Tensor, pose: Tensor, depth: Tensor, intrinsics: Tensor) -> float:
    """Share of the camera points (3, N) of one view that another view sees: moved by `pose` (first camera to second), in
    front, inside its depth map (H, W), and at the depth found there within `SAME_DEPTH` of it."""
    if points.shape[1] == 0:
        return 0.0
    error = depth_error(points, pose, depth, intrinsics)
    z = transform(pose, points)[2]
    return float((error.abs() <= SAME_DEPTH * z).double().mean())


def depth_error(points: Tensor, pose: Tensor, depth: Tensor, intrinsics: Tensor) -> Tensor:
    """(N,) metres: depth found by the second view at the projection of the first's camera points (3, N), less theirs.

    NaN for a point behind the camera, outside the map, or where the map knows no depth.
    """
    moved = transform(pose, points)
    u, v = project(moved, intrinsics).floor()
    height, width = depth.shape
    seen = (moved[2] > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    error = torch.zeros_like(moved[2])
    error[seen] = depth[v[seen].long(), u[seen].long()].double()
    return torch.where(error > 0, error - moved[2], torch.nan)


def _sums(x: Tensor, dim: int, radius: int) -> Tensor:
    """(H, W) sums over 2 radius + 1 pixels along `dim`, zeros outside."""
    ends = (radius + 1, radius)
    running = F.pad(x, (*ends, 0, 0) if dim else (0, 0, *ends)).cumsum(dim)
    size = x.shape[dim]
    return running.narrow(dim, 2 * radius + 1, size) - running.narrow(dim, 0, size)


def _slopes(x: Tensor, dim: int, radius: int) -> Tensor:
    """(H, W) sums of k x(k) over k = -radius..radius along `dim`, zeros outside."""
    padded = F.pad(x, (radius, radius, 0, 0) if dim else (0, 0, radius, radius))
    size, total = x.shape[dim], torch.zeros_like(x)
    for k in range(1, radius + 1):
        ahead, behind = padded.narrow(dim, radius + k, size), padded.narrow(dim, radius - k, size)
        total.add_(ahead, alpha=k).sub_(behind, alpha=k)
    return total
