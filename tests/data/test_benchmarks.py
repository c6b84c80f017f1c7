"""The registry of the ten data sets, and copies of them from tiny pictures."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aloe.core.errors import UserError
from aloe.data.benchmarks import BENCHMARKS, open_benchmark
from labelled import ANIMALS, archive, check, hub, picture, refused, tree
from places import DATA, ROOT


def test_the_ten_data_sets_in_the_order_of_the_papers_tables() -> None:
    assert [b.column for b in BENCHMARKS.values()] == (
        ["IN1k", "Cal101", "Flowers", "Food", "Aircr", "DTD", "Cars", "SUN", "C10", "C100"]
    )
    assert list(BENCHMARKS) == (
        ["imagenet", "caltech101", "flowers102", "food101", "aircraft", "dtd", "cars", "sun397", "cifar10", "cifar100"]
    )
    assert [b.name for b in BENCHMARKS.values() if b.metric == "mean per class"] == [
        "caltech101",
        "flowers102",
        "aircraft",
    ]
    assert {b.metric for b in BENCHMARKS.values()} == {"top-1", "mean per class"}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_entry_is_complete(name: str) -> None:
    entry = BENCHMARKS[name]
    assert entry.hub.count("/") == 1
    assert set(entry.splits) == set(entry.sizes)
    assert all(size >= entry.classes for size in entry.sizes.values())
    assert entry.terms
    assert entry.source
    assert f"hf download {entry.hub} --repo-type dataset --local-dir {name}" in entry.how_to_get
    assert f"{name}={name}" in entry.how_to_get
    table = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    row = next(line for line in table.splitlines() if line.startswith(f"| `{name}` | {entry.title} |"))
    sizes = [f"{size:,}".replace(",", " ") for size in entry.sizes.values()]
    for fact in (*sizes, str(entry.classes), f"`{entry.hub}`", entry.metric, entry.terms):
        assert fact in row, fact


def test_caltechs_sizes_follow_from_its_protocol() -> None:
    entry = BENCHMARKS["caltech101"]
    assert entry.train_per_class
    assert entry.sizes["train"] == entry.train_per_class * entry.classes
    assert sum(entry.sizes.values()) == 9_144 - 467  # all of the release but its background class


def test_a_registered_name_knows_its_label_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR-100 has coarse labels as well, and here they come first."""
    datasets = pytest.importorskip("datasets")
    made = hub({"train": 3, "test": 2}).rename_columns({"image": "img", "label": "fine_label"})
    for split, dataset in made.items():
        coarse = dataset.add_column("coarse_label", [i % 2 for i in range(len(dataset))])
        coarse = coarse.cast_column("coarse_label", datasets.ClassLabel(names=["even", "odd"]))
        made[split] = coarse.select_columns(["coarse_label", "img", "fine_label"])
    made.save_to_disk(tmp_path / "data")
    monkeypatch.setitem(BENCHMARKS, "cifar100", dataclasses.replace(BENCHMARKS["cifar100"], classes=3))
    check(open_benchmark(f"cifar100={tmp_path / 'data'}"))
    assert open_benchmark(str(tmp_path / "data")).classes == ["even", "odd"]


def test_on_the_hub_a_name_asks_for_its_id_and_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []
    made = hub({"train": 3, "test": 2}).rename_column("image", "img")

    def load_dataset(name: str, config: str | None) -> Any:
        asked.append((name, config))
        return made

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setitem(BENCHMARKS, "cifar10", dataclasses.replace(BENCHMARKS["cifar10"], classes=3))
    check(open_benchmark("cifar10"))
    check(open_benchmark("cifar10=someone/else-s_copy"))
    check(open_benchmark("cifar10=hf:single"))
    check(open_benchmark("hf:single"))
    assert asked == [
        ("uoft-cs/cifar10", "plain_text"),
        ("someone/else-s_copy", None),
        ("single", None),
        ("single", None),
    ]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of the registered data sets shrunk to the three animals."""
    for name, sizes in {
        "cifar10": {"train": 9, "test": 6},
        "dtd": {"train": 9, "validation": 3, "test": 6},
        "food101": {"train": 9, "test": 6},
        "imagenet": {"train": 9, "test": 6},
    }.items():
        changes = {"classes": 3, "sizes": sizes, "short_side": 4}
        changes["per_class"] = {part: sizes[part] // 3 for part in BENCHMARKS[name].per_class}
        monkeypatch.setitem(BENCHMARKS, name, dataclasses.replace(BENCHMARKS[name], **changes))


@pytest.mark.parametrize(
    ("name", "parts", "notes"),
    [
        ("cifar10", {"train": 3, "test": 2}, []),
        ("cifar10", {"train": 3, "test": 1}, ["3 test images instead of 6"]),
        ("cifar10", {"train": 1, "test": 1}, ["3 train images instead of 9", "3 test images instead of 6"]),
        ("cifar10", {"train": 2, "val": 1, "test": 2}, ["6 train images instead of 9"]),
        ("dtd", {"train": 3, "val": 1, "test": 2}, []),
        ("dtd", {"train": 4, "test": 2}, []),  # validation put into train
        ("dtd", {"train": 4, "val": 1, "test": 2}, ["12 train images instead of 9"]),
        ("dtd", {"train": 3, "test": 2}, ["0 validation images instead of 3"]),
        ("dtd", {"train": 3, "val": 2, "test": 2}, ["6 validation images instead of 3"]),
    ],
)
def test_official_or_what_differs(
    name: str, parts: dict[str, int], notes: list[str], small: None, tmp_path: Path
) -> None:
    splits = open_benchmark(f"{name}={tree(tmp_path / 'data', **parts)}")
    assert (splits.name, splits.title) == (name, BENCHMARKS[name].title)
    assert (splits.official, list(splits.notes)) == (not notes, notes)


def test_the_test_part_of_a_registered_set(small: None, tmp_path: Path) -> None:
    """ImageNet's validation images are its test although a folder test/ lies beside them; Food-101 prefers test/."""
    root = tree(tmp_path / "data", train=3, val=2)
    (root / "test").mkdir()
    picture(1).save(root / "test" / "unlabelled.png")
    splits = open_benchmark(f"imagenet={root}")
    assert (splits.official, splits.validation) == (True, None)
    check(splits)
    shutil.rmtree(root / "test")
    check(open_benchmark(f"food101={root}"))
    tree(root, test=1)
    splits = open_benchmark(f"food101={root}")
    assert splits.sizes == {"train": 9, "validation": 6, "test": 3}
    with pytest.raises(UserError, match=r"has no test part \(folder or split; there is train, validation\)"):
        open_benchmark(f"cifar10={tree(tmp_path / 'untested', train=3, val=2)}")


@pytest.mark.parametrize("layout", ["folder", "nested", "tar", "disk"])
def test_caltech_is_drawn_per_class_by_name(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"classes": 3, "sizes": {"train": 6, "test": 9}, "train_per_class": 2, "short_side": 4}
    monkeypatch.setitem(BENCHMARKS, "caltech101", dataclasses.replace(BENCHMARKS["caltech101"], **changes))
    root = tree(tmp_path / "data", **{"nested/": 5} if layout == "nested" else {"": 5})
    folder = root / "nested" if layout == "nested" else root
    (folder / "BACKGROUND_Google").mkdir()
    picture(1).save(folder / "BACKGROUND_Google" / "0.png")
    (folder / "Annotations").mkdir()
    path = root
    if layout == "tar":
        path = archive("", root, tmp_path / "data.tar", "101/")
    if layout == "disk":
        path = tmp_path / "hub"
        hub({"train": 5}).save_to_disk(path)
    splits = open_benchmark(f"caltech101={path}")
    check(splits, train=2, test=3)
    assert splits.official
    assert splits.notes == ("2 training images per class drawn by file name, the rest is the test",)
    parts = [{source.load(i).getpixel((0, 0)) for i in range(len(source))} for source in (splits.train, splits.test)]
    assert not parts[0] & parts[1]
    if layout == "disk":
        return
    expected = []
    for name in ANIMALS:
        ranked = sorted(range(5), key=lambda k: hashlib.sha256(f"seed 0/{name}/{k}.png".encode()).digest())
        expected += [f"{name}/{k}.png" for k in sorted(ranked[:2])]
    assert [splits.train.name(i)[-9:] for i in range(6)] == expected


def test_a_class_too_small_to_draw_from(tmp_path: Path) -> None:
    tree(tmp_path / "data", **{"": 30})
    with pytest.raises(UserError, match="has 30 images or fewer of cat, dog, eel, which leaves none for the test"):
        open_benchmark(f"caltech101={tmp_path / 'data'}")


def test_caltech_with_parts_of_its_own_is_not_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        BENCHMARKS,
        "caltech101",
        dataclasses.replace(BENCHMARKS["caltech101"], classes=2, left_out=("eel",), short_side=4),
    )
    splits = open_benchmark(f"caltech101={tree(tmp_path / 'data', train=3, test=2)}")
    assert splits.sizes == {"train": 6, "test": 4}
    assert splits.classes == ["cat", "dog"]
    assert splits.test.labels.tolist() == [0, 0, 1, 1]
    assert splits.notes == ("6 train images instead of 3030", "4 test images instead of 5647")


@pytest.mark.skipif(
    not (DATA / "cifar10.tar.xz").is_file(), reason="no ../shared/data/cifar10.tar.xz beside this checkout"
)
@pytest.mark.slow
def test_real_cifar10() -> None:
    splits = open_benchmark(f"cifar10={DATA / 'cifar10.tar.xz'}")
    assert splits.sizes == {"train": 50_000, "test": 5_000}
    assert (splits.official, splits.notes) == (False, ("5000 test images instead of 10000",))
    assert splits.classes == ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    np.testing.assert_array_equal(np.bincount(splits.test.labels), [500] * 10)
    assert splits.test.load(4_999).size == (32, 32)
    same = open_benchmark(f"cifar10={DATA / 'cifar10.tar.xz'}::cifar10")
    assert same.test.state() == splits.test.state() != splits.train.state()


def test_names_and_paths_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused("cifar-10", "cifar-10 is neither a path nor one of the registered data sets; did you mean cifar10?")
    refused("CIFAR10", "did you mean cifar10?")
    refused("food=food", "food is neither .*; did you mean food101?")
    refused("mine", "neither a path nor one of the registered data sets: imagenet, caltech101, .* cifar100")
    refused(
        "dtd=./missing", r"There is nothing at './missing' to take as dtd; download it with \"hf download tanganke/dtd"
    )
    refused("dtd=", "There is nothing at '' to take as dtd")
    picture(1).save(tmp_path / "one.png")
    refused("one.png", "There is no folder or archive one.png")
    (tmp_path / "notes.txt").write_text("words")
    refused("notes.txt", "neither an image .* nor a readable zip or tar archive")


@pytest.mark.parametrize("name", ["food101", "imagenet"])
def test_hub_that_cannot_be_reached(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def load_dataset(*_: Any) -> None:
        raise ConnectionError("Couldn't reach it (offline).\nMore lines")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    hub_id = BENCHMARKS[name].hub
    terms = "accept its terms .* log in .*, " if name == "imagenet" else ""
    reason = rf"The dataset {hub_id} could not be opened \(Couldn't reach it \(offline\)\); {terms}"
    refused(
        name,
        rf'{reason}download it with "hf download {hub_id} --repo-type dataset --local-dir {name}" and give {name}={name}',
    )


def test_datasets_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused("cifar10", r"needs the package datasets; pip install 'aloe-vit\[data\]'")


def test_wrong_number_of_classes(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", train=2, test=1)
    refused(
        f"cifar10={root}", r"cifar10 has 10 classes and .*data has 3; give the whole data set, or leave out cifar10="
    )
