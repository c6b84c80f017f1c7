"""The ten data sets in exactly the layouts of their authors: the official splits, and one line where a list is bad."""

from __future__ import annotations

import dataclasses
import io
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aloe.core.errors import UserError
from aloe.data.benchmarks import BENCHMARKS, open_benchmark
from aloe.data.official.layouts import LAYOUTS

savemat = pytest.importorskip("scipy.io").savemat
RED = {"a": 40, "b": 160}  # of the two classes of every copy


def jpeg(path: Path, kind: str, side: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side + 3, side), (RED[kind], 0, 0)).save(path, quality=95)


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def flowers102(root: Path) -> None:
    kinds = "abbaabba"
    for i, kind in enumerate(kinds, 1):
        jpeg(root / "jpg" / f"image_{i:05d}.jpg", kind, side=5)
    savemat(root / "imagelabels.mat", {"labels": [["ab".index(k) + 1 for k in kinds]]})
    savemat(root / "setid.mat", {"trnid": [[1, 2]], "valid": [[3, 4]], "tstid": [[8, 7, 6, 5]]})


def aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b" / "data"
    names = {"a": "707-320", "b": "F/A-18"}
    for part, numbers in {"train": "12", "val": "34", "test": "56"}.items():
        lines = [f"000{n} {names[kind]}" for n, kind in zip(numbers, "ab", strict=True)]
        text(data / f"images_variant_{part}.txt", *lines)
        for n, kind in zip(numbers, "ab", strict=True):
            jpeg(data / "images" / f"000{n}.jpg", kind)


def dtd(root: Path) -> None:
    for part, n in {"train": 1, "val": 2, "test": 3}.items():
        text(root / "dtd" / "labels" / f"{part}1.txt", *(f"{k}/{k}_{n}.jpg" for k in "ab"))
        text(root / "dtd" / "labels" / f"{part}2.txt", "a/other_split.jpg")
        for kind in "ab":
            jpeg(root / "dtd" / "images" / kind / f"{kind}_{n}.jpg", kind)


def cars(root: Path) -> None:
    (root / "devkit").mkdir(parents=True)
    classes = np.array(["AM General", "Acura RL"], dtype=object)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": classes})
    for part, name in {"train": "devkit/cars_train_annos", "test": "cars_test_annos_withlabels"}.items():
        rows = np.zeros(2, dtype=[("bbox_x1", object), ("class", object), ("fname", object)])
        for i, kind in enumerate("ab"):
            rows[i] = (1, i + 1, f"0000{i + 1}.jpg")
            jpeg(root / f"cars_{part}" / f"0000{i + 1}.jpg", kind)
        savemat(root / f"{name}.mat", {"annotations": rows})


def sun397(root: Path) -> None:
    places = {"a": "/a/abbey", "b": "/c/church/indoor"}
    for part, n in {"Training": 1, "Testing": 2}.items():
        text(root / f"{part}_01.txt", *(f"{place}/sun_{n}.jpg" for place in places.values()))
        for kind, place in places.items():
            jpeg(root / "SUN397" / place.strip("/") / f"sun_{n}.jpg", kind)


def food101(root: Path) -> None:
    for part, n in {"train": 1, "test": 2}.items():
        text(root / "food-101" / "meta" / f"{part}.txt", *(f"{k}_pie/{n}" for k in "ab"))
        for kind in "ab":
            jpeg(root / "food-101" / "images" / f"{kind}_pie" / f"{n}.jpg", kind)


def batches(root: Path, files: list[str], meta: dict[str, Any], meta_name: str, label: str) -> None:
    root.mkdir(parents=True)
    for n, file in enumerate(files):
        pixels = np.zeros((2, 3, 1024), dtype=np.uint8)
        pixels[:, 0] = np.array([[RED["b"]], [RED["a"]]]) + n
        names = [f"b_{n}.png", f"a_{n}.png"]
        whole = {"data": pixels.reshape(2, 3072), label: [1, 0], "filenames": names, "batch_label": "x"}
        (root / file).write_bytes(pickle.dumps(whole, protocol=2))
    (root / meta_name).write_bytes(pickle.dumps(meta, protocol=2))


def cifar10(root: Path) -> None:
    files = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    batches(root / "cifar-10-batches-py", files, {"label_names": ["airplane", "bird"]}, "batches.meta", "labels")


def cifar100(root: Path) -> None:
    meta = {"fine_label_names": ["apple", "bed"], "coarse_label_names": ["fruit"]}
    batches(root / "cifar-100-python", ["train", "test"], meta, "meta", "fine_labels")


def caltech101(root: Path) -> None:
    for folder, kind in {"ant": "a", "bass": "b", "BACKGROUND_Google": "a"}.items():
        for n in range(3):
            jpeg(root / "101_ObjectCategories" / folder / f"image_000{n}.jpg", kind, side=8 + n)


def imagenet(root: Path) -> None:
    data = root / "ILSVRC" / "Data" / "CLS-LOC"
    for kind, synset in SYNSETS.items():
        jpeg(data / "train" / synset / f"{synset}_1.JPEG", kind)
    for n, kind in enumerate("ba", 1):
        jpeg(data / "val" / f"ILSVRC2012_val_0000000{n}.JPEG", kind, side=8 + n)
    text(root / "LOC_val_solution.csv", "ImageId,PredictionString", *(
        f"ILSVRC2012_val_0000000{n},{SYNSETS[kind]} 85 1 499 272" for n, kind in ((2, "a"), (1, "b"))
    ))  # fmt: skip


SYNSETS = {"a": "n01440764", "b": "n01443537"}
COPIES = {
    f.__name__: f for f in (flowers102, aircraft, dtd, cars, sun397, food101, cifar10, cifar100, caltech101, imagenet)
}
SIZES = {
    "flowers102": {"train": 2, "validation": 2, "test": 4},
    "aircraft": {"train": 2, "validation": 2, "test": 2},
    "dtd": {"train": 2, "validation": 2, "test": 2},
    "cifar10": {"train": 10, "test": 2},
    "caltech101": {"train": 4, "test": 2},
}
CLASSES = {
    "flowers102": ["001", "002"],
    "aircraft": ["707-320", "F/A-18"],
    "cars": ["AM General", "Acura RL"],
    "sun397": ["abbey", "church_indoor"],
    "food101": ["a_pie", "b_pie"],
    "cifar10": ["airplane", "bird"],
    "cifar100": ["apple", "bed"],
    "caltech101": ["ant", "bass"],
    "imagenet": list(SYNSETS.values()),
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two classes of every data set; the side of the official images is not of interest."""
    for name in BENCHMARKS:
        sizes = SIZES.get(name, {"train": 2, "test": 2})
        changes = {"classes": 2, "sizes": sizes, "per_class": {}}
        sides = {"flowers102": 5, "cifar10": 32, "cifar100": 32}
        changes |= {"train_per_class": 2 if name == "caltech101" else None, "short_side": sides.get(name, 8)}
        monkeypatch.setitem(BENCHMARKS, name, dataclasses.replace(BENCHMARKS[name], **changes))


def packed(root: Path, target: Path, kind: str) -> Path:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    if kind == "zip":
        with zipfile.ZipFile(target, "w") as out:
            for file in files:
                out.write(file, file.relative_to(root).as_posix())
    else:
        with tarfile.open(target, "w:gz") as out:
            for file in files:
                out.add(file, file.relative_to(root).as_posix())
    return target


def refused(spec: str) -> str:
    with pytest.raises(UserError) as error:
        open_benchmark(spec)
    return str(error.value)


def test_every_registered_set_has_a_layout() -> None:
    assert set(LAYOUTS) == set(BENCHMARKS) == set(COPIES)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", ["folder", "folder above", "zip", "tgz"])
@pytest.mark.parametrize("name", COPIES)
def test_official_splits(name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALOE_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "data"
    COPIES[name](root / "set" if kind == "folder above" and name != "imagenet" else root)
    where = root if kind.startswith("folder") else packed(root, tmp_path / f"data.{kind}", kind)
    splits = open_benchmark(f"{name}={where}")
    assert splits.official, splits.notes
    assert splits.sizes == dict(BENCHMARKS[name].sizes)
    assert splits.classes == CLASSES.get(name, ["a", "b"])
    for source in filter(None, (splits.train, splits.validation, splits.test)):
        reds = np.array([np.asarray(source.load(i))[..., 0].mean() for i in range(len(source))])
        assert ((reds > 100) == (source.labels == 1)).all()
    assert splits.shared <= splits.sizes["test"]


@pytest.mark.usefixtures("small")
def test_caltech_as_its_zip_with_an_archive_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALOE_CACHE", str(tmp_path / "cache"))
    caltech101(tmp_path / "data")
    (tmp_path / "zipped" / "caltech-101").mkdir(parents=True)
    packed(tmp_path / "data", tmp_path / "zipped" / "caltech-101" / "101_ObjectCategories.tar.gz", "tgz")
    where = packed(tmp_path / "zipped", tmp_path / "caltech-101.zip", "zip")
    splits = open_benchmark(f"caltech101={where}")
    plain = open_benchmark(f"caltech101={tmp_path / 'data'}")
    assert splits.sizes == plain.sizes == {"train": 4, "test": 2}
    assert [splits.test.name(i) for i in range(2)] == [plain.test.name(i) for i in range(2)]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "list_file", ["imagenet_2012_validation_synset_labels.txt", "ILSVRC2012_validation_ground_truth.txt"]
)
def test_imagenets_other_lists(list_file: str, tmp_path: Path) -> None:
    imagenet(tmp_path)
    (tmp_path / "LOC_val_solution.csv").unlink()
    assert "needs one of the lists LOC_val_solution.csv" in refused(f"imagenet={tmp_path}")
    if list_file.startswith("imagenet"):
        text(tmp_path / list_file, SYNSETS["b"], SYNSETS["a"])
    else:
        rows = np.zeros(2, dtype=[("ILSVRC2012_ID", object), ("WNID", object)])
        rows[0], rows[1] = (7, SYNSETS["a"]), (3, SYNSETS["b"])
        kit = tmp_path / "ILSVRC2012_devkit_t12" / "data"
        text(kit / list_file, "3", "7")
        savemat(kit / "meta.mat", {"synsets": rows})
    splits = open_benchmark(f"imagenet={tmp_path}")
    assert splits.test.labels is not None
    assert splits.test.labels.tolist() == [1, 0]


BAD = {
    "flowers102": {"setid.mat": None, "jpg/image_00003.jpg": None, "imagelabels.mat": b"no matlab"},
    "aircraft": {
        "fgvc-aircraft-2013b/data/images_variant_val.txt": None,
        "fgvc-aircraft-2013b/data/images_variant_train.txt": b"0001\n",
        "fgvc-aircraft-2013b/data/images_variant_test.txt": b"\xff\xfe\n",
    },
    "dtd": {"dtd/labels/val1.txt": None, "dtd/labels/train1.txt": b"\n", "dtd/images/a/a_1.jpg": None},
    "cars": {"cars_test_annos_withlabels.mat": None, "devkit/cars_meta.mat": None, "cars_test/00002.jpg": None},
    "sun397": {"Testing_01.txt": None, "Training_01.txt": b"abbey.jpg\n"},
    "food101": {"food-101/meta/test.txt": None, "food-101/meta/train.txt": b"a_pie/1\na_pie/1\n"},
    "cifar10": {
        "cifar-10-batches-py/test_batch": None,
        "cifar-10-batches-py/data_batch_2": pickle.dumps({"data": 3, "labels": [1]}),
        "cifar-10-batches-py/batches.meta": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    },
    "cifar100": {"cifar-100-python/meta": None, "cifar-100-python/train": b"cut"},
    "imagenet": {"LOC_val_solution.csv": b"ImageId,PredictionString\nnothing\n"},
}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("name", "file"), [(name, file) for name, files in BAD.items() for file in files])
def test_a_bad_list_is_one_line(name: str, file: str, tmp_path: Path) -> None:
    COPIES[name](tmp_path)
    data = BAD[name][file]
    (tmp_path / file).unlink()
    if data is not None:
        (tmp_path / file).write_bytes(data)
    words = refused(f"{name}={tmp_path}")
    assert Path(file).name in words
    assert "\n" not in words
    assert "not there" in words or not file.endswith(".jpg")


def batch(**changed: Any) -> bytes:
    return pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1], "fine_labels": [0, 1], **changed}, 2)


def matlab(**fields: Any) -> bytes:
    file = io.BytesIO()
    savemat(file, fields)
    return file.getvalue()


def annotations(name: str, kind: Any) -> bytes:
    rows = np.zeros(1, dtype=[("class", object), ("fname", object)])
    rows[0] = (kind, name)
    return matlab(annotations=rows)


HOSTILE = [
    ("dtd", "dtd/labels/train1.txt", b"../../../x.jpg\n", "no file below its folder"),
    ("dtd", "dtd/labels/train1.txt", b"a/.hidden.jpg\n", "no file below its folder"),
    ("dtd", "dtd/labels/train1.txt", b"a/" + b"x" * 5000 + b".jpg\n", "no file below its folder"),
    ("dtd", "dtd/labels/train1.txt", b"a/x\0y.jpg\n", "no file below its folder"),
    ("aircraft", "fgvc-aircraft-2013b/data/images_variant_train.txt", b"/etc/abs 707\n", "no file below its folder"),
    ("aircraft", "fgvc-aircraft-2013b/data/images_variant_train.txt", b"../../abs 707\n", "no file below its folder"),
    ("cars", "devkit/cars_train_annos.mat", annotations("../../x.jpg", 1), "no file below its folder"),
    ("cars", "devkit/cars_train_annos.mat", annotations("00001.jpg", [1, 2]), "no list of whole numbers"),
    ("cars", "devkit/cars_train_annos.mat", annotations("00001.jpg", "one"), "no list of whole numbers"),
    ("flowers102", "setid.mat", matlab(trnid=[], valid=[[1]], tstid=[[2]]), "lists no train images"),
    ("flowers102", "imagelabels.mat", matlab(labels=[[np.inf] * 8]), "no list of whole numbers"),
    ("flowers102", "imagelabels.mat", matlab(labels=[[-3] * 8]), "no classes from 1"),
    ("cifar10", "cifar-10-batches-py/test_batch", batch(labels=[[0], [1, 2]]), "no list of whole numbers"),
    ("cifar10", "cifar-10-batches-py/test_batch", batch(filenames=5), "no list of names"),
    ("cifar10", "cifar-10-batches-py/test_batch", batch(labels=[0, 7]), "labels that do not fit"),
    ("cifar100", "cifar-100-python/test", batch(data=np.zeros((0, 3072), np.uint8), fine_labels=[]), "test in"),
    ("cifar10", "cifar-10-batches-py/batches.meta", pickle.dumps({"label_names": 5}, 2), "no list of names"),
    ("imagenet", "LOC_val_solution.csv", b"a,b\n" + b"x" * 200_000 + b",n1\n", "is not the official list"),
]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("name", "file", "data", "told"), HOSTILE)
def test_a_hostile_list_is_one_line(name: str, file: str, data: bytes, told: str, tmp_path: Path) -> None:
    COPIES[name](tmp_path)
    (tmp_path / file).write_bytes(data)
    words = refused(f"{name}={tmp_path}")
    assert told in words
    assert len(words) < 400
    assert "\n" not in words


def test_a_layout_without_its_name_is_named(tmp_path: Path) -> None:
    dtd(tmp_path / "x")
    assert f"give dtd={tmp_path / 'x'}" in refused(str(tmp_path / "x"))
    where = packed(tmp_path / "x", tmp_path / "dtd.zip", "zip")
    assert f"give dtd={where}" in refused(str(where))
    assert "is not one of the registered data sets" in refused(f"imagenette={tmp_path / 'x'}")
    assert f"leave out imagenette= to take {tmp_path / 'x'}" in refused(f"imagenette={tmp_path / 'x'}")


@pytest.mark.usefixtures("small")
def test_a_reduced_copy_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    food101(tmp_path)
    monkeypatch.setitem(BENCHMARKS, "food101", dataclasses.replace(BENCHMARKS["food101"], short_side=None))
    splits = open_benchmark(f"food101={tmp_path}")
    assert not splits.official
    assert "images of 8 pixels on the short side" in splits.notes[0]


def test_a_hidden_size_of_a_list_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aloe.data.official.tree.TEXT_BYTES", 10)
    dtd(tmp_path)
    assert "which no list has" in refused(f"dtd={tmp_path}")
