"""The list of grids: which images are confident, how grids are drawn, the file, and composing."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch

from aloe.core.errors import UserError
from aloe.metrics.grids import GridList, choose_grids, compose, confident

NAMES = ["ant", "bee", "cat", "dog", "elk"]


def grid_list(**changes):
    facts = {
        "n": 2,
        "indices": torch.arange(8).view(2, 4),
        "labels": torch.tensor([[0, 1, 2, 3], [4, 3, 2, 1]]),
        "rule": {"threshold": 0.95, "seed": 0, "models": ["teacher", "student"]},
        "data": "photos",
        "state": "abc",
    }
    return GridList(**{**facts, **changes})


# --- confident images


def test_every_model_must_be_confident_and_right():
    labels = torch.tensor([0, 0, 1, 1])
    first = torch.tensor([[0.95, 0.05], [0.99, 0.01], [0.96, 0.04], [0.02, 0.98]], dtype=torch.float64)
    second = torch.tensor([[0.97, 0.03], [0.94, 0.06], [0.01, 0.99], [0.03, 0.97]], dtype=torch.float64)
    assert confident([first, second], labels).tolist() == [True, False, False, True]
    assert confident([first], labels).tolist() == [True, True, False, True]
    assert confident([first, second], labels, threshold=0.975).tolist() == [False] * 4


def test_a_class_with_as_much_probability_is_not_the_right_one():
    sigmoid = torch.tensor([[1.0, 1.0], [1.0, 0.999]])
    assert confident([sigmoid], torch.tensor([0, 0])).tolist() == [False, True]


def test_share_takes_the_best_of_each_class_by_the_least_sure_model():
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    sure = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.3, 0.9])
    doubting = torch.tensor([0.55, 0.6, 0.7, 0.2, 0.4, 0.8])
    tables = [torch.stack((p, 1 - p), 1) for p in (sure, doubting)]  # image 3 is wrong in the second model, as is 5
    assert confident(tables, labels, share=0.3).tolist() == [False, False, True, False, True, False]
    assert confident(tables, labels, share=0.5).tolist() == [False, True, True, False, True, False]
    assert confident(tables, labels, share=1).tolist() == [True, True, True, False, True, False]


def test_share_is_not_rounded_up_by_float_error():
    table = torch.stack((torch.linspace(0.6, 0.9, 30), 1 - torch.linspace(0.6, 0.9, 30)), 1)
    assert confident([table], torch.zeros(30, dtype=torch.int64), share=0.1).sum() == 3  # 0.1 * 30 > 3 in floats


def test_share_of_equal_images_takes_the_earlier_and_no_image_of_a_class_nobody_knows():
    table = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.8, 0.2]])
    assert confident([table], torch.tensor([0, 0, 1]), share=0.5).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probabilities": []}, "at least one model"),
        ({"probabilities": [torch.rand(3, 2)]}, "must be \\(N, C\\)"),
        ({"probabilities": [torch.rand(2)]}, "must be \\(N, C\\)"),
        ({"probabilities": [torch.tensor([[3.0, -1], [0, 1]])]}, "softmax or sigmoid"),
        ({"probabilities": [torch.full((2, 2), torch.nan)]}, "softmax or sigmoid"),
        ({"labels": torch.tensor([0, 2])}, "labels from 0 to 2, but 2"),
        ({"labels": torch.tensor([-1, 0])}, "labels from -1 to 0"),
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"share": 0.0}, "share"),
        ({"share": 1.1}, "share"),
    ],
)
def test_bad_confidence(change, message):
    arguments = {"probabilities": [torch.full((2, 2), 0.5)], "labels": torch.tensor([0, 1]), **change}
    with pytest.raises(UserError, match=message):
        confident(arguments.pop("probabilities"), arguments.pop("labels"), **arguments)


# --- choosing


@pytest.mark.parametrize("n", [2, 3])
def test_grids_use_distinct_classes_and_eligible_images_evenly(n):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(11, (200,), generator=generator)
    eligible = torch.rand(200, generator=generator) > 0.5
    indices, chosen = choose_grids(eligible, labels, n=n, count=60, seed=1, classes=[str(i) for i in range(11)])
    assert indices.shape == chosen.shape == (60, n * n)
    assert indices.dtype == chosen.dtype == torch.int64
    assert torch.equal(labels[indices], chosen)
    assert eligible[indices].all()
    assert all(len(set(row)) == n * n for row in chosen.tolist())
    classes = Counter(chosen.flatten().tolist())
    assert max(classes.values()) - min(classes.values()) <= 1
    for label in range(11):
        images = [i for i in range(200) if labels[i] == label and eligible[i]]
        uses = Counter(indices[chosen == label].tolist())
        times = [uses[i] for i in images]
        assert max(times) - min(times) <= 1


def test_positions_are_random_too():
    _, chosen = choose_grids(torch.ones(40, dtype=torch.bool), torch.arange(40) % 4, count=400, classes=NAMES[:4])
    for cell in range(4):
        assert all(60 < n < 140 for n in torch.bincount(chosen[:, cell], minlength=4).tolist())


def test_the_seed_decides():
    arguments = {"count": 5, "classes": NAMES}
    eligible, labels = torch.ones(50, dtype=torch.bool), torch.arange(50) % 5
    one, again, other = (choose_grids(eligible, labels, seed=s, **arguments) for s in (3, 3, 4))
    assert torch.equal(one[0], again[0])
    assert torch.equal(one[1], again[1])
    assert not torch.equal(one[0], other[0])


def test_too_few_classes_names_those_without_a_confident_image():
    labels = torch.arange(5)
    eligible = torch.tensor([True, False, True, True, False])
    with pytest.raises(UserError, match=r"of 4 classes, but there are some for 3 \(none for bee, elk\).*share"):
        choose_grids(eligible, labels, count=1, classes=NAMES)
    with pytest.raises(UserError, match=r"of 9 classes, but there are some for 5; "):
        choose_grids(torch.ones(5, dtype=torch.bool), labels, n=3, count=1, classes=NAMES)
    with pytest.raises(UserError, match=r"0, 1, 2, 3, 4, 5, 6, 7 and 2 more"):
        choose_grids(torch.zeros(0, dtype=torch.bool), torch.arange(0), count=1, classes=[str(i) for i in range(10)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 0}, "At least one grid"),
        ({"n": 1}, "at least 2 x 2"),
        ({"labels": torch.arange(4)}, "one label per image"),
        ({"eligible": torch.ones(5)}, "one flag \\(bool\\)"),
        ({"labels": torch.arange(5) + 1}, "labels from 1 to 5, but 5 classes"),
        ({"labels": torch.arange(5) - 1}, "labels from -1 to 3"),
    ],
)
def test_bad_choice(change, message):
    arguments = {"eligible": torch.ones(5, dtype=torch.bool), "labels": torch.arange(5), "count": 1, "classes": NAMES}
    with pytest.raises(UserError, match=message):
        choose_grids(**{**arguments, **change})


# --- the file


def test_roundtrip(tmp_path):
    path = tmp_path / "new" / "grids.json"
    grids = grid_list()
    grids.save(path)
    read = GridList.load(path, state="abc")
    assert len(read) == len(grids) == 2
    assert torch.equal(read.indices, grids.indices)
    assert torch.equal(read.labels, grids.labels)
    assert (read.n, read.rule, read.data, read.state) == (grids.n, grids.rule, grids.data, grids.state)
    assert [p.name for p in path.parent.iterdir()] == ["grids.json"]


def test_grids_of_other_data_are_refused(tmp_path):
    grid_list().save(tmp_path / "grids.json")
    with pytest.raises(UserError, match="chosen from other images \\(photos\\)"):
        GridList.load(tmp_path / "grids.json", state="abd")


@pytest.mark.parametrize(
    "damage",
    [
        {"n": 3},
        {"n": "2"},
        {"n": 2.0},
        {"indices": [[0, 1, 2, 3], [4, 5, 6]]},
        {"indices": [[0, 1, 2, 3]]},
        {"indices": [[0, 1, 2, 3], [4, 5, 6, 7.5]]},
        {"indices": [[0, 1, 2, 3], [4, 5, 6, -7]]},
        {"indices": [[0, 1, 2, 3], [4, 5, 6, 10**30]]},
        {"indices": [], "labels": []},
        {"labels": [[0, 1, 2, 3], [4, 3, 2, 4]]},
        {"labels": None},
    ],
)
def test_damaged_values(tmp_path, damage):
    path = tmp_path / "grids.json"
    grid_list().save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    with pytest.raises(UserError, match="damaged"):
        GridList.load(path, state="abc")


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"\xff\xfe", b'{"n": 2, "indices": [[0'])
def test_damaged_text(tmp_path, text):
    (tmp_path / "grids.json").write_bytes(text)
    with pytest.raises(UserError, match="damaged"):
        GridList.load(tmp_path / "grids.json", state="abc")


def test_files_that_cannot_be(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        GridList.load(tmp_path / "none.json", state="abc")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        grid_list().save(tmp_path / "file" / "grids.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        grid_list().save(tmp_path / "folder")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


# --- composing


@pytest.mark.parametrize("n", [2, 3])
def test_compose_puts_cells_in_row_major_order(n):
    images = torch.rand(2, n * n, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    grids = compose(images)
    assert grids.shape == (2, 3, 4 * n, 4 * n)
    for cell in range(n * n):
        row, column = divmod(cell, n)
        assert torch.equal(grids[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4], images[:, cell])


@pytest.mark.parametrize("shape", [(1, 4, 3, 4), (1, 5, 3, 4, 4), (1, 0, 3, 4, 4), (1, 4, 3, 4, 5)])
def test_bad_cells(shape):
    with pytest.raises(UserError, match="is composed of"):
        compose(torch.zeros(shape))
