"""k-NN against scikit-learn and against a literal twin, exactly; streaming, memory of parts, and mistakes."""

from __future__ import annotations

import itertools
import weakref
from collections import Counter

import numpy as np
import pytest
import torch

from aloe.core.errors import UserError
from aloe.evaluation import knn
from aloe.evaluation.knn import METRICS, WEIGHTS, knn_predict, nearest_neighbours
from places import DATA, SHARED


class Stream:
    """Features in chunks of given sizes; at most one of them is ever alive."""

    def __repr__(self) -> str:  # names test cases alike in every process
        return "a stream"

    def __init__(self, features, *sizes):
        self.features, self.sizes = features, itertools.cycle(sizes)

    def chunks(self):
        start, last = 0, None
        while start < len(self.features):
            assert last is None or last() is None, "the chunk before is still held"
            size = next(self.sizes)
            chunk = self.features[start : start + size].clone()
            last = weakref.ref(chunk.untyped_storage())
            yield chunk
            del chunk
            start += size


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole(high, *shape, seed=0):
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


def sklearn_predict(train, labels, test, k, metric, weights):
    neighbors = pytest.importorskip("sklearn.neighbors")
    model = neighbors.KNeighborsClassifier(k, weights=weights, algorithm="brute", metric=metric)
    model.fit(train.double().numpy(), labels.numpy())
    return model.predict(test.double().numpy()).tolist()


def twin(train, labels, test, k, metric, weights):
    """Distances, neighbours and classes one pair at a time, from the definitions."""
    train, test = train.double().numpy(), test.double().numpy()
    rows = []
    for x in test:
        distances = []
        for i, y in enumerate(train):
            if metric == "euclidean":
                distance = np.sqrt(np.sum((x - y) ** 2))
            else:
                norms = np.sqrt(np.sum(x**2)), np.sqrt(np.sum(y**2))
                distance = 1.0 if 0 in norms else np.sum((x / norms[0] - y / norms[1]) ** 2) / 2
            distances.append((distance, i))
        nearest = sorted(distances)[:k]
        votes = Counter()
        exact = [i for d, i in nearest if d == 0]
        for d, i in nearest:
            if weights == "uniform":
                votes[int(labels[i])] += 1
            elif not exact:
                votes[int(labels[i])] += 1 / d
            elif i in exact:
                votes[int(labels[i])] += 1
        best = max(votes.values())
        rows.append((nearest, min(c for c, v in votes.items() if v == best)))
    return rows


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("metric", METRICS)
def test_equals_scikit_learn(metric, weights):
    train, test, labels = rand(300, 16), rand(80, 16, seed=1), whole(4, 300)
    found = knn_predict(train, labels, test, [1, 5, 20, 300], metric=metric, weights=weights, train_rows=64)
    assert list(found) == [1, 5, 20, 300]
    for k, predicted in found.items():
        assert predicted.tolist() == sklearn_predict(train, labels, test, k, metric, weights)
        alone = knn_predict(train, labels, test, k, metric=metric, weights=weights)
        assert torch.equal(alone, predicted)
    assert not torch.equal(found[1], found[20]), "vacuous: every k predicts the same"


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("metric", METRICS)
def test_equals_scikit_learn_where_many_coincide(metric, weights):
    """Fifty points, five copies of each under one label, half of the tests among them; what tied neighbours vote agrees."""
    points, label = rand(50, 8, seed=2), whole(3, 50, seed=3)
    order = torch.randperm(250, generator=torch.Generator().manual_seed(4))
    train, labels = points.repeat(5, 1)[order], label.repeat(5)[order]
    test = torch.cat([points[:25], rand(25, 8, seed=5)])
    for k in (1, 5, 15):  # whole groups of copies, so that no tie is cut
        expected = sklearn_predict(train, labels, test, k, metric, weights)
        assert knn_predict(train, labels, test, k, metric=metric, weights=weights).tolist() == expected


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("metric", METRICS)
def test_equals_the_literal_twin_among_ties(metric, weights):
    """Points on a small grid: zero vectors, copies, multiples and many equal distances."""
    train, test = whole(3, 200, 3, seed=6).float() - 1, whole(3, 30, 3, seed=7).float() - 1
    if metric == "cosine":
        train[::7] *= 4  # the same direction, a different norm
    labels = whole(4, 200, seed=8)
    for k in (1, 7, 40):
        expected = twin(train, labels, test, k, metric, weights)
        distances, indices = nearest_neighbours(train, test, k, metric=metric, train_rows=30, test_rows=7)
        assert indices.tolist() == [[i for _, i in nearest] for nearest, _ in expected]
        np.testing.assert_allclose(distances, [[d for d, _ in nearest] for nearest, _ in expected], rtol=1e-12)
        predicted = knn_predict(train, labels, test, k, metric=metric, weights=weights)
        assert predicted.tolist() == [c for _, c in expected]
    assert (distances[:, 1:] == distances[:, :-1]).double().mean() > 0.5, "vacuous: few ties"


def test_rounding_does_not_decide():
    """Points so close together and so far from the origin that float32 products cannot tell them apart."""
    centre = 1000 * rand(1, 64, seed=9)
    train, test = (centre + 0.01 * rand(n, 64, seed=n) for n in (400, 20))
    for metric in METRICS:
        expected = twin(train, torch.zeros(400, dtype=torch.int64), test, 10, metric, "uniform")
        _, indices = nearest_neighbours(train, test, 10, metric=metric, train_rows=128)
        assert indices.tolist() == [[i for _, i in nearest] for nearest, _ in expected]
    product = torch.cdist(test, train, compute_mode="use_mm_for_euclid_dist").topk(10, largest=False).indices
    assert not torch.equal(product, indices), "vacuous: float32 is good enough"


@pytest.mark.parametrize("scale", [1e-25, 3e-23, 1e25])
def test_any_scale(scale):
    """Squares that overflow or underflow in float32."""
    train, test = rand(200, 8), rand(20, 8, seed=1)
    for metric in METRICS:
        _, expected = nearest_neighbours(train.double(), test.double(), 9, metric=metric)
        _, found = nearest_neighbours(train.double() * scale, test.double() * scale, 9, metric=metric, train_rows=64)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("width", [4, 64, 1024])
def test_no_rounding_error_exceeds_its_bound(width):
    """Products of vectors that share a large part, the worst for |p|^2 - 2 p q + |q|^2."""
    origin = torch.zeros(width, dtype=torch.float64)
    for spread in (1e-3, 1.0):
        rows, bank = (1 + spread * torch.rand(100, width, generator=torch.Generator().manual_seed(n)) for n in range(2))
        a, b = knn._Block(rows, False, origin), knn._Block(bank, False, origin)
        found = torch.addmm(b.square.T, a.points, b.points.T, alpha=-2) + a.square
        error = (
            found - torch.cdist(rows.double(), bank.double(), compute_mode="donot_use_mm_for_euclid_dist") ** 2
        ).abs()
        assert (error <= a._error(b)).all()
        assert (error > 1e-3 * a._error(b)).any(), "the bound is far too wide"


@pytest.mark.parametrize(("precision", "rounding"), [("highest", 2**-24), ("high", 2**-11), ("medium", 2**-8)])
def test_coarse_products_do_not_change_the_result(precision, rounding):
    train, test = rand(600, 32), rand(100, 32, seed=1)
    expected = nearest_neighbours(train, test, 20)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        assert knn._input_rounding() == rounding
        found = nearest_neighbours(train, test, 20)
    finally:
        torch.set_float32_matmul_precision(before)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = nearest_neighbours(train, test, 20)
    for a, b, c in zip(expected, found, under_autocast, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


@pytest.mark.parametrize("width", [1, 3, 17, 130])
def test_chunk_sizes_do_not_change_the_result(width):
    """Copies among the points: a distance must be the same number wherever its pair lies."""
    points = rand(60, width, seed=10)
    train, test = points[whole(60, 150, seed=11)], torch.cat([points[:9], rand(8, width, seed=12)])
    for metric in METRICS:
        expected = nearest_neighbours(train, test, 12, metric=metric)
        for train_rows, test_rows in ((1, 17), (7, 5), (12, 1), (149, 16), (4096, 1024)):
            found = nearest_neighbours(train, test, 12, metric=metric, train_rows=train_rows, test_rows=test_rows)
            assert torch.equal(found[0], expected[0])
            assert torch.equal(found[1], expected[1])
    assert (expected[0][:9, 0] == 0).all(), "a copy is at distance zero"


def test_streamed_in_one_pass_one_chunk_at_a_time():
    train, test, labels = rand(200, 16), rand(30, 16, seed=1), whole(4, 200)
    stream = Stream(train, 30, 1, 64)
    streamed = knn_predict(stream, labels, test, [1, 20], train_rows=16)
    for k, predicted in knn_predict(train, labels, test, [1, 20]).items():
        assert torch.equal(streamed[k], predicted)


def test_the_product_only_sees_bounded_blocks(monkeypatch):
    sizes = []
    original = knn._Block.candidates

    def candidates(self, bank, running):
        sizes.append((len(self.rows), len(bank.rows)))
        return original(self, bank, running)

    monkeypatch.setattr(knn._Block, "candidates", candidates)
    knn_predict(Stream(rand(100, 4), 60), whole(3, 100), rand(50, 4), 3, train_rows=32, test_rows=20)
    assert max(a for a, _ in sizes) == 20
    assert max(b for _, b in sizes) == 32
    assert sum(a * b for a, b in sizes) == 100 * 50


def test_norms_do_not_count_and_ties_go_to_the_lower_class():
    train, labels = torch.tensor([[100.0, 0.0], [0.0, 0.1]]), torch.tensor([1, 0])
    assert knn_predict(train, labels, torch.tensor([[0.9, 0.1]]), 1).tolist() == [1]
    assert knn_predict(train, labels, torch.tensor([[0.9, 0.1]]), 2).tolist() == [0]
    assert knn_predict(train, labels, torch.tensor([[0.9, 0.1]]), 2, weights="distance").tolist() == [1]


def test_a_zero_distance_takes_the_whole_vote():
    train = torch.tensor([[1.0, 0.0], [1.0, 1e-3], [1.0, -1e-3]])
    labels = torch.tensor([1, 0, 0])
    for metric in METRICS:
        assert knn_predict(train, labels, train[:1], 3, metric=metric).tolist() == [0]
        assert knn_predict(train, labels, train[:1], 3, metric=metric, weights="distance").tolist() == [1]


@pytest.mark.slow
def test_features_of_real_images():
    archive, teacher = DATA / "cifar10.tar.xz", SHARED / "teachers" / "vit-cifar10"
    if not (archive.exists() and teacher.exists()):
        pytest.skip("../shared/data/cifar10.tar.xz or ../shared/teachers/vit-cifar10 is not there")
    from aloe.data.sources import open_images
    from aloe.data.subset import SubsetImages
    from aloe.evaluation.backbones import load_any
    from aloe.evaluation.features import extract

    model, found = load_any(str(teacher)), {}
    for part, step in (("train", 50), ("test", 20)):
        source = open_images(f"{archive}::cifar10/{part}")
        found[part] = extract(model, SubsetImages(source, np.arange(0, len(source), step)), batch_size=250)
    train, test = found["train"], found["test"]
    for metric, weights in itertools.product(METRICS, WEIGHTS):
        predicted = knn_predict(train, train.labels, test.tensor(), [1, 20], metric=metric, weights=weights)
        for k in (1, 20):
            expected = sklearn_predict(train.tensor(), train.labels, test.tensor(), k, metric, weights)
            assert predicted[k].tolist() == expected
    assert (predicted[20] == test.labels).double().mean() > 0.3, "vacuous: no better than chance"


LABELS = torch.tensor([0, 1, 1])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"k": 4}, "k is 4 but there are 3 training images"),
        ({"k": [1, 0]}, "k is 0"),
        ({"k": []}, "at least one number"),
        ({"train": torch.full((3, 2), float("nan"))}, "not finite"),
        ({"train": Stream(torch.tensor([[0.0, 1], [1, 0], [float("inf"), 0]]), 1)}, "not finite"),
        ({"test": torch.full((1, 2), float("inf"))}, "not finite"),
        ({"test": torch.ones(1, 3)}, "differ in width"),
        ({"test": torch.ones(0, 2)}, "no test images"),
        ({"labels": torch.tensor([0, -1, 1])}, "a label for every"),
        ({"labels": torch.tensor([0, 1])}, "3 training images but 2 labels"),
        (
            {"labels": torch.tensor([0, 1, 0, 1]), "train": Stream(torch.ones(3, 2), 2)},
            "3 training images but 4 labels",
        ),
        ({"labels": torch.tensor([2, 2, 2])}, r"training images are of one class \(2\)"),
        ({"metric": "manhattan"}, "metrics: cosine, euclidean"),
        ({"weights": "rank"}, "votes: uniform, distance"),
    ],
    ids=str,
)
def test_mistakes(changed, words):
    given = {"train": torch.ones(3, 2), "labels": LABELS, "test": torch.ones(1, 2), "k": 1, **changed}
    with pytest.raises(UserError, match=words):
        knn_predict(**given)


@pytest.mark.parametrize("k", [0, 4])
def test_neighbours_that_do_not_exist(k):
    with pytest.raises(UserError, match=f"k is {k} but there are 3"):
        nearest_neighbours(torch.ones(3, 2), torch.ones(1, 2), k)


@pytest.mark.parametrize("odd", [False, True])
def test_looking_at_groups_first_changes_nothing(odd, monkeypatch):
    """Blocks wide enough for groups, with copies and vectors whose products overflow, against every pair looked at singly."""
    points = rand(300, 12, seed=20)
    train, test = points[whole(300, 1100, seed=21)], torch.cat([points[:20], rand(15, 12, seed=22)])
    if odd:
        train[::50] *= 1e25
    for metric in METRICS:
        found = nearest_neighbours(train, test, 9, metric=metric, train_rows=512)
        monkeypatch.setattr(knn, "_GROUP", 1)
        expected = nearest_neighbours(train, test, 9, metric=metric, train_rows=512)
        monkeypatch.undo()
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


def test_few_products_are_looked_at_singly(monkeypatch):
    """What the groups are for: of the pairs that are looked at again, most are near."""
    train, test = rand(8192, 16), rand(64, 16, seed=1)
    counts = []
    original = knn._Block.pair_squares

    def pair_squares(self, bank, row, column):
        counts.append(len(row))
        return original(self, bank, row, column)

    monkeypatch.setattr(knn._Block, "pair_squares", pair_squares)
    nearest_neighbours(train, test, 5)
    assert len(counts) == 2
    assert counts[0] < 64 * 5 * 1.5
    assert counts[1] < 64 * 5 * 1.5
