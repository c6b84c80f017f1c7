"""What is asked of labelled images, and class names that come in another order."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
from classes import write_classes

from aloe.core.errors import UserError
from aloe.data.sources import open_images
from aloe.train.finetune.labels import check_readable_classes, labels_fingerprint, open_labelled, validation_for
from pictures import picture, write_pictures


def save(folder, labels, names) -> str:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    rows = {"image": [picture(i) for i in range(len(labels))], "label": labels}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(folder))
    return f"hf:{folder}"


def test_labels_of_class_folders_and_of_data_sets(tmp_path):
    source = open_labelled(write_classes(tmp_path / "train", 2))
    assert source.classes == ["blue", "green", "red"]
    assert source.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert open_labelled(save(tmp_path / "hub", [1, 0, 1], ["a", "b"])).labels.tolist() == [1, 0, 1]
    assert len(open_labelled("scenes:30@0@16").classes) == 10


@pytest.mark.parametrize(
    ("labels", "names", "words"),
    [
        ([0, -1, 1, -1], ["a", "b"], "2 of the 4 training images .* have no label"),
        ([0, 0], ["a"], "are of one class, a; at least two are needed"),
        ([1, 1], ["a", "b"], "no training images of a;"),
        ([0, 1], ["a", "b", "c"], "no training images of c;"),
    ],
)
def test_data_sets_that_do_not_do(tmp_path, labels, names, words):
    with pytest.raises(UserError, match=words):
        open_labelled(save(tmp_path / "hub", labels, names))


def test_images_without_labels_and_of_one_class(tmp_path):
    flat = write_pictures(tmp_path / "flat", 3)
    one = write_classes(tmp_path / "one", 3, ["red"])
    for images in (flat, [str(p) for p in sorted(flat.iterdir())]):
        with pytest.raises(UserError, match="no labels"):
            open_labelled(images)
    with pytest.raises(UserError, match="are of one class, red; at least two are needed"):
        open_labelled(one)


def test_shards_are_refused():
    with pytest.raises(UserError, match="stream of shards"):
        open_labelled("wds:part-000.tar")


def test_a_class_folder_without_images(tmp_path):
    root = write_classes(tmp_path / "root" / "train", 2)
    (root / "violet").mkdir()
    (root / ".cache").mkdir()
    for images in (root, str(root), f"{tmp_path}/root::train"):
        with pytest.raises(UserError, match="no training images of class violet;"):
            open_labelled(images)
    (root / "violet").rmdir()
    assert len(open_labelled(root)) == 6


def test_a_class_in_two_places_is_refused_lest_test_images_be_learned(tmp_path):
    for part in ("test", "train"):
        write_classes(tmp_path / part, 1)
    with pytest.raises(UserError, match="two folders of one class, test/blue and train/blue"):
        open_labelled(tmp_path)
    assert len(open_labelled(f"{tmp_path}::train")) == 3


def test_a_class_whose_images_are_all_unreadable(tmp_path):
    root = write_classes(tmp_path, 3)
    for i in range(2):
        (root / "green" / f"{i:02}.png").write_bytes(b"nothing")
    check_readable_classes(open_images(root))
    (root / "green" / "02.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match="No training image of class green is readable"):
        check_readable_classes(open_images(root))


def test_validation_images_get_the_training_indices(tmp_path):
    test = write_classes(tmp_path / "test", 2, ["green", "red"])
    train = open_labelled(write_classes(tmp_path / "train", 1))
    source = validation_for(test, train)
    assert source.classes == ["blue", "green", "red"]
    assert source.labels.tolist() == [1, 1, 2, 2]
    assert np.asarray(source.load(3)).mean((0, 1)).argmax() == 0
    assert source.name(3) == "red/01.png"
    assert validation_for(test, open_labelled(test)).labels.tolist() == [0, 0, 1, 1]


def test_validation_images_of_a_class_that_is_not_learned(tmp_path):
    test = write_classes(tmp_path / "test", 1)
    train = open_labelled(write_classes(tmp_path / "train", 1, ["blue", "red"]))
    with pytest.raises(UserError, match="images of green but no training images of that name"):
        validation_for(test, train)
    with pytest.raises(UserError, match=r"validation images .* no labels"):
        validation_for(write_pictures(tmp_path / "flat", 2), train)


def test_the_fingerprint_follows_labels_and_names(tmp_path):
    specs = [([0, 1], ["a", "b"]), ([0, 1], ["a", "b"]), ([1, 0], ["a", "b"]), ([0, 1], ["a", "c"])]
    found = [labels_fingerprint(open_images(save(tmp_path / str(i), *spec))) for i, spec in enumerate(specs)]
    assert found[0] == found[1]
    assert len(set(found)) == 3
