"""Two processes measure what one does: rows, features and their files, cold and warm, also where one has nothing to do."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from aloe.core import processes
from aloe.core.errors import UserError
from aloe.data.scenes import teacher_path
from aloe.data.states import earlier_states
from aloe.evaluation import explained_tasks, features
from aloe.evaluation.cache import PartFolder
from aloe.evaluation.evaluate import evaluate_all
from aloe.metrics.gridpg import grid_pointing
from aloe.models.convert import bcosify
from aloe.models.saving import save_student
from conftest import build_teacher
from pairs import write_pair
from pictures import picture
from several import in_two_with_copies, run_in

CLASSES = {"blue": (0, 0, 200), "green": (0, 200, 0), "red": (200, 0, 0), "white": (230, 230, 230)}
MADE_ANEW = ("seconds", "peak_bytes")  # of a row: what a clock or the allocator says


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Four classes, 7 test images; a teacher and its student with classifiers of them, and a pair with a text tower."""
    home = tmp_path_factory.mktemp("home")
    for part, count in (("train", 12), ("test", 7)):
        for i in range(count):
            name, colour = list(CLASSES.items())[i % 4]
            (home / part / name).mkdir(parents=True, exist_ok=True)
            noise = picture(i + 50 * (part == "test"), 32)
            Image.blend(noise, Image.new("RGB", noise.size, colour), 0.9).save(home / part / name / f"{i}.png")
    teacher = build_teacher("vit", zero_bias=True)
    teacher.model.save_pretrained(home / "teacher")
    save_student(bcosify(teacher, b=1.0), home / "student")
    write_pair(home / "pair", "siglip")
    data = [(str(home / "train"), str(home / "test"))]
    (row,) = evaluate_all(str(home / "student"), "linear", data, home / "fit", progress=False, epochs=20)
    (home / "fit" / row["details"]["probe"]).rename(home / "classified")
    return home


def recognition(home: Path, out: Path, cache: Path | None) -> list[dict[str, Any]]:
    """Rows of features that are cached, of parts so small that there is something to deal out."""
    features.PART_IMAGES = 3
    how: dict[str, Any] = {"cache": cache, "progress": False, "device": "cpu", "batch_size": 2}
    asked: dict[str, Any] = {"k": (3, 1), "epochs": 2, "reference": str(home / "teacher")}
    tasks = ["knn", "linear", "classifier", "cosine"]
    both, data = [str(home / "classified"), str(home / "teacher")], [(str(home / "train"), str(home / "test"))]
    return evaluate_all(both, "knn", data, out, k=(3, 1), **how) + evaluate_all(
        str(home / "classified"), tasks, [(str(home / "train"), str(home / "test"))], out, **asked, **how
    )


def rows_of(home: Path, out: Path, cache: Path | None) -> list[dict[str, Any]]:
    """A row of every task, the passes as small."""
    explained_tasks._IMAGES_PER_PASS = 2
    kwdefaults: Any = grid_pointing.__kwdefaults__
    kwdefaults["maps_per_pass"] = 4  # one grid
    rows = recognition(home, out, cache)
    how: dict[str, Any] = {"cache": cache, "progress": False, "device": "cpu"}
    test = [(None, str(home / "test"))]
    rows += evaluate_all(str(home / "pair"), "zeroshot", test, out, batch_size=2, **how)
    explained: dict[str, Any] = {"methods": ["inherent"], "images": 7, "share": 1.0, "grids": 3, "block": 8}
    rows += evaluate_all(str(home / "classified"), ["gridpg", "deletion", "clarity"], test, out, **explained, **how)
    scenes: dict[str, Any] = {"methods": ["inputxgrad"], "images": 7, "resolution": 64}
    rows += evaluate_all(str(teacher_path()), "inside", [(None, "scenes:9@5@64")], out, **scenes, **how)
    dense: dict[str, Any] = {"epochs": 1, "batch_size": 2, "num_corr": 10, "learning_rate": (1e-3, 1e-2), "repeats": 2}
    frames = ["rendered:7,3@1/32"]
    rows += evaluate_all(str(home / "teacher"), ["depth", "normals", "correspondence"], frames, out, **dense, **how)
    return rows


def measured(value: Any) -> Any:
    """A row without what differs from run to run."""
    if isinstance(value, dict):
        return {name: measured(each) for name, each in value.items() if name not in MADE_ANEW}
    return [measured(each) for each in value] if isinstance(value, list | tuple) else value


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def not_again(*_: Any, **__: Any) -> Any:
    raise AssertionError("what is kept was made again")


@pytest.fixture(scope="module")
def one(home: Path) -> list[dict[str, Any]]:
    """The rows of one process; its files are in `one` and `one-cache`."""
    return measured(run_in(1, lambda: rows_of(home, home / "one", home / "one-cache"))[0])


@pytest.fixture(scope="module")
def two(home: Path, one: Any) -> list[list[dict[str, Any]]]:
    return [measured(rows) for rows in run_in(2, lambda: rows_of(home, home / "two", home / "two-cache"))]


def test_every_task_of_two_processes_is_that_of_one(home, one, two):
    assert {row["task"] for row in one} >= {
        "knn",
        "linear",
        "zeroshot",
        "cosine",
        "gridpg",
        "inside",
        "depth",
        "normals",
    }
    assert two[0] == one  # to the last bit
    assert two[1] == one
    written = [json.loads(line) for line in (home / "two" / "results.jsonl").read_text().splitlines()]
    assert measured(written) == json.loads(json.dumps(list({row["key"]: row for row in one}.values())))
    assert not any("process" in key for row in written for key in row["settings"])


def test_the_files_of_two_processes_are_those_of_one(home, one, two):
    assert files(home / "two-cache") == files(home / "one-cache")
    found, expected = files(home / "two"), files(home / "one")
    assert list(found) == list(expected)
    assert {n: d for n, d in found.items() if n.endswith(".png")} == {
        n: d for n, d in expected.items() if n.endswith(".png")
    }


@pytest.mark.parametrize("count", [1, 3])
def test_features_that_two_wrote_are_read_by_any_number(home, one, two, count):
    def job() -> list[Any]:
        features.extract_part = not_again
        return recognition(home, home / f"by-{count}", home / "two-cache")

    assert [measured(rows) for rows in run_in(count, job)] == [one[:6]] * count


def test_without_a_cache_and_with_more_processes_than_images(home, tmp_path):
    for name in list(CLASSES)[:3]:
        for part in ("train", "test"):
            (tmp_path / part / name).mkdir(parents=True)
            picture(90 + len(name), 32).save(tmp_path / part / name / "a.png")

    def job() -> Any:
        how: dict[str, Any] = {"progress": False, "device": "cpu", "k": 1}
        data = [(str(tmp_path / "train"), str(tmp_path / "test"))]
        return evaluate_all(str(home / "classified"), ["knn", "classifier"], data, tmp_path / out, **how)

    out = "one"
    expected = measured(run_in(1, job)[0])
    out = "four"
    assert [measured(rows) for rows in run_in(4, job)] == [expected] * 4


def test_a_process_that_was_killed_half_way(home, one, two, tmp_path):
    """What it and the others had written is used; the row is that of one process."""
    cache = tmp_path / "cache"

    def again() -> list[Any]:
        return recognition(home, tmp_path / "out", cache)

    def killed() -> Any:
        write, made = PartFolder.write, []

        def dies(self: PartFolder, *rest: Any) -> None:
            write(self, *rest)
            made.append(rest[0])
            if processes.rank() == 1 and len(made) == 2:
                os.kill(os.getpid(), signal.SIGKILL)

        PartFolder.write = dies  # type: ignore[method-assign]
        return again()

    with pytest.raises(RuntimeError, match=r"closed by peer|reset by peer|-9"):
        run_in(2, killed)
    kept = {path: path.stat().st_mtime_ns for path in cache.rglob("part-*.safetensors")}
    assert len(kept) > 1
    assert not (tmp_path / "out" / "results.jsonl").exists()
    assert [measured(rows) for rows in run_in(2, again)] == [one[:6]] * 2
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_processes_that_read_different_files(home, tmp_path):
    for rank in (0, 1):
        for name in ("blue", "red"):
            (tmp_path / f"test-{rank}" / name).mkdir(parents=True)
            picture(rank, 32).save(tmp_path / f"test-{rank}" / name / "a.png")

    def job() -> str:
        (tmp_path / f"here-{processes.rank()}").mkdir()
        os.chdir(tmp_path / f"here-{processes.rank()}")
        os.symlink(tmp_path / f"test-{processes.rank()}", "test")
        try:
            evaluate_all(str(home / "classified"), "gridpg", [(None, "test")], tmp_path / "out", progress=False)
        except UserError as error:
            return str(error)
        return ""

    words = run_in(2, job)
    assert words[0] == words[1]
    assert words[0].startswith("Process 1 reads another test (test) than process 0")
    assert not (tmp_path / "out").exists()


def test_grids_that_were_chosen_under_the_first_ones_inodes(home, tmp_path, monkeypatch):
    monkeypatch.setattr("aloe.data.states.HASHED_BYTES", 0)
    how: dict[str, Any] = {"methods": ["inherent"], "share": 1.0, "progress": False, "device": "cpu"}
    model = str(home / "classified")

    def row(out: str, part: str = "test", **more: Any) -> Any:
        return evaluate_all(model, "gridpg", [(None, str(home / part))], tmp_path / out, **how, **more)[0]

    with earlier_states():
        before = row("before", grids=3)
    (stored,) = (tmp_path / "before/grids").iterdir()
    for after in in_two_with_copies(lambda: row("after", grids_file=stored)):
        assert after["value"] == before["value"]
        assert after["settings"]["grids"] == before["settings"]["grids"]

    def refused() -> str:
        try:
            row("other", "train", grids_file=stored)
        except UserError as error:  # each process has a sentence of its own, and either may be first
            return str(error)
        return ""

    first, second = run_in(2, refused)
    assert "were chosen from other images" in first
    assert "do not fit their images" in second


def test_features_on_a_disk_that_is_not_shared_are_missed(home, tmp_path):
    def job() -> str:
        features.SEEN_WITHIN = 0.1
        how: dict[str, Any] = {"progress": False, "device": "cpu", "cache": tmp_path / f"cache-{processes.rank()}"}
        try:
            evaluate_all(str(home / "classified"), "classifier", [(None, str(home / "test"))], tmp_path / "out", **how)
        except UserError as error:
            return str(error)
        return ""

    assert "give a --cache folder that all machines share" in run_in(2, job)[1]
