"""The script of the photographs: its commands are ones, its data set is the one it says, its coding loses what it says."""

from __future__ import annotations

import runpy
import shlex
import subprocess
from string import Template

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.main import get_command

from aloe.cli.main import app
from aloe.models.convert import bcosify
from aloe.models.saving import load, save_student
from aloe.train.align.settings import AlignSettings
from conftest import build_teacher
from places import ROOT

SCRIPT = ROOT / "scripts" / "photographs.sh"


def commands() -> list[list[str]]:
    """The words after `aloe` of every command, with the values that the tables were made with."""
    lines = SCRIPT.read_text().replace("\\\n", " ").splitlines()
    values = next(dict(pair.split("=") for pair in line.split()) for line in lines if line.startswith("blocks="))
    values |= {"side": "112", "vary": "objective=cosine,mse", "train": "train", "test": "test"}
    words = [shlex.split(Template(line).safe_substitute(values), comments=True) for line in lines if "aloe " in line]
    return [line[line.index("aloe") + 1 :] for line in words if "aloe" in line]


def test_every_command_of_the_script_is_one():
    verbs = get_command(app).commands
    found = commands()
    assert {line[0] for line in found} == {"align", "bcosify", "evaluate", "finetune", "report", "sweep"}
    for verb, *words in found:
        context = verbs[verb].make_context(verb, words)  # refuses what the verb does not know
        if verb == "align":
            values = dict(pair.split("=", 1) for pair in context.params["set_"])
            AlignSettings.resolve("short", None, {k: v for k, v in values.items() if k != "crop_scale"})


@pytest.mark.parametrize("words", [[], ["nothing.tar", "b", "c", "d"]])
def test_without_its_files_it_says_so_and_does_nothing(tmp_path, words):
    done = subprocess.run(["sh", str(SCRIPT), *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout.startswith("There is no file nothing.tar" if words else "Give four files")
    assert not list(tmp_path.iterdir())


def test_the_union_has_both_sets_parts_and_no_background(tmp_path):
    image = tmp_path / "image.jpg"
    Image.new("RGB", (20, 20)).save(image)
    for part in ("train", "test"):
        folder = tmp_path / "imagenette160" / part / "church"
        folder.mkdir(parents=True)
        (folder / f"{part}.jpg").hardlink_to(image)
    for name, count in (("BACKGROUND_Google", 2), ("cup", 33), *((f"class {i}", 31) for i in range(100))):
        folder = tmp_path / "101_ObjectCategories" / name
        folder.mkdir(parents=True)
        for i in range(count):
            (folder / f"image_{i:04}.jpg").hardlink_to(image)
    runpy.run_path(str(ROOT / "scripts" / "photographs_classes.py"))["write"](tmp_path, tmp_path / "out")
    counts = {
        part: [len(list((tmp_path / "out" / part / name).iterdir())) for name in ("church", "cup", "class 7")]
        for part in ("train", "test")
    }
    assert counts == {"train": [1, 30, 30], "test": [1, 3, 1]}
    assert len(list((tmp_path / "out" / "none").iterdir())) == 2
    assert len(list((tmp_path / "out" / "train").iterdir())) == 102
    shown = {path.name for part in ("train", "test") for path in (tmp_path / "out" / part / "cup").iterdir()}
    assert len(shown) == 33
    assert all(path.is_file() for path in (tmp_path / "out").rglob("*.jpg"))


def test_half_the_bytes_hold_the_rounded_weights(tmp_path):
    student = bcosify(build_teacher("vit-classifier"))
    save_student(student, tmp_path / "whole")
    change = runpy.run_path(str(ROOT / "scripts" / "halve_weights.py"))["halve"](
        str(tmp_path / "whole"), tmp_path / "half"
    )
    assert 0 < change < 1e-3
    assert {weight.dtype for weight in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.float16}
    again = load(tmp_path / "half").state_dict()
    for name, weight in student.state_dict().items():
        assert again[name].dtype == torch.float32
        assert torch.equal(again[name], weight.half().float()), name
