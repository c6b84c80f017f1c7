"""Hugging Face datasets made on the fly, read offline."""

from __future__ import annotations

import io
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aloe.core.errors import UserError
from aloe.data.decode import UnreadableImage
from aloe.data.hub import HubImages
from aloe.data.sources import ImageSource, open_images, open_source


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def reds(source: ImageSource) -> list[int]:
    return [source.load(i).getpixel((0, 0))[0] for i in range(len(source))]


def hub_dataset(labelled: bool = True) -> object:
    datasets = pytest.importorskip("datasets")
    columns = {"id": [0, 1, 2], "photo": [{"bytes": png(k), "path": None} for k in (3, 4, 5)]}
    features = {"id": datasets.Value("int64"), "photo": datasets.Image()}
    if labelled:
        columns["kind"] = [1, 0, 1]
        features["kind"] = datasets.ClassLabel(names=["a", "b"])
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("form", ["disk", "parquet"])
def test_local_datasets(form: str, labelled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, path = hub_dataset(labelled), tmp_path / "data"
    if form == "disk":
        dataset.save_to_disk(path)
    else:
        datasets = pytest.importorskip("datasets")
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
        path = tmp_path / "data.parquet"
        dataset.to_parquet(path)
    source = open_images(f"hf:{path}#photo")
    assert reds(source) == [3, 4, 5]
    assert source.name(2) == "row 2"
    assert source.classes == (["a", "b"] if labelled else None)
    if labelled:
        np.testing.assert_array_equal(source.labels, [1, 0, 1])
    copy = pickle.loads(pickle.dumps(source))
    assert reds(copy) == [3, 4, 5]
    assert copy.fingerprint() == source.fingerprint() == open_images(f"hf:{path}").fingerprint()
    with pytest.raises(UserError, match="no image column id; its columns are id, photo"):
        open_images(f"hf:{path}#id")


def test_dataset_splits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    part = hub_dataset()
    datasets.DatasetDict({"dev": part, "test": part.select([1])}).save_to_disk(tmp_path / "d")
    assert reds(open_images(f"hf:{tmp_path}/d@test#photo")) == [4]
    with pytest.raises(UserError, match="has no split 'train'; it has dev, test"):
        open_images(f"hf:{tmp_path}/d@train")
    with pytest.raises(UserError, match="splits dev, test; add @SPLIT"):
        open_images(f"hf:{tmp_path}/d")
    datasets.DatasetDict({"only": part}).save_to_disk(tmp_path / "e")
    assert len(open_images(f"hf:{tmp_path}/e")) == 3


def test_dataset_row_without_an_image_is_unreadable(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"image": [{"bytes": png(1), "path": None}, None]}
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "d")
    source = open_images(f"hf:{tmp_path}/d")
    with pytest.raises(UnreadableImage, match="row 1"):
        source.load(1)


@pytest.mark.parametrize(
    ("kind", "values", "classes", "labels"),
    [
        ("string", ["dog", "cat", None], ["cat", "dog"], [1, 0, -1]),
        ("int32", [10, 9, 10], ["9", "10"], [1, 0, 1]),
        ("class", [1, None, -1], ["a", "b"], [1, -1, -1]),
        ("float32", [0.5, 1.0, 2.0], None, None),
    ],
)
def test_label_columns(kind: str, values: list, classes: list[str] | None, labels: list[int] | None) -> None:
    datasets = pytest.importorskip("datasets")
    feature = datasets.ClassLabel(names=["a", "b"]) if kind == "class" else datasets.Value(kind)
    rows = {"image": [{"bytes": png(k), "path": None} for k in range(3)], "label": values}
    dataset = datasets.Dataset.from_dict(
        rows, features=datasets.Features({"image": datasets.Image(), "label": feature})
    )
    source = HubImages(dataset)
    assert source.classes == classes
    assert (source.labels is None) == (labels is None)
    if labels is not None:
        assert source.labels.tolist() == labels
    else:
        with pytest.raises(UserError, match="Column label of dataset holds no labels"):
            HubImages(dataset, label="label")


def test_columns_in_the_spec(tmp_path: Path) -> None:
    dataset = hub_dataset().add_column("other", ["x", "y", "z"])
    dataset.save_to_disk(tmp_path / "d")
    assert open_images(f"hf:{tmp_path}/d#photo").classes == ["a", "b"]
    assert open_images(f"hf:{tmp_path}/d#photo,other").classes == ["x", "y", "z"]
    with pytest.raises(UserError, match="has no label column none; its columns are id, photo, kind, other"):
        open_images(f"hf:{tmp_path}/d#photo,none")
    with pytest.raises(UserError, match=r"Column photo of .* holds no labels"):
        open_images(f"hf:{tmp_path}/d#photo,photo")


def test_rows_that_are_paths_are_told_apart(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(png(7))

    def fingerprint(*names: str) -> str:
        rows = {"image": [{"bytes": None, "path": str(tmp_path / name)} for name in names]}
        dataset = datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image()}))
        return HubImages(dataset, "image").fingerprint()

    before = {fingerprint(*names) for names in ("ab", "ba", "aa", ("a", "gone"))}
    assert len(before) == 4
    assert fingerprint(*"ab") in before
    (tmp_path / "a").write_bytes(png(7) + b"more")
    assert fingerprint(*"ab") not in before


@pytest.mark.parametrize(("spec", "package"), [("hf:x", "datasets"), ("wds:x", "webdataset")])
def test_missing_packages_are_named(spec: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, "webdataset.shardlists", None)
    with pytest.raises(UserError, match=rf"needs the package {package}; pip install 'aloe-vit\[data\]'"):
        open_source(spec)


def test_of_several_image_columns_one_must_be_chosen(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    columns = {name: [{"bytes": png(k), "path": None}] for k, name in enumerate(("depth", "photo"))}
    made = datasets.Dataset.from_dict(columns, features=datasets.Features(dict.fromkeys(columns, datasets.Image())))
    made.save_to_disk(tmp_path / "data")
    with pytest.raises(UserError, match="has the image columns depth, photo; choose one by adding #depth"):
        open_images(f"hf:{tmp_path / 'data'}")
    assert reds(open_images(f"hf:{tmp_path / 'data'}#photo")) == [1]


def test_of_several_label_columns_the_first_is_used_and_told() -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"photo": [{"bytes": png(1), "path": None}] * 2, "coarse": [0, 1], "fine": [1, 0]}
    kinds = {name: datasets.ClassLabel(names=[f"{name}{k}" for k in range(2)]) for name in ("coarse", "fine")}
    made = datasets.Dataset.from_dict(rows, features=datasets.Features({"photo": datasets.Image(), **kinds}))
    source = HubImages(made, where="hf:x")
    assert source.classes == ["coarse0", "coarse1"]
    assert source.left_out == [
        "hf:x has the label columns coarse, fine; the first is used, #photo,fine after its name chooses"
    ]
    assert HubImages(made, None, "fine").left_out == []
