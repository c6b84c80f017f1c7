"""What may happen to a run: kill -9 at random moments, SIGTERM, damaged checkpoints, lost workers, too little memory."""

from __future__ import annotations

import importlib
import os
import random
import shutil
import signal
import time
from contextlib import redirect_stderr, suppress
from pathlib import Path

import pytest
import torch

import aloe.train.align.teaching as teaching_module
from aloe.core.errors import UserError
from aloe.train import trainer as training
from aloe.train.checkpoints import checkpoints
from aloe.train.progress import JsonlLog, read_log
from pictures import write_pictures
from several import ended, started
from train.align.test_run import losses, same_weights, tiny

KILLS = 25


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("images"))


@pytest.mark.slow
def test_killed_at_25_random_moments_the_run_is_the_same(images, tmp_path):
    """Losses, data order and weights bit for bit; half-written folders are never taken for checkpoints."""
    steps, cut, draw = 200, tmp_path / "cut", random.Random(0)
    whole = tiny(images, tmp_path / "whole", steps=steps, save_every=steps)

    def run() -> None:
        torch.set_num_threads(1)
        tiny(images, cut, steps=steps, save_every=2, keep_checkpoints=2)

    def lines() -> int:
        log = cut / "log.jsonl"
        return log.read_bytes().count(b"\n") if log.exists() else 0

    found = []
    for k in range(KILLS):
        before, process = lines(), started(run)
        # Some more steps in the log and a part of the next one: a fast machine does not end the run before it is killed.
        # Every fifth is killed soon after its start, most often before a step.
        more, last = draw.randint(1, 5), time.monotonic() + (60 if k % 5 else draw.uniform(0, 0.35))
        while lines() < before + more and time.monotonic() < last:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.01))
        process.kill()
        process.join()
        found.append((process.exitcode, sorted(p.name for p in cut.glob("*"))))
    assert ended(started(run)) == 0
    assert [code for code, _ in found] == [-signal.SIGKILL] * KILLS, "the run ended before it was killed often enough"
    reached = [
        max([int(n.split("-")[1]) for n in names if n.startswith("checkpoint-")], default=0) for _, names in found
    ]
    assert reached == sorted(reached)
    assert len(set(reached)) > 5, "too few kills came after a step"
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert same_weights(whole, tiny(images, tmp_path / "cut", steps=steps))


@pytest.mark.slow
def test_sigterm_writes_a_checkpoint_and_exits_with_143(images, tmp_path):
    log, said = tmp_path / "run" / "log.jsonl", tmp_path / "said"

    def run() -> None:
        torch.set_num_threads(1)
        with said.open("w") as file, redirect_stderr(file):
            tiny(images, tmp_path / "run", steps=2000, save_every=1000)

    process = started(run)
    while process.is_alive() and not (log.is_file() and log.stat().st_size):
        time.sleep(0.05)
    process.terminate()
    assert ended(process) == 143
    (kept,) = checkpoints(tmp_path / "run")
    assert f"Stopped at step {kept.name.split('-')[1]} with a checkpoint" in " ".join(said.read_text().split())
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_sigterm_in_this_process_and_the_handler_of_before(images, tmp_path, monkeypatch):
    class Log(JsonlLog):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    told = []
    before = signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    try:
        ours = signal.getsignal(signal.SIGTERM)
        with monkeypatch.context() as patch:
            patch.setattr(training, "JsonlLog", Log)
            with pytest.raises(SystemExit) as stop:
                tiny(images, tmp_path / "run")
        assert stop.value.code == 143
        assert signal.getsignal(signal.SIGTERM) is ours
        assert [p.name for p in checkpoints(tmp_path / "run")] == ["checkpoint-3"]
        assert same_weights(tiny(images, tmp_path / "run"), tiny(images, tmp_path / "whole"))
        assert not told
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(images, tmp_path, capsys, monkeypatch):
    class Log(JsonlLog):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 5:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "JsonlLog", Log)
        with pytest.raises(KeyboardInterrupt):
            tiny(images, tmp_path / "run", steps=6, save_every=2)
    newest = checkpoints(tmp_path / "run")[-1]
    assert newest.name == "checkpoint-4"
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    resumed = tiny(images, tmp_path / "run", steps=6, save_every=2)
    assert "checkpoint-4 is damaged and not used; going on from checkpoint-2." in " ".join(
        capsys.readouterr().err.split()
    )
    whole = tiny(images, tmp_path / "whole", steps=6, save_every=2)
    assert same_weights(resumed, whole)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def stopped_at(images, out, step, monkeypatch, settings=None, run=tiny, **others):
    class Log(JsonlLog):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == step:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "JsonlLog", Log)
        with pytest.raises(KeyboardInterrupt):
            run(images, out, **(settings or {}), **others)


def rows(folder):
    """The log without what differs from run to run."""
    free = (
        "time",
        "images_per_second",
        "data_wait",
        "train_runtime",
        "train_samples_per_second",
        "train_steps_per_second",
    )
    return [{k: v for k, v in row.items() if k not in (*free, "train_loss")} for row in read_log(folder)]


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_all_checkpoints_damaged_is_the_run_from_its_beginning(images, tmp_path, capsys, monkeypatch, stem):
    """Calibration included: bit-equal to a run that never had a checkpoint."""
    settings = {"steps": 6, "save_every": 2, "stem": stem}
    stopped_at(images, tmp_path / "run", 5, monkeypatch, settings)
    for path in checkpoints(tmp_path / "run"):
        (path / "model.safetensors").write_bytes(b"")
    resumed = tiny(images, tmp_path / "run", **settings)
    said = " ".join(capsys.readouterr().err.split())
    assert "checkpoint-4, checkpoint-2 are damaged and not used; going on from the beginning." in said
    whole = tiny(images, tmp_path / "whole", steps=6, save_every=6, stem=stem)
    assert same_weights(resumed, whole)
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


@pytest.mark.parametrize("change", [{"seed": 5}, {"batch_size": 2}, {"images": "others"}, {"family": "clip"}], ids=str)
def test_a_checkpoint_of_another_run_is_refused_by_name(images, tmp_path, monkeypatch, change):
    settings = {"steps": 6, "save_every": 2}
    change = dict(change)
    theirs = write_pictures(tmp_path / change.pop("images"), 9) if "images" in change else images
    stopped_at(images, tmp_path / "run", 3, monkeypatch, settings)
    tiny(theirs, tmp_path / "other", **settings, **change)
    shutil.copytree(tmp_path / "other" / "checkpoint-6", tmp_path / "run" / "checkpoint-6")
    with pytest.raises(UserError, match=r"run/checkpoint-6 is a checkpoint of another run \("):
        tiny(images, tmp_path / "run", **settings)
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    assert same_weights(tiny(images, tmp_path / "run", **settings), tiny(images, tmp_path / "whole", **settings))


def test_copies_of_checkpoints_and_a_damaged_log_do_not_disturb_a_run(images, tmp_path, monkeypatch):
    settings = {"steps": 6, "save_every": 2}
    stopped_at(images, tmp_path / "run", 5, monkeypatch, settings)
    for name in ("checkpoint-4.bak", "checkpoint-best"):
        shutil.copytree(tmp_path / "run" / "checkpoint-4", tmp_path / "run" / name)
    with (tmp_path / "run" / "log.jsonl").open("ab") as log:
        log.write(b'\x80\xff\n{"loss": 1}\n[]\n')
    resumed = tiny(images, tmp_path / "run", **settings)
    assert same_weights(resumed, tiny(images, tmp_path / "whole", **settings))
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")
    assert (tmp_path / "run" / "checkpoint-best" / "model.safetensors").is_file()
    assert (tmp_path / "run" / "checkpoint-4.bak" / "model.safetensors").is_file()


PLACES = [
    ("aloe.train.sealed", "seal"),
    ("aloe.train.sealed", "rotate"),
    ("aloe.train.trainer", "save_student"),
]


@pytest.mark.parametrize("last", [1, 2, 3])
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place[1])
def test_the_log_has_the_rows_of_a_whole_run_wherever_it_was_stopped(images, tmp_path, monkeypatch, place, last):
    """Stopped as a checkpoint is sealed, just after it is there, and as the student is written."""
    settings = {"steps": 5, "save_every": 2, "evaluate_every": 2, "holdout": 2}
    whole = tiny(images, tmp_path / "whole", **settings)
    calls = []
    module = importlib.import_module(place[0])
    original = getattr(module, place[1])

    def stop(*arguments):
        calls.append(1)
        if len(calls) >= min(last, 1 if place[1] == "save_student" else 3):
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, place[1], stop)
        with pytest.raises(KeyboardInterrupt):
            tiny(images, tmp_path / "cut", **settings)
        with suppress(KeyboardInterrupt):  # once more where it has resumed, if it comes there again
            tiny(images, tmp_path / "cut", **settings)
    assert same_weights(whole, tiny(images, tmp_path / "cut", **settings))
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_no_pickle_is_kept_or_read(images, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("pickle")

    for name in ("torch.load", "pickle.load", "pickle.loads"):
        monkeypatch.setattr(name, refuse)
    tiny(images, tmp_path / "run", save_every=2, keep_checkpoints=9)
    suffixes = {path.suffix for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert suffixes == {".json", ".jsonl", ".safetensors"}
    (tmp_path / "run" / "model.safetensors").unlink()
    tiny(images, tmp_path / "run", save_every=2, keep_checkpoints=9)


def limited(monkeypatch, most, error):
    """The teacher runs out of memory with more than `most` images."""
    original = teaching_module.teacher_features

    def features(source, images, *rest):
        if len(images) > most:
            raise error
        return original(source, images, *rest)

    monkeypatch.setattr(teaching_module, "teacher_features", features)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: 9 bytes"
        ),
        MemoryError("no more"),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_out_of_memory_says_which_batch_fits(images, tmp_path, monkeypatch, error):
    with monkeypatch.context() as patch:
        limited(patch, 3, error)
        with pytest.raises(UserError, match=r"A batch of 8 images does not fit into memory .*: 2 fits") as told:
            tiny(images, tmp_path / "run", batch_size=8)
        assert "--batch-size 2 --set gradient_accumulation=4" in str(told.value)
        assert "\n" not in str(told.value)
        limited(patch, 0, error)
        with pytest.raises(UserError, match="not even one image does"):
            tiny(images, tmp_path / "none", batch_size=2)
    # the same folder takes the advice: nothing was trained in it
    follows = tiny(images, tmp_path / "run", batch_size=2, gradient_accumulation=4)
    assert follows.config.teacher["stage"] == "aligned"


def test_other_runtime_errors_stay_ours(images, tmp_path, monkeypatch):
    limited(monkeypatch, 3, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        tiny(images, tmp_path / "run")


@pytest.mark.slow
def test_a_worker_that_dies_is_one_sentence_and_the_run_resumes(images, tmp_path, monkeypatch):
    import aloe.data.draws as draws

    original = draws.AlignmentDraws.__getitem__

    def deadly(self, item):
        if item == 9 and torch.utils.data.get_worker_info():
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, item)

    settings = {"steps": 6, "save_every": 1, "workers": 1}
    with monkeypatch.context() as patch:
        patch.setattr(draws.AlignmentDraws, "__getitem__", deadly)
        with pytest.raises(UserError, match="A process that reads images died"):
            tiny(images, tmp_path / "run", **settings)
    resumed = tiny(images, tmp_path / "run", **settings)
    assert same_weights(resumed, tiny(images, tmp_path / "whole", **settings))
