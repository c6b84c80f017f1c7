"""Pinhole geometry by hand, normals on exact planes and spheres, registration, and poses that are none."""

from __future__ import annotations

import math

import pytest
import torch

from aloe.core.errors import UserError
from aloe.data.frames.geometry import (
    back_project,
    checked_intrinsics,
    checked_pose,
    depth_error,
    normals_from_depth,
    pixel_centres,
    project,
    register,
    relative_pose,
    rotation_angle,
    transform,
    visible_share,
)
from aloe.data.scenes import render

K = torch.tensor([[50.0, 0, 16], [0, 60.0, 12], [0, 0, 1]], dtype=torch.float64)


def turned(axis: int, degrees: float, shift: tuple[float, float, float] = (0, 0, 0)) -> torch.Tensor:
    pose, a = torch.eye(4, dtype=torch.float64), math.radians(degrees)
    i, j = [k for k in range(3) if k != axis]
    pose[i, i] = pose[j, j] = math.cos(a)
    pose[i, j], pose[j, i] = -math.sin(a), math.sin(a)
    pose[:3, 3] = torch.tensor(shift)
    return pose


def plane(normal: tuple[float, float, float], distance: float, size: tuple[int, int] = (24, 32)) -> torch.Tensor:
    """Depth of the plane normal . p = -distance, normal towards the camera."""
    rays = torch.linalg.inv(K) @ pixel_centres(*size).flatten(1)
    n = torch.tensor(normal, dtype=torch.float64)
    return (-distance * n.norm() / (n @ rays)).reshape(size)


def test_a_pixel_by_hand():
    depth = torch.zeros(24, 32)
    depth[3, 20] = 2.0
    points = back_project(depth, K)
    assert points[:, 3, 20].tolist() == pytest.approx([2 * (20.5 - 16) / 50, 2 * (3.5 - 12) / 60, 2])
    assert points.abs().sum() == pytest.approx(points[:, 3, 20].abs().sum())
    assert project(points[:, 3, 20], K).tolist() == pytest.approx([20.5, 3.5])


@pytest.mark.parametrize("degrees", [0.0, 1e-7, 12, 90, 179.9999999, 180])
def test_rotation_angles_keep_their_digits(degrees: float):
    assert rotation_angle(turned(1, degrees)) == pytest.approx(degrees, rel=1e-6, abs=1e-9)


def test_relative_pose_moves_points_between_cameras():
    first, second = turned(0, 20, (1, 2, 3)), turned(2, -50, (-1, 0, 2))
    points = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved = transform(relative_pose(first, second), points)
    torch.testing.assert_close(transform(second, moved), transform(first, points))
    assert rotation_angle(relative_pose(first, first)) == 0


@pytest.mark.parametrize("radius", [1, 3])
@pytest.mark.parametrize("normal", [(0.0, 0.0, -1.0), (0.5, -0.2, -1.0), (-2.0, 1.0, -1.5)])
def test_normals_of_planes_are_exact(normal: tuple[float, float, float], radius: int):
    depth = plane(normal, 3.0)
    assert (depth > 0).all()
    found = normals_from_depth(depth, K, radius)
    expected = torch.nn.functional.normalize(torch.tensor(normal), dim=0)
    inner = found[:, radius:-radius, radius:-radius]
    torch.testing.assert_close(inner, expected[:, None, None].expand_as(inner), atol=1e-5, rtol=0)
    assert (found[:, :radius] == 0).all()  # the window leaves the image
    assert (found[:, :, -radius:] == 0).all()


def test_normals_stop_at_edges_and_holes():
    depth = plane((0.2, 0, -1), 2.0)
    depth[:, 16:] += 0.5
    depth[5, 5] = 0
    found = normals_from_depth(depth, K, 1).norm(dim=0) > 0.5
    assert not found[:, 15:17].any()
    assert not found[4:7, 4:7].any()
    assert found[10:20, 2:14].all()
    assert found[10:20, 18:30].all()
    assert not normals_from_depth(torch.zeros(9, 9), K, 1).any()


def test_normals_of_a_rendered_scene_agree_with_the_exact_ones():
    scene = render(3, 1, 128)
    depth, exact = torch.from_numpy(scene.depth), torch.from_numpy(scene.normals)
    found = normals_from_depth(depth, torch.from_numpy(scene.intrinsics))
    valid = found.norm(dim=0) > 0.5
    assert valid.float().mean() > 0.6
    angle = (found * exact).sum(0)[valid].clamp(-1, 1).acos().rad2deg()
    assert angle.median() < 0.1
    assert (angle < 11.25).float().mean() > 0.95


def test_a_view_sees_itself_wholly_and_no_other_side():
    depth = plane((0.3, 0.1, -1), 2.0)
    points = back_project(depth, K).flatten(1)
    still = torch.eye(4, dtype=torch.float64)
    assert visible_share(points, still, depth, K) == 1
    assert depth_error(points, still, depth, K).abs().max() < 1e-9
    assert visible_share(points, turned(1, 180), depth, K) == 0  # behind
    assert visible_share(points, still, depth * 1.2, K) == 0  # another surface
    assert visible_share(points[:, :0], still, depth, K) == 0
    half = depth.clone()
    half[:, :16] = 0
    assert visible_share(points, still, half, K) == 0.5
    assert int(depth_error(points, still, half, K).isnan().sum()) == 24 * 16


def test_registration_moves_depth_and_normals_into_the_other_camera():
    depth = plane((0.0, 0.0, -1.0), 2.0)
    normals = torch.tensor([0.0, 0, -1])[:, None, None].expand(3, 24, 32)
    still = torch.eye(4, dtype=torch.float64)
    same, turned_normals = register(depth, normals, K, K, still)
    torch.testing.assert_close(same, depth.float())
    torch.testing.assert_close(turned_normals, normals.float())
    # 8 cm to the right at 2 m with 50 pixels: every point two pixels further left.
    shift = turned(0, 0, (-0.08, 0, 0.0))
    moved, none = register(depth, None, K, K, shift)
    assert none is None
    assert (moved[:, :30] == 2).all()
    assert (moved[:, 30:] == 0).all()
    # A near wall hides what lies behind it, in whatever order the points come.
    near = depth.clone()
    near[:, 20:] = 1.0
    moved, _ = register(near, None, K, K, shift)
    assert (moved[:, 16:28] == 1).all()
    assert (moved[:, :16] == 2).all()


def test_matrices_that_are_no_cameras():
    good = turned(0, 30, (1, 2, 3))
    torch.testing.assert_close(checked_pose(good.float(), "a"), good)

    def spoilt(at: tuple[int, int], value: float) -> torch.Tensor:
        matrix = good.clone()
        matrix[at] = value
        return matrix

    for matrix, message in (
        (good[:3], "a is not a 4 x 4"),
        (spoilt((0, 3), math.inf), "not finite"),
        (spoilt((1, 1), math.nan), "not finite"),
        (torch.zeros(4, 4), "cannot be inverted"),
        (spoilt((3, 3), 2), "not a rigid motion"),
        (spoilt((0, 0), 1.5), "not a rigid motion"),
        (torch.diag(torch.tensor([1.0, 1, -1, 1])), "not a rigid motion"),
    ):
        with pytest.raises(UserError, match=message):
            checked_pose(matrix, "a")
    for lens in (K[:2], K * math.nan, -K, K.T, torch.eye(4)):
        with pytest.raises(UserError, match="b is not a 3 x 3 pinhole"):
            checked_intrinsics(lens, "b")
