"""Frames: crops and resizes move image, depth, normals, mask and intrinsics together; what may be named as a data set."""

from __future__ import annotations

import pytest
import torch

from aloe.core.errors import UserError
from aloe.data.frames.frame import Frame
from aloe.data.frames.geometry import back_project, pixel_centres, project
from aloe.data.frames.named import open_frames, open_pairs


def slanted(height: int, width: int) -> Frame:
    """A plane z = 2 + 0.3 x, whose image shows the x and y of its points."""
    focal, rays = 40.0, pixel_centres(height, width)
    intrinsics = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64)
    x_over_z = (rays[0] - width / 2) / focal
    depth = (2 / (1 - 0.3 * x_over_z)).float()
    points = back_project(depth, intrinsics)
    image = torch.stack([points[0] / 4 + 0.5, points[1] / 4 + 0.5, torch.zeros_like(depth)]).float()
    normals = torch.tensor([0.3, 0, -1.0]).div(1.09**0.5)[:, None, None].expand(3, height, width)
    return Frame(image, depth, normals, intrinsics, torch.eye(4, dtype=torch.float64), depth > 2, "slanted")


def test_a_crop_keeps_every_pixels_point():
    frame = slanted(20, 32)
    square = frame.cropped_square()
    assert square.image.shape == (3, 20, 20)
    assert square.depth is not None
    assert square.intrinsics is not None
    points = back_project(square.depth, square.intrinsics)
    torch.testing.assert_close(points[:2].float() / 4 + 0.5, square.image[:2])
    torch.testing.assert_close(square.depth, frame.depth[:, 6:26])
    torch.testing.assert_close(square.mask, frame.mask[:, 6:26])
    assert square.normals.shape == (3, 20, 20)
    assert frame.intrinsics[0, 2] == 16  # the frame itself is unchanged
    tall = slanted(32, 20).cropped_square()
    torch.testing.assert_close(back_project(tall.depth, tall.intrinsics)[1].float() / 4 + 0.5, tall.image[1])


@pytest.mark.parametrize("side", [30, 10, 60, 17])
def test_a_resize_keeps_points_within_a_pixel(side: int):
    frame = slanted(30, 30)
    small = frame.resized(side)
    assert small.image.shape == (3, side, side)
    assert small.depth.shape == small.mask.shape == (side, side)
    assert small.mask.dtype == torch.bool
    assert small.normals.shape == (3, side, side)
    assert set(small.depth.unique().tolist()) <= set(frame.depth.unique().tolist())  # nearest: no depth is made up
    inner = (slice(None), slice(2, -2), slice(2, -2))
    points = back_project(small.depth, small.intrinsics)
    assert (points[:2].float() / 4 + 0.5 - small.image[:2])[inner].abs().max() < 0.03
    # The same points of space, seen by both: image points scale by exactly side / 30.
    anywhere = torch.tensor([[0.1, -0.4], [0.3, 0.2], [2.0, 3.0]], dtype=torch.float64)
    torch.testing.assert_close(
        project(anywhere, small.intrinsics), project(anywhere, frame.intrinsics) * side / 30, atol=1e-12, rtol=0
    )


def test_a_whole_fraction_takes_a_central_pixel():
    frame = Frame(torch.zeros(3, 9, 9), depth=torch.arange(81.0).reshape(9, 9))
    assert frame.resized(3).depth.tolist() == [[10, 13, 16], [37, 40, 43], [64, 67, 70]]


def test_only_squares_are_resized():
    with pytest.raises(ValueError, match="20 x 32"):
        slanted(20, 32).resized(10)


def test_a_frame_of_an_image_alone():
    frame = Frame(torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(0))).cropped_square().resized(3)
    assert frame.image.shape == (3, 3, 3)
    assert frame.depth is frame.normals is frame.intrinsics is frame.mask is None


@pytest.mark.parametrize("spec", ["", "rgbd", "rgbd=", "kitti=x", "photos/", "nyuv2:x"])
def test_unknown_names(spec: str):
    for opener in (open_frames, open_pairs):
        with pytest.raises(UserError, match="is not a data set with depth"):
            opener(spec)


@pytest.mark.parametrize("kind", ["rgbd", "nyuv2", "navi", "scannet"])
def test_absent_paths(kind: str, tmp_path):
    for opener in (open_frames, open_pairs):
        with pytest.raises(UserError, match=r"nowhere does not exist"):
            opener(f"{kind}={tmp_path / 'nowhere'}")


@pytest.mark.parametrize("kind", ["rgbd", "navi", "scannet"])
def test_neither_folder_nor_archive(kind: str, tmp_path):
    (tmp_path / "notes.txt").write_text("no archive")
    with pytest.raises(UserError, match=r"notes\.txt is neither"):
        open_pairs(f"{kind}={tmp_path / 'notes.txt'}")


def test_sets_that_serve_the_other_purpose(tmp_path):
    for kind in ("navi", "scannet"):
        with pytest.raises(UserError, match="view pairs for correspondence"):
            open_frames(f"{kind}={tmp_path}")
    with pytest.raises(UserError, match="no camera poses"):
        open_pairs(f"nyuv2={tmp_path}")
    with pytest.raises(UserError, match="fixed: gaps, count can be chosen for rgbd"):
        open_pairs("rendered", gaps=(1, 2), count=3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gaps": 8}, "gaps: input should be a valid tuple"),
        ({"gaps": (8, 4)}, "gaps: the smallest comes first"),
        ({"gaps": (0, 4)}, "gaps: input should be greater"),
        ({"count": "many"}, "count: input should be a valid integer"),
        ({"min_overlap": 1.5}, "min_overlap: input should be less"),
        ({"seed": -1}, "seed: input should be greater"),
    ],
)
def test_impossible_choices_of_pairs(tmp_path, options, words):
    with pytest.raises(UserError, match=f"^Wrong settings: {words}"):
        open_pairs(f"rgbd={tmp_path}", **options)


@pytest.mark.parametrize(
    "spec", ["rendered:", "rendered:3", "rendered:0,1", "rendered:3,4@x", "rendered/", "rendered:3,4/7"]
)
def test_broken_rendered_specs(spec: str):
    for opener in (open_frames, open_pairs):
        with pytest.raises(UserError):
            opener(spec)


def test_rendered_splits_are_of_different_seeds_and_exact():
    splits = open_frames("rendered:3,2@1/32")
    assert (len(splits.train), len(splits.test), splits.official) == (3, 2, False)
    frame, other = splits.train[0], splits.test[0]
    assert frame.image.shape == (3, 32, 32)
    assert not torch.equal(frame.image, other.image)
    assert frame.depth.max() <= splits.max_depth
    assert torch.equal(frame.normals.norm(dim=0) > 0.5, frame.depth > 0)
    facing = (frame.normals.double() * back_project(frame.depth, frame.intrinsics)).sum(0)
    assert (facing[frame.depth > 0] < 0).all()  # towards the camera
    assert splits.train.state() == open_frames("rendered:3,2@1/32").train.state()
    assert splits.train.state() != splits.test.state() != open_frames("rendered:3,2@2/32").test.state()
    with pytest.raises(IndexError):
        splits.train[3]


def test_rendered_pairs_have_one_angle_in_each_bin():
    from aloe.data.frames.geometry import relative_pose, rotation_angle

    pairs = open_pairs("rendered:1,2/32")
    assert pairs.pairs[:6] == [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (6, 7)]
    assert len(pairs.frames) == 12
    for k, (i, j) in enumerate(pairs.pairs[:5]):
        first, second = pairs.frames[i], pairs.frames[j]
        angle = rotation_angle(relative_pose(first.camera_to_world, second.camera_to_world))
        assert angle == pytest.approx(12 * (k + 1))
        assert pairs.bins[k] + 1 < angle < pairs.bins[k + 1] - 1


@pytest.mark.parametrize("kind", ["rgbd", "nyuv2"])
def test_a_pipe_is_no_data_set(tmp_path, kind):
    import os

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="neither a folder nor a regular file"):
        open_frames(f"{kind}={tmp_path / 'pipe'}")
