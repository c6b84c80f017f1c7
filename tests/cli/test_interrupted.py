"""Ctrl-C: what is kept is said, and it is true."""

from __future__ import annotations

from pathlib import Path

import pytest

from aloe.attribution import made
from aloe.evaluation import evaluate
from aloe.models.convert import bcosify
from aloe.models.saving import save_student
from aloe.train.checkpoints import checkpoints
from aloe.train.trainer import DrawTrainer
from conftest import build_teacher
from pictures import write_pictures


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    teacher = build_teacher("vit-classifier")
    teacher.model.save_pretrained(home / "teacher")
    save_student(bcosify(teacher), home / "student")
    write_pictures(home / "images", 8)
    for label in "ab":
        write_pictures(home / "labelled" / label, 8)
    return home


def interrupt(monkeypatch, owner, name, after=0):
    """Ctrl-C in call `after` of a function, counted from 0."""
    real, calls = getattr(owner, name), iter(range(1000))

    def called(*args, **kwargs):
        if next(calls) == after:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, called)


def stopped(aloe, *words) -> str:
    code, _, err = aloe(*words)
    assert code == 130
    assert "Traceback" not in err
    return next(line for line in err.splitlines() if line.startswith("Interrupted"))


def test_explain_goes_on(aloe, home, monkeypatch):
    interrupt(monkeypatch, made, "save_png", after=2)
    words = stopped(aloe, "explain", home / "student", home / "images", "-o", "out")
    assert words == "Interrupted; run the same command again; pictures that were made are kept."
    assert aloe("explain", home / "student", home / "images", "-o", "out")[0] == 0


@pytest.mark.parametrize("verb", ["align", "finetune"])
@pytest.mark.parametrize("spelling", ["-o out", "--output-dir out", "--output-dir=out"])
def test_a_training_before_its_first_checkpoint(aloe, home, monkeypatch, verb, spelling):
    images = home / {"align": "images", "finetune": "labelled"}[verb]
    line = [verb, home / "teacher", images, *spelling.split(), "--steps", 4, "--batch-size", 4, "--workers", 0]
    interrupt(monkeypatch, DrawTrainer, "training_step", after=1)
    words = stopped(aloe, *line, "--device", "cpu")
    assert words == "Interrupted; there is no checkpoint yet, so the same command begins again."
    assert not checkpoints(Path("out"))


@pytest.mark.parametrize("verb", ["align", "finetune"])
def test_a_training_after_its_first_checkpoint_goes_on(aloe, home, monkeypatch, verb):
    images = home / {"align": "images", "finetune": "labelled"}[verb]
    line = [verb, home / "teacher", images, "-o", "out", "--steps", 4, "--batch-size", 4, "--workers", 0]
    line += ["--set", "save_every=1", "--device", "cpu"]
    interrupt(monkeypatch, DrawTrainer, "training_step", after=2)
    words = stopped(aloe, *line)
    assert words == "Interrupted; run the same command again to go on from the last checkpoint."
    assert [path.name for path in checkpoints(Path("out"))][-1] == "checkpoint-2"
    assert aloe(*line)[0] == 0
    assert Path("out/model.safetensors").is_file()


def test_evaluate_keeps_its_rows(aloe, home, monkeypatch):
    interrupt(monkeypatch, evaluate, "_measure", after=1)
    for label in "ab":
        write_pictures(Path("test") / label, 2)
    line = (
        "evaluate",
        "knn",
        home / "student",
        home / "teacher",
        "--train",
        home / "labelled",
        "--test",
        "test",
        "--k",
        2,
    )
    words = stopped(aloe, *line, "--no-cache", "--device", "cpu")
    assert words == "Interrupted; run the same command again; rows that were measured are kept."
    assert len(Path("results/results.jsonl").read_text().splitlines()) == 1
