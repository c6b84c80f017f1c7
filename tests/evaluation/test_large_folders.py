"""Rows and features of large data are found in a copy of them, and those that were kept under inodes once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from aloe.core.errors import UserError
from aloe.data.sources import open_images
from aloe.data.states import earlier_states
from aloe.evaluation import features
from aloe.evaluation.dense import tasks
from aloe.evaluation.evaluate import evaluate_all
from aloe.evaluation.explained_cases import stored_grids
from aloe.metrics.grids import GridList
from captures import nyu_arrays, write_capture, write_labelled
from conftest import build_teacher
from pictures import write_pictures
from several import in_two_with_copies


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("aloe.data.states.HASHED_BYTES", 0)
    build_teacher("vit").model.save_pretrained(tmp_path / "vit")
    for part, offset in (("train", 0), ("test", 50)):
        for name in ("blue", "red"):
            write_pictures(tmp_path / "data" / part / name, 4, offset)
            offset += 10
    return tmp_path


def measured(home: Path) -> tuple[dict[str, Any], int]:
    """(the row, how often features were extracted)."""
    parts, original = [], features.extract_part

    def counted(*rest: Any, **more: Any) -> Any:
        parts.append(1)
        return original(*rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "extract_part", counted)
        where = (str(home / "data/train"), str(home / "data/test"))
        how: dict[str, Any] = {"device": "cpu", "cache": home / "cache", "progress": False, "k": 1}
        (row,) = evaluate_all([str(home / "vit")], ["knn"], [where], home / "out", **how)
    return row, len(parts)


def without_time(row: dict[str, Any]) -> dict[str, Any]:
    """`row` without the seconds, which each process measures for itself."""
    return {key: value for key, value in row.items() if key != "seconds"}


def test_a_copy_has_the_rows_and_features_of_the_original(home):
    row, parts = measured(home)
    assert parts == 2
    (home / "data").rename(home / "original")
    shutil.copytree(home / "original", home / "data")  # as on another machine: with times, of other inodes
    assert measured(home) == (row, 0)
    (home / "out" / "results.jsonl").unlink()
    again, parts = measured(home)
    assert (again["key"], parts) == (row["key"], 0)


def test_what_was_kept_under_inodes_is_found(home):
    with earlier_states():
        before, parts = measured(home)
    row, none = measured(home)
    assert (parts, none) == (2, 0)
    assert row["key"] != before["key"]
    other = ("key", "fingerprints", "seconds")
    assert {k: v for k, v in row.items() if k not in other} == {k: v for k, v in before.items() if k not in other}
    (home / "out" / "results.jsonl").unlink()
    assert measured(home)[1] == 0  # features as well
    assert len(list((home / "cache").iterdir())) == 2


def test_processes_with_copies_find_what_was_kept_under_the_first_ones_inodes(home):
    with earlier_states():
        before, _ = measured(home)
    kept = home / "out" / "results.jsonl"
    for _ in ("the row", "the features"):
        one, two = in_two_with_copies(lambda: measured(home))
        assert [without_time(one[0]), one[1]] == [without_time(two[0]), two[1]]
        row, extracted = one
        assert row["key"] != before["key"]
        assert (row["value"], extracted) == (before["value"], 0)
        assert len(list((home / "cache").iterdir())) == 2
        kept.unlink()  # so that the features are asked for


def frames(home: Path, kind: str) -> str:
    """Frames with depth: files of a folder, or one large file and its normals."""
    if kind == "rgbd":
        write_capture(home / "frames", range(6))
    else:
        savemat = pytest.importorskip("scipy.io", reason="scipy is not installed").savemat
        (home / "frames").mkdir()
        write_labelled(home / "frames", *nyu_arrays(3))
        savemat(home / "frames/splits.mat", {"trainNdxs": [[1, 2]], "testNdxs": [[3]]})
    return f"{kind}={home / 'frames'}"


def probed(home: Path, data: str, **patches: Any) -> dict[str, Any]:
    """The row of a probe; `patches` are of its module."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in patches.items():
            patch.setattr(tasks, name, value)
        how: dict[str, Any] = {"device": "cpu", "cache": home / "cache", "progress": False, "epochs": 1}
        (row,) = evaluate_all([str(home / "vit")], ["normals"], [data], home / "out", **how)
    return row


def made(home: Path) -> list[Path]:
    return sorted((home / "cache/dense").iterdir())


@pytest.mark.parametrize("kind", ["rgbd", "nyuv2"])
def test_a_copy_of_frames_has_the_rows_and_features_of_the_original(kind, home):
    data = frames(home, kind)
    row, features_made = probed(home, data), made(home)
    (home / "frames").rename(home / "original")
    shutil.copytree(home / "original", home / "frames")
    assert probed(home, data, fit_probe=None) == row
    (home / "out" / "results.jsonl").unlink()
    assert probed(home, data)["key"] == row["key"]
    assert made(home) == features_made


@pytest.mark.parametrize("kind", ["rgbd", "nyuv2"])
def test_what_was_kept_of_frames_under_inodes_is_found(kind, home):
    data = frames(home, kind)
    with earlier_states():
        before = probed(home, data)
    (picture,) = (home / "out/dense").glob("*.png")
    drawn = picture.read_bytes()
    picture.unlink()
    row = probed(home, data, fit_probe=None)
    assert row["key"] != before["key"]
    assert (row["value"], row["details"]) == (before["value"], before["details"])
    assert picture.read_bytes() == drawn
    assert probed(home, data, fit_probe=None) == row


@pytest.fixture
def earlier_grids(home: Path) -> Path:
    """A list of one grid of four classes that was chosen under inodes."""
    for name in ("white", "yellow"):
        write_pictures(home / "data/test" / name, 4, 90)
    with earlier_states():
        state = open_images(home / "data/test").state()[:16]
    grids = GridList(2, torch.tensor([[0, 4, 8, 12]]), torch.tensor([[0, 1, 2, 3]]), {}, "test", state)
    grids.save(home / "grids.json")
    return home / "grids.json"


def test_grids_that_were_chosen_under_inodes_are_read(home, earlier_grids):
    source = open_images(home / "data/test")
    assert source.state()[:16] != stored_grids(earlier_grids, source).state
    (home / "data/test/blue").rename(home / "data/test/green")
    with pytest.raises(UserError, match="were chosen from other images"):
        stored_grids(earlier_grids, open_images(home / "data/test"))


def test_processes_with_copies_read_grids_that_were_chosen_under_the_first_ones_inodes(home, earlier_grids):
    found = in_two_with_copies(lambda: stored_grids(earlier_grids, open_images(home / "data/test")).indices.tolist())
    assert found == [[[0, 4, 8, 12]]] * 2
