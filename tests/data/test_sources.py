"""Every kind of source, made on the fly; the same images give the same source in any container."""

from __future__ import annotations

import importlib
import io
import os
import pickle
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aloe.core.errors import UserError
from aloe.data.decode import UnreadableImage
from aloe.data.shards import ShardSource
from aloe.data.sources import ImageSource, open_images, open_source
from places import DATA

CLASSES = {"cat": 2, "dog": 3}


def png(value: int, size: tuple[int, int] = (6, 4)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, 2 * value, 5)).save(buffer, "PNG")
    return buffer.getvalue()


def files() -> dict[str, bytes]:
    """A labelled tree: image k of class c has the red value 10 c + k."""
    return {
        f"set/{name}/{k}.png": png(10 * c + k) for c, (name, count) in enumerate(CLASSES.items()) for k in range(count)
    }


def write_folder(root: Path, content: dict[str, bytes]) -> Path:
    for name, data in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_zip(path: Path, content: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, content: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def reds(source: ImageSource) -> list[int]:
    return [source.load(i).getpixel((0, 0))[0] for i in range(len(source))]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("ALOE_CACHE", str(folder))
    return folder


def made(tmp_path: Path, kind: str) -> Path:
    if kind == "folder":
        return write_folder(tmp_path / "images", files())
    if kind == "zip":
        return write_zip(tmp_path / "images.zip", files())
    mode = {"tar": "w", "tar.gz": "w:gz", "tar.xz": "w:xz", "tar.bz2": "w:bz2"}[kind]
    return write_tar(tmp_path / f"images.{kind}", files(), mode)


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz", "tar.xz", "tar.bz2"])
def test_every_container_gives_the_same_source(kind: str, tmp_path: Path) -> None:
    source = open_source(made(tmp_path, kind))
    assert not isinstance(source, ShardSource)
    assert [source.name(i) for i in range(len(source))] == sorted(files())
    assert reds(source) == [0, 1, 10, 11, 12]
    assert source.classes == ["cat", "dog"]
    np.testing.assert_array_equal(source.labels, [0, 0, 1, 1, 1])
    reference = open_images(write_folder(tmp_path / "elsewhere", files()))
    assert source.fingerprint() == reference.fingerprint()
    copy = pickle.loads(pickle.dumps(source))
    assert reds(copy) == reds(source)


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.xz"])
def test_a_part_of_a_container(kind: str, tmp_path: Path) -> None:
    path = made(tmp_path, kind)
    part = open_images(f"{path}::set/dog/")
    assert [part.name(i) for i in range(len(part))] == ["0.png", "1.png", "2.png"]
    assert reds(part) == [10, 11, 12]
    assert part.labels is None
    assert part.classes is None
    assert open_images(f"{path}::set").classes == ["cat", "dog"]
    one = open_images(f"{path}::set/dog/1.png")
    assert (len(one), one.name(0), reds(one)) == (1, "set/dog/1.png", [11])
    with pytest.raises(UserError, match=r"No images under 'set/do'.*in: set/cat, set/dog"):
        open_images(f"{path}::set/do")


def test_content_decides_about_an_archive_not_its_name(tmp_path: Path) -> None:
    assert len(open_images(write_zip(tmp_path / "blob", files()))) == 5
    assert len(open_images(write_tar(tmp_path / "other", files(), "w:gz"))) == 5


def test_hidden_and_other_files_are_ignored(tmp_path: Path) -> None:
    extra = {
        ".hidden.png": b"",
        ".git/a.png": b"",
        "notes.txt": b"",
        "__MACOSX/._b.png": b"",
        "C.JPEG": b"",
    }
    folder = open_images(write_folder(tmp_path / "d", {**files(), **extra}))
    archive = open_images(write_zip(tmp_path / "d.zip", {**files(), **extra}))
    for source in (folder, archive):
        assert [source.name(i) for i in range(len(source))] == ["C.JPEG", *sorted(files())]
        assert source.labels is None  # an image outside the class folders: not a labelled tree


def test_hidden_parents_of_the_root_do_not_matter(tmp_path: Path) -> None:
    assert len(open_images(write_folder(tmp_path / ".cache" / "x", files()))) == 5


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    real = write_folder(tmp_path / "real", files())
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(real)
    (real / "loop").symlink_to(root)
    source = open_images(root)
    assert [source.name(i) for i in range(len(source))] == [f"link/{n}" for n in sorted(files())]


def test_single_file_list_and_glob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_folder(tmp_path / "images", files())
    one = open_images(root / "set/dog/1.png")
    assert (len(one), one.name(0), reds(one), one.labels) == (1, "1.png", [11], None)
    pair = open_images([root / "set/dog/2.png", str(root / "set/cat/0.png")])
    assert reds(pair) == [0, 12]
    assert pair.classes == ["cat", "dog"]
    assert reds(open_images(f"{root}/*/*/1.png")) == [1, 11]
    assert reds(open_images(f"{root}/**/*.png")) == [0, 1, 10, 11, 12]
    mixed = [root / "set/cat", f"{root}/set/dog/[01].png", root / "set/cat/1.png"]
    assert reds(open_images(mixed)) == [0, 1, 10, 11]
    monkeypatch.chdir(root)
    assert reds(open_images("set/dog/*.png")) == [10, 11, 12]


def test_a_real_path_wins_over_the_inner_path_notation(tmp_path: Path) -> None:
    assert len(open_images(write_folder(tmp_path / "odd::name", files()))) == 5


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("missing", "does not exist"),
        ("empty", r"No images found in .*empty.*\.jpg, \.jpeg"),
        ("empty/*.png", "No images found in .*png"),
        ("notes.txt", "neither an image .* nor a readable zip or tar"),
        (["missing.png"], "does not exist"),
        (["notes.txt"], "is not an image"),
        ([], "No images found in the 0 given paths"),
        ("wds:missing.tar", "does not exist"),
        ("scenes:none", "not of the form scenes:"),
        ("scenes:0", "not of the form scenes:"),
        ("hf:", "not of the form hf:"),
        ("hf:./missing/folder", "could not be opened"),
    ],
)
def test_what_cannot_be_opened_is_told_plainly(
    spec: str | list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=message) as caught:
        open_source(spec)
    assert "\n" not in str(caught.value)


def test_shards_are_no_random_access_source() -> None:
    with pytest.raises(UserError, match="stream of shards"):
        open_images("wds:a.tar")


@pytest.mark.parametrize("name", ["../x.png", "/etc/x.png", "a/../../x.png", "..\\x.png", "C:/x.png"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_members_outside_the_archive_are_refused(kind: str, name: str, tmp_path: Path) -> None:
    write = write_zip if kind == "zip" else write_tar
    path = write(tmp_path / f"bad.{kind}", {**files(), name: png(1)})
    with pytest.raises(UserError, match=r"refused: its member .* outside the archive"):
        open_images(path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(kind: bytes, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "bad.tar", files())
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo("x.png")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(UserError, match=r"'x.png' is a link or a device"):
        open_images(path)


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "bad.zip", files())
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("x.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="a link or a device"):
        open_images(path)


def test_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"x.png": png(1)})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="encrypted"):
        open_images(path)


def test_leading_dot_folders_and_repeated_members_of_a_tar(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"./a/x.png": png(1), "b.png": png(2)})
    write_tar(path, {"b.png": png(3)}, "a")
    source = open_images(path)
    assert [source.name(i) for i in range(2)] == ["a/x.png", "b.png"]
    assert reds(source) == [1, 3]


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz", "tar.bz2"])
def test_truncated_archives_are_refused_and_leave_nothing(kind: str, tmp_path: Path, cache: Path) -> None:
    path = made(tmp_path, kind)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3])
    with pytest.raises(UserError):
        open_images(path)
    assert not cache.exists() or not list(cache.iterdir())


def test_damaged_zip_member_is_an_unreadable_image(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"x.png": png(1), "y.png": png(2)}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 255
    path.write_bytes(data)
    source = open_images(path)
    with pytest.raises(UnreadableImage, match=r"x.png: Bad CRC"):
        source.load(0)
    assert source.load(1).size == (6, 4)


def test_file_that_vanished_is_an_unreadable_image(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", files())
    source = open_images(root)
    (root / source.name(0)).unlink()
    with pytest.raises(UnreadableImage, match=r"set/cat/0.png: No such file"):
        source.load(0)


def test_compressed_tar_is_decompressed_once_per_version(tmp_path: Path, cache: Path) -> None:
    path = made(tmp_path, "tar.xz")
    open_images(path)
    (first,) = cache.iterdir()
    before = first.stat().st_mtime_ns
    open_images(path)
    assert [entry.stat().st_mtime_ns for entry in cache.iterdir()] == [before]
    write_tar(path, {"x.png": png(7)}, "w:xz")
    os.utime(path, ns=(1, 1))
    assert reds(open_images(path)) == [7]
    assert len(list(cache.iterdir())) == 2


def test_cache_that_cannot_be_written_is_told_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("ALOE_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="ALOE_CACHE"):
        open_images(made(tmp_path, "tar.gz"))


def test_fingerprint_follows_names_and_sizes(tmp_path: Path) -> None:
    content = files()
    prints = [open_images(write_folder(tmp_path / "a", content)).fingerprint()]
    renamed = {name.replace("cat", "cow"): data for name, data in content.items()}
    prints.append(open_images(write_folder(tmp_path / "b", renamed)).fingerprint())
    larger = {**content, "set/cat/0.png": png(0, (60, 60))}
    prints.append(open_images(write_folder(tmp_path / "c", larger)).fingerprint())
    assert len(set(prints)) == 3


def test_scenes() -> None:
    scenes = importlib.import_module("aloe.data.scenes")
    source = open_images("scenes:3@1@32")
    assert len(source) == 3
    assert source.load(2).size == (32, 32)
    np.testing.assert_array_equal(np.asarray(source.load(2)), scenes.SceneDataset(3, seed=1, resolution=32)[2].image)
    assert source.classes == list(scenes.CLASSES)
    assert source.labels.shape == (3,)
    assert source.fingerprint() == open_images("scenes:3@1@32").fingerprint()
    assert source.fingerprint() != open_images("scenes:3@2@32").fingerprint()
    assert source.state() == open_images("scenes:3@1@32").state() != open_images("scenes:3@2@32").state()


@pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data beside this checkout")
def test_real_tar() -> None:
    source = open_images(DATA / "imagenet-sample-images.tar")
    assert len(source) == 1000
    assert source.labels is None
    assert min(source.load(0).size) == 256
    assert source.name(0) == "imagenet-sample-images/n01440764_tench.JPEG"


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data beside this checkout")
def test_real_compressed_tar() -> None:
    source = open_images(f"{DATA / 'cifar10.tar.xz'}::cifar10/test")
    assert len(source) == 5000
    assert len(source.classes) == 10
    np.testing.assert_array_equal(np.bincount(source.labels), [500] * 10)
    assert source.load(17).size == (32, 32)
