"""Who owns a run's folder, and what is held out."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from aloe.core.errors import UserError
from aloe.data.sources import open_images
from aloe.models.geometry import check_side
from aloe.train.align.settings import AlignSettings
from aloe.train.runs import LOCK_NAME, claim, hold_out, record
from pictures import write_pictures


class Numbers:
    """`count` images that are never loaded."""

    classes = labels = None

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count


def held(parts) -> tuple[list[int], list[int]]:
    return tuple([] if part is None else part.indices.tolist() for part in parts)


def test_a_tenth_at_most_is_held_out_at_random():
    train, test = held(hold_out(Numbers(50), 256, seed=3))
    assert len(test) == 5
    assert sorted(train + test) == list(range(50))
    assert test == sorted(np.random.default_rng(3).permutation(50)[:5].tolist())
    assert held(hold_out(Numbers(50), 2, seed=3))[1] == sorted(np.random.default_rng(3).permutation(50)[:2].tolist())
    assert held(hold_out(Numbers(50), 5, seed=4))[1] != test


@pytest.mark.parametrize(("images", "wanted"), [(9, 256), (50, 0)])
def test_nothing_is_held_out_of_few_images_or_on_request(images, wanted):
    source = Numbers(images)
    assert hold_out(source, wanted, seed=0) == (source, None)


@pytest.mark.parametrize("wanted", [1, 7, 20, 33, 50])
def test_every_class_gives_its_share(wanted):
    sizes = [300, 100, 60, 40]
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), sizes))
    train, test = held(hold_out(Numbers(500), wanted, seed=1, labels=labels))
    assert sorted(train + test) == list(range(500))
    assert len(test) == wanted
    for given, size in zip(np.bincount(labels[test], minlength=4), sizes, strict=True):
        assert abs(given - wanted * size / 500) <= 1


def test_no_class_is_held_out_whole():
    labels = np.array([0] * 30 + [1, 2, 3])
    for seed in range(20):
        train, test = held(hold_out(Numbers(33), 3, seed=seed, labels=labels))
        assert set(labels[train]) == {0, 1, 2, 3}
        assert len(test) == 3
    source = Numbers(30)
    assert hold_out(source, 3, seed=0, labels=np.arange(30)) == (source, None)


def test_the_held_out_sample_is_seeded_also_by_class():
    labels = np.arange(200) % 4
    draws = [held(hold_out(Numbers(200), 20, seed=s, labels=labels))[1] for s in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def claimed(home, found) -> str:
    with claim(home, found) as state:
        return state


def test_claims(tmp_path):
    source = open_images(write_pictures(tmp_path / "images", 2))
    settings = AlignSettings()
    first = record(settings, source, 1, resolution=32)
    home = tmp_path / "run"
    assert claimed(home, first) == "new"
    assert json.loads((home / "run.json").read_text()) == first
    assert claimed(home, record(settings, source, 1, resolution=32)) == "resume"
    assert claimed(home, {**first, "versions": {}}) == "resume"
    (home / "log.jsonl").touch()
    assert claimed(home, record(settings, source, 1, resolution=64)) == "new", "nothing was trained yet"
    assert claimed(home, first) == "new"
    (home / "log.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(UserError, match="resolution was 32, now 64"):
        claimed(home, record(settings, source, 1, resolution=64))
    with pytest.raises(UserError, match="processes was 1, now 2"):
        claimed(home, record(settings, source, 2, resolution=32))
    (home / "model.safetensors").touch()
    assert claimed(home, first) == "finished"
    assert sorted(path.name for path in home.iterdir()) == ["log.jsonl", "model.safetensors", "run.json"]


def test_one_process_at_a_time_works_in_a_folder(tmp_path, monkeypatch):
    source = open_images(write_pictures(tmp_path / "images", 2))
    first = record(AlignSettings(), source, 1, resolution=32)
    other = record(AlignSettings(), source, 1, resolution=64)
    home = tmp_path / "run"
    with claim(home, first):
        for found in (first, other):
            with pytest.raises(UserError, match="Another process works in"):
                claimed(home, found)
        assert json.loads((home / "run.json").read_text()) == first, "who waits changes nothing"
        monkeypatch.setenv("RANK", "1")
        assert claimed(home, first) == "resume", "the ranks of one run share its folder"
        monkeypatch.delenv("RANK")
    assert claimed(home, first) == "resume"


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch, there):
    home = tmp_path / "run"
    if there:
        home.mkdir()
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(UserError, match="run cannot be written: Permission denied"):
        claimed(home, {"steps": 1})
    assert home.exists() == there


def test_a_lock_goes_with_the_process_that_was_killed(tmp_path):
    source = open_images(write_pictures(tmp_path / "images", 2))
    first, home = record(AlignSettings(), source, 1, resolution=32), tmp_path / "run"
    home.mkdir()
    lock = f"lock = filelock.FileLock({str(home / LOCK_NAME)!r})"
    code = f"import filelock, os; {lock}; lock.acquire(); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert (home / LOCK_NAME).exists()
    assert claimed(home, first) == "new"


def test_a_fact_replaces_the_setting_of_its_name(tmp_path):
    source = open_images(write_pictures(tmp_path / "images", 2))
    found = record(AlignSettings(stem="patch"), source, 1, stem="conv", resolution=16)
    assert (found["stem"], found["resolution"], found["b"]) == ("conv", 16, 2.0)
    assert "workers" not in found


@pytest.mark.parametrize(("resolution", "better"), [(33, 32), (3, 8), (21, 24)])
def test_a_resolution_is_a_whole_number_of_patches(resolution, better):
    check_side(better, 8)
    with pytest.raises(UserError, match=f"Resolution {resolution} is not .* {better} is"):
        check_side(resolution, 8)


def test_more_steps_on_a_finished_run_name_the_way_on(tmp_path):
    record = {"seed": 0, "steps": 10, "versions": {}}
    with claim(tmp_path / "run", record) as state:
        assert state == "new"
    (tmp_path / "run" / "model.safetensors").touch()
    for more in ({"steps": 20}, {"steps": 20, "seed": 1}):
        with pytest.raises(UserError) as said, claim(tmp_path / "run", record | more):
            pass
        assert ("--student" in str(said.value)) == (more == {"steps": 20})
