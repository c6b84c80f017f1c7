"""What users have is taken where it has one meaning, and refused with the remedy where it has none or several."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import aloe
from aloe.attribution.methods import METHODS
from aloe.core.arrays import as_tensor
from aloe.core.errors import UserError
from aloe.evaluation.knn import knn_predict
from aloe.evaluation.linear import fit_probe
from aloe.metrics.bootstrap import bootstrap_interval
from aloe.metrics.deletion import block_ranks
from aloe.metrics.gridpg import cell_scores
from aloe.metrics.pointing import inside_share, pointing_hits
from conftest import build_teacher

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
NATIVE = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def student():
    return aloe.bcosify(build_teacher("vit-classifier")).eval()


@pytest.mark.parametrize("entry", [aloe.explain, aloe.attribute])
def test_one_photograph_in_every_form(student, entry, tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    expected = entry(student, Image.fromarray(PHOTO), 1)
    forms = [PHOTO, [PHOTO], (PHOTO,), PHOTO[None], tmp_path / "photo.png", str(tmp_path / "photo.png")]
    for form in [*forms, [tmp_path / "photo.png"], [Image.fromarray(PHOTO)]]:
        found = entry(student, form, 1)
        name = "contributions" if entry is aloe.explain else "maps"
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=0)


def test_pixels_in_every_form(student):
    pixels = torch.from_numpy(NATIVE).permute(2, 0, 1)
    expected = aloe.explain(student, pixels.float() / 255, 1).contributions
    floats = pixels.float() / 255
    for form in (
        pixels,
        floats[None],
        floats.numpy(),
        floats.numpy().astype(np.float64),
        [floats],
        [floats.numpy()],
        NATIVE,
    ):
        torch.testing.assert_close(aloe.explain(student, form, 1).contributions, expected, rtol=1e-5, atol=1e-6)
    both = aloe.explain(student, [Image.fromarray(NATIVE), floats], 1).contributions
    torch.testing.assert_close(both, expected.repeat(2, 1, 1), rtol=1e-5, atol=1e-6)
    grey = aloe.explain(student, NATIVE[..., 0], 1).contributions
    alike = np.repeat(NATIVE[..., :1], 3, 2)
    torch.testing.assert_close(grey, aloe.explain(student, alike, 1).contributions)


X = torch.rand(2, 3, 32, 32)
REFUSED = {
    "a set": ({"a.png"}, "has no order; give a list"),
    "none": (None, "cannot be a NoneType; give a float tensor"),
    "channels last": (X.permute(0, 2, 3, 1), r"channels last; give images.permute\(0, 3, 1, 2\)"),
    "array, channels last": (X[0].permute(1, 2, 0).numpy(), r"give images.transpose\(2, 0, 1\)"),
    "no such file": ("nowhere.png", "nowhere.png is not an image file"),
    "sizes that differ": ([X[0], X[0, :, :24, :24]], "different sizes, 24 x 24 and 32 x 32"),
    "normalised": (X * 4 - 2, r"must lie in \[0, 1\]"),
    "two channels": (X[:, :2], "must be float"),
    "whole numbers": (X.long(), "must be float"),
    "meta": (X.to("meta"), "without values"),
    "no pixels": (Image.new("RGB", (0, 4)), "no pixels"),
    "words in a list": ([1, 2], "cannot be a int"),
    "four channels": (np.zeros((8, 8, 4), np.uint8), "Pictures as uint8 arrays"),
}


@pytest.mark.parametrize("images", REFUSED)
def test_images_without_one_meaning_are_refused_with_the_remedy(student, images):
    given, words = REFUSED[images]
    for entry in (aloe.explain, aloe.attribute):
        with pytest.raises(UserError, match=words):
            entry(student, given, 1)


def test_sparse_images_are_taken(student):
    expected = aloe.explain(student, X, 1).contributions
    torch.testing.assert_close(aloe.explain(student, X.to_sparse(), 1).contributions, expected)


CLASS = {
    "int": 1,
    "np.int64": np.int64(1),
    "name": "LABEL_1",
    "np.str_": np.str_("LABEL_1"),
    "list": [1, 1],
    "list of np.int64": [np.int64(1), np.int64(1)],
    "list of tensors": [torch.tensor(1), torch.tensor(1)],
    "array": np.array([1, 1]),
    "array of one": np.array(1),
    "tensor": torch.tensor([1, 1]),
    "array of names": np.array(["LABEL_1", "LABEL_1"]),
}


@pytest.mark.parametrize("form", CLASS)
def test_a_class_in_every_form(student, form):
    expected = aloe.explain(student, X, 1).contributions
    torch.testing.assert_close(aloe.explain(student, X, CLASS[form]).contributions, expected, rtol=0, atol=0)
    torch.testing.assert_close(aloe.attribute(student, X, CLASS[form]).maps, expected, rtol=0, atol=0)


@pytest.mark.parametrize("target", [{1, 2}, {1: 2}, True, [True, False], torch.tensor([True, False]), 0.5, [0.5, 0.5]])
def test_targets_without_one_meaning_are_refused(student, target):
    for entry in (aloe.explain, aloe.attribute):
        with pytest.raises(UserError, match=r"no order|truth value|index or a name"):
            entry(student, X, target)


def test_directions_may_be_arrays(student):
    direction = torch.rand(48)
    for make in (lambda d: d, lambda d: aloe.TextTarget(d, 10.0)):
        expected = aloe.explain(student, X, make(direction)).contributions
        found = aloe.explain(student, X, make(direction.numpy())).contributions
        torch.testing.assert_close(found, expected)


def test_a_list_of_directions_is_one_per_image(student):
    rows = torch.rand(2, 48)
    expected = aloe.explain(student, X, rows).contributions
    for form in (list(rows), list(rows.numpy())):
        torch.testing.assert_close(aloe.explain(student, X, form).contributions, expected)


def test_a_name_that_is_another_class_number_is_ambiguous():
    model = aloe.bcosify(build_teacher("vit-classifier")).eval()
    model.config.id2label = {0: "3", 1: "4", 2: "0", 3: "1", 4: "four"}
    with pytest.raises(UserError, match="name of class 3 and the number of class 1"):
        aloe.explain(model, X, "1")
    expected = aloe.explain(model, X, 4).contributions
    torch.testing.assert_close(aloe.explain(model, X, "four").contributions, expected)


def test_a_folder_for_a_model_says_how_to_load_it():
    for entry in (aloe.explain, aloe.attribute):
        with pytest.raises(UserError, match=r"aloe\.load\('zoo:scenes-aloe'\)"):
            entry("zoo:scenes-aloe", X)


def test_measures_take_arrays():
    maps, masks = torch.rand(4, 8, 8), torch.rand(4, 8, 8) > 0.3
    for measure in (lambda m: cell_scores(m, 2), lambda m: block_ranks(m, 4)):
        torch.testing.assert_close(measure(maps.numpy()), measure(maps))
        torch.testing.assert_close(measure(list(maps)), measure(maps))
    for measure in (inside_share, pointing_hits):
        torch.testing.assert_close(measure(maps.numpy(), masks.numpy()), measure(maps, masks))
    assert bootstrap_interval(np.arange(5.0)) == bootstrap_interval(torch.arange(5.0))
    features, labels = torch.rand(20, 6), torch.arange(20) % 2
    expected = knn_predict(features, labels, features, 3)
    found = knn_predict(features.numpy(), labels.numpy(), features.numpy(), 3)
    assert torch.equal(found, expected)
    assert torch.equal(knn_predict(features, labels.tolist(), features, np.int64(3)), expected)
    torch.testing.assert_close(
        fit_probe(features.numpy(), labels.numpy(), 2).weight, fit_probe(features, labels, 2).weight
    )


@pytest.mark.parametrize("value", [{1, 2}, None, "words", [[1], [1, 2]], object(), torch.empty(2, device="meta")])
def test_what_is_no_array_is_refused_by_name(value):
    with pytest.raises(UserError, match="The labels"):
        as_tensor(value, "labels")


LARGE = {
    "attnlrp": ["gamma", "conv_gamma"],
    "intgrad": ["steps"],
    "lime": ["samples", "segments", "square", "alpha", "seed"],
    "legrad": ["layers"],
    "random": ["seed"],
}


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1, 10**20, float("-inf")])
@pytest.mark.parametrize(("method", "option"), [(m, o) for m, options in LARGE.items() for o in options])
def test_options_are_finite_and_bounded(student, method, option, value):
    with pytest.raises(UserError, match=option):
        aloe.attribute(student, X[:1], 1, method, **{option: value})


def test_every_number_among_the_options_is_bounded():
    named = {m: set(o) for m, o in LARGE.items()} | {"intgrad": {"steps", "internal_batch_size"}}
    named["lime"] |= {"internal_batch_size"}
    for key, method in METHODS.items():
        numbers = {n for n, v in (method.run.__kwdefaults__ or {}).items() if not isinstance(v, str)}
        assert numbers <= named.get(key, set()), key


def test_a_map_that_is_not_finite_is_no_explanation():
    broken = aloe.bcosify(build_teacher("vit-classifier")).eval()
    with torch.no_grad():
        broken.classifier.weight.fill_(float("nan"))
    for entry in (aloe.explain, aloe.attribute):
        with pytest.raises(UserError, match="not finite"):
            entry(broken, X, 1)


def test_a_single_unit_has_no_interval():
    for values in (torch.rand(1), torch.rand(1, 4), torch.tensor([0.5, float("nan")])):
        low, high = bootstrap_interval(values, pool=values.ndim > 1)
        assert low.isnan().all()
        assert high.isnan().all()
    low, high = bootstrap_interval(torch.rand(2))
    assert bool(low < high)
