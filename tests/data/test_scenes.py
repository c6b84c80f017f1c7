"""The rendered scenes: repeatable, exact ground truth that agrees between views and resolutions; and their teacher."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from aloe.core.errors import UserError
from aloe.data.scenes import CLASSES, Scene, SceneDataset, render, teacher_path
from aloe.data.scenes.geometry import Primitive, fin_planes, intersect, local_normal
from aloe.data.scenes.materials import Material

FIELDS = ("image", "mask", "depth", "normals", "camera_to_world", "intrinsics")
PAINT = Material("plain", (np.ones(3), np.ones(3)), 1.0, np.eye(6, 3), np.zeros(6))


def rays(scene: Scene) -> np.ndarray:
    """Camera-frame directions (3,H,W) with z = 1, literally from the intrinsics."""
    height, width = scene.depth.shape
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.einsum("ij,jhw->ihw", np.linalg.inv(scene.intrinsics), np.stack([x, y, np.ones_like(x)]))


@pytest.mark.parametrize("index", range(10))
def test_same_arguments_give_the_same_bits_and_other_arguments_do_not(index: int) -> None:
    first, again, other = render(5, index), render(5, index), render(6, index)
    assert first.label == again.label
    for field in FIELDS:
        assert np.array_equal(getattr(first, field), getattr(again, field))
    assert not np.array_equal(first.image, other.image)


def test_fields_have_the_stated_shapes_and_types() -> None:
    scene = render(0, 3, resolution=40)
    assert (scene.image.shape, scene.image.dtype) == ((40, 40, 3), np.uint8)
    assert (scene.mask.shape, scene.mask.dtype) == ((40, 40), np.bool_)
    assert (scene.depth.shape, scene.depth.dtype) == ((40, 40), np.float32)
    assert (scene.normals.shape, scene.normals.dtype) == ((3, 40, 40), np.float32)
    rotation = scene.camera_to_world[:3, :3]
    assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)


def test_labels_are_balanced_and_those_of_the_scenes() -> None:
    data = SceneDataset(40, seed=3, resolution=8)
    assert np.bincount(data.labels, minlength=10).tolist() == [4] * 10
    assert [scene.label for scene in data] == data.labels.tolist()
    assert SceneDataset(25, seed=3).labels.tolist() == data.labels[:25].tolist()
    assert SceneDataset(40, seed=4).labels.tolist() != data.labels.tolist()


def test_every_object_is_in_sight_and_of_fair_size() -> None:
    shares = [scene.mask.mean() for scene in SceneDataset(60, seed=8, resolution=32)]
    assert min(shares) > 0.04
    assert max(shares) < 0.5
    assert 0.15 < np.mean(shares) < 0.35


@pytest.mark.parametrize("index", range(10))
def test_normals_are_unit_face_the_camera_and_exist_where_depth_does(index: int) -> None:
    scene = render(11, index)
    surface = scene.depth > 0
    assert surface[scene.mask].all()
    length = np.linalg.norm(scene.normals, axis=0)
    assert np.allclose(length[surface], 1, atol=1e-5)
    assert (length[~surface] == 0).all()
    assert ((scene.normals * rays(scene)).sum(0)[surface] <= 1e-5).all()


@pytest.mark.parametrize("index", range(10))
def test_normals_agree_with_differences_of_depth_on_smooth_surfaces(index: int) -> None:
    scene = render(12, index, resolution=128)
    points = rays(scene) * scene.depth
    right, down = (
        points[:, 1:-1, 2:] - points[:, 1:-1, :-2],
        points[:, 2:, 1:-1] - points[:, :-2, 1:-1],
    )
    numeric = np.cross(down, right, axis=0)
    numeric /= np.linalg.norm(numeric, axis=0) + 1e-12
    exact = scene.normals[:, 1:-1, 1:-1]
    near = [scene.normals[:, 1 + i : 127 + i, 1 + j : 127 + j] for i in (-1, 0, 1) for j in (-1, 0, 1)]
    smooth = np.min([(exact * other).sum(0) for other in near], axis=0) > 0.99
    steepness = np.abs(scene.depth[2:, 1:-1] - scene.depth[:-2, 1:-1]) / (scene.depth[1:-1, 1:-1] + 1e-9)
    smooth &= steepness < 0.1
    agreement = (numeric * exact).sum(0)[smooth]
    assert smooth.mean() > 0.3
    assert np.median(agreement) > 0.9999
    assert np.mean(agreement > 0.99) > 0.97


@pytest.mark.parametrize("index", range(10))
def test_a_second_view_shows_the_same_geometry(index: int) -> None:
    first, second = (render(13, index, resolution=128, view=view) for view in (0, 1))
    moved = np.linalg.inv(second.camera_to_world) @ first.camera_to_world
    surface = first.depth > 0
    points = (rays(first) * first.depth)[:, surface]
    x, y, z = moved[:3, :3] @ points + moved[:3, 3:]
    column = np.floor(second.intrinsics[0, 0] * x / z + second.intrinsics[0, 2]).astype(int)
    row = np.floor(second.intrinsics[1, 1] * y / z + second.intrinsics[1, 2]).astype(int)
    inside = (column >= 1) & (column < 127) & (row >= 1) & (row < 127)
    column, row, z = column[inside], row[inside], z[inside]
    around = np.stack([second.depth[row + i, column + j] for i in (-1, 0, 1) for j in (-1, 0, 1)])
    around = np.where(around > 0, around, np.inf)
    nearest, farthest = around.min(0), around.max(0)
    assert inside.mean() > 0.5
    assert np.mean(z < 0.99 * nearest) < 0.002, "what view 0 sees floats in front of what view 1 sees"
    visible = (z > 0.99 * nearest) & (z < 1.01 * farthest)
    assert visible.mean() > 0.75
    centre = around[4][visible]
    assert np.median(np.abs(centre - z[visible]) / z[visible]) < 0.01


def test_views_of_one_scene_differ_and_share_label_and_lens() -> None:
    first, second = render(1, 2, view=0), render(1, 2, view=2)
    assert first.label == second.label
    assert np.array_equal(first.intrinsics, second.intrinsics)
    turn = first.camera_to_world[:3, :3].T @ second.camera_to_world[:3, :3]
    assert 15 < np.degrees(np.arccos((np.trace(turn) - 1) / 2)) < 25


@pytest.mark.parametrize("index", range(10))
def test_ground_truth_does_not_depend_on_resolution(index: int) -> None:
    coarse, fine = render(14, index, resolution=64), render(14, index, resolution=128)
    with np.errstate(divide="ignore", invalid="ignore"):
        blocks = (1 / fine.depth).reshape(64, 2, 64, 2).swapaxes(1, 2).reshape(64, 64, 4)
        expected, spread = 1 / blocks.mean(-1), np.ptp(blocks, axis=-1) / blocks.mean(-1)
    flat = np.isfinite(spread) & (spread < 0.05) & (coarse.depth > 0)
    error = np.abs(coarse.depth[flat] / expected[flat] - 1)
    assert flat.mean() > 0.4
    assert np.quantile(error, 0.99) < 0.01
    assert np.median(error) < 1e-4
    assert np.allclose(coarse.camera_to_world, fine.camera_to_world)
    assert np.allclose(fine.intrinsics[:2], 2 * coarse.intrinsics[:2])
    assert abs(coarse.mask.mean() - fine.mask.mean()) < 0.01


def inside(kind: str, k: float, planes: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Whether points (3,n) are in the canonical solid, by its plain definition."""
    plan = np.hypot(x[0], x[1])
    if kind == "sphere":
        return (np.linalg.norm(x, axis=0) < 1) & (x[2] > k)
    if kind == "frustum":
        return (x[2] > 0) & (x[2] < 1) & (plan < 1 + (k - 1) * x[2])
    if kind == "capsule":
        return np.hypot(plan, x[2] - np.clip(x[2], 0, k)) < 1
    if kind == "torus":
        return np.hypot(plan - 1, x[2]) < k
    return (planes[:, :3] @ x < planes[:, 3:]).all(0)


@pytest.mark.parametrize(
    ("kind", "k"),
    [
        ("sphere", -1),
        ("sphere", 0.2),
        ("frustum", 0),
        ("frustum", 1),
        ("frustum", 1.4),
        ("capsule", 2),
        ("torus", 0.35),
        ("polyhedron", 0),
    ],
)
def test_the_first_hit_is_where_a_march_first_enters_the_solid(kind: str, k: float) -> None:
    rng = np.random.default_rng(0)
    solid = Primitive(kind, np.eye(3), np.ones(3), np.zeros(3), PAINT, k=k, planes=fin_planes())
    start = 4 * rng.normal(size=(3, 1)) / 1.7 + 2
    direction = rng.uniform(-1, 1, size=(3, 400)) - start
    t = intersect(solid, start, direction)
    steps = np.linspace(0, 2.5, 4001)
    within = np.stack([inside(kind, k, solid.planes, start + s * direction) for s in steps])
    marched = np.where(within.any(0), steps[within.argmax(0)], np.inf)
    both = np.isfinite(t) & np.isfinite(marched)
    assert both.sum() > 40
    assert np.abs(t[both] - marched[both]).max() < 2 * steps[1]
    assert np.mean(np.isfinite(t) != np.isfinite(marched)) < 0.02  # rays that graze between two steps
    point = start + t[both] * direction[:, both]
    normal = local_normal(solid, point)
    normal = 1e-3 * normal / np.linalg.norm(normal, axis=0)
    assert np.mean(inside(kind, k, solid.planes, point - normal)) > 0.98
    assert np.mean(inside(kind, k, solid.planes, point + normal)) < 0.02


def test_colour_does_not_tell_the_class() -> None:
    scenes = list(SceneDataset(120, seed=15, resolution=12))
    colour = np.array([s.image[s.mask].mean(0) if s.mask.any() else (0, 0, 0) for s in scenes])
    labels = np.array([s.label for s in scenes])
    centres = np.array([colour[:80][labels[:80] == c].mean(0) for c in range(10)])
    guess = np.linalg.norm(colour[80:, None] - centres, axis=-1).argmin(1)
    assert np.mean(guess == labels[80:]) < 0.35


@pytest.mark.parametrize("mistake", [{"seed": -1}, {"index": -1}, {"view": -1}, {"resolution": 4}])
def test_impossible_arguments_are_the_users_mistake(mistake: dict[str, int]) -> None:
    with pytest.raises(UserError, match="resolution >= 8"):
        render(**{"seed": 0, "index": 0, **mistake})


def test_the_data_set_behaves_like_a_sequence() -> None:
    data = SceneDataset(3, seed=1, resolution=8)
    assert len(data) == len(list(data)) == 3
    assert np.array_equal(data[-1].image, data[2].image)
    with pytest.raises(IndexError):
        data[3]
    with pytest.raises(UserError):
        SceneDataset(-1)


def test_importing_and_rendering_needs_no_torch() -> None:
    code = "import sys; from aloe.data.scenes import render; render(0, 0, 8); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_shipped_teacher_is_small_and_names_the_classes() -> None:
    folder = teacher_path()
    config = json.loads((folder / "config.json").read_text())
    assert [config["id2label"][str(i)] for i in range(10)] == list(CLASSES)
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 8_000_000
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    assert processor["image_mean"] == processor["image_std"] == [0.5, 0.5, 0.5]
    assert processor["size"] == {"height": 64, "width": 64}


def test_the_shipped_teacher_knows_scenes_it_has_not_seen() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    teacher = transformers.ViTForImageClassification.from_pretrained(teacher_path()).eval()
    scenes = list(SceneDataset(60, seed=31))
    images = torch.from_numpy(np.stack([s.image for s in scenes])).permute(0, 3, 1, 2)
    with torch.no_grad():
        guess = teacher(images / 127.5 - 1).logits.argmax(1).numpy()
    assert np.mean(guess == np.array([s.label for s in scenes])) > 0.8
