"""`aloe explain` goes on where it stopped, in any number of processes: pictures that are there are not made again."""

from __future__ import annotations

import copy
import json
import os
import signal
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

from aloe.attribution import files, made
from aloe.attribution.files import explain_files
from aloe.core import processes
from aloe.core.errors import UserError
from aloe.evaluation.alike.files import explain_like, explain_toward
from aloe.models.convert import bcosify
from conftest import build_teacher
from pictures import picture, write_pictures
from several import run_in

QUICK: dict[str, Any] = {"progress": False, "batch_size": 2}


@pytest.fixture(scope="module")
def student():
    return bcosify(build_teacher("vit-classifier"))


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Seven, and one that cannot be read."""
    folder = write_pictures(tmp_path_factory.mktemp("images"), 7)
    (folder / "02.jpg").write_bytes(b"broken")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(".part")}


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")}


def stop_after(monkeypatch, count: int) -> None:
    save, calls = made.save_png, iter(range(1000))

    def stopped(*rest: Any) -> None:
        if next(calls) == count:
            raise KeyboardInterrupt
        save(*rest)

    monkeypatch.setattr(made, "save_png", stopped)


def test_an_interrupted_command_goes_on(student, images, tmp_path, monkeypatch):
    whole = explain_files(student, images, tmp_path / "whole", **QUICK)
    assert (len(whole.rows), whole.kept, len(whole.unreadable)) == (7, 0, 1)
    with monkeypatch.context() as patched:
        stop_after(patched, 4)
        with pytest.raises(KeyboardInterrupt):
            explain_files(student, images, tmp_path / "out", **QUICK)
    before = times(tmp_path / "out")
    assert len(before) == 4
    explained: list[int] = []
    real = files.explain
    monkeypatch.setattr(files, "explain", lambda *a, **k: explained.append(len(a[1])) or real(*a, **k))
    done = explain_files(student, images, tmp_path / "out", **QUICK)
    assert explained == [
        2,
        2,
    ]  # of the first of these batches one picture was there: a batch is the same whoever makes it
    assert done.kept == 3
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert [{**row, "picture": Path(row["picture"]).name} for row in done.rows] == [
        {**row, "picture": Path(row["picture"]).name} for row in whole.rows
    ]
    after = times(tmp_path / "out")
    assert sum(after[name] == before.get(name) for name in after) == 3


def test_what_another_question_or_image_or_a_crash_left_is_made_anew(student, images, tmp_path):
    here = write_pictures(tmp_path / "images", 3)
    run = lambda **more: explain_files(student, here, tmp_path / "out", progress=False, batch_size=1, **more)  # noqa: E731
    assert (run().kept, run().kept) == (0, 3)
    assert run(target="2").kept == 0
    assert run(target="2").kept == 3
    assert run(target="2", resolution=64).kept == 0
    picture(50).save(here / "01.png")
    done = run(target="2", resolution=64)
    assert (done.kept, done.replaced) == (2, ["01_explained.png"])
    (tmp_path / "out" / "00_explained.png").write_bytes(b"half")
    picture(9).save(tmp_path / "out" / "02_explained.png")  # of another program
    before = json.loads((tmp_path / "out" / "explanations.json").read_text())
    assert run(target="2", resolution=64).kept == 1
    assert json.loads((tmp_path / "out" / "explanations.json").read_text()) == before


def test_several_processes_make_what_one_makes(student, images, tmp_path):
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(images, "images")

    def first() -> Any:
        return explain_files(student, images, tmp_path / f"by-{processes.count()}" / "plain", **QUICK)

    def job() -> Any:
        out = tmp_path / f"by-{processes.count()}"
        done: list[Any] = [
            first(),
            explain_files(student, tmp_path / "images.tar", out / "archive", target="1", **QUICK),
            explain_like(student, images, images, out / "like", pairs=3, **QUICK),
            explain_toward(student, images, images / "00.png", out / "toward", against=images / "01.png", **QUICK),
        ]
        return [(one.unreadable, len(one.rows), one.kept) for one in done]

    alone = run_in(1, job)[0]
    assert [count for _, count, _ in alone] == [7, 7, 7, 7]
    assert run_in(2, job) == [alone] * 2
    for name in ("plain", "archive", "like", "toward"):
        assert contents(tmp_path / "by-2" / name) == contents(tmp_path / "by-1" / name)
    assert [len(done.rows) for done in run_in(9, first)] == [7] * 9  # some have nothing to do
    assert contents(tmp_path / "by-9" / "plain") == contents(tmp_path / "by-1" / "plain")


def test_shards(student, images, tmp_path):
    pytest.importorskip("webdataset")
    for shard, numbers in enumerate(([0, 1, 2], [3, 4])):
        with tarfile.open(tmp_path / f"part-{shard}.tar", "w") as archive:
            for number in numbers:
                archive.add(images / f"{number:02}.png", f"{number:02}.png")

    def job() -> int:
        source = f"wds:{tmp_path}/part-{{0..1}}.tar"
        return len(explain_files(student, source, tmp_path / f"by-{processes.count()}", **QUICK).rows)

    assert run_in(1, job) + run_in(2, job) == [5, 5, 5]
    assert contents(tmp_path / "by-1") == contents(tmp_path / "by-2")


def test_a_process_that_was_killed_half_way(student, images, tmp_path):
    def job() -> int:
        return explain_files(student, images, tmp_path / "out", **QUICK).kept

    def killed() -> int:
        save, calls = made.save_png, iter(range(1000))

        def dies(*rest: Any) -> None:
            save(*rest)
            if processes.rank() == 1 and next(calls) == 2:
                os.kill(os.getpid(), signal.SIGKILL)

        made.save_png = dies
        return job()

    with pytest.raises(RuntimeError, match=r"closed by peer|reset by peer|-9"):
        run_in(2, killed)
    before = times(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "explanations.json").read_text())["explanations"] == []
    kept = run_in(3, job)
    assert kept[0] > 0
    after = times(tmp_path / "out")
    assert sum(after[name] == before.get(name) for name in after) == kept[0]
    explain_files(student, images, tmp_path / "whole", **QUICK)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_bf16_is_said_in_rows_and_makes_pictures_anew(student, images, tmp_path, monkeypatch):
    fast = False
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: fast, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast, raising=False)
    with pytest.raises(UserError, match="This cpu has no fast bf16 products"):
        explain_files(student, images, tmp_path, precision="bf16", **QUICK)
    with pytest.raises(UserError, match="no precision 'fp16' of explanations; precisions: float32, bf16"):
        explain_files(student, images, tmp_path, precision="fp16", **QUICK)
    fast = True
    plain = explain_files(student, images, tmp_path, **QUICK)
    low = explain_files(student, images, tmp_path, precision="bf16", **QUICK)
    assert (plain.kept, low.kept, explain_files(student, images, tmp_path, precision="bf16", **QUICK).kept) == (0, 0, 7)
    assert {row.get("precision") for row in plain.rows} == {None}
    assert {row.get("precision") for row in low.rows} == {"bf16"}
    logits = [torch.tensor([row["logit"] for row in done.rows]) for done in (plain, low)]
    torch.testing.assert_close(*logits, rtol=0.1, atol=0.05)
    assert torch.get_float32_matmul_precision() == "highest"


def test_another_configuration_of_the_same_weights_makes_its_own_pictures(student, images, tmp_path):
    here, again = write_pictures(tmp_path / "images", 2), copy.deepcopy(student)
    run = lambda model: explain_files(model, here, tmp_path / "out", progress=False, name="one").kept  # noqa: E731
    assert (run(again), run(again)) == (0, 2)
    again.config.logit_bias += 1.0
    assert (run(again), run(again)) == (0, 2)
