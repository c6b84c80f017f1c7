"""Correspondence against a slow literal reference, on scenes whose answer is known, and at its edges."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from aloe.core.errors import UserError
from aloe.data.frames.frame import Frame, FramePairs
from aloe.evaluation.dense import correspondence as module
from aloe.evaluation.dense.correspondence import (
    Correspondence,
    CorrespondenceSettings,
    PairMatches,
    compare_views,
    correspondence,
    make_view,
    model_input,
)
from aloe.evaluation.dense.features import dense_features
from aloe.evaluation.dense.matching import match, nearest_distances
from aloe.models.convert import bcosify
from conftest import build_teacher

EVERY_PIXEL = CorrespondenceSettings(scale=1.0)


class Frames(list):
    """Frames in memory; `reads` are the indices that were asked for."""

    name = "memory"

    def __init__(self, frames):
        super().__init__(frames)
        self.reads = []

    def __getitem__(self, index):
        self.reads.append(index)
        return super().__getitem__(index)

    def state(self):
        return "memory"


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def camera(angle=0.0, at=(0.0, 0.0, 0.0)):
    """Camera to world: turned by `angle` degrees about the vertical axis."""
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    pose[:3, 3] = torch.tensor(at)
    return pose


def pinhole(focal, height, width):
    return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64)


def plane_frame(pose, focal, height, width, name=""):
    """The plane z = 1 of the world: depth by intersection, and an image whose colours are the world points themselves."""
    k = pinhole(focal, height, width)
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    rays = torch.linalg.inv(k) @ torch.stack((u, v, torch.ones_like(u))).double().flatten(1)
    directions = pose[:3, :3] @ rays
    depth = (1 - pose[2, 3]) / directions[2]
    world = pose[:3, 3:] + directions * depth
    shape = (-1, height, width)
    image = world.reshape(shape).float()
    return Frame(image, depth.reshape(height, width).float(), None, k, pose, name=name)


def lifted(points):
    """World points (..., 3, H, W) on the unit sphere of four dimensions: nearer in space is nearer by cosine."""
    square = points.square().sum(-3, keepdim=True)
    return torch.cat((2 * points, square - 1), dim=-3) / (square + 1)


@pytest.fixture
def model():
    return bcosify(build_teacher("dinov3"))


@pytest.fixture
def seeing_points(monkeypatch):
    """Features are a function of the world point, one per pixel."""
    monkeypatch.setattr(module, "model_input", lambda model, image, resolution: image)
    monkeypatch.setattr(module, "dense_features", lambda model, images, blocks: [lifted(images)])


def random_frames(count=2, height=24, width=16):
    generator = torch.Generator().manual_seed(5)
    frames = []
    for i in range(count):
        depth = torch.rand(height, width, generator=generator) + 0.5
        depth[torch.rand(height, width, generator=generator) < 0.2] = 0
        pose = camera(7.0 * i, (0.05 * i, 0.02, -0.03 * i))
        image = torch.rand(3, height, width, generator=generator)
        frames.append(Frame(image, depth, None, pinhole(20.0, height, width), pose, name=f"frame {i}"))
    return Frames(frames)


def slow_match(first, second, num_corr):
    """(position in view 0, position in view 1, score), from the protocol's words, one pair of points at a time."""
    found = []
    for i, a in enumerate(first.double()):
        distances = [(max(1e-9, 1 - float(a @ b / (a.norm() * b.norm()))), j) for j, b in enumerate(second.double())]
        (d1, j), (d2, _) = sorted(distances)[:2]
        found.append((i, j, 1 - d1 / d2))
    return sorted(found, key=lambda m: -m[2])[:num_corr]


# Matching


@pytest.mark.parametrize("num_corr", [1, 10, 1000])
def test_matches_are_those_of_a_double_loop(num_corr):
    first, second = random(37, 5), random(23, 5, seed=1)
    found = match(first, second, num_corr)
    slow = slow_match(first, second, num_corr)
    assert len(slow) == min(num_corr, 37)
    assert found.first.tolist() == [m[0] for m in slow]
    assert found.second.tolist() == [m[1] for m in slow]
    assert found.scores.tolist() == pytest.approx([m[2] for m in slow], abs=1e-6)


@pytest.mark.parametrize("entries", [1, 23, 24, 100, 10**6])
def test_the_size_of_the_parts_changes_nothing(entries):
    first, second = random(37, 5), random(23, 5, seed=1)
    found, whole = match(first, second, 20, entries=entries), match(first, second, 20)
    assert torch.equal(found.first, whole.first)
    assert torch.equal(found.second, whole.second)
    assert torch.equal(found.scores, whole.scores)
    points, others = random(3, 9).double(), random(3, 11, seed=1).double()
    assert torch.equal(nearest_distances(points, others, entries=entries), nearest_distances(points, others))


def test_the_ratio_ranks_matches_and_not_the_distance():
    def at(degrees):
        return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]

    second = torch.tensor([at(0), at(10), at(90)])
    first = torch.tensor([at(4), at(120)])  # the nearest is 4 degrees away but has a rival at 6; 30 against 110
    found = match(first, second)
    assert found.first.tolist() == [1, 0]
    assert found.second.tolist() == [2, 0]
    ratios = [(1 - math.cos(math.radians(a))) / (1 - math.cos(math.radians(b))) for a, b in ((30, 110), (4, 6))]
    assert found.scores.tolist() == pytest.approx([1 - r for r in ratios], rel=1e-4)


def test_ties_go_to_the_earlier_point():
    one = torch.eye(3)
    found = match(one[[0, 0, 1]], one[[2, 0, 0, 1, 0]])
    assert found.first.tolist() == [2, 0, 1], "a clear match first, then the tied ones in order"
    assert found.second.tolist() == [3, 1, 1]
    assert found.scores.tolist() == [1 - 1e-9, 0, 0], "d1 is at least 1e-9, so that 0 / 0 is a tie"


def test_length_does_not_matter():
    first, second = random(20, 4), random(15, 4, seed=1)
    found, scaled = match(first, second), match(first * 8, second * 0.25)
    assert torch.equal(found.first, scaled.first)
    assert torch.equal(found.second, scaled.second)


def test_close_neighbours_are_told_apart_beyond_float32():
    first = torch.tensor([[1.0, 0.0]])
    second = torch.tensor([[1.0, 3e-4], [1.0, 2e-4], [0.0, 1.0]])  # both cosines round to 1
    found = match(first, second)
    assert found.second.tolist() == [1]
    assert found.scores.tolist() == pytest.approx([1 - 4 / 9], rel=1e-3)


# Scenes with a known answer


@pytest.mark.usefixtures("seeing_points")
@pytest.mark.parametrize("sampling", ["upsampled", "at-points"])
def test_an_image_matched_with_itself_is_exact(model, sampling):
    frames = Frames([plane_frame(camera(25, (0.3, 0, -0.2)), 40.0, 12, 16)])
    settings = EVERY_PIXEL.model_copy(update={"sampling": sampling})
    found = correspondence(model, FramePairs("self", frames, [(0, 0)], (0.0, 30.0)), settings)
    (pair,) = found.pairs
    assert len(pair) == 12 * 16
    assert torch.equal(pair.pixels[:, 0], pair.pixels[:, 1])
    assert pair.errors.max() < 1e-6
    assert pair.pixel_errors.max() < 1e-4
    assert pair.angle == pytest.approx(0, abs=1e-6)
    details = found.details()
    assert details["global"] == details["mean_of_bins"] == [100.0] * 3
    assert details["reachable"]["global"] == details["pixels"]["global"] == [100.0] * 3


@pytest.mark.usefixtures("seeing_points")
def test_a_plane_seen_by_two_cameras_is_matched_along_its_homography(model):
    first, second = camera(0), camera(15, (-0.25, 0.02, 0.05))
    narrow, wide = plane_frame(first, 150.0, 20, 24), plane_frame(second, 200.0, 60, 80)
    found = correspondence(model, FramePairs("plane", Frames([narrow, wide]), [(0, 1)], (0.0, 10.0, 20.0)), EVERY_PIXEL)
    (pair,) = found.pairs
    assert pair.angle == pytest.approx(15)
    assert len(pair) == 20 * 24, "all of the narrow view, fewer than num_corr"
    assert found.details()["global"] == [100.0] * 3
    assert found.details()["binned"] == [[None, 100.0]] * 3
    motion = torch.linalg.inv(second) @ first
    normal = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)  # of the plane z = 1 in the first camera
    homography = wide.intrinsics @ (motion[:3, :3] + motion[:3, 3:] @ normal) @ torch.linalg.inv(narrow.intrinsics)
    start = torch.cat((pair.pixels[:, 0].double(), torch.ones(len(pair), 1, dtype=torch.float64)), dim=1)
    image = start @ homography.T
    off = (image[:, :2] / image[:, 2:] - pair.pixels[:, 1]).norm(dim=1)
    assert off.max() < 0.8, (
        "the nearest pixel: half a diagonal away at most, where the plane is seen at a slant a bit more"
    )
    assert torch.allclose(off.float(), pair.pixel_errors, atol=1e-3)
    assert 0.001 < pair.errors.max() < 0.005
    assert torch.allclose(pair.errors, pair.nearest), "no point of view 1 is nearer than the matched one"


@pytest.mark.usefixtures("seeing_points")
def test_what_the_other_view_does_not_show_is_never_right(model):
    apart = Frames([plane_frame(camera(0), 50.0, 8, 8), plane_frame(camera(0, (3.0, 0, 0)), 50.0, 8, 8)])
    details = correspondence(model, FramePairs("apart", apart, [(0, 1)], (0.0, 10.0)), EVERY_PIXEL).details()
    assert details["global"] == details["reachable"]["global"] == [0.0] * 3


@pytest.mark.usefixtures("seeing_points")
def test_invalid_depth_and_what_is_outside_the_mask_is_never_matched(model):
    first, second = (plane_frame(camera(a), 40.0, 10, 12) for a in (0, 5))
    bad = [(0, 0), (3, 7), (9, 11), (5, 5)]
    for frame in (first, second):
        for (row, column), value in zip(bad, (0.0, -1.0, math.nan, math.inf), strict=True):
            frame.depth[row, column] = value
    mask = torch.ones(10, 12, dtype=torch.bool)
    mask[:, 8] = False
    frames = Frames([first, replace(second, mask=mask)])
    (pair,) = correspondence(model, FramePairs("holes", frames, [(0, 1)], (0.0, 90.0)), EVERY_PIXEL).pairs
    assert pair.points == (116, 116 - 10)
    seen = [{(int(y), int(x)) for x, y in pair.pixels[:, view].tolist()} for view in (0, 1)]
    assert not seen[0] & set(bad)
    assert not seen[1] & set(bad)
    assert {column for _, column in seen[1]}.isdisjoint({8})
    assert 8 in {column for _, column in seen[0]}
    assert pair.errors.isfinite().all()


# The whole of it, with a model


@pytest.mark.parametrize("sampling", ["upsampled", "at-points"])
def test_a_model_is_measured_as_by_a_literal_reading(model, sampling):
    frames = random_frames(3)
    settings = CorrespondenceSettings(scale=0.5, num_corr=30, sampling=sampling, thresholds=(0.2, 0.5))
    found = correspondence(model, FramePairs("random", frames, [(0, 1), (2, 0)], (0.0, 10.0, 180.0)), settings)
    for pair, (i, j) in zip(found.pairs, [(0, 1), (2, 0)], strict=True):
        views = [slow_view(model, list.__getitem__(frames, n), sampling) for n in (i, j)]
        assert pair.points == tuple(len(view) for view in views)
        features = [torch.stack([point[2] for point in view]) for view in views]
        motion = torch.linalg.inv(list.__getitem__(frames, j).camera_to_world) @ (
            list.__getitem__(frames, i).camera_to_world
        )
        slow = slow_match(*features, 30)
        errors = []
        for a, b, _ in slow:
            moved = motion @ torch.cat((views[0][a][1], torch.ones(1, dtype=torch.float64)))
            errors.append(float((moved[:3] - views[1][b][1]).norm()))
        assert pair.pixels.tolist() == [[views[0][a][0], views[1][b][0]] for a, b, _ in slow]
        assert pair.errors.tolist() == pytest.approx(errors, rel=1e-5)
        assert pair.angle == pytest.approx(7.0 * abs(i - j))
        assert pair.recall(0.2) == pytest.approx(100 * sum(e < 0.2 for e in errors) / 30)
    a, b = found.pairs
    assert found.binned(0.5) == [a.recall(0.5), b.recall(0.5)]
    assert found.global_recall(0.5) == pytest.approx((a.recall(0.5) + b.recall(0.5)) / 2)


def slow_view(model, frame, sampling):
    """[((x, y), xyz, feature)] of every second pixel with depth; patches are 8 pixels wide."""
    (maps,) = dense_features(model, frame.image[None], (3,))
    up = F.interpolate(maps, (12, 8), mode="bicubic", align_corners=False)[0]
    found = []
    for row in range(1, 24, 2):
        for column in range(1, 16, 2):
            z = float(frame.depth[row, column])
            if z > 0:
                x, y = column + 0.5, row + 0.5
                xyz = torch.tensor([(x - 8) / 20 * z, (y - 12) / 20 * z, z], dtype=torch.float64)
                at = up[:, row // 2, column // 2] if sampling == "upsampled" else bilinear(maps[0], y / 8, x / 8)
                found.append(([x, y], xyz, at))
    return found


def bilinear(maps, y, x):
    """The map (D, h, w), whose cells have their centres at (i + 0.5, j + 0.5), at a point; constant beyond the centres."""
    _, height, width = maps.shape
    y, x = min(max(y - 0.5, 0), height - 1), min(max(x - 0.5, 0), width - 1)
    top, left = min(int(y), height - 2), min(int(x), width - 2)
    b, a = y - top, x - left
    upper = (1 - a) * maps[:, top, left] + a * maps[:, top, left + 1]
    lower = (1 - a) * maps[:, top + 1, left] + a * maps[:, top + 1, left + 1]
    return (1 - b) * upper + b * lower


def test_runs_agree_and_every_frame_is_read_once(model):
    frames, told = random_frames(3), []
    pairs = FramePairs("random", frames, [(0, 1), (0, 2), (1, 2), (2, 2)], (0.0, 180.0))
    once = correspondence(model, pairs, progress=lambda *done: told.append(done))
    assert frames.reads == [0, 1, 2]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    again = correspondence(model, replace(pairs, frames=random_frames(3)))
    assert once.details() == again.details()
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(once.pairs, again.pairs, strict=True))


def test_features_of_several_blocks_are_concatenated(model, monkeypatch):
    widths = []
    monkeypatch.setattr(module, "match", lambda a, b, n: widths.append((a.shape[1], b.shape[1])) or match(a, b, n))
    pairs = FramePairs("random", random_frames(), [(0, 1)], (0.0, 180.0))
    correspondence(model, pairs, CorrespondenceSettings(blocks=(1, 3)))
    correspondence(model, pairs)
    assert widths == [(96, 96), (48, 48)]


def test_images_go_in_at_whole_patches(model):
    image = torch.rand(3, 30, 45, generator=torch.Generator().manual_seed(0))
    assert model_input(model, image).shape == (3, 32, 48)
    assert model_input(model, image, 64).shape == (3, 64, 96)
    assert model_input(model, image[:, :24, :40]) is not None
    exact = image[:, :24, :40]
    assert torch.equal(model_input(model, exact), exact)
    assert model_input(model, image[:, :3, :3]).shape == (3, 8, 8)
    teacher = build_teacher("siglip")
    assert model_input(teacher, image).shape == (3, 32, 48)
    with pytest.raises(UserError, match="Resolution 30 is not a whole number of 8-pixel patches; 32 is"):
        model_input(model, image, 30)


def test_points_are_the_pixels_nearest_to_the_centres_of_the_cells():
    frame = plane_frame(camera(0), 40.0, 12, 16)
    view = make_view(frame, torch.zeros(1, 3, 4), CorrespondenceSettings(scale=0.25))
    assert view.pixels.T.tolist() == [[x, y] for y in (2.5, 6.5, 10.5) for x in (2.5, 6.5, 10.5, 14.5)]
    depth = frame.depth[2::4, 2::4].flatten()
    assert torch.allclose(view.xyz[2].float(), depth)
    assert torch.allclose(view.xyz[0].float(), (view.pixels[0].float() - 8) / 40 * depth)


# Numbers over pairs


def pair_of(angle, errors, **other):
    errors = torch.tensor(errors)
    zeros = torch.zeros_like(errors)
    facts = {"pixel_errors": zeros, "nearest": zeros, **other}
    return PairMatches((0, 1), angle, (9, 9), torch.zeros(len(errors), 2, 2), scores=zeros, errors=errors, **facts)


def test_bins_are_means_of_pairs_and_the_global_recall_is_over_matches():
    found = Correspondence(
        "three pairs",
        CorrespondenceSettings(),
        (0.0, 15.0, 30.0, 60.0),
        (
            pair_of(0.0, [0.005, 0.03]),
            pair_of(14.999, [0.015, 0.015, 0.015, 0.06]),
            pair_of(15.0, [0.005] * 4),
            pair_of(60.0, [1.0, 1.0]),
        ),
    )
    details = found.details()
    assert details["bins"] == [[0.0, 15.0], [15.0, 30.0], [30.0, 60.0]]
    assert details["binned"] == [[25.0, 100.0, None], [62.5, 100.0, None], [87.5, 100.0, None]]
    assert details["mean_of_bins"] == [62.5, 81.25, 93.75]
    assert details["global"] == pytest.approx([100 * n / 12 for n in (5, 8, 9)])
    assert (details["pairs"], details["matches"], details["pairs_in_bins"]) == (4, 12, [2, 1, 0])
    assert found.mean_of_bins(0.02) == 81.25
    nowhere = replace(found, bins=(90.0, 120.0))
    assert nowhere.details()["binned"] == [[None]] * 3
    assert nowhere.details()["mean_of_bins"] == [None] * 3


def test_a_threshold_is_not_within_itself():
    assert pair_of(0.0, [0.5, 0.25]).recall(0.5) == 50.0


def test_a_point_behind_the_other_camera_is_wrong_in_pixels():
    frame = plane_frame(camera(0), 20.0, 4, 4)
    ahead = replace(frame, camera_to_world=camera(0, (0.0, 0.0, 5.0)))
    features = random(6, 4, 4)
    pair = compare_views(*(make_view(f, features, EVERY_PIXEL) for f in (frame, ahead)), (0, 1), EVERY_PIXEL)
    assert pair.pixel_errors.isinf().all()
    assert pair.recall(1e9, "pixel_errors") == 0
    assert torch.allclose(pair.errors, torch.tensor(5.0))


# Mistakes


def broken(**changes):
    frames = random_frames()
    list.__setitem__(frames, 1, replace(list.__getitem__(frames, 1), **changes))
    return FramePairs("broken", frames, [(0, 1)], (0.0, 180.0))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"depth": None}, "frame 1 has no depth, intrinsics or pose"),
        ({"intrinsics": None}, "frame 1 has no depth, intrinsics or pose"),
        ({"camera_to_world": None}, "frame 1 has no depth, intrinsics or pose"),
        ({"depth": torch.zeros(24, 16)}, "frame 1 has no point with depth to match"),
        ({"mask": torch.zeros(24, 16, dtype=torch.bool)}, "frame 1 has no point with depth in its mask to match"),
        ({"depth": torch.zeros(24, 16).index_fill(0, torch.tensor(2), 1) * (torch.arange(16) == 2)}, "single point"),
        ({"image": torch.full((3, 24, 16), math.nan)}, "features of frame 1 are not finite|pixel values go from nan"),
    ],
)
def test_frames_that_cannot_be_matched(model, changes, words):
    with pytest.raises(UserError, match=words):
        correspondence(model, broken(**changes))


def test_settings_take_a_number_for_a_list_and_a_protocols_defaults(model):
    found = CorrespondenceSettings.of(blocks=2, thresholds=0.02, pixel_thresholds=[5, 10])
    assert (found.blocks, found.thresholds, found.pixel_thresholds) == ((2,), (0.02,), (5.0, 10.0))
    defaults = {"sampling": "at-points", "pixel_thresholds": (20.0, 40.0, 80.0)}
    resolved = found.over(defaults)
    assert (resolved.sampling, resolved.pixel_thresholds, resolved.blocks) == ("at-points", (5.0, 10.0), (2,))
    # a setting that is given counts, though it is what the defaults would be elsewhere
    assert CorrespondenceSettings(sampling="upsampled").over(defaults).sampling == "upsampled"
    pairs = replace(broken(), defaults=defaults)
    assert correspondence(model, pairs).settings == CorrespondenceSettings(**defaults)


def test_no_pairs_and_wrong_settings(model):
    with pytest.raises(UserError, match="nothing has no pairs of views"):
        correspondence(model, FramePairs("nothing", random_frames(), [], (0.0, 180.0)))
    for wrong, words in (
        ({"scale": 0.0}, "scale: input should be greater than 0"),
        ({"scale": 1.5}, "less than or equal to 1"),
        ({"num_corr": "many"}, "num_corr: input should be a valid integer"),
        ({"num_corr": 0}, "num_corr: input"),
        ({"sampling": "nearest"}, "'upsampled' or 'at-points'"),
        ({"thresholds": ()}, "thresholds: .* at least 1 item"),
        ({"thresholds": (0.0,)}, "thresholds: input should be greater than 0"),
        ({"pixel_thresholds": "far"}, "pixel_thresholds: input should be a valid tuple"),
        ({"pixel_thresholds": (math.nan,)}, "pixel_thresholds: "),
        ({"blocks": []}, "blocks: needs at least one"),
        ({"block": 3}, "block: unknown, did you mean blocks"),
    ):
        with pytest.raises(UserError, match=words):
            CorrespondenceSettings.of(**wrong)
    with pytest.raises(UserError, match="Block 9 does not exist"):
        correspondence(model, broken(), CorrespondenceSettings(blocks=(9,)))
