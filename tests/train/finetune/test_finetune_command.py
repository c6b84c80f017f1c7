"""`aloe finetune` from the command line: a run, the same command again, and mistakes as one sentence with exit code 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from classes import write_classes

from aloe.models.convert import bcosify
from aloe.models.saving import load, save_student
from aloe.train.checkpoints import checkpoints
from conftest import build_teacher
from pictures import write_pictures

FAST = [
    *("--steps", "4", "--batch-size", "4", "--workers", "0", "--device", "cpu"),
    *("--set", "log_every=1", "--set", "save_every=2", "--json"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A teacher and its student, class folders, images without labels, broken ones, a folder of something else."""
    home = tmp_path_factory.mktemp("home")
    teacher = build_teacher("vit")
    teacher.model.save_pretrained(home / "teacher")
    save_student(bcosify(teacher), home / "student")
    write_classes(home / "train")
    write_classes(home / "one", 3, ["red"])
    write_pictures(home / "flat", 3)
    write_classes(home / "broken", 2)
    for i in range(2):
        (home / "broken" / "green" / f"{i:02}.png").write_bytes(b"nothing")
    write_classes(home / "hole", 2)
    (home / "hole" / "violet").mkdir()
    (home / "foreign").mkdir()
    (home / "foreign" / "thesis.tex").write_text("words")
    return home


def test_a_run_and_the_same_command_again(aloe, home):
    line = ["finetune", home / "teacher", home / "train", "-o", "out", "--set", "holdout=3", *FAST]
    code, out, err = aloe(*line)
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert set(result) == {"student", "held_out_accuracy", "held_out_loss"}
    assert 0 <= result["held_out_accuracy"] <= 1
    assert [p.name for p in checkpoints(Path("out"))] == ["checkpoint-2", "checkpoint-4"]
    assert load("out").config.id2label == {0: "blue", 1: "green", 2: "red"}
    before = Path("out/model.safetensors").stat().st_mtime_ns
    assert json.loads(aloe(*line)[1]) == result
    assert Path("out/model.safetensors").stat().st_mtime_ns == before
    weights = Path("out/model.safetensors").read_bytes()
    Path("out/model.safetensors").unlink()  # as if stopped after the last checkpoint
    assert json.loads(aloe(*line)[1]) == result
    assert Path("out/model.safetensors").read_bytes() == weights


def test_words_for_people_and_a_configuration_file(aloe, home):
    Path("run.yaml").write_text("steps: 9\nloss: cross-entropy\nholdout: 0\n")
    line = ["finetune", home / "student", home / "train", "-o", "out", "--config", "run.yaml", "--freeze", "backbone"]
    code, out, err = aloe(*line, *FAST[:-1])
    assert code == 0
    assert out == "Fine-tuned classifier: out\n"  # nothing held out, nothing to tell
    assert "fine-tuning" in err
    record = json.loads(Path("out/run.json").read_text())
    assert (record["steps"], record["loss"], record["freeze"]) == (4, "cross-entropy", "backbone")


MISTAKES = {
    "finetune {}/teacher {}/flat -o out": "no labels",
    "finetune {}/teacher {}/one -o out": "of one class, red",
    "finetune {}/teacher {}/broken -o out": "No training image of class green is readable",
    "finetune {}/teacher {}/hole -o out": "no training images of class violet",
    "finetune {}/teacher {}/none -o out": "does not exist",
    "finetune {}/teacher wds:{}/part.tar -o out": "stream of shards",
    "finetune {}/teacher {}/train -o out --validation {}/flat": "no labels",
    "finetune {}/teacher {}/train::red {}/train::blue -o out": "does not exist",
    "finetune {}/none {}/train -o out": "none",
    "finetune {}/train {}/train -o out": "config.json",
    "finetune {}/student {}/train -o out --stem conv": "stem cannot be conv",
    "finetune {}/teacher {}/train -o out --stem conv --freeze backbone": "conv stem is new",
    "finetune {}/teacher {}/train -o {}/foreign": "not empty",
    "finetune {}/teacher {}/train -o out --resolution 33": "32 is",
    "finetune {}/teacher {}/train -o out --steps 0 --loss best --set lerning_rate=1": "did you mean learning_rate?",
    "finetune {}/teacher {}/train -o out --set seed": "key=value",
    "finetune {}/teacher {}/train -o out --device abacus": "no device 'abacus'",
    "finetune {}/teacher {}/train -o out --config none.yaml": "cannot be read",
    "finetune {}/teacher {}/train -o out --recipe paper": "recipes: short",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_sentence_and_nothing_is_written(aloe, home, line):
    before = {p: p.stat().st_mtime_ns for p in home.rglob("*")}
    code, out, err = aloe(*(word.replace("{}", str(home)) for word in [*line.split(), "--json"]))
    assert (code, out) == (2, "")
    assert err.startswith("aloe: ")
    assert MISTAKES[line] in err
    assert err.count("\n") == 1
    assert list(Path().iterdir()) == []
    assert {p: p.stat().st_mtime_ns for p in home.rglob("*")} == before


def test_wrong_settings_are_listed_together(aloe, home):
    _, _, err = aloe(
        "finetune", home / "teacher", home / "train", "-o", "out", "--steps", 0, "--loss", "x", "--set", "a=1"
    )
    assert all(words in err for words in ("steps: ", "loss: ", "'x'", "a: unknown"))
