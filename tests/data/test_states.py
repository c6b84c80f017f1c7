"""`ImageSource.state`: the same for the same images, and another after any change, whatever sizes and times say."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aloe.data import states
from aloe.data.frames.files import Files
from aloe.data.frames.named import open_frames
from aloe.data.hub import HubImages
from aloe.data.sources import FolderStore, open_images
from aloe.data.splits import open_parts
from aloe.data.states import FileState, earlier_states
from aloe.data.subset import MemoryImages, SubsetImages
from captures import write_capture, write_depth
from labelled import archive, picture, tree


@pytest.fixture(params=[True, False], ids=["read", "not read"])
def read_whole(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the sources are small enough that all their files are read."""
    monkeypatch.setenv("ALOE_CACHE", str(tmp_path / "cache"))
    if not request.param:
        monkeypatch.setattr("aloe.data.states.HASHED_BYTES", 0)
    return request.param


def png(red: int) -> bytes:
    buffer = io.BytesIO()
    picture(red).save(buffer, "PNG")
    return buffer.getvalue()


def state(spec: str | Path) -> str:
    return open_images(spec).state()


def test_pictures_of_this_file_are_of_one_size() -> None:
    assert len({len(png(red)) for red in range(1, 100)}) == 1


def test_folders(read_whole: bool, tmp_path: Path) -> None:
    root = tree(tmp_path / "a", **{"": 2})
    one, other = root / "cat/0.png", root / "cat/1.png"
    first = open_images(root)
    assert first.state() == first.state() == state(root) == pickle.loads(pickle.dumps(first)).state()
    seen = [first.state()]
    before = one.stat()
    while one.stat().st_ctime_ns == before.st_ctime_ns:  # the file system's clock ticks every few milliseconds
        one.write_bytes(png(7))
        os.utime(one, ns=(before.st_atime_ns, before.st_mtime_ns))
    seen.append(state(root))
    assert open_images(root).fingerprint() == first.fingerprint()
    one.rename(root / "swap")
    other.rename(one)
    (root / "swap").rename(other)
    seen.append(state(root))
    (root / "cat").rename(root / "cow")
    seen.append(state(root))
    (root / "cow/1.png").unlink()
    seen.append(state(root))
    assert len(set(seen)) == 5


@pytest.mark.parametrize("kind", ["zip", "", "xz"])
def test_archives(kind: str, read_whole: bool, tmp_path: Path) -> None:
    root = tree(tmp_path / "a", **{"": 2})
    path = archive(kind, root, tmp_path / "archive", "set/")
    before = state(f"{path}::set")
    assert before == state(f"{path}::set") != state(path)  # the names are others
    if read_whole:
        assert before == state(root)
    mtime = path.stat().st_mtime_ns
    (root / "cat/0.png").write_bytes(png(7))
    path.unlink()
    archive(kind, root, path, "set/")
    os.utime(path, ns=(mtime + 1, mtime + 1))
    assert before != state(f"{path}::set")


def test_moved_folders_keep_their_state(read_whole: bool, tmp_path: Path) -> None:
    before = state(tree(tmp_path / "a", **{"": 2}))
    (tmp_path / "a").rename(tmp_path / "b")
    assert state(tmp_path / "b") == before


def test_a_copy_of_many_files_has_their_state_and_a_touched_one_has_not(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("aloe.data.states.HASHED_BYTES", 0)
    monkeypatch.setattr("aloe.data.states.SAMPLED", 4)
    root = tree(tmp_path / "a", **{"": 3})
    before = state(root)
    shutil.copytree(root, tmp_path / "b")  # with times, as rsync -a
    assert state(tmp_path / "b") == before
    with earlier_states():
        assert state(tmp_path / "b") != state(root) != before
    last = sorted(root.rglob("*.png"))[-1]  # not read
    os.utime(last, (0, last.stat().st_mtime - 2))
    assert state(root) != before
    first = sorted((tmp_path / "b").rglob("*.png"))[0]
    time = first.stat().st_mtime
    first.write_bytes(png(7))
    os.utime(first, (time, time))
    assert state(tmp_path / "b") != before


@pytest.mark.parametrize("kind", ["", "xz"])
def test_a_copy_of_a_large_archive_has_its_state_wherever_it_is_decompressed(kind, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("aloe.data.states.HASHED_BYTES", 0)
    path = archive(kind, tree(tmp_path / "a", **{"": 2}), tmp_path / "archive", "set/")
    os.utime(path, (10**9, 10**9))  # long before it is decompressed
    copy = shutil.copy2(path, tmp_path / "copy")
    states = []
    for one, cache in ((path, "here"), (copy, "there")):
        monkeypatch.setenv("ALOE_CACHE", str(tmp_path / cache))
        states.append(state(one))
        for decompressed in (tmp_path / cache).glob("*.tar"):
            assert decompressed.stat().st_mtime == 10**9
    assert states[0] == states[1]
    os.utime(copy, (10**9 + 5, 10**9 + 5))
    assert state(copy) != states[0]


@pytest.mark.parametrize("kind", ["", "xz"])
def test_a_copy_of_large_frames_has_their_state(kind: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("ALOE_CACHE", str(tmp_path / "cache"))
    write_capture(tmp_path / "a")
    path = tmp_path / "a"
    if kind:
        path = Path(shutil.make_archive(str(path), "xztar", path))

    def of(path: Path) -> str:
        return open_frames(f"rgbd={path}").train.state()

    small = of(path)
    monkeypatch.setattr("aloe.data.states.HASHED_BYTES", 0)
    before = of(path)
    with earlier_states():
        assert of(path) not in (before, small)
    copy = tmp_path / "b"
    shutil.copytree(path, copy) if path.is_dir() else shutil.copy2(path, copy)
    assert of(copy) == before != small
    changed = copy / "frame-000008.depth.png" if path.is_dir() else copy
    time = changed.stat().st_mtime
    os.utime(changed, (0, time - 2))
    assert of(copy) != before
    if path.is_dir():
        os.utime(changed, (0, time))
        assert of(copy) == before
        write_depth(changed, np.zeros((48, 48)))
        os.utime(changed, (0, time))
        assert of(copy) != before


def test_a_large_file_is_known_by_its_size_its_second_and_pieces(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "large.mat"
    data = bytearray(range(256)) * 4
    path.write_bytes(data)
    os.utime(path, (0, 10**9))

    def of(path: Path) -> str:
        return FileState(FolderStore(path.parent, [path.name]), [path.name], in_pieces=True).now

    seen = [of(path)]
    for name, value in (("HASHED_BYTES", 0), ("SAMPLED_BYTES", 100), ("SAMPLED", 3), ("PIECE", 8)):
        monkeypatch.setattr(f"aloe.data.states.{name}", value)
    seen.append(of(path))
    (tmp_path / "b").mkdir()
    assert of(Path(shutil.copy2(path, tmp_path / "b"))) == seen[-1]
    for at in (3, 511, -1):  # of the first, the middle and the last piece
        path.write_bytes(data[:at] + b"?" + data[at:][1:])
        os.utime(path, (0, 10**9))
        seen.append(of(path))
    path.write_bytes(data[:99] + b"?" + data[100:])
    os.utime(path, (0, 10**9))
    assert of(path) == seen[1]  # of none
    os.utime(path, (0, 10**9 + 1))
    seen.append(of(path))
    path.write_bytes(data + b"?")
    os.utime(path, (0, 10**9))
    seen.append(of(path))
    path.unlink()
    seen.append(of(path))
    assert len(set(seen)) == 8


def test_a_large_file_among_images_is_not_read(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("aloe.data.states.HASHED_BYTES", 0)
    monkeypatch.setattr("aloe.data.states.SAMPLED_BYTES", 2000)
    root = tree(tmp_path / "a", **{"": 2})
    (root / "cat/0.png").write_bytes(bytes(2001))
    files = sorted(root.rglob("*.png"))
    facts = [f"{f.relative_to(root).as_posix()}\0{f.stat().st_size} {int(f.stat().st_mtime)}" for f in files]
    read = [hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.stat().st_size < 2000]
    assert len(read) == len(files) - 1
    expected = hashlib.sha256("".join(f"{line}\n" for line in [*facts, *read]).encode()).hexdigest()
    assert state(root) == expected


def test_an_archive_of_large_frames_is_read_in_pieces_once(tmp_path: Path, monkeypatch) -> None:
    for name, value in (("HASHED_BYTES", 0), ("SAMPLED_BYTES", 0)):
        monkeypatch.setattr(f"aloe.data.states.{name}", value)
    asked: list[Path] = []
    original = states.pieces
    monkeypatch.setattr(states, "pieces", lambda path, files: asked.append(path) or original(path, files))
    path = archive("zip", tree(tmp_path / "a", **{"": 2}), tmp_path / "archive.zip", "")
    files = Files(path)
    assert len(files.names()) > 1
    before = files.state(files.names())
    assert asked == [path]
    asked.clear()
    assert state(path) != before
    assert not asked


def test_few_of_many_files_are_read(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("aloe.data.states.HASHED_BYTES", 0)
    read: list[str] = []
    original = FolderStore.read
    monkeypatch.setattr(FolderStore, "read", lambda self, name: read.append(name) or original(self, name))
    root = tree(tmp_path / "a", **{"": 10})
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    for most, size, expected in (
        (3, 1 << 20, names[::10]),
        (3, 2 * len(png(7)) + 1, names[:20:10]),
        (99, 1 << 20, names),
    ):
        monkeypatch.setattr("aloe.data.states.SAMPLED", most)
        monkeypatch.setattr("aloe.data.states.SAMPLED_BYTES", size)
        read.clear()
        state(root)
        assert read == expected


def test_files_that_cannot_be_read(read_whole: bool, tmp_path: Path) -> None:
    root = tree(tmp_path / "a", **{"": 2})
    (root / "cat/gone.png").symlink_to(tmp_path / "nowhere")
    before = state(root)
    (tmp_path / "nowhere").write_bytes(png(1))
    assert state(root) != before


def test_parts_and_images_in_memory(tmp_path: Path) -> None:
    root = tree(tmp_path / "a", **{"": 2})
    parts = [SubsetImages(open_images(root), np.array(rows)).state() for rows in ([0, 1], [1, 0], [0, 2], range(6))]
    assert SubsetImages(open_images(root), np.array([0, 1])).state() == parts[0]
    held = [("a", b"1"), ("b", b"2")]
    others = (held[::-1], [("a", b"1"), ("b", b"3")], [("a1", b"b2")])
    memory = [MemoryImages(images).state() for images in (held, *others)]
    assert MemoryImages(list(held)).state() == memory[0]
    assert len({state(root), *parts, *memory}) == 9
    (root / "eel/1.png").write_bytes(png(99))
    assert SubsetImages(open_images(root), np.array([0, 1])).state() != parts[0]


def test_datasets(read_whole: bool, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")

    def saved(reds: tuple[int, ...] = (3, 4), labels: tuple[int, ...] = (0, 1), names: str = "ab") -> str:
        rows = {"image": [{"bytes": png(red), "path": None} for red in reds], "label": labels}
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
        datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "d")
        return state(f"hf:{tmp_path / 'd'}")

    states = [
        saved(),
        saved(reds=(3, 5)),
        saved(reds=(4, 3)),
        saved(labels=(1, 0)),
        saved(names="ac"),
        saved(reds=(3, 4, 4), labels=(0, 1, 1)),
    ]
    assert len(set(states)) == 6
    here = open_images(f"hf:{tmp_path / 'd'}")
    assert states[-1] == here.state() == pickle.loads(pickle.dumps(here)).state()
    if read_whole:
        assert saved() == states[0]


@pytest.mark.parametrize("kind", ["parquet", "saved"])
def test_a_copy_of_a_large_dataset_has_its_state(kind: str, tmp_path: Path, monkeypatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("aloe.data.states.HASHED_BYTES", 0)
    rows = {"image": [{"bytes": png(red), "path": None} for red in range(1, 9)], "label": [0, 1] * 4}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    dataset = datasets.Dataset.from_dict(rows, features=features)
    (tmp_path / "a").mkdir()
    dataset.to_parquet(tmp_path / "a/train.parquet") if kind == "parquet" else dataset.save_to_disk(tmp_path / "a")
    before = state(f"hf:{tmp_path / 'a'}")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert (
        state(f"hf:{tmp_path / 'b'}")
        == open_parts(str(tmp_path / "b"))["train" if kind == "parquet" else ""]().state()
        == before
    )
    with earlier_states():
        assert state(f"hf:{tmp_path / 'b'}") != state(f"hf:{tmp_path / 'a'}") != before
    (file,) = (tmp_path / "b").glob("*.parquet" if kind == "parquet" else "*.arrow")
    os.utime(file, (0, file.stat().st_mtime - 2))
    assert state(f"hf:{tmp_path / 'b'}") != before


def test_datasets_whose_rows_point_to_files(read_whole: bool, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    rows = {"image": [{"bytes": None, "path": str(path)} for path in paths]}
    dataset = datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image()}))
    states = []
    for red in (1, 2):
        for path in paths:
            (tmp_path / "new").write_bytes(png(red))  # another inode
            (tmp_path / "new").replace(path)
        states.append(HubImages(dataset).state())
    paths[1].unlink()
    states.append(HubImages(dataset).state())
    assert len(set(states)) == 3


@pytest.fixture
def pointing(tmp_path: Path) -> HubImages:
    """Two rows that point to `tmp_path / "a.png"` and `"b.png"`."""
    datasets = pytest.importorskip("datasets")
    rows = {"image": [{"bytes": None, "path": str(tmp_path / name)} for name in ("a.png", "b.png")]}
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png(1))
    return HubImages(datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image()})))


def test_large_files_that_rows_point_to(read_whole: bool, pointing: HubImages, tmp_path: Path, monkeypatch) -> None:
    for name, value in (
        ("states.SAMPLED_BYTES", 40),
        ("states.SAMPLED", 4),
        ("states.PIECE", 8),
        ("decode.MAX_BYTES", 40),
    ):
        monkeypatch.setattr(f"aloe.data.{name}", value)
    data, seen = png(1), []
    assert len(data) > 40
    for at in (None, 0, -1, len(data) // 2):  # nothing changed, the first piece, the last, and neither
        (tmp_path / "a.png").write_bytes(data if at is None else data[:at] + b"?" + data[at:][1:])
        os.utime(tmp_path / "a.png", (0, 10**9))
        pointing.__dict__.pop("_states", None)
        seen.append(pointing.state())
    assert len(set(seen[:3])) == 3
    assert seen[3] not in seen[1:3]
    assert (seen[3] == seen[0]) is not read_whole
    assert pointing.content(1) == hashlib.sha256(data).hexdigest()


def test_files_that_rows_point_to_and_that_cannot_be_opened(
    read_whole: bool, pointing: HubImages, tmp_path: Path, monkeypatch
) -> None:
    opened = os.open

    def refused(path: Any, *rest: Any, **more: Any) -> int:
        if str(path).endswith("a.png"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *rest, **more)

    for size in (1 << 28, 40):
        monkeypatch.setattr("aloe.data.states.SAMPLED_BYTES", size)
        found = []
        for call in (opened, refused):
            pointing.__dict__.pop("_states", None)
            monkeypatch.setattr(os, "open", call)
            found.append(pointing.state())
        assert found[0] != found[1]
        assert pointing.content(0) is None
        monkeypatch.setattr(os, "open", opened)
        assert pointing.content(0) == pointing.content(1)
