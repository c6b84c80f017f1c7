"""Several processes in one sweep: no cell is made twice, a killed one's cell is taken again, and one cell alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time

import pytest

from aloe.apps.sweep import run as runs
from aloe.apps.sweep.plan import SweepPlan
from aloe.apps.sweep.run import Sweep
from aloe.core.errors import UserError
from aloe.report.sweep_rows import read_sweep
from aloe.train.progress import read_log
from conftest import build_teacher
from pictures import write_pictures

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")
fork = multiprocessing.get_context("fork") if sys.platform != "win32" else None
SETTINGS = {"steps": 6, "batch_size": 2, "workers": 0, "calibrate": False, "log_every": 1, "save_every": 1}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A random teacher and a few pictures."""
    folder = tmp_path_factory.mktemp("workers")
    build_teacher("vit").model.save_pretrained(folder / "teacher")
    for part in ("images", "test"):
        write_pictures(folder / part / "a")
        write_pictures(folder / part / "b")
    return folder


def make(home, output, **values):
    data = {"train": str(home / "images"), "test": str(home / "test"), "evaluate": {"k": 1}}
    plan = {"vary": {"objective": ["cosine", "mse"]}, "seeds": list(range(6)), "settings": SETTINGS, **data, **values}
    return Sweep(str(home / "teacher"), str(home / "images"), output, SweepPlan.of(**plan))


@pytest.fixture
def stubbed(monkeypatch, tmp_path):
    """Cells and evaluations that only write down who made them; a cell takes a moment."""

    def note(kind, name):
        with (tmp_path / "made").open("a") as file:
            file.write(f"{kind} {name} {os.getpid()}\n")

    def align(teacher, part, folder, **_):
        note("run", folder.name)
        time.sleep(0.02)

    def evaluate_all(models, tasks, sets, folder, **_):
        if folder.name == "sweep":
            note("models", models[0])
        return []

    monkeypatch.setattr(runs, "align", align)
    monkeypatch.setattr(runs, "evaluate_all", evaluate_all)
    return tmp_path / "made"


def works(job, options, pipe):
    pipe.send(len(job.run(progress=False, **options)))


def start(job, **options):
    ours, theirs = fork.Pipe()
    process = fork.Process(target=works, args=(job, options, theirs))
    process.start()
    theirs.close()
    return process, ours


def made(path, kind="run"):
    return [line.split()[1:] for line in path.read_text().splitlines() if line.startswith(kind)]


def test_three_workers_share_a_grid_and_make_each_cell_once(home, stubbed, tmp_path, monkeypatch):
    def align(*arguments, real=runs.align):
        real(*arguments)
        end = time.monotonic() + 20
        while len({pid for _, pid in made(stubbed)}) < 2 and time.monotonic() < end:
            time.sleep(0.01)  # the first one holds its cell until another has come

    monkeypatch.setattr(runs, "align", lambda *arguments, **_: align(*arguments))
    job = make(home, tmp_path / "sweep")
    workers = [start(job) for _ in range(3)]
    for process, _ in workers:
        process.join(60)
    assert [process.exitcode for process, _ in workers] == [0, 0, 0]
    found = made(stubbed)
    assert sorted(name for name, _ in found) == sorted(run.name for run in job.runs)
    assert len({pid for _, pid in found}) > 1
    assert len(made(stubbed, "models")) in (1, 2, 3)  # one at a time: a later one finds the rows of the first
    lines = (tmp_path / "sweep" / "sweep.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["run"] for line in lines) == sorted(run.name for run in job.runs)
    assert {job.state(run) for run in job.runs} == {"finished"}


def test_a_cell_alone_and_one_that_is_held(home, stubbed, tmp_path):
    job = make(home, tmp_path / "sweep")
    (row,) = job.run(cell=3, progress=False)
    assert (row.run, made(stubbed)[0][0]) == (job.runs[2].name, job.runs[2].name)
    assert [job.state(run) for run in job.runs].count("to do") == 11
    assert len(job.run(cell=3, progress=False)) == len(made(stubbed)) == 1
    with pytest.raises(UserError, match="the cells of this grid are 1 to 12"):
        job.run(cell=13, progress=False)
    with job.folder.taken(job.runs[4].name):
        process, _ = start(make(home, tmp_path / "sweep"), cell=5)
        process.join(60)
        assert process.exitcode == 1  # the other process holds it
        assert job.state(job.runs[4]) == "running"
        assert len(job.run(progress=False)) == 11
    assert job.state(job.runs[4]) == "to do"


def test_what_died_meanwhile_is_taken_by_who_still_works(home, stubbed, tmp_path, monkeypatch):
    job, calls = make(home, tmp_path / "sweep", seeds=[0]), []
    real = job.folder.taken

    def first_held(name):
        calls.append(name)
        return real("another name" if len(calls) == 1 else name)

    with real("another name"):  # held as the first cell is come to, and free when the second is done
        monkeypatch.setattr(job.folder, "taken", lambda name: first_held(name) if name != "models" else real(name))
        assert len(job.run(progress=False)) == 2
    assert [name for name, _ in made(stubbed)] == [job.runs[1].name, job.runs[0].name]


def test_the_cell_of_a_killed_worker_goes_on_from_its_checkpoint(home, tmp_path):
    one = {"vary": {"objective": ["mse"]}, "seeds": [0], "settings": {**SETTINGS, "steps": 30, "save_every": 5}}
    job = make(home, tmp_path / "sweep", **one)
    place = tmp_path / "sweep" / "runs" / job.runs[0].name
    process, _ = start(job)
    while not list(place.glob("checkpoint-[0-9]*")) and process.is_alive():
        time.sleep(0.01)
    assert job.state(job.runs[0]) == "running"
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert job.state(job.runs[0]) == "begun"
    reached = max(row["step"] for row in read_log(place))
    assert reached < 30
    again = make(home, tmp_path / "sweep", **one)
    started = []
    real = runs.align
    runs.align = lambda *a, **k: (started.append(len(read_log(place))), real(*a, **k))[1]
    try:
        (row,) = again.run(progress=False)
    finally:
        runs.align = real
    assert started[0] >= 5
    assert [r["step"] for r in read_log(place) if "loss" in r] == list(range(1, 31))
    assert (row.status, len(read_sweep(tmp_path / "sweep"))) == ("finished", 1)


def test_the_command_numbers_cells_and_makes_one(aloe, home, tmp_path):
    settings = [w for k, v in {**SETTINGS, "steps": 1}.items() for w in ("--set", f"{k}={json.dumps(v)}")]
    data = ["--train", home / "images", "--test", home / "test", "--evaluate", "k=1", "--no-cache"]
    words = ["sweep", home / "teacher", home / "images", "-o", tmp_path / "sweep", *data, *settings, "--seeds", "0,1"]
    code, out, err = aloe(*words, "--cell", 2, "--json")
    assert (code, json.loads(out)["elsewhere"], len(json.loads(out)["rows"])) == (0, 0, 1), err
    code, out, _ = aloe(*words, "--list", "--json")
    assert [(r["cell"], r["state"]) for r in json.loads(out)["runs"]] == [(1, "to do"), (2, "finished")]
    code, _, err = aloe(*words, "--cell", 3)
    assert (code, "1 to 2" in err) == (2, True)
