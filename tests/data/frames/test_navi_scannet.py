"""NAVI v1 and ScanNet's pairs in their official layouts: the points of both views meet in space."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from aloe.core.errors import UserError
from aloe.data.frames import scannet
from aloe.data.frames.frame import FramePairs
from aloe.data.frames.geometry import back_project, depth_error, relative_pose, rotation_angle
from aloe.data.frames.named import open_pairs
from aloe.data.frames.navi import object_square
from aloe.data.scenes import render
from captures import SIDE, write_navi, write_scannet

SCENES = [render(4, 0, SIDE, view) for view in range(6)]


def median_error(pairs: FramePairs, first: int, second: int) -> float:
    """Metres between the depth that the second view finds and that of the first's matchable points."""
    a, b = pairs.frames[first], pairs.frames[second]
    chosen = a.depth > 0 if a.mask is None else a.mask
    points = back_project(a.depth, a.intrinsics)[:, chosen]
    error = depth_error(points, relative_pose(a.camera_to_world, b.camera_to_world), b.depth, b.intrinsics)
    return float(error.abs().nanmedian())


def test_navi(tmp_path: Path):
    write_navi(tmp_path / "navi_v1", SCENES, things=("cup", "duck"))
    pairs = open_pairs(f"navi={tmp_path}")
    assert pairs.bins == (0, 30, 60, 90, 120)
    assert not pairs.official
    assert "cannot be had" in pairs.notes[0]
    assert len(pairs.frames) == 12
    assert [first for first, _ in pairs.pairs] == [0, 4, 8]  # every fourth image, in the order of the names
    for first, second in pairs.pairs:
        assert first // 6 == second // 6  # the same object
        a, b = pairs.frames[first], pairs.frames[second]
        angle = rotation_angle(relative_pose(a.camera_to_world, b.camera_to_world))
        assert angle == pytest.approx(12 * abs(first - second))
        assert 0 < angle <= 120
        assert a.image.shape == (3, 512, 512)
        assert torch.equal(a.mask, a.depth > 0)
        assert a.intrinsics[0, 0] == a.intrinsics[1, 1]
    assert pairs.pairs == open_pairs(f"navi={tmp_path}").pairs
    size = float((pairs.frames[0].depth[pairs.frames[0].mask]).median())
    assert median_error(pairs, 0, 1) < 0.02 * size
    assert median_error(pairs, 1, 0) < 0.02 * size


def test_navi_frames_are_the_object(tmp_path: Path):
    write_navi(tmp_path, SCENES[:2])
    frame = open_pairs(f"navi={tmp_path}").frames[0]
    assert SCENES[0].mask[:, :].any()
    box = frame.mask.nonzero()
    assert int((box.max(0).values - box.min(0).values).max()) >= 505  # the square is as large as the object
    np.testing.assert_allclose(frame.camera_to_world, SCENES[0].camera_to_world, atol=1e-9)
    points = back_project(frame.depth, frame.intrinsics)[:, frame.mask]
    exact = back_project(torch.from_numpy(SCENES[0].depth), torch.from_numpy(SCENES[0].intrinsics))
    exact = exact[:, torch.from_numpy(SCENES[0].mask)]
    step = float(exact[2].median()) / SCENES[0].intrinsics[0, 0]  # a source pixel at the object, in metres
    for axis in range(3):
        for share in (0.05, 0.5, 0.95):
            assert abs(float(points[axis].quantile(share) - exact[axis].quantile(share))) < 2 * step


def test_the_square_round_an_object():
    mask = torch.zeros(20, 20, dtype=torch.bool)
    mask[5:9, 6:16] = True
    assert object_square(mask) == (2, 6, 10, 10)
    mask[:] = False
    mask[1:3, 6:16] = True
    assert object_square(mask) == (0, 6, 10, 10)
    mask[:] = False
    mask[10:20, 18:20] = True
    assert object_square(mask) == (10, 10, 10, 10)


def spoil_navi(root: Path, change: str) -> None:
    folder = root / "cup" / "wild_set"
    file = folder / "annotations.json"
    entries = json.loads(file.read_text())
    if change == "depth":
        (folder / "depth" / "000.png").unlink()
    elif change == "size":
        entries[-1]["image_size"] = [9, 9]
    elif change == "q":
        entries[0]["camera"]["q"] = [0, 0, 0, 0]
    elif change == "key":
        del entries[0]["camera"]
    elif change == "outside":
        entries[0]["filename"] = "../../../secret.jpg"
    elif change == "focal":
        entries[0]["camera"]["focal_length"] = -1
    file.write_text("[{" if change == "json" else json.dumps(entries))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("depth", r"has no cup/wild_set/depth/000\.png, which"),
        ("size", r"its annotation 9 x 9; they must agree"),
        ("q", r"the camera of cup/wild_set/005\.jpg has numbers that are not finite"),
        ("key", r"is not NAVI's list of annotations"),
        ("json", r"is not NAVI's list of annotations"),
        ("outside", r"has no cup/wild_set/images/\.\./\.\./\.\./secret\.jpg"),
        ("focal", r"has a focal length of -1"),
    ],
)
def test_broken_navi(change: str, message: str, tmp_path: Path):
    write_navi(tmp_path, SCENES)
    spoil_navi(tmp_path, change)
    with pytest.raises(UserError, match=message):
        open_pairs(f"navi={tmp_path}").frames[0]


def test_navi_objects_that_are_skipped(tmp_path: Path):
    write_navi(tmp_path / "a", SCENES, collections=1)
    with pytest.raises(UserError, match="two collections or more"):
        open_pairs(f"navi={tmp_path / 'a'}")
    write_navi(tmp_path / "b", SCENES[:1])
    with pytest.raises(UserError, match="there are no pairs"):
        open_pairs(f"navi={tmp_path / 'b'}")


def test_scannet(tmp_path: Path, monkeypatch):
    write_scannet(tmp_path, SCENES, [(0, 1), (1, 3), (0, 5)])
    pairs = open_pairs(f"scannet={tmp_path}")
    assert pairs.bins == (0, 15, 30, 60, 180)
    assert pairs.pairs == [(0, 1), (1, 2), (0, 3)]  # each image once
    assert len(pairs.frames) == 4
    frame = pairs.frames[2]
    assert frame.name.endswith("scene0707_00/color/45.jpg")
    assert frame.image.shape == (3, 480, 640)
    assert frame.depth.shape == (480, 640)
    np.testing.assert_allclose(frame.camera_to_world, SCENES[3].camera_to_world)
    assert float(frame.depth.max()) == pytest.approx(SCENES[3].depth.max(), abs=1e-3)
    assert median_error(pairs, 0, 1) < 0.02
    a, b = (pairs.frames[i].camera_to_world for i in (0, 3))
    assert math.isclose(rotation_angle(relative_pose(a, b)), 60, abs_tol=1e-6)
    assert len(pairs.frames.state()) == 64
    assert pairs.defaults == {"sampling": "at-points", "pixel_thresholds": (20, 40, 80)}
    assert not pairs.official  # three pairs
    monkeypatch.setattr(scannet, "PAIRS", 3)
    assert open_pairs(f"scannet={tmp_path}").official


def test_broken_scannet(tmp_path: Path):
    write_scannet(tmp_path, SCENES[:2], [(0, 1)])
    np.savez(tmp_path / "intrinsics.npz", scene0708_00=np.eye(3))
    with pytest.raises(UserError, match=r"no matrix for scene0707_00"):
        open_pairs(f"scannet={tmp_path}")
    (tmp_path / "intrinsics.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"intrinsics\.npz in .* is damaged"):
        open_pairs(f"scannet={tmp_path}")
    (tmp_path / "intrinsics.npz").unlink()
    with pytest.raises(UserError, match=r"has no intrinsics\.npz"):
        open_pairs(f"scannet={tmp_path}")
    np.savez(tmp_path / "test.npz", name=np.array([[object()] * 4]))
    with pytest.raises(UserError, match=r"test\.npz in .* is damaged"):  # pickled: not loaded
        open_pairs(f"scannet={tmp_path}")
    np.savez(tmp_path / "test.npz", pairs=np.eye(4))
    with pytest.raises(UserError, match="no array `name`"):
        open_pairs(f"scannet={tmp_path}")


def test_scannet_poses_and_images_that_are_missing(tmp_path: Path):
    write_scannet(tmp_path, SCENES[:2], [(0, 1), (0, 7)])
    folder = tmp_path / "scannet_test_1500" / "scene0707_00"
    (folder / "pose" / "15.txt").write_text("-inf -inf -inf -inf\n" * 4)
    pairs = open_pairs(f"scannet={tmp_path}")
    with pytest.raises(UserError, match="not finite"):
        pairs.frames[1]
    with pytest.raises(UserError, match=r"has no .*color/105\.jpg"):
        pairs.frames[2]
    (folder / "color" / "0.jpg").unlink()
    with pytest.raises(UserError, match=r"has no scene0707_00/color/0\.jpg, which"):
        open_pairs(f"scannet={tmp_path}")
