"""GridPG against its equation in loops, with known maps, and in one batched call per pass."""

from __future__ import annotations

import math

import pytest
import torch

from aloe.core.errors import UserError
from aloe.metrics.bootstrap import bootstrap_interval
from aloe.metrics.gridpg import PROTOCOLS, box_mean, cell_scores, grid_pointing
from aloe.metrics.grids import GridList

SIDE = 6


def grid_list(n=2, count=5):
    """Grid g shows class (g + cell) modulo n*n + 1 in a cell, and image 10 * class."""
    labels = (torch.arange(count)[:, None] + torch.arange(n * n)) % (n * n + 1)
    return GridList(n, labels * 10, labels, {}, "data", "state")


def load(indices):
    """Images whose pixels tell their class: all class / 16."""
    return torch.stack([torch.full((3, SIDE, SIDE), index / 160) for index in indices])


def oracle(images, classes):
    """1 where the pixels tell the explained class, else 0."""
    return ((images[:, 0] * 16).round() == classes[:, None, None]).float()


def uniform(images, classes):
    return torch.full((len(images), *images.shape[-2:]), 0.1)


def noise(images, classes):
    """A map that depends on the grid and the class alone."""
    maps = []
    for image, label in zip(images, classes, strict=True):
        seed = int(image.sum() * 16) * 100 + int(label)
        maps.append(torch.randn(image.shape[1:], generator=torch.Generator().manual_seed(seed)))
    return torch.stack(maps)


# --- the equation


def literal_cell_scores(maps, n):
    rows = []
    for image in maps.tolist():
        height, width = len(image) // n, len(image[0]) // n
        cells = [0.0] * (n * n)
        for y, line in enumerate(image):
            for x, value in enumerate(line):
                cells[y // height * n + x // width] += max(value, 0.0)
        total = sum(cells)
        rows.append([c / total if total > 0 else math.nan for c in cells])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(("n", "height", "width"), [(2, 6, 6), (3, 6, 9), (1, 4, 4), (2, 4, 10)])
def test_cell_scores_are_the_equation(n, height, width):
    maps = torch.randn(4, height, width, generator=torch.Generator().manual_seed(n))
    maps[1] = -maps[1].abs()
    maps[2] = 0
    scores = cell_scores(maps, n)
    torch.testing.assert_close(scores, literal_cell_scores(maps, n), equal_nan=True, rtol=1e-12, atol=0)
    assert scores.isnan().any(1).tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("maps", "n", "message"),
    [
        (torch.full((2, 4, 4), torch.nan), 2, "2 of 2 attribution maps"),
        (torch.full((1, 4, 4), -torch.inf), 2, "not finite"),
        (torch.ones(1, 5, 4), 2, "5 x 4 pixels cannot be cut into 2 x 2"),
        (torch.ones(1, 4, 5), 2, "4 x 5 pixels"),
        (torch.ones(1, 4, 4), 0, "0 x 0 equal cells"),
        (torch.ones(4, 4), 2, "float \\(B, H, W\\)"),
    ],
)
def test_bad_maps(maps, n, message):
    with pytest.raises(UserError, match=message):
        cell_scores(maps, n)


# --- the game


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_map_that_is_one_in_the_right_cell_scores_one_and_a_uniform_one_chance(n, protocol):
    result = grid_pointing(uniform, load, grid_list(n), protocol=protocol)
    assert result.score == pytest.approx(1 / n**2, abs=1e-12)
    assert result.chance == 1 / n**2
    assert result.per_cell.tolist() == pytest.approx([1 / n**2] * n**2)
    if protocol == "resized":  # which blurs the cells' edges
        return
    perfect = grid_pointing(oracle, load, grid_list(n), protocol=protocol)
    assert (perfect.score, perfect.interval) == (1, (1, 1))
    assert perfect.per_cell.tolist() == [1] * n**2
    assert (perfect.maps, perfect.discarded) == (5 * n**2, 0)


def test_scores_are_of_the_explained_class_in_its_own_cell():
    grids = grid_list()
    result = grid_pointing(noise, load, grids, protocol="whole", maps_per_pass=8, samples=100, seed=4)
    for g in range(len(grids)):
        images = load(grids.indices[g].tolist())
        grid = torch.cat([torch.cat(tuple(images[:2]), 2), torch.cat(tuple(images[2:]), 2)], 1)
        for cell, label in enumerate(grids.labels[g]):
            expected = literal_cell_scores(noise(grid[None], label[None]), 2)[0, cell]
            assert result.scores[g, cell] == pytest.approx(float(expected), abs=1e-12)
    assert result.score == pytest.approx(float(result.scores.mean()), abs=1e-12)
    assert torch.allclose(result.per_cell, result.scores.mean(0))
    low, high = bootstrap_interval(result.scores, pool=True, samples=100, seed=4)
    assert result.interval == (float(low), float(high))
    assert low < result.score < high


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_passes_and_repetition_do_not_change_the_scores(protocol):
    one, other, again = (
        grid_pointing(noise, load, grid_list(), protocol=protocol, maps_per_pass=p) for p in (1, 20, 1)
    )
    assert torch.equal(one.scores, other.scores)
    assert torch.equal(one.scores, again.scores)
    assert one.interval == other.interval == again.interval
    few, fewer = (grid_pointing(noise, load, grid_list(), samples=20, seed=seed) for seed in (0, 1))
    assert few.interval != fewer.interval


def test_maps_without_positive_mass_are_discarded_and_counted():
    grids = grid_list()

    def partly(images, classes):
        return oracle(images, classes) - 2 * (classes == 0).float()[:, None, None]

    result = grid_pointing(partly, load, grids)
    assert result.discarded == int((grids.labels == 0).sum()) == 4
    assert result.maps == 20
    assert result.score == 1
    assert torch.equal(result.scores.isnan(), grids.labels == 0)


def test_nothing_positive_at_all():
    result = grid_pointing(lambda images, classes: -uniform(images, classes), load, grid_list())
    assert result.discarded == result.maps == 20
    assert math.isnan(result.score)
    assert all(math.isnan(end) for end in result.interval)


def test_one_call_explains_all_classes_of_a_pass():
    grids, calls, told = grid_list(count=5), [], []

    def attribute(images, classes):
        calls.append((images, classes))
        return uniform(images, classes)

    grid_pointing(attribute, load, grids, protocol="whole", maps_per_pass=12, progress=lambda *done: told.append(done))
    assert [len(images) for images, _ in calls] == [12, 8]
    assert torch.equal(torch.cat([classes for _, classes in calls]), grids.labels.flatten())
    for images, classes in calls:
        assert images.shape[1:] == (3, 2 * SIDE, 2 * SIDE)
        of_grid = images.view(-1, 4, *images.shape[1:])
        assert (of_grid == of_grid[:, :1]).all()  # one grid, explained for each of its classes
        corners = images[:, 0, ::SIDE, ::SIDE].flatten(1) * 16
        assert torch.equal(corners[::4].round().long(), classes.view(-1, 4))
    assert told == [(3, 5), (5, 5)]


def test_resized_grids_have_the_size_of_a_cell_and_stay_in_range():
    seen = []

    def attribute(images, classes):
        seen.append(images)
        return uniform(images, classes)

    def chequered(indices):
        image = (torch.arange(SIDE)[:, None] + torch.arange(SIDE)) % 2
        return image.float().expand(len(indices), 3, -1, -1)

    for protocol in PROTOCOLS:
        grid_pointing(attribute, chequered, grid_list(1 + 1, 1), protocol=protocol, maps_per_pass=100)
    assert [images.shape[-1] for images in seen] == [SIDE, 2 * SIDE, SIDE]
    assert [len(images) for images in seen] == [9 * 4, 4, 4]
    assert 0 <= seen[2].min() <= seen[2].max() <= 1
    assert set(seen[0].unique().tolist()) == set(seen[1].unique().tolist()) == {0, 1}  # nothing is resized


def test_what_every_protocol_shows_differs():
    """A method that sees how large an image is: protocols do not give the same scores."""

    def attribute(images, classes):
        return oracle(images, classes) + images.shape[-1] / 100 + noise(images, classes).abs()

    scores = [grid_pointing(attribute, load, grid_list(), protocol=p).score for p in PROTOCOLS]
    assert len({round(score, 6) for score in scores}) == 3


# --- smoothing


def literal_box_mean(maps, k):
    found = torch.zeros_like(maps, dtype=torch.float64)
    for b, image in enumerate(maps.tolist()):
        for y in range(len(image)):
            for x in range(len(image[0])):
                total = 0.0
                for dy in range(-(k // 2), k // 2 + 1):
                    for dx in range(-(k // 2), k // 2 + 1):
                        if 0 <= y + dy < len(image) and 0 <= x + dx < len(image[0]):
                            total += image[y + dy][x + dx]
                found[b, y, x] = total / k**2
    return found


@pytest.mark.parametrize("k", [1, 3, 5])
def test_smoothing_is_the_mean_over_a_box_before_the_positive_part(k):
    maps = torch.randn(2, 12, 12, generator=torch.Generator().manual_seed(k))
    expected = literal_box_mean(maps, k)
    torch.testing.assert_close(box_mean(maps, k, 2).double(), expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(cell_scores(box_mean(maps, k, 2), 2), literal_cell_scores(expected, 2))
    for protocol in PROTOCOLS if k <= 3 else PROTOCOLS[:2]:  # cells of resized grids have 3 pixels
        one, other = (grid_pointing(noise, load, grid_list(), protocol=protocol, smooth=s).score for s in (0, k))
        assert (one == other) == (k == 1)


def test_no_smoothing_leaves_maps_as_they_are():
    maps = torch.randn(2, 12, 12)
    assert box_mean(maps, 0) is maps


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "windowed"}, "no protocol 'windowed', did you mean windows.*windows, whole, resized"),
        ({"maps_per_pass": 0}, "maps_per_pass=0"),
        ({"smooth": 4}, "odd number of pixels, or 0 for none, got 4"),
        ({"smooth": -1}, "got -1"),
        ({"smooth": 7}, "smooth = 7 pixels is wider than a cell of 6 pixels; give at most 6"),
        ({"smooth": 5, "protocol": "resized"}, "wider than a cell of 3 pixels"),
        ({"grids": grid_list(4, 1), "protocol": "resized"}, "4 x 4 cells cannot be 6 pixels wide: 4 must divide it"),
        ({"attribute": lambda images, classes: torch.ones(len(images), 3, 3)}, r"must be \(20, 12, 12\).*\(20, 3, 3\)"),
        ({"attribute": lambda images, classes: torch.ones(5, 12, 12)}, r"got \(5, 12, 12\)"),
        (
            {"attribute": lambda images, classes: torch.ones(5, 6, 6), "protocol": "windows"},
            r"Maps of windows must be \(32, 6, 6\), got \(5, 6, 6\)",
        ),
        ({"attribute": lambda images, classes: uniform(images, classes) / 0}, "20 of 20 attribution maps"),
        ({"load": lambda indices: torch.ones(1, 3, SIDE, SIDE)}, "20 images of a grid must be"),
        ({"load": lambda indices: torch.ones(20, 3, SIDE, 7)}, "20 images of a grid must be"),
        ({"samples": 0}, "0 samples"),
    ],
)
def test_bad_games(change, message):
    arguments = {"attribute": uniform, "load": load, "grids": grid_list(), "protocol": "whole", **change}
    with pytest.raises(UserError, match=message):
        grid_pointing(**arguments)
