"""Folders as people have them: dead links, names that are no text, closed sub-folders, formats that are not read."""

from __future__ import annotations

import json
import os
import sys
import types

import pytest
from PIL import Image

from aloe.core.errors import UserError
from aloe.data import decode
from aloe.data.decode import UnreadableImage, decode_image
from aloe.data.draws import check_source
from aloe.data.sources import left_out, open_images, parts_taken
from aloe.data.splits import labelled
from aloe.train.align.run import align
from aloe.train.finetune.run import finetune
from conftest import build_teacher
from pictures import picture, write_pictures

TINY = {"batch_size": 4, "workers": 0, "log_every": 1, "holdout": 0, "device": "cpu", "progress": False, "steps": 2}
NOT_TEXT = os.fsdecode(b"caf\xe9")


def test_a_dead_link_among_good_images_is_one_unreadable_image(tmp_path):
    images = write_pictures(tmp_path / "images", 40)
    (images / "zz.png").symlink_to(tmp_path / "nowhere.png")
    align(build_teacher("vit"), images, tmp_path / "run", **TINY, resolution=32, seed=3)
    assert check_source(open_images(images)) == ["zz.png: No such file or directory"]
    assert open_images(images).state()


@pytest.mark.parametrize("target", ["/dev/zero", "pipe", "folder", "self"])
def test_what_is_no_regular_file_is_never_opened(tmp_path, target):
    images = write_pictures(tmp_path / "images", 40)
    if target == "pipe":
        os.mkfifo(images / "zz.png")
    elif target == "folder":
        (tmp_path / "folder").mkdir()
        (images / "zz.png").symlink_to(tmp_path / "folder")
    else:
        (images / "zz.png").symlink_to(images / "zz.png" if target == "self" else target)
    source = open_images(images)
    assert source.fingerprint()
    assert source.state()
    unreadable = check_source(source)
    assert [line.partition(":")[0] for line in unreadable] == (["zz.png"] if target != "folder" else [])


def test_a_name_that_is_no_text_in_a_run_and_at_its_resume(tmp_path):
    images = write_pictures(tmp_path / "images", 20)
    (images / f"{NOT_TEXT}.jpg").write_bytes(b"broken")
    (images / "a\nb.jpg").write_bytes(b"broken")
    for steps in (12, 12):
        align(build_teacher("vit"), images, tmp_path / "run", **{**TINY, "steps": steps}, max_bad_fraction=0.2)
    lines = (tmp_path / "run" / "unreadable.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(line.partition(": ")[0] for line in lines) == ["a\\u000ab.jpg", "caf\\xe9.jpg"]


def test_a_class_folder_whose_name_is_no_text(tmp_path):
    for name in (NOT_TEXT, "tea"):
        write_pictures(tmp_path / "images" / name, 6)
    student = finetune(build_teacher("vit"), tmp_path / "images", tmp_path / "run", **TINY)
    assert sorted(student.config.label2id) == ["caf\\xe9", "tea"]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["label2id"] == student.config.label2id
    again = finetune(build_teacher("vit"), tmp_path / "images", tmp_path / "run", **TINY)
    assert again.config.id2label == student.config.id2label


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    images = write_pictures(tmp_path / "images", 4)
    write_pictures(images / "closed", 4, start=4)
    original = os.scandir

    def scandir(path="."):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    for spec in (images, [images]):
        source = open_images(spec)
        assert len(source) == 4
        assert left_out(source) == [f"{images}/closed: Permission denied (this folder is left out)"]
    align(build_teacher("vit"), images, tmp_path / "run", **TINY)
    assert "closed: Permission denied" in (tmp_path / "run" / "left_out.txt").read_text()
    with pytest.raises(UserError, match=r"No images found in .*closed: Permission denied"):
        open_images(images / "closed")


@pytest.mark.parametrize("name", ["x.heic", "x.HEIF", "x.avif", "x.jxl", "x.jp2", "x.cr2", "x.psd", "x.svg"])
def test_formats_that_are_not_read_are_counted_like_broken_images(tmp_path, name):
    images = write_pictures(tmp_path / "images", 40)
    (images / name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    (found,) = check_source(open_images(images))
    assert found.startswith(f"{name}: ")
    assert "to be read" in found


def test_a_raw_file_beside_its_photograph_is_left_out_and_named(tmp_path):
    images = write_pictures(tmp_path / "images", 4)
    for k in range(4):
        (images / f"{k:02}.CR2").write_bytes(b"raw")
    source = open_images(images)
    assert [source.name(i) for i in range(len(source))] == [f"{k:02}.png" for k in range(4)]
    assert left_out(source) == [
        "4 files of other formats beside an image of the same name: 00.CR2, 01.CR2, 02.CR2, ..."
    ]


@pytest.mark.parametrize(
    ("begins", "package"),
    [
        (b"\0\0\0\x18ftypheic", "pillow-heif"),
        (b"\0\0\0\x18ftypmif1", "pillow-heif"),
        (b"\0\0\0\x0cJXL ", "pillow-jxl-plugin"),
        (b"\xff\x0a", "pillow-jxl-plugin"),
    ],
)
def test_what_a_format_needs_is_said(begins, package, monkeypatch):
    for module in decode._PLUGINS:
        monkeypatch.setitem(sys.modules, module, None)
    decode._load_plugins.cache_clear()
    with pytest.raises(UnreadableImage, match=f"needs the package {package} to be read"):
        decode_image(begins + bytes(50), name="x")


def test_an_installed_plugin_reads_its_format(monkeypatch):
    """A plugin as pillow-heif is one: it registers a format with Pillow when it is asked to."""
    from PIL import PngImagePlugin

    class Heif(PngImagePlugin.PngImageFile):
        format = "HEIF"

        def _open(self):
            self.fp.read(20)  # the head of the file
            self._size, self._mode, self.tile = (3, 2), "RGB", []

        def load(self):
            self.im = Image.new("RGB", (3, 2), (7, 8, 9)).im

    def register():
        Image.register_open("HEIF", Heif, lambda head: head[4:8] == b"ftyp")

    plugin = types.ModuleType("pillow_heif")
    plugin.register_heif_opener = register
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    decode._load_plugins.cache_clear()
    try:
        image = decode_image(b"\0\0\0\x18ftypheic" + bytes(100))
    finally:
        Image.OPEN.pop("HEIF", None)
        Image.ID.remove("HEIF")
        decode._load_plugins.cache_clear()
    assert (image.size, image.getpixel((0, 0))) == ((3, 2), (7, 8, 9))


@pytest.mark.parametrize(
    "parts", [("train", "val", "test"), ("train", "test"), ("Training", "validation"), ("test", "dev")]
)
def test_parts_are_no_classes(tmp_path, parts, capsys):
    for k, part in enumerate(parts):
        write_pictures(tmp_path / "data" / part, 4, start=4 * k)
    source = open_images(tmp_path / "data")
    assert source.classes is None
    words = ", ".join(sorted(parts))
    with pytest.raises(UserError, match=f"has the parts {words} and no class folders in them"):
        labelled(source, "training", "data")
    with pytest.raises(UserError, match="has the parts"):
        finetune(build_teacher("vit"), tmp_path / "data", tmp_path / "fine", **TINY)
    assert parts_taken(source) == f"The images are of all the parts {words}; give one of these folders to use it alone."
    align(build_teacher("vit"), tmp_path / "data", tmp_path / "run", **{**TINY, "progress": True})
    assert f"of all the parts {words}" in " ".join(capsys.readouterr().err.split())
    assert parts_taken(open_images(tmp_path / "data" / parts[0])) == ""


def test_classes_beside_parts_stay_classes(tmp_path):
    for name in ("train", "bus"):
        write_pictures(tmp_path / "data" / name, 2)
    assert open_images(tmp_path / "data").classes == ["bus", "train"]


def test_forty_broken_images_of_a_thousand_do_not_stop_a_run(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    picture(0).save(images / "good.png")
    good = (images / "good.png").read_bytes()
    for k in range(999):
        (images / f"{k:04}.png").write_bytes(b"bad" if k % 25 == 3 else good)  # 40 of 1000
    align(build_teacher("vit"), images, tmp_path / "run", **TINY)


@pytest.mark.parametrize("name", ["a:b", "set[1]", "a#b", "a@b", "a{b}", "*", NOT_TEXT])
def test_folders_with_signs_in_their_names(tmp_path, name):
    folder = write_pictures(tmp_path / name, 2)
    for spec in (str(folder), [str(folder)], str(folder / "*.png") if name != "set[1]" else str(folder)):
        assert len(open_images(spec)) == 2


def test_a_path_with_signs_is_a_dataset_too(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = {"photo": [{"bytes": (write_pictures(tmp_path / "i", 1) / "00.png").read_bytes(), "path": None}]}
    made = datasets.Dataset.from_dict(rows, features=datasets.Features({"photo": datasets.Image()}))
    for name in ("set#1", "set@2"):
        made.save_to_disk(tmp_path / name)
        assert len(open_images(f"hf:{tmp_path / name}")) == 1
