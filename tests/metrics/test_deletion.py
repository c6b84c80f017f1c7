"""Deletion and insertion against loops over blocks, with a model whose evidence is known, and bad input."""

from __future__ import annotations

import itertools
import math
import statistics

import pytest
import torch

from aloe.bcos.functional import encode
from aloe.core.errors import UserError
from aloe.metrics.bootstrap import bootstrap_interval
from aloe.metrics.deletion import FILLS, FRACTIONS, MODES, block_ranks, deletion_curves, fill_image

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(3, 3, 8, 12, generator=GENERATOR)
MAPS = torch.randn(3, 8, 12, generator=GENERATOR)
CLASSES = torch.tensor([1, 0, 1])
WEIGHTS = torch.randn(2, 6, 8, 12, generator=GENERATOR) / 6


def probability(inputs, classes):
    """A linear model of the pixels: sigmoid of the class's row."""
    rows = WEIGHTS[:, : inputs.shape[1]].to(inputs.dtype)
    return (rows[classes] * inputs).sum((1, 2, 3)).sigmoid()


def normalise(images):
    return (images - 0.4) / 0.3


def curves_of(**changes):
    arguments = {"prepare": encode, "probability": probability, "block": 4, **changes}
    return deletion_curves(MAPS, IMAGES, CLASSES, **arguments)


# --- ranks


def literal_ranks(image, block):
    """Blocks in row-major order, sorted by mean; Python's sort keeps the order of equal ones."""
    lines, means = image.tolist(), []
    for top in range(0, len(lines), block):
        for left in range(0, len(lines[0]), block):
            means.append(sum(sum(line[left : left + block]) for line in lines[top : top + block]) / block**2)
    order = sorted(range(len(means)), key=lambda b: -means[b])
    return [order.index(b) for b in range(len(means))]


@pytest.mark.parametrize("block", [1, 2, 4])
def test_ranks_are_the_order_of_means(block):
    ranks = block_ranks(MAPS, block)
    assert ranks.tolist() == [literal_ranks(image.double(), block) for image in MAPS]
    assert ranks[0].sort().values.tolist() == list(range(96 // block**2))


def test_equal_blocks_keep_their_order():
    assert block_ranks(torch.full((2, 32, 48), 0.1), 8).tolist() == [list(range(24))] * 2
    two_levels = torch.zeros(1, 4, 4)
    two_levels[0, 2:, :2] = 0.3
    two_levels[0, 0, 0] = -0.0
    assert block_ranks(two_levels, 2).tolist() == [[1, 2, 0, 3]]


def test_the_mean_ranks_a_block_not_its_largest_pixel():
    spiky = torch.full((1, 2, 4), 0.5)
    spiky[0, :, 2:] = torch.tensor([[1.5, -1], [0, 0]])
    assert block_ranks(spiky, 2).tolist() == [[0, 1]]


@pytest.mark.parametrize("block", [0, 3, 8, 16])
def test_blocks_that_do_not_fit_name_those_that_do(block):
    with pytest.raises(UserError, match="do not divide 8 x 12 pixels; give one of 1, 2, 4"):
        block_ranks(MAPS, block)


# --- fills


def test_fills():
    assert not fill_image(IMAGES, "black").any()
    mean = fill_image(IMAGES, "mean")
    for i in range(3):
        for channel in range(3):
            expected = statistics.fmean(IMAGES[i, channel].flatten().tolist())
            assert mean[i, channel].flatten().tolist() == pytest.approx([expected] * 96, abs=1e-6)
    blur = fill_image(IMAGES, "blur", block=4)
    assert blur.shape == IMAGES.shape
    assert 0 <= blur.min() <= blur.max() <= 1
    assert (blur.std((2, 3)) < 0.5 * IMAGES.std((2, 3))).all()
    assert torch.allclose(blur[1:2], fill_image(IMAGES[1:2], "blur", block=4), atol=1e-6)
    flat = torch.full((1, 3, 6, 6), 0.3)
    torch.testing.assert_close(fill_image(flat, "blur"), flat)
    with pytest.raises(UserError, match="no fill 'zero' in RGB; fills: black, mean, blur"):
        fill_image(IMAGES, "zero")


# --- curves


def literal_curve(i, steps, prepare, block, fill, mode, least):
    """Image i with its blocks changed one at a time, in RGB for the fills that are colours."""
    image, here = IMAGES[i : i + 1], CLASSES[i : i + 1]
    ranks = literal_ranks(MAPS[i].double(), block)
    last, columns = len(ranks) - 1, IMAGES.shape[3] // block
    order = [ranks.index(last - place if least else place) for place in range(last + 1)]
    whole = prepare(image) if fill == "zero" else image
    gone = torch.zeros_like(whole) if fill == "zero" else fill_image(image, fill, block=block)
    state, source = (whole, gone) if mode == "deletion" else (gone, whole)
    state, values = state.clone(), []
    for step in range(last + 2):
        if step in steps:
            values.append(float(probability(state if fill == "zero" else prepare(state), here)))
        if step <= last:
            top, left = (block * place for place in divmod(order[step], columns))
            area = (..., slice(top, top + block), slice(left, left + block))
            state[area] = source[area]
    return values


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize(("prepare", "block"), [(encode, 4), (normalise, 2)])
def test_curves_are_the_literal_ones(mode, fill, prepare, block):
    fractions = [0, 0.3, 0.5, 1]
    blocks = 96 // block**2
    steps = [math.floor(f * blocks + 0.5) for f in fractions]
    curves = curves_of(fractions=fractions, fill=fill, mode=mode, prepare=prepare, block=block, batch_size=5)
    assert curves.fractions.tolist() == [step / blocks for step in steps]
    for name, least in (("most", False), ("least", True)):
        expected = [literal_curve(i, steps, prepare, block, fill, mode, least) for i in range(3)]
        torch.testing.assert_close(getattr(curves, name), torch.tensor(expected).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("fill", FILLS)
def test_insertion_is_deletion_with_the_roles_exchanged(fill):
    """Inserting the most attributed until a share f is in leaves what deleting the least attributed 1 - f leaves."""
    deleted = curves_of(fill=fill, block=2)
    inserted = curves_of(fill=fill, block=2, mode="insertion")
    torch.testing.assert_close(inserted.most, deleted.least.flip(1))
    torch.testing.assert_close(inserted.least, deleted.most.flip(1))
    torch.testing.assert_close(inserted.fractions, 1 - deleted.fractions.flip(0))


def test_a_perfect_oracle_falls_first():
    """The model's probability is the share of 3 known blocks of 24 that is still white."""
    evidence = torch.zeros(1, 4, 6)
    evidence[0, 1, 2:5] = 1
    pixels = evidence.repeat_interleave(2, 1).repeat_interleave(2, 2)

    def model(inputs, classes):
        return (inputs[:, 0] * pixels).sum((1, 2)) / pixels.sum()

    def run(maps, mode="deletion"):
        steps = [step / 24 for step in range(25)]
        white = torch.ones(1, 3, 8, 12)
        return deletion_curves(
            maps,
            white,
            CLASSES[:1],
            prepare=encode,
            probability=model,
            block=2,
            fractions=steps,
            mode=mode,
            fill="black",
        )

    curves = run(pixels)
    falling = [1, 2 / 3, 1 / 3] + [0] * 22
    assert curves.most[0].tolist() == pytest.approx(falling)
    assert curves.least[0].tolist() == pytest.approx([1] * 22 + falling[1:4])
    summary = curves.summary()
    for maps in (-pixels, torch.zeros_like(pixels), torch.randn(1, 8, 12, generator=torch.Generator().manual_seed(1))):
        assert run(maps).summary().area_most > summary.area_most
        assert run(maps, "insertion").summary().area_most < run(pixels, "insertion").summary().area_most
    assert summary.area_most == pytest.approx((0.5 + 2 / 3 + 1 / 3) / 24)


def test_passes_are_full_and_their_size_does_not_matter():
    sizes = []

    def counted(inputs, classes):
        sizes.append(len(inputs))
        return probability(inputs, classes)

    one = curves_of(probability=counted, batch_size=50, block=2)
    assert sizes == [50, 50, 26]  # 3 images, 2 orders, 21 fractions
    assert one.most.shape == one.least.shape == (3, 21)
    assert one.fractions.tolist() == pytest.approx([math.floor(24 * f + 0.5) / 24 for f in FRACTIONS])
    for size in (1, 1000):
        torch.testing.assert_close(curves_of(batch_size=size, block=2).most, one.most)


def test_fractions_are_rounded_to_blocks_and_none_is_measured_twice():
    assert curves_of(block=4).fractions.tolist() == [step / 6 for step in range(7)]


def test_no_gradients_are_kept():
    weight = torch.ones((), requires_grad=True)
    maps = MAPS.clone().requires_grad_()
    curves = deletion_curves(
        maps, IMAGES, CLASSES, prepare=encode, probability=lambda x, c: probability(x * weight, c), block=4
    )
    assert not curves.most.requires_grad


def test_summary_gives_means_areas_and_intervals_over_images():
    curves = curves_of(block=2)
    summary = curves.summary(samples=300, seed=5)
    for name in ("most", "least"):
        table = getattr(curves, name)
        assert torch.allclose(getattr(summary, name), table.mean(0))
        low, high = bootstrap_interval(table, samples=300, seed=5)
        assert torch.equal(getattr(summary, f"{name}_low"), low)
        assert torch.equal(getattr(summary, f"{name}_high"), high)
        areas = []
        for row in table.tolist():
            steps = list(zip(curves.fractions.tolist(), row, strict=True))
            areas.append(sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(steps)))
        assert float(getattr(summary, f"area_{name}")) == pytest.approx(statistics.fmean(areas))
        ends = bootstrap_interval(torch.tensor(areas, dtype=torch.float64), samples=300, seed=5)
        assert getattr(summary, f"area_{name}_interval").tolist() == pytest.approx([float(e) for e in ends])
    again, other = curves.summary(300, 5), curves.summary(300, 6)
    assert all(torch.equal(a, b) for a, b in zip(vars(summary).values(), vars(again).values(), strict=True))
    assert not torch.equal(summary.most_low, other.most_low)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "removal"}, "no mode 'removal'; modes: deletion, insertion"),
        ({"fill": "grey"}, "no fill 'grey'; fills: zero, black, mean, blur"),
        ({"batch_size": 0}, "batch_size"),
        ({"block": 5}, "give one of 1, 2, 4"),
        ({"fractions": [0.5]}, "two or more rising"),
        ({"fractions": [0, 0.5, 0.5]}, "rising"),
        ({"fractions": [0, 1.1]}, "from 0 to 1"),
        ({"fractions": [-0.1, 1]}, "from 0 to 1"),
        ({"fractions": [0, float("nan")]}, "rising"),
        ({"fractions": [0, 0.01]}, "same number of 6 blocks"),
        ({"probability": lambda x, c: x.sum((1, 2, 3))}, "softmax or sigmoid"),
        ({"probability": lambda x, c: x.sum((1, 2, 3)) * torch.nan}, "from 0 to 1"),
        ({"probability": lambda x, c: torch.ones(1)}, "must give 42 values"),
        ({"prepare": lambda images: encode(images)[..., ::2, ::2]}, "must keep the images' pixels"),
        ({"prepare": lambda images: images.flatten(1)}, "must keep the images' pixels"),
    ],
)
def test_bad_options(change, message):
    with pytest.raises(UserError, match=message):
        curves_of(**change)


@pytest.mark.parametrize(
    ("maps", "images", "classes", "message"),
    [
        (MAPS[:2], IMAGES, CLASSES, "must fit"),
        (MAPS[:, :4], IMAGES, CLASSES, "must fit"),
        (MAPS[0], IMAGES, CLASSES, "must fit"),
        (MAPS, encode(IMAGES), CLASSES, "must fit"),
        (MAPS, IMAGES, CLASSES[:2], "must fit"),
        (MAPS[:0], IMAGES[:0], CLASSES[:0], "must fit"),
        (MAPS, normalise(IMAGES), CLASSES, "do not normalise"),
        (MAPS / 0, IMAGES, CLASSES, "3 of 3 attribution maps"),
    ],
)
def test_bad_tensors(maps, images, classes, message):
    with pytest.raises(UserError, match=message):
        deletion_curves(maps, images, classes, prepare=encode, probability=probability, block=4)
