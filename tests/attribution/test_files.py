"""`aloe explain --text`: zero-shot explanations of images on disk, and what can be said wrongly."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import aloe
from aloe.attribution.files import explain_files, text_pictures, text_rows
from aloe.attribution.inherent import Explanation
from aloe.cli import main
from aloe.data.transforms import ResizeCenterCrop, to_tensor
from aloe.draw.explanations import NEGATIVE, POSITIVE
from aloe.evaluation.zeroshot import class_embeddings, text_targets, zeroshot_logits
from aloe.models.convert import bcosify
from aloe.models.saving import save_student
from aloe.models.teachers import load_teacher
from aloe.models.text import load_text_tower
from conftest import build_teacher
from pairs import SIDE, write_pair
from pictures import write_pictures

TEXTS = ("a red car", "the tree")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A pair and the student of its image tower, a student of something else, images."""
    home = tmp_path_factory.mktemp("home")
    save_student(bcosify(load_teacher(write_pair(home / "pair", "siglip"))), home / "student")
    save_student(bcosify(build_teacher("vit")), home / "other")
    write_pair(home / "bare", "siglip", tokenizer=False)
    write_pictures(home / "images", 3)
    return home


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs `aloe WORDS` in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*words) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["aloe", *map(str, words)])
        try:
            main.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run


def expected_logits(home: Path, prompts: list[str], name: str) -> torch.Tensor:
    """(1, T): the zero-shot logits of one image, by way of the pooled output."""
    tower, student = load_text_tower(home / "pair"), aloe.load(home / "student")
    image = to_tensor(ResizeCenterCrop(SIDE)(Image.open(home / "images" / name)))[None]
    with torch.no_grad():
        return zeroshot_logits(student(image).pooler_output, tower.encode(prompts), tower.scale, tower.bias)


def test_texts_from_the_command_line(home, run):
    words = ("explain", home / "student", home / "images", "-o", "out", "--device", "cpu", "--batch-size", 2, "--json")
    words += ("--text", TEXTS[0], "--text", TEXTS[1], "--text-tower", home / "pair")
    code, out, _ = run(*words)
    assert code == 0
    rows = json.loads(out)["explanations"]
    assert [row["file"] for row in rows] == ["00.png", "01.png", "02.png"]
    for row in rows:
        expected = expected_logits(home, list(TEXTS), row["file"])[0].tolist()
        assert list(row["texts"]) == list(TEXTS)
        assert [one["logit"] for one in row["texts"].values()] == pytest.approx(expected, abs=1e-5)
        assert [one["probability"] for one in row["texts"].values()] == pytest.approx(
            [1 / (1 + math.exp(-value)) for value in expected], abs=1e-5
        )
        assert row["prediction"] == TEXTS[int(expected[1] > expected[0])]
        assert row["logit"] == row["texts"][row["prediction"]]["logit"]
        assert Image.open(row["picture"]).size == (3 * 224 + 2 * 8, 2 * (224 + 26) + 8), (
            "input and two texts, two lines"
        )
    single = run(*words, "--templates", "single")
    row = json.loads(single[1])["explanations"][0]
    prompts = [f"a photo of a {text}" for text in TEXTS]
    expected = expected_logits(home, prompts, "00.png")[0].tolist()
    assert [one["logit"] for one in row["texts"].values()] == pytest.approx(expected, abs=1e-5)


def test_the_teachers_own_tower_is_found(home, run, monkeypatch):
    monkeypatch.chdir(home)
    code, _, err = run("explain", "student", "images", "-o", home / "out", "--text", "a red car", "--limit", 1)
    assert (code, err.count("aloe:")) == (0, 0)
    assert (home / "out" / "00_explained.png").is_file()


def test_python_and_command_line_agree(home, tmp_path):
    tower, student = load_text_tower(home / "pair"), aloe.load(home / "student")
    targets = text_targets(tower, TEXTS)
    done = explain_files(student, home / "images", tmp_path, texts=targets, progress=False)
    assert [row["prediction"] in TEXTS for row in done.rows] == [True] * 3
    image = to_tensor(ResizeCenterCrop(SIDE)(Image.open(home / "images" / "01.png")))
    for text, target in targets.items():
        found = aloe.explain(student, image, target)
        assert float(found.logit) == pytest.approx(done.rows[1]["texts"][text]["logit"], abs=1e-5)
        assert float(found.contributions.sum() + found.residual) == pytest.approx(float(found.logit), abs=1e-4)


def test_each_text_has_its_own_column():
    """Red over a text that only adds, blue over one that only takes away, half as much; white under the input."""
    by_text = {
        text: Explanation(
            logit=torch.tensor([size]),
            contributions=torch.full((1, 8, 8), size),
            weights=torch.ones(1, 6, 8, 8),
            residual=torch.zeros(1),
        )
        for text, size in zip(TEXTS, (1.0, -0.5), strict=True)
    }
    (numbers,) = text_rows(by_text)
    assert (numbers["prediction"], numbers["logit"]) == (TEXTS[0], 1.0)
    (sheet,) = text_pictures(torch.zeros(1, 3, 8, 8), by_text)
    pixels = np.asarray(sheet)
    top, bottom = pixels[100], pixels[224 + 26 + 8 + 100]
    first, second, third = 100, 232 + 100, 464 + 100
    assert top[first].tolist() == [0, 0, 0]
    assert bottom[first].tolist() == [255, 255, 255]
    red, blue = ([round(255 * c) for c in colour] for colour in (POSITIVE, NEGATIVE))
    assert bottom[second].tolist() == red
    assert bottom[third].tolist() == pytest.approx([(255 + c) / 2 for c in blue], abs=1), "both maps have one scale"
    assert top[third].tolist() == [255, 255, 255], "nothing raises the second text's logit, so it has no colours"


def test_many_prompts_make_one_explained_text(home):
    tower = load_text_tower(home / "pair")
    target = text_targets(tower, ["tree"], ["a {}", "the {}"])["tree"]
    torch.testing.assert_close(target.embedding, class_embeddings(tower, ["tree"], ["a {}", "the {}"])[0])


MISTAKES = {
    "--text|tree|--target|1": "--target or --text, not both",
    "--templates|single": "belong to --text",
    "--text-tower|{}/pair": "belong to --text",
    "--text|tree": "The text tower of pair is not here",
    "--text|tree|--text-tower|{}/none": "not a folder",
    "--text|tree|--text-tower|{}/other": "is a bcos_vit model without a text tower",
    "--text|tree|--text-tower|{}/bare": "needs a tokenizer.json",
    "--text| |--text-tower|{}/pair": "--text is empty",
    f"--text|{'tree ' * 16}|--text-tower|{{}}/pair": "tokens but the text tower reads 16",
    "--text|tree|--text-tower|{}/pair|--templates|none.txt": "no templates 'none.txt'",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_sentence_and_nothing_is_written(home, run, line):
    words = line.replace("{}", str(home)).split("|")
    code, out, err = run("explain", home / "student", home / "images", "-o", "out", *words, "--json")
    assert (code, out) == (2, "")
    assert err.startswith("aloe: ")
    assert MISTAKES[line] in err
    assert err.count("\n") == 1
    assert list(Path().iterdir()) == []


def test_a_student_of_another_teacher(home, run):
    words = ("--text", "tree", "--text-tower", home / "pair", "-o", "out")
    code, _, err = run("explain", home / "other", home / "images", *words)
    assert code == 2
    assert "width 32 but the model's pooled output 48" in err
