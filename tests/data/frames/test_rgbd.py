"""Posed RGB-D captures: a small one that is exact, the real sample where it is at hand, and what is refused."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aloe.core.errors import UserError
from aloe.data.frames.geometry import back_project, depth_error, relative_pose, rotation_angle, visible_share
from aloe.data.frames.named import open_frames, open_pairs
from captures import SIDE, write_capture, write_depth
from places import DATA

SAMPLE = DATA / "rgbd-scene.tar"
needs_sample = pytest.mark.skipif(not SAMPLE.is_file(), reason="no ../shared/data/rgbd-scene.tar beside this checkout")


def test_a_capture_reads_as_it_was_written(tmp_path: Path):
    scenes = write_capture(tmp_path / "room")
    splits = open_frames(f"rgbd={tmp_path / 'room'}")
    assert (len(splits.train), len(splits.test), splits.official) == (4, 1, False)
    assert any("one sequence" in note for note in splits.notes)
    assert any("taken as registered" in note for note in splits.notes)
    for frame, scene in zip([*(splits.train[i] for i in range(4)), splits.test[0]], scenes, strict=True):
        assert torch.equal((frame.image * 255).round().byte(), torch.from_numpy(scene.image).permute(2, 0, 1))
        expected = np.where(scene.depth <= splits.max_depth, scene.depth, 0)
        np.testing.assert_allclose(frame.depth, expected, atol=6e-4)
        np.testing.assert_allclose(frame.camera_to_world, scene.camera_to_world)
        np.testing.assert_allclose(frame.intrinsics, scene.intrinsics)
        valid = frame.normals.norm(dim=0) > 0.5
        assert valid.any()
        assert not (valid & (frame.depth == 0)).any()
    with pytest.raises(IndexError):
        splits.test[1]


def test_a_tar_is_the_folder(tmp_path: Path):
    write_capture(tmp_path / "room")
    with tarfile.open(tmp_path / "room.tar", "w") as archive:
        archive.add(tmp_path / "room", "room")
    folder, packed = open_frames(f"rgbd={tmp_path / 'room'}"), open_frames(f"rgbd={tmp_path / 'room.tar'}")
    assert torch.equal(folder.test[0].depth, packed.test[0].depth)
    pairs = open_pairs(f"rgbd={tmp_path / 'room.tar'}", min_overlap=0.1)
    assert pairs.pairs == open_pairs(f"rgbd={tmp_path / 'room'}", min_overlap=0.1).pairs


def test_a_tar_with_a_member_outside_is_refused(tmp_path: Path):
    (tmp_path / "x").write_bytes(b"1")
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        archive.add(tmp_path / "x", "../frame-000000.depth.png")
    with pytest.raises(UserError, match="outside the archive"):
        open_frames(f"rgbd={tmp_path / 'bad.tar'}")


def test_the_state_follows_the_content(tmp_path: Path):
    write_capture(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first, second = (open_frames(f"rgbd={tmp_path / name}") for name in "ab")
    assert first.train.state() == second.train.state() != first.test.state()
    lens = np.loadtxt(tmp_path / "b" / "camera-intrinsics.txt")
    np.savetxt(tmp_path / "b" / "camera-intrinsics.txt", lens * [[1.1], [1.1], [1]])
    assert open_frames(f"rgbd={tmp_path / 'b'}").train.state() != first.train.state()


def test_pairs_lie_within_the_gaps_and_overlap(tmp_path: Path):
    scenes = write_capture(tmp_path, range(6))
    found = open_pairs(f"rgbd={tmp_path}", gaps=(8, 24), min_overlap=0)
    assert found.pairs == [(i, j) for i in range(6) for j in range(i + 1, min(i + 4, 6))]
    frames = found.frames
    for i, j in found.pairs:
        motion = relative_pose(frames[i].camera_to_world, frames[j].camera_to_world)
        assert rotation_angle(motion) == pytest.approx(12 * (j - i))
        assert frames[i].normals is None
    threshold = 0.45
    kept = open_pairs(f"rgbd={tmp_path}", gaps=(8, 40), min_overlap=threshold).pairs
    assert 0 < len(kept) < 15
    for i, j in kept:  # on every pixel, not on every eighth
        points = back_project(frames[i].depth, frames[i].intrinsics)[:, frames[i].depth > 0]
        motion = relative_pose(frames[i].camera_to_world, frames[j].camera_to_world)
        assert visible_share(points, motion, frames[j].depth, frames[j].intrinsics) > threshold - 0.1
    some = open_pairs(f"rgbd={tmp_path}", gaps=(8, 24), min_overlap=0, count=5)
    assert len(some.pairs) == 5
    assert set(some.pairs) < set(found.pairs)
    assert some.pairs == open_pairs(f"rgbd={tmp_path}", gaps=(8, 24), min_overlap=0, count=5).pairs
    assert some.pairs != open_pairs(f"rgbd={tmp_path}", gaps=(8, 24), min_overlap=0, count=5, seed=1).pairs
    assert len(scenes) == 6


def test_pairs_stay_within_a_room(tmp_path: Path):
    write_capture(tmp_path / "a", range(3))
    write_capture(tmp_path / "b", range(3), seed=5)
    pairs = open_pairs(f"rgbd={tmp_path}", min_overlap=0)
    assert pairs.pairs == [(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5)]
    assert any("2 sequences" in note for note in open_frames(f"rgbd={tmp_path}").notes)


def test_a_colour_camera_of_its_own_moves_the_depth(tmp_path: Path):
    """Depth by a camera 5 cm to the side and of a longer focal length: registered, it is the colour camera's own."""
    scene = write_capture(tmp_path, [0, 1])[0]
    lens = scene.intrinsics.copy()
    lens[0, 0] *= 0.8
    lens[1, 1] *= 0.8
    np.savetxt(tmp_path / "color-intrinsics.txt", lens)
    motion = np.eye(4)
    motion[0, 3] = -0.05
    np.savetxt(tmp_path / "depth-to-color.txt", motion)
    splits = open_frames(f"rgbd={tmp_path}")
    assert any("moved into the colour camera" in note for note in splits.notes)
    frame = splits.train[0]
    np.testing.assert_allclose(frame.intrinsics, lens)
    np.testing.assert_allclose(frame.camera_to_world.numpy() @ motion, scene.camera_to_world, atol=1e-12)
    # Its points are the measured points, in the world.
    points = back_project(frame.depth, frame.intrinsics)[:, frame.depth > 0]
    motion_back = torch.linalg.inv(torch.from_numpy(motion))
    error = depth_error(points, motion_back, torch.from_numpy(scene.depth), torch.from_numpy(scene.intrinsics))
    assert error.abs().nanmedian() < 0.02
    assert (frame.depth[:, :3] == 0).all()  # beyond the depth camera's narrower view


@needs_sample
def test_the_sample_reprojects_within_a_few_centimetres():
    splits = open_frames(f"rgbd={SAMPLE}")
    assert (len(splits.train), len(splits.test)) == (100, 25)
    assert any("Kinect" in note for note in splits.notes)
    frames = splits.train
    assert frames[0].intrinsics.tolist() == [[525, 0, 320], [0, 525, 240], [0, 0, 1]]
    for i in (0, 60):
        first, second = frames[i], frames[i + 1]  # 8 frames later
        assert first.image.shape == (3, 480, 640)
        motion = relative_pose(first.camera_to_world, second.camera_to_world)
        points = back_project(first.depth, first.intrinsics)[:, first.depth > 0]
        error = depth_error(points, motion, second.depth, second.intrinsics)
        error = error[error.isfinite()].abs()
        assert len(error) > 100_000
        assert error.median() < 0.015
        assert (error < 0.05).double().mean() > 0.85
        assert (first.normals.norm(dim=0) > 0.5).float().mean() > 0.35


@needs_sample
def test_depth_edges_of_the_sample_lie_on_colour_edges():
    """Registered, colour changes more where depth jumps than elsewhere; taken as it is in the file, hardly."""

    def contrast(depth: torch.Tensor, image: torch.Tensor) -> float:
        change = (image.mean(0)[:, 2:] - image.mean(0)[:, :-2]).abs()
        left, right = depth[:, :-2], depth[:, 2:]
        edge = (left > 0) & (right > 0) & ((right - left).abs() > 0.1 * depth[:, 1:-1])
        return float(change[edge].mean() / change.mean())

    frames = open_frames(f"rgbd={SAMPLE}").train
    measured = getattr(frames, "measured")  # noqa: B009  (of this source alone)
    chosen = (0, 40, 80)
    registered = np.mean([contrast(frames[i].depth, frames[i].image) for i in chosen])
    as_stored = np.mean([contrast(measured(i), frames[i].image) for i in chosen])
    assert registered > 1.4 * as_stored


def spoil(folder: Path, name: str) -> None:
    """Write a two-frame capture with one thing wrong."""
    write_capture(folder, range(2))
    stem = folder / "frame-000000"
    if name == "truncated":
        whole = Path(f"{stem}.depth.png").read_bytes()
        Path(f"{stem}.depth.png").write_bytes(whole[: len(whole) // 2])
    elif name == "sizes":
        write_depth(Path(f"{stem}.depth.png"), np.full((SIDE, SIDE // 2), 1000))
    elif name == "eight bits":
        Image.new("L", (SIDE, SIDE), 9).save(f"{stem}.depth.png")
    elif name == "colour":
        Path(f"{stem}.color.png").write_bytes(b"no picture")
    elif name in ("nan", "singular", "short", "words"):
        rows = {"nan": "nan 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1", "singular": "0 0 0 0\n" * 4, "short": "1 0\n0 1"}
        Path(f"{stem}.pose.txt").write_text(rows.get(name, "a b c d"))
    elif name in ("pose", "color", "intrinsics", "lens"):
        Path(f"{stem}.pose.txt").unlink() if name == "pose" else None
        Path(f"{stem}.color.png").unlink() if name == "color" else None
        (folder / "camera-intrinsics.txt").unlink() if name == "intrinsics" else None
        (folder / "camera-intrinsics.txt").write_text("585 0\n0 585") if name == "lens" else None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("truncated", r"frame-000000\.depth\.png in .* is not a readable PNG \(image file is truncated\)\.$"),
        ("sizes", r"colour of 48 x 48 pixels and depth of 24 x 48"),
        ("eight bits", r"16-bit grey PNG, this one is of mode L"),
        ("colour", r"frame-000000\.color\.png in .*not an image"),
        ("nan", r"frame-000000\.pose\.txt in .* not finite"),
        ("singular", r"frame-000000\.pose\.txt in .* cannot be inverted"),
        ("short", r"frame-000000\.pose\.txt in .* is not a 4 x 4"),
        ("words", r"frame-000000\.pose\.txt in .* is not a matrix of numbers"),
        ("pose", r"frame-000000\.pose\.txt is missing"),
        ("color", r"frame-000000\.color\.jpg .* is missing"),
        ("intrinsics", r"has no camera-intrinsics\.txt; put"),
        ("lens", r"camera-intrinsics\.txt in .* is not a 3 x 3 pinhole"),
    ],
)
def test_a_spoilt_capture_is_one_sentence(name: str, message: str, tmp_path: Path):
    spoil(tmp_path, name)
    with pytest.raises(UserError, match=message) as caught:
        open_frames(f"rgbd={tmp_path}").train[0]
    assert "\n" not in str(caught.value)


def test_a_frame_without_depth_takes_part_in_nothing(tmp_path: Path):
    """It is read (probes leave it out and count it) and is in no pair."""
    write_capture(tmp_path, range(6))
    write_depth(tmp_path / "frame-000008.depth.png", np.array([[0, 65535], [20000, 0]]).repeat(24, 0).repeat(24, 1))
    splits = open_frames(f"rgbd={tmp_path}")
    assert not splits.train[1].depth.any()
    assert not splits.train[1].normals.any()
    whole = open_pairs(f"rgbd={tmp_path}").pairs
    assert whole
    assert all(1 not in pair for pair in whole)


def test_captures_without_frames_or_pairs(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"has no NAME\.depth\.png"):
        open_frames(f"rgbd={tmp_path / 'empty'}")
    write_capture(tmp_path / "one", [0])
    with pytest.raises(UserError, match="has 1 frame; two are the least"):
        open_frames(f"rgbd={tmp_path / 'one'}")
    write_capture(tmp_path / "two", [0, 2])
    with pytest.raises(UserError, match=r"No two frames of .* are 40 to 64 frames apart"):
        open_pairs(f"rgbd={tmp_path / 'two'}", gaps=(40, 64))
    away = np.loadtxt(tmp_path / "two" / "frame-000016.pose.txt")
    away[:3, 3] += 100
    np.savetxt(tmp_path / "two" / "frame-000016.pose.txt", away)
    with pytest.raises(UserError, match="share 30% of their points"):
        open_pairs(f"rgbd={tmp_path / 'two'}")
    with pytest.raises(UserError, match="gaps: the smallest comes first"):
        open_pairs(f"rgbd={tmp_path / 'two'}", gaps=(8, 4))
    write_capture(tmp_path / "names", [0], prefix="kitchen-1-")
    write_capture(tmp_path / "names", [0], prefix="kitchen-2-")
    with pytest.raises(UserError, match="the same frame number"):
        open_pairs(f"rgbd={tmp_path / 'names'}")
