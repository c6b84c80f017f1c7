"""Similarity split exactly: against a dense W built column by column, for every family, and what cannot be asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_inherent import Tape, build_student, rand, six, twin_tokens
from test_left_as_found import state_of
from torch.utils._python_dispatch import TorchDispatchMode

import aloe
from aloe.attribution.alike.operator import Operator
from aloe.attribution.alike.regions import centre_view, patch_cells, shares
from aloe.attribution.alike.similarity import pooled, recorded
from aloe.attribution.inherent import explain
from aloe.bcos.dynamic import explanation_mode
from aloe.core.errors import UserError
from aloe.data.transforms import ResizeCenterCrop
from aloe.models.configuration import BcosViTConfig
from aloe.models.modeling import BcosViTForImageClassification
from conftest import FAMILIES, build_teacher


def tiny(pooling="cls", width=12):
    """A student whose dense W can be written down."""
    config = BcosViTConfig(
        hidden_size=width, num_hidden_layers=2, num_attention_heads=1 + (width > 3), intermediate_size=20, image_size=8,
        patch_size=4, num_register_tokens=2, layer_scale=True, num_labels=3, pooling=pooling,
    )  # fmt: skip
    model = BcosViTForImageClassification(config).double().eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(generator=generator)
    return model


def dense(model, image):
    """W (D, 384) column by column, x (384,) and r (D,), by the network written out with its factors played back."""
    p, prefix = model.state_dict(), model.config.num_prefix_tokens
    position = p["vit.embeddings.position_embeddings"]
    cls = p["vit.embeddings.cls_token"] + position[:, :1]
    constants = torch.cat((cls, p["vit.embeddings.register_tokens"], position[:, 1:]), 1)

    def read(x, tape, c):
        tokens = twin_tokens(model, x, tape, c)
        return tokens[:, 0] if model.config.pooling == "cls" else tokens[:, prefix:].mean(1)

    with torch.no_grad():
        tape = Tape()
        read(six(image[None]), tape, constants)
        tape.at = 0
        w = read(torch.eye(384).double().view(384, 6, 8, 8), tape, 0 * constants).T
        tape.at = 0
        return w, six(image[None]).flatten(), read(torch.zeros(1, 6, 8, 8).double(), tape, constants)[0]


@pytest.mark.parametrize("width", [12, 3])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_maps_regions_and_pairs_equal_the_dense_matrices(pooling, width):
    """Four patches: forward passes for features of 12 numbers, backward ones for 3."""
    model = tiny(pooling, width)
    a, b = rand(3, 8, 8, seed=1), rand(3, 8, 8, seed=2)
    (w_a, x_a, r_a), (w_b, x_b, r_b) = dense(model, a), dense(model, b)
    f_a, f_b = w_a @ x_a + r_a, w_b @ x_b + r_b
    scale = f_a.norm() * f_b.norm()
    close = {"rtol": 1e-9, "atol": 1e-11}

    found = aloe.similarity(model, a, b)
    torch.testing.assert_close(found.cosine[0], f_a @ f_b / scale, **close)
    torch.testing.assert_close(found.a.weights[0].flatten(), w_a.T @ f_b / scale, **close)
    torch.testing.assert_close(found.b.weights[0].flatten(), w_b.T @ f_a / scale, **close)
    torch.testing.assert_close(found.a.residual[0], r_a @ f_b / scale, **close)
    torch.testing.assert_close(found.b.residual[0], r_b @ f_a / scale, **close)

    box = torch.zeros(6, 8, 8).double()
    box[:, 1:4, 2:7] = 1
    region = found.regions([(2, 1, 5, 3)])
    torch.testing.assert_close(region.features[0], w_b @ (x_b * box.flatten()), **close)
    torch.testing.assert_close(region.in_a.weights[0].flatten(), w_a.T @ region.features[0] / scale, **close)
    torch.testing.assert_close(region.value[0], f_a @ region.features[0] / scale, **close)

    parts = []
    for w, x in ((w_a, x_a), (w_b, x_b)):
        masks = [torch.zeros(6, 8, 8).double() for _ in range(4)]
        for i, mask in enumerate(masks):
            mask[:, 4 * (i // 2) : 4 * (i // 2) + 4, 4 * (i % 2) : 4 * (i % 2) + 4] = 1
        parts.append(torch.stack([w @ (x * mask.flatten()) for mask in masks]))
    pairs = found.pairs()
    torch.testing.assert_close(pairs.table, parts[0] @ parts[1].T / scale, **close)
    torch.testing.assert_close(pairs.with_constants_b, parts[0] @ r_b / scale, **close)
    torch.testing.assert_close(pairs.with_constants_a, parts[1] @ r_a / scale, **close)
    torch.testing.assert_close(pairs.constants, r_a @ r_b / scale, **close)


@pytest.mark.parametrize("family", [*FAMILIES, "conv", "mean"])
def test_everything_adds_up_for_every_family(family):
    """In single precision and on two sizes: maps, regions and pairs, each to 1e-5 of the cosine's own terms."""
    student = build_student("dinov2" if family in ("conv", "mean") else family, "conv" if family == "conv" else "patch")
    student = student.float()
    if family == "mean":
        student.config.pooling = student.vit.config.pooling = "mean"
    small = 16 if family == "conv" else 32
    a, b = (rand(3, small, w, seed=w, dtype=torch.float32) for w in (small, small + 16))
    found = aloe.similarity(student, a, b)
    expected = torch.cosine_similarity(*(pooled(student, x[None]) for x in (a, b)))
    torch.testing.assert_close(found.cosine, expected, rtol=1e-5, atol=1e-6)
    for side in (found.a, found.b):
        assert (side.completeness_error() <= 1e-5).all()
        assert side.contributions.abs().sum() > 1e-3 * found.cosine.abs(), "vacuous: pixels do not matter"
    tiles = [(0, 0, 20, small), (20, 0, small - 4, 11.5), (20, 11.5, small - 4, small - 11.5)]
    regions = found.regions(tiles)
    total = found.features_b[0] - Operator(student, b).residual
    assert (regions.features.sum(0) - total).norm() <= 1e-5 * regions.features.norm(dim=1).sum()
    assert (regions.in_a.completeness_error() <= 1e-5).all()
    assert abs(regions.value.sum() + regions.residual - found.cosine[0]) <= 1e-5 * regions.value.abs().sum()
    torch.testing.assert_close(regions.in_a.contributions.sum(0) + explain_residual(found), found.a.contributions[0])
    for pairs in (found.pairs(), found.pairs("tokens", after_block=2)):
        size = pairs.table.abs().sum() + pairs.with_constants_a.abs().sum() + pairs.with_constants_b.abs().sum()
        assert abs(pairs.cosine - found.cosine[0]) <= 1e-5 * (size + pairs.constants.abs())
    pairs = found.pairs()
    rows = pairs.table.sum(1) + pairs.with_constants_b
    masks = patch_cells(*pairs.grids[0], 8) == torch.arange(len(rows))[:, None, None]
    by_patch = torch.einsum("nhw,hw->n", masks.float(), found.a.contributions[0])
    torch.testing.assert_close(rows, by_patch, rtol=1e-3, atol=1e-5 * float(by_patch.abs().max()))


def explain_residual(found):
    """The map on a of what b's constants contribute."""
    scale = found.features_a[0].norm() * found.features_b[0].norm()
    direction = found.operator("b").residual / scale
    return explain(found._student, found.images_a[:1], direction).contributions[0]


@pytest.fixture(scope="module")
def student():
    return build_student("dinov2-registers")


@pytest.mark.parametrize("family", ["dinov2-registers", "dinov3-swiglu", "siglip", "clip"])
@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_the_operator_is_the_backward_pass_of_explain_and_its_transpose(family, stem):
    student, image = build_student(family, stem), rand(3, 16, 16)
    operator = Operator(student, image)
    directions = torch.randn(2, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    back = operator.transpose(directions)
    e = explain(student, image[None].expand(2, -1, -1, -1), directions)
    torch.testing.assert_close(back, e.weights, rtol=1e-9, atol=1e-12)
    masks = rand(3, 1, 16, 16, seed=5) * operator.inputs
    torch.testing.assert_close(
        operator.forward(masks) @ directions.T, masks.flatten(1) @ back.flatten(1).T, rtol=1e-9, atol=1e-12
    )
    torch.testing.assert_close(operator.forward(operator.inputs[None])[0] + operator.residual, operator.value)
    torch.testing.assert_close(operator.residual @ directions.T, e.residual)


def test_passes_in_parts_are_the_same_passes(student, monkeypatch):
    operator = Operator(student, rand(3, 32, 32))
    cells = (patch_cells(4, 4, 8) == torch.arange(16)[:, None, None]).double()
    whole = operator.parts(cells), operator.parts(shares([(i % 30, i % 29, 2, 3) for i in range(60)], 32, 32))
    operator._step = 7
    assert len(cells) < 48 < 60, "both ways round"
    torch.testing.assert_close(operator.parts(cells), whole[0])
    torch.testing.assert_close(operator.parts(shares([(i % 30, i % 29, 2, 3) for i in range(60)], 32, 32)), whole[1])


class Largest(TorchDispatchMode):
    """Keeps the number of elements of the largest tensor that is made."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        sizes = [x.numel() for x in (made if isinstance(made, tuple | list) else [made]) if isinstance(x, torch.Tensor)]
        self.numel = max(self.numel, *sizes, 0)
        return made


@pytest.mark.parametrize("side", [48, 64])
def test_patches_are_masked_within_the_memory_of_a_batch(student, side):
    """36 patches go forward and 64 backward; no tensor is as large as all masks, and both equal the masks written out."""
    operator = Operator(student, rand(3, side, side))
    operator._step = 2
    cells = patch_cells(side // 8, side // 8, 8)
    masks = (cells == torch.arange(int(cells.max()) + 1)[:, None, None]).double()
    assert (len(masks) <= len(operator.value)) == (side == 48)
    with Largest() as largest:
        found = operator.parts(cells)
    # A batch of two inputs, or of two images' largest tensors inside.
    assert 0 < largest.numel <= 2 * 6 * side**2 < masks.numel()
    expected = operator.forward(masks[:, None] * operator.inputs)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(operator.parts(masks), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("between", ["patches", "tokens"])
def test_pairs_are_the_transpose_of_the_other_way_round(student, between):
    a, b = rand(3, 32, 32), rand(3, 48, 32, seed=1)
    there, back = (aloe.similarity(student, *order).pairs(between) for order in ((a, b), (b, a)))
    torch.testing.assert_close(there.table, back.table.T)
    torch.testing.assert_close(there.with_constants_a, back.with_constants_b)
    assert there.table.shape == (16, 24)
    assert there.grids == ((4, 4), (6, 4))
    swapped = aloe.similarity(student, a, b).swapped()
    torch.testing.assert_close(swapped.pairs(between).table, back.table)
    best = there.strongest(3)
    assert best[0][2] == pytest.approx(float(there.table.max()))
    assert [float(there.table[i, j]) for i, j, _ in best] == [value for _, _, value in best]


def test_a_region_and_its_complement_add_up(student):
    found = aloe.similarity(student, rand(3, 32, 32), rand(3, 32, 32, seed=1))
    mask = shares([(3, 5, 11, 20)], 32, 32)
    both = found.masked(torch.cat([mask, 1 - mask]))
    torch.testing.assert_close(both.value.sum() + both.residual, found.cosine[0])


def test_an_image_against_itself_is_alike_on_both_sides(student):
    a = rand(3, 32, 32)
    found = aloe.similarity(student, a, a)
    torch.testing.assert_close(found.cosine, torch.ones(1).double())
    torch.testing.assert_close(found.a.contributions, found.b.contributions)
    table = found.pairs().table
    torch.testing.assert_close(table, table.T)
    assert (table.diagonal() >= 0).all(), "a part's product with itself is the square of its length"


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_black_grey_and_white_images(student, value):
    flat = torch.full((3, 32, 32), value)
    found = aloe.similarity(student, flat, rand(3, 32, 32))
    assert found.cosine.isfinite().all()
    assert (found.a.completeness_error() <= 1e-9).all()
    pairs = found.pairs()
    torch.testing.assert_close(pairs.cosine, found.cosine[0])


def test_a_batch_equals_one_by_one(student):
    a, b = rand(3, 3, 32, 32), rand(3, 3, 32, 32, seed=1)
    whole, against_one = aloe.similarity(student, a, b, batch_size=2), aloe.similarity(student, a, b[1])
    for i in range(3):
        one = aloe.similarity(student, a[i], b[i])
        for name in ("contributions", "weights", "residual", "logit"):
            for side in ("a", "b"):
                whole_side, one_side = getattr(getattr(whole, side), name)[i], getattr(getattr(one, side), name)[0]
                torch.testing.assert_close(whole_side, one_side, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(whole.pairs(index=i).table, one.pairs().table)
        torch.testing.assert_close(whole.regions([(1, 2, 9, 9)], index=i).value, one.regions(["1,2,9,9"]).value)
    torch.testing.assert_close(against_one.cosine[1], whole.cosine[1])
    torch.testing.assert_close(against_one.b.contributions[1], whole.b.contributions[1])


def test_a_match_of_two_tokens_is_explained_in_both_images(student):
    a, b = rand(3, 32, 32), rand(3, 32, 48, seed=1)
    found = aloe.similarity(student, a, b)
    prefix = student.config.num_prefix_tokens
    with torch.no_grad():
        states = [student.vit(x[None], output_hidden_states=True).hidden_states[2][0, prefix:] for x in (a, b)]
    match = found.match(5, 11, after_block=2)
    torch.testing.assert_close(match.cosine[0], torch.cosine_similarity(states[0][5], states[1][11], dim=0))
    for side in (match.a, match.b):
        assert (side.completeness_error() <= 1e-9).all()
        assert side.contributions.abs().sum() > 0
    halves = match.regions([(0, 0, 20, 32), (20, 0, 28, 32)])
    torch.testing.assert_close(halves.value.sum() + halves.residual, match.cosine[0])
    torch.testing.assert_close(match.pairs().cosine, match.cosine[0])
    with pytest.raises(UserError, match="Pairs of tokens are of images"):
        match.pairs("tokens")


def test_a_pair_that_is_recorded_is_the_same_and_swaps_with_its_operators(student):
    a, b = rand(3, 32, 32), rand(3, 32, 48, seed=1)
    found, again = aloe.similarity(student, a, b), recorded(student, a, b)
    for side in ("a", "b"):
        for name, value in vars(getattr(found, side)).items():
            if name not in ("logits", "prediction", "pooled"):
                torch.testing.assert_close(getattr(getattr(again, side), name), value, rtol=1e-9, atol=1e-12)
    there, back = again.swapped().regions([(0, 0, 9, 9)]), aloe.similarity(student, b, a).regions([(0, 0, 9, 9)])
    torch.testing.assert_close(there.in_a.contributions, back.in_a.contributions)
    assert again.swapped().operator("a") is again.operator("b")


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_left_in_the_model(training):
    student = build_student("siglip").train(training)
    a, b = rand(3, 32, 32).requires_grad_(), rand(3, 32, 32, seed=1)
    before = state_of(student)
    found = aloe.similarity(student, a, b)
    found.regions([(0, 0, 8, 8)])
    for between in ("patches", "tokens"):
        table = found.pairs(between).table
        assert not table.requires_grad
    found.match(0, 1)
    assert state_of(student) == before
    assert a.grad is None
    for context in (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)):
        with context:
            torch.testing.assert_close(aloe.similarity(student, a, b).pairs("tokens").table, table)


def test_plain_operations_give_what_the_units_give():
    """Outputs of the whole network, in plain operations and in the units' own."""
    for stem in ("patch", "conv"):
        student, images = build_student("dinov3-swiglu", stem), rand(2, 3, 32, 32)
        with torch.no_grad(), explanation_mode(plain=True):
            plain = student(images).logits
        with torch.no_grad():
            torch.testing.assert_close(plain, student(images).logits)


def test_boxes_follow_an_image_through_its_resize_and_crop():
    """What a box covers of the view is what the view shows of the box painted white."""
    from PIL import Image, ImageDraw

    for size in ((90, 60), (60, 90), (64, 64), (33, 47)):
        box = (20, 10, 9, 24)
        painted = Image.new("RGB", size)
        ImageDraw.Draw(painted).rectangle((20, 10, 28, 33), "white")
        seen = torch.tensor(list(ResizeCenterCrop(32)(painted).convert("L").get_flattened_data())).view(32, 32) / 255
        mine = shares([box], 32, 32, centre_view(size, 32))[0]
        assert (mine - seen).abs().mean() < 0.02, size
    tiles = [(0, 0, 45, 60), (45, 0, 45, 31), (45, 31, 45, 29)]
    torch.testing.assert_close(shares(tiles, 32, 32, centre_view((90, 60), 32)).sum(0), torch.ones(32, 32))


GOOD = rand(3, 32, 32, dtype=torch.float32)
REGIONS = {
    "outside": ((30, 0, 8, 8), "30,0,8,8 does not lie in the second image, which is 32 x 32"),
    "of another image's size": ((100, 100, 20, 20), "does not lie in the second image"),
    "before the edge": ((-1, 0, 8, 8), "-1,0,8,8 does not lie"),
    "empty": ((3, 3, 0, 8), "holds no pixels"),
    "reversed": ((10, 10, -5, 4), "holds no pixels"),
    "not a number": ((0, 0, float("nan"), 4), "holds no pixels"),
    "three numbers": ((0, 0, 4), "A region is"),
    "words": ("left", "A region is x,y,width,height"),
}


@pytest.mark.parametrize("name", REGIONS)
def test_wrong_regions_are_one_sentence(student, name):
    box, words = REGIONS[name]
    with pytest.raises(UserError, match=words) as caught:
        aloe.similarity(student, GOOD, GOOD).regions([box])
    assert "\n" not in str(caught.value)


def test_what_has_one_meaning_is_taken(student):
    """One box alone, one mask alone, of true and false or as an array, and numbers of numpy."""
    found = aloe.similarity(student, GOOD, GOOD)
    expected = found.regions([(0, 0, 10, 10)])
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[:10, :10] = True
    assert expected.shares.shape == (1, 32, 32)
    for same in (
        *(
            found.regions(box)
            for box in ((0, 0, 10, 10), "0,0,10,10", np.array([0, 0, 10, 10]), np.array([[0, 0, 10, 10]]))
        ),
        *(found.masked(m) for m in (mask, mask[None], mask.long(), mask.numpy())),
        found.regions((0, 0, 10, 10), index=np.int64(0)),
    ):
        torch.testing.assert_close(same.value, expected.value)
        torch.testing.assert_close(same.features, expected.features)
    there, here = found.match(np.int64(1), 2, after_block=np.int64(2)), found.match(1, 2, after_block=2)
    torch.testing.assert_close(there.cosine, here.cosine)
    assert len(found.pairs().strongest(np.int64(3))) == 3


def test_what_else_cannot_be_asked(student):
    found = aloe.similarity(student, GOOD, GOOD)
    many = torch.stack([GOOD] * 3)
    mistakes = {
        "There is no region": lambda: found.regions([]),
        "There is no pair 1; there are 1": lambda: found.pairs(index=1),
        "between patches or tokens": lambda: found.pairs("pixels"),
        "belongs to pairs of tokens": lambda: found.pairs(after_block=1),
        "no block 4; the student has 3": lambda: found.pairs("tokens", after_block=4),
        "no patch 16; the image has 16": lambda: found.match(16, 0),
        "no patch True; the image has 16": lambda: found.match(True, 0),
        "no pair True; there are 1": lambda: found.pairs(index=True),
        "side of a pair is 'a' or 'b', got 'c'": lambda: found.operator("c"),
        r"\(R, 32, 32\), got \(1, 16, 32\)": lambda: found.masked(torch.ones(1, 16, 32)),
        r"\(R, 32, 32\), got \(0, 32, 32\)": lambda: found.masked(torch.ones(0, 32, 32)),
        r"shares of pixels in \[0, 1\]": lambda: found.masked(torch.full((1, 32, 32), torch.nan)),
        r"\[0, 1\]; these hold other values": lambda: found.masked(torch.full((1, 32, 32), 2.0)),
        "count must be at least 1": lambda: found.pairs().strongest(-1),
        "A region is": lambda: found.regions(5),
        "3 images cannot be compared with 2": lambda: aloe.similarity(student, many, many[:2]),
        "no images to compare": lambda: aloe.similarity(student, many[:0], many),
        "is not a B-cos model": lambda: aloe.similarity(build_teacher("vit"), GOOD, GOOD),
        "is a model's name": lambda: aloe.similarity("zoo:scenes-aloe", GOOD, GOOD),
        "are not a whole number of 8-pixel patches": lambda: aloe.similarity(student, GOOD, GOOD[..., :30]),
    }
    for words, ask in mistakes.items():
        with pytest.raises(UserError, match=words) as caught:
            ask()
        assert "\n" not in str(caught.value)
