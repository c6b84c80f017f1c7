"""Windowed maps against a slow loop written from their definition, for any size and number of cells."""

from __future__ import annotations

import pytest
import torch

from aloe.core.errors import UserError
from aloe.metrics.windows import window_starts, windowed_maps


def maps_of(images, classes):
    """A map that is signed and depends on the whole image and on the class."""
    scale = images.mean((1, 2, 3)) * 7 + classes
    return (images[:, 0] - images[:, 1] * scale[:, None, None]).sin()


def pictures(count, side, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def literal_windows(images, classes, side):
    """Every pixel on its own: the mean over the windows that hold it, each explained alone."""
    n = images.shape[-1] // side
    corners = [int(k * side / 2) for k in range(2 * n - 1)]
    found = torch.zeros(*classes.shape, n * side, n * side, dtype=torch.float64)
    for g in range(len(images)):
        for k in range(classes.shape[1]):
            alone = {
                (top, left): maps_of(images[g : g + 1, :, top : top + side, left : left + side], classes[g, k][None])[0]
                for top in corners
                for left in corners
            }
            for y in range(n * side):
                for x in range(n * side):
                    held = [
                        float(values[y - top, x - left])
                        for (top, left), values in alone.items()
                        if 0 <= y - top < side and 0 <= x - left < side
                    ]
                    assert held, "a pixel that no window holds"
                    found[g, k, y, x] = sum(held) / len(held)
    return found


@pytest.mark.parametrize(("side", "n"), [(6, 2), (7, 2), (5, 3), (4, 3), (8, 1), (1, 2), (3, 4)])
@pytest.mark.parametrize("at_a_time", [1, 5, 32, 1000])
def test_windowed_maps_are_the_definition(side, n, at_a_time):
    images = pictures(2, n * side)
    classes = torch.arange(2 * n * n).view(2, -1) % 5
    found = windowed_maps(maps_of, images, classes, side, maps_per_pass=at_a_time)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, literal_windows(images, classes, side), rtol=1e-5, atol=1e-6)


def test_sums_are_exact_in_float64():
    """Large and small maps of overlapping windows, whose float32 sum would lose the small one."""
    values = iter([2.0**30, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])

    def attribute(images, classes):
        return torch.full((1, 4, 4), next(values))

    found = windowed_maps(attribute, pictures(1, 8), torch.zeros(1, 1, dtype=torch.int64), 4, maps_per_pass=1)
    assert float(found[0, 0, 2, 2]) * 4 == 2.0**30 + 3


@pytest.mark.parametrize(
    ("side", "n", "starts"),
    [
        (224, 2, [0, 112, 224]),
        (224, 1, [0]),
        (224, 3, [0, 112, 224, 336, 448]),
        (7, 2, [0, 3, 7]),
        (7, 3, [0, 3, 7, 10, 14]),
        (1, 2, [0, 0, 1]),
    ],
)
def test_window_starts(side, n, starts):
    """Every half window, rounded down to whole pixels; every cell is a window, and the last one ends with the grid."""
    assert window_starts(side, n) == starts
    assert set(range(0, n * side, side)) <= set(starts)


def test_one_window_is_the_plain_explanation():
    images, classes = pictures(3, 8), torch.tensor([[0], [1], [2]])
    found = windowed_maps(maps_of, images, classes, 8)
    assert torch.equal(found[:, 0], maps_of(images, classes[:, 0]).double())


def test_a_map_that_is_the_mask_of_the_class_is_the_mask_of_the_grid():
    """A method that is exact in each window is exact on the grid, whatever windows cut."""
    tiles = torch.tensor([[0, 1], [2, 3]]).repeat_interleave(6, 0).repeat_interleave(6, 1)
    grid = (tiles / 8).expand(1, 3, -1, -1)
    found = windowed_maps(lambda x, c: (x[:, 0] * 8 == c[:, None, None]).float(), grid, torch.arange(4)[None], 6)
    assert torch.equal(found[0], torch.stack([(tiles == c).double() for c in range(4)]))


def test_no_more_than_asked_for_is_explained_at_a_time_and_equal_windows_stand_together():
    """Memory does not grow with the number of windows: 9 or 81 of them come in parts of the same size."""
    for n in (2, 5):
        sizes, runs = [], []

        def attribute(images, classes, sizes=sizes, runs=runs):
            sizes.append(len(images))
            same = (images[1:] == images[:-1]).flatten(1).all(1)
            runs.append(int(same.sum()))
            return maps_of(images, classes)

        windowed_maps(attribute, pictures(2, 6 * n), torch.arange(8).view(2, 4), 6, maps_per_pass=14)
        assert max(sizes) == 12, "whole windows with all their classes"
        assert sum(sizes) == 2 * (2 * n - 1) ** 2 * 4
        assert all(run == size // 4 * 3 for run, size in zip(runs, sizes, strict=True))


def test_every_window_of_every_image_is_explained():
    images = pictures(2, 14)
    seen = []

    def attribute(x, classes):
        seen.append(x)
        return maps_of(x, classes)

    windowed_maps(attribute, images, torch.zeros(2, 1, dtype=torch.int64), 7)
    starts = window_starts(7, 2)
    cut = [image[:, y : y + 7, x : x + 7] for image in images for y in starts for x in starts]
    assert torch.equal(torch.stack(cut), torch.cat(seen))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"side": 5}, "12 x 12 pixels are not a whole number of 5-pixel windows"),
        ({"side": 0}, "0-pixel windows"),
        ({"images": torch.rand(1, 3, 12, 6)}, "12 x 6 pixels"),
        ({"maps_per_pass": 0}, "maps_per_pass=0"),
        ({"attribute": lambda x, c: torch.ones(len(x), 3, 3)}, r"must be \(32, 6, 6\), got \(32, 3, 3\)"),
        ({"attribute": lambda x, c: torch.full((len(x), 6, 6), torch.nan)}, "not finite"),
    ],
)
def test_bad_windows(change, sentence):
    given = {"attribute": maps_of, "images": pictures(1, 12), "classes": torch.arange(4)[None], "side": 6, **change}
    with pytest.raises(UserError, match=sentence):
        windowed_maps(**given)
