"""Labelled data in every layout, made on the fly from tiny pictures, and what of it cannot be used."""

from __future__ import annotations

import dataclasses
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aloe.core.errors import UserError
from aloe.data.benchmarks import open_benchmark, pair
from aloe.data.listed import ArrayImages
from aloe.data.shared import shared_images
from aloe.data.sources import open_images
from aloe.data.splits import Relabelled, check_classes, open_parts
from aloe.data.subset import SubsetImages
from labelled import ANIMALS, archive, check, hub, picture, refused, tree


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALOE_CACHE", str(tmp_path / "aloe-cache"))
    try:
        import datasets
    except ImportError:
        return
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")


@pytest.mark.parametrize("below", ["", "animals"])
@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "test"), ("training", "testing"), ("Train", "Test"), ("train", "val"), ("train", "valid")],
)
def test_folders(train: str, test: str, below: str, tmp_path: Path) -> None:
    tree(tmp_path / "data" / below, **{train: 3, test: 2})
    (tmp_path / "data" / "notes").mkdir()
    splits = open_benchmark(str(tmp_path / "data"))
    check(splits)
    assert splits.validation is None
    assert (splits.name, splits.metric, splits.official) == (str(tmp_path / "data"), "top-1", False)
    assert splits.notes == (("its validation images are the test",) if test in ("val", "valid") else ())


@pytest.mark.parametrize("name", ["validation", "val", "valid", "dev"])
def test_a_validation_part_of_its_own(name: str, tmp_path: Path) -> None:
    splits = open_benchmark(str(tree(tmp_path / "data", train=3, test=2, **{name: 1})))
    assert splits.sizes == {"train": 9, "validation": 3, "test": 6}
    assert splits.validation.classes == list(ANIMALS)
    assert splits.notes == ()


def test_classes_called_like_parts(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in ("train", "test", "tram"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            picture(1).save(tmp_path / "data" / part / name / "0.png")
    assert open_benchmark(str(tmp_path / "data")).classes == ["test", "train", "tram"]


@pytest.mark.parametrize("kind", ["zip", "", "xz"])
@pytest.mark.parametrize("top", ["", "animals/"])
def test_archives_at_both_depths_and_parts_of_them(kind: str, top: str, tmp_path: Path) -> None:
    folder = tree(tmp_path / "data", train=3, test=2)
    path = archive(kind, folder, tmp_path / "data.archive", top)
    check(open_benchmark(str(path)))
    check(open_benchmark(f"{path}::{top}" if top else str(path)))
    deeper = archive(kind, folder, tmp_path / "deeper.archive", "a/b/")
    check(open_benchmark(f"{deeper}::a"))
    check(open_benchmark(f"{deeper}::a/b/"))
    with pytest.raises(UserError, match="has no train and no test part"):
        open_benchmark(str(deeper))
    check(open_benchmark(f"{tmp_path}::data"))


@pytest.mark.parametrize("label", ["class", "integer", "string"])
@pytest.mark.parametrize("layout", ["disk", "data/", "named/", "folders"])
def test_datasets(layout: str, label: str, tmp_path: Path) -> None:
    made, root = hub({"train": 3, "test": 2}, label), tmp_path / "data"
    if layout == "disk":
        made.save_to_disk(root)
    else:
        for part, dataset in made.items():
            file = {"data/": "data/{}-00000-of-00001-0af.parquet", "named/": "{}.parquet", "folders": "{}/0000.parquet"}
            path = root / file[layout].format(part)
            path.parent.mkdir(parents=True, exist_ok=True)
            dataset.to_parquet(path)
        (root / "README.md").write_text("a card")
    names = ("0", "1", "2") if label == "integer" else tuple(ANIMALS)
    check(open_benchmark(str(root)), names=names)
    check(open_benchmark(f"hf:{root}"), names=names)


def test_splits_of_a_dataset_may_have_other_names(tmp_path: Path) -> None:
    hub({"training": 3, "Test": 2, "dev": 1}).save_to_disk(tmp_path / "data")
    assert open_benchmark(str(tmp_path / "data")).sizes == {"train": 9, "validation": 3, "test": 6}


def test_columns_by_name(tmp_path: Path) -> None:
    made = hub({"train": 3, "test": 2}).rename_columns({"image": "photo", "label": "coarse"})
    for split, dataset in made.items():
        made[split] = dataset.add_column("fine", [f"{i % 3}-{i % 2}" for i in range(len(dataset))])
    made.save_to_disk(tmp_path / "data")
    assert open_benchmark(str(tmp_path / "data")).classes == list(ANIMALS)
    splits = open_benchmark(f"hf:{tmp_path / 'data'}#photo,fine")
    assert splits.classes == ["0-0", "0-1", "1-0", "1-1", "2-0", "2-1"]
    with pytest.raises(UserError, match="has no label column absent; its columns are photo, coarse, fine"):
        open_benchmark(f"hf:{tmp_path / 'data'}#photo,absent")


def test_test_labels_count_in_the_order_of_the_training_classes(tmp_path: Path) -> None:
    made = hub({"train": 3})
    made["test"] = hub({"test": 2}, order=("eel", "cat", "dog"))["test"]
    made["validation"] = hub({"test": 1}, order=("dog", "eel", "cat"))["test"]
    made.save_to_disk(tmp_path / "data")
    splits = open_benchmark(str(tmp_path / "data"))
    check(dataclasses.replace(splits, validation=None))
    assert splits.test.labels.tolist() == [2, 2, 0, 0, 1, 1]
    assert splits.validation.labels.tolist() == [1, 2, 0]
    copy = pickle.loads(pickle.dumps(splits.test))
    assert copy.labels.tolist() == splits.test.labels.tolist()
    assert copy.name(1) == splits.test.name(1) == "row 1"


def test_relabelled_data_keep_their_images_and_change_their_state(tmp_path: Path) -> None:
    source = open_images(tree(tmp_path / "data", train=2) / "train")
    other = Relabelled(source, ["eel", "dog", "cat"])
    assert other.labels.tolist() == [2, 2, 1, 1, 0, 0]
    assert Relabelled(source, ["eel", "cat"]).labels.tolist() == [1, 1, -1, -1, 0, 0]
    assert [other.name(i) for i in range(6)] == [source.name(i) for i in range(6)]
    assert other.fingerprint() == source.fingerprint()
    states = {source.state(), other.state(), Relabelled(source, ["eel", "cat", "dog"]).state()}
    assert len(states) == 3
    assert Relabelled(source, ["eel", "dog", "cat"]).state() == other.state()


def test_pairs(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", train=3, test=2)
    splits = pair(root / "train", f"{root}::test")
    check(splits)
    assert (splits.name, splits.official, splits.metric) == (f"{root}::test", False, "top-1")
    hub({"test": 2}, order=("eel", "dog", "cat")).save_to_disk(tmp_path / "hub")
    check(pair(str(root / "train"), f"hf:{tmp_path / 'hub'}"))


def test_a_pair_takes_the_part_of_its_name(tmp_path: Path) -> None:
    """Whole data given twice would be tested on what they were fitted to."""
    root = tree(tmp_path / "data", train=3, test=2)
    whole = archive("tar", root, tmp_path / "data.tar", "")
    for where in (root, whole):
        splits = pair(where, where)
        check(splits)
        assert splits.notes == (f"of {where} its train images", f"of {where} its test images")
    hub({"train": 3, "test": 2}).save_to_disk(tmp_path / "hub")
    check(pair(f"hf:{tmp_path / 'hub'}", f"hf:{tmp_path / 'hub'}"))
    flat = tree(tmp_path / "flat", **{"": 2})
    for train, test in ((flat, flat), (f"{root}::train", f"{root}::train/"), (f"{flat}/../flat", flat)):
        with pytest.raises(UserError, match="is given for training and for testing, and has no train and test parts"):
            pair(train, test)


def test_test_images_without_labels_leave_the_test_to_the_validation_images(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", train=3, val=2)
    (root / "test").mkdir()
    for k in range(4):
        picture(k).save(root / "test" / f"{k}.png")
    splits = open_benchmark(str(root))
    check(splits)
    assert splits.notes == ("its test images have no labels", "its validation images are the test")


@pytest.mark.parametrize("kind", ["folders", "archive", "hub", "arrays and files", "scenes"])
def test_shared_images_are_counted_by_content(kind: str, tmp_path: Path) -> None:
    """Two of the six test images are copies of training images, under other names and, of files, in other classes."""
    if kind == "scenes":
        assert pair("scenes:40@7", "scenes:30@7").shared == 30
        assert pair("scenes:40@7", "scenes:30@8").shared == 0
        return
    root = tree(tmp_path / "data", train=3, test=2)
    shutil.copy(root / "train" / "cat" / "2.png", root / "test" / "cat" / "1.png")
    (root / "test" / "dog" / "0.png").write_bytes((root / "train" / "eel" / "0.png").read_bytes())
    for part, count in (("train", 3), ("test", 2)):  # no two images of a part alike, those of test in other places
        for folder in (root / part).iterdir():
            for k in range(count):
                file = folder / f"{k}.png"
                if part == "test" and (folder.name, k) not in (("cat", 1), ("dog", 0)):
                    picture(200 + 2 * k + ord(folder.name[0]) % 7).save(file)
    if kind == "archive":
        assert open_benchmark(str(archive("zip", root, tmp_path / "data.zip", ""))).shared == 2
    elif kind == "folders":
        assert open_benchmark(str(root)).shared == 2
        assert pair(root / "train", root / "test").shared == 2
        assert pair(root / "test", root / "test" / ".." / "train").shared == 2
    elif kind == "hub":
        made = hub({"train": 3, "test": 2})
        made["test"] = made["train"].select([0, 5, 8]).shard(1, 0)
        made.save_to_disk(tmp_path / "hub")
        assert open_benchmark(str(tmp_path / "hub")).shared == 3
    else:
        red = np.array([np.asarray(picture(10 + k)) for k in range(6)])
        arrays = ArrayImages(red, np.array([0, 1] * 3), [f"{k}" for k in range(6)], ["a", "b"])
        assert shared_images(arrays, SubsetImages(arrays, np.array([1, 4]))) == 2
        assert shared_images(arrays, open_images(str(root / "test"))) == 0  # not the same form


def test_parts_that_are_missing(tmp_path: Path) -> None:
    refused(tree(tmp_path / "a", train=1), r"has no test part \(folder or split; there is train\); give the two apart")
    refused(tree(tmp_path / "b", **{"": 1}), r"has no train and no test part \(folder or split; there is none\)")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "has no train and no test part")
    refused(f"cifar10={tmp_path / 'b'}", r"no train and no test part .*; download it with")
    hub({"train": 2, "extra": 1}).save_to_disk(tmp_path / "c")
    refused(tmp_path / "c", r"has no test part \(folder or split; there is train, extra\)")
    tree(tmp_path / "d" / "one", train=1, test=1)
    tree(tmp_path / "d" / "two", train=1, test=1)
    refused(tmp_path / "d", r"holds several data sets \(one, two\)")


def test_labels_that_are_missing(tmp_path: Path) -> None:
    flat = tree(tmp_path / "flat", train=2)
    (flat / "test").mkdir()
    picture(1).save(flat / "test" / "0.png")
    refused(flat, r"test images are not in class folders .* has no labels")
    made = hub({"train": 2, "test": 1})
    made["test"] = made["test"].map(lambda row: {"label": -1}, keep_in_memory=True)
    made.save_to_disk(tmp_path / "hidden")
    refused(tmp_path / "hidden", "3 of the 3 test images of .*hidden have no label")
    made.remove_columns("label").save_to_disk(tmp_path / "none")
    refused(tmp_path / "none", "train images are not in class folders .* no label column, so .*none has no labels")


def test_one_class(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", train=2, test=1)
    for part in ("train", "test"):
        for name in ("dog", "eel"):
            shutil.rmtree(root / part / name)
    refused(root, "All train images of .* are of one class, cat; at least two are needed")
    hub({"train": 2, "test": 1}, order=("eel",)).save_to_disk(tmp_path / "hub")
    refused(tmp_path / "hub", "All train images of .* are of one class, eel")
    with pytest.raises(UserError, match="of one class, cat"):
        pair(root, root / "test")


def test_classes_without_images_and_classes_of_one_part_only(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", train=2, test=1)
    (root / "test" / "fox").mkdir()
    refused(root, r"The class folders fox of .*test have no images; fill or remove them")
    picture(1).save(root / "test" / "fox" / "0.png")
    refused(root, "Training and test images differ in their classes: fox is in one of them only")
    made = hub({"train": 2, "test": 1})
    made["train"] = made["train"].filter(lambda row: row["label"] != 1, keep_in_memory=True)
    made.save_to_disk(tmp_path / "hub")
    refused(tmp_path / "hub", "has no train images of dog; every class needs some")
    extra = tree(tmp_path / "extra", train=2, test=1, val=1)
    (extra / "val" / "fox").mkdir()
    picture(1).save(extra / "val" / "fox" / "0.png")
    refused(extra, "There are images of fox but no training images of that name")


def test_class_folders_of_one_name(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in ("church/indoor", "mosque/indoor", "beach"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            picture(1).save(tmp_path / "data" / part / name / "0.png")
    refused(tmp_path / "data", "two folders of one name, church/indoor and mosque/indoor")


def test_parquet_files_of_several_configurations(tmp_path: Path) -> None:
    for name in ("raw", "small"):
        (tmp_path / "data" / name).mkdir(parents=True)
        hub({"train": 1})["train"].to_parquet(tmp_path / "data" / name / "train-00000-of-00001.parquet")
    refused(tmp_path / "data", r"holds several configurations \(raw and small\)")


def test_check_classes_names_what_differs() -> None:
    def source(*classes: str) -> Any:
        return SimpleNamespace(classes=list(classes))

    check_classes(source("a", "b"), source("b", "a"))
    with pytest.raises(UserError, match=r"a, b, c, d, e, \.\.\. is in one of them only"):
        check_classes(source("x", *"abc"), source("x", *"defg"))


def test_a_part_is_opened_only_when_it_is_used(tmp_path: Path) -> None:
    """ImageNet's hub copy has a large test split without labels, which nobody should have to load."""
    parts = open_parts(str(tree(tmp_path / "data", train=1, test=1)))
    shutil.rmtree(tmp_path / "data" / "test")
    source = parts["train"]()
    assert len(source) == 3
