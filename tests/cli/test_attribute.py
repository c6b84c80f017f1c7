"""`aloe attribute`: pictures, gallery, maps and costs, and what can be said wrongly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from aloe.attribution.compare import attribute_files
from aloe.attribution.inherent import as_batch
from aloe.attribution.methods import attribute
from aloe.models.convert import bcosify
from aloe.models.saving import save_student
from aloe.models.teachers import load_teacher
from conftest import build_teacher
from pictures import write_pictures


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A classifier and its student, a backbone without classes, images."""
    home = tmp_path_factory.mktemp("home")
    for family, name in (("vit-classifier", "teacher"), ("dinov3", "backbone")):
        teacher = build_teacher(family)
        teacher.model.save_pretrained(home / name)
        save_student(bcosify(teacher), home / f"{name}-student")
    write_pictures(home / "images", 2)
    return home


def both(home: Path, name: str = "teacher") -> list[str]:
    return ["-m", str(home / name), "-m", str(home / f"{name}-student")]


def test_pictures_gallery_maps_and_costs(home, aloe, tmp_path):
    out = tmp_path / "out"
    code, text, _ = aloe(
        "attribute", home / "images", *both(home), "-o", out, "--methods", "random,inherent,legrad", "--maps", "--json"
    )
    assert code == 0
    found = json.loads(text)
    columns = [(c["model"], c["method"]) for c in found["costs"]]
    assert columns == [("teacher", "legrad"), ("teacher", "random")] + [
        ("converted", m) for m in ("inherent", "legrad", "random")
    ]
    assert [p["class"] for p in found["pictures"]] == [f"LABEL_{p['class'][-1]}" for p in found["pictures"]]
    for name in ("00", "01"):
        with Image.open(out / f"{name}_attributions.png") as picture:
            assert picture.width == 6 * 232 - 8  # the input and five columns
        maps = load_file(out / "maps" / f"{name}_attributions.safetensors")
        assert {k: tuple(v.shape) for k, v in maps.items()} == {
            "teacher/legrad": (4, 4),
            "teacher/random": (32, 32),
            "converted/inherent": (32, 32),
            "converted/legrad": (4, 4),
            "converted/random": (32, 32),
        }
        assert all(torch.isfinite(m).all() for m in maps.values())
    assert (out / "gallery.pdf").read_bytes().startswith(b"%PDF")
    with Image.open(out / "gallery.png") as picture:
        assert picture.width > picture.height
    code, text, _ = aloe("attribute", home / "images", *both(home), "-o", out, "--method", "legrad", "--target", "3")
    assert code == 0
    assert "2 pictures and gallery.png" in text


def test_models_of_one_name_keep_a_column_each(home, aloe, tmp_path):
    for folder in "abc":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "probe").symlink_to(home / "teacher")
    paths = [str(tmp_path / folder / "probe") for folder in "abc"]
    words = [word for path in paths for word in ("-m", path)]
    code, text, _ = aloe("attribute", home / "images", *words, "-o", tmp_path / "out", "--method", "rollout", "--json")
    assert code == 0
    assert [c["model"] for c in json.loads(text)["costs"]] == ["teacher", "teacher probe", f"teacher {paths[2]}"]


def test_of_two_classes_with_one_name_the_predicted_one_is_explained(home, tmp_path):
    model = load_teacher(str(home / "teacher"))
    index = int(model(as_batch(Image.open(home / "images" / "00.png"), model)).logits.argmax())
    model.config.id2label = dict.fromkeys(model.config.id2label, "crane")
    attribute_files({"twin": model}, home / "images" / "00.png", tmp_path, methods=["inputxgrad"], save_maps=True)
    shown = load_file(tmp_path / "maps" / "00_attributions.safetensors")["twin/inputxgrad"]
    pixels = as_batch(Image.open(home / "images" / "00.png"), model)
    assert torch.allclose(shown, attribute(model, pixels, index, "inputxgrad").maps[0], atol=1e-6)
    others = [c for c in model.config.id2label if c != index]
    assert not any(torch.allclose(shown, attribute(model, pixels, c, "inputxgrad").maps[0], atol=1e-6) for c in others)


def test_backbones_explain_their_features(home, aloe, tmp_path):
    code, text, _ = aloe(
        "attribute",
        home / "images" / "00.png",
        *both(home, "backbone"),
        "-o",
        tmp_path / "out",
        "--set",
        "lime.samples=8",
        "--set",
        "intgrad.steps=2",
        "--json",
    )
    assert code == 0
    costs = {(c["model"], c["method"]): c for c in json.loads(text)["costs"]}
    assert len(costs) == 8 + 9
    assert costs["converted", "lime"]["forward"] == 9
    assert json.loads(text)["pictures"][0]["class"] == ""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--methods", "sight"], "no attribution method 'sight'"),
        (["--set", "steps=3"], "method.option=value"),
        (["--set", "sight.steps=3"], "no attribution method 'sight'"),
        (["--method", "legrad", "--set", "legrad.steps=3"], "LeGrad has no option 'steps'; it takes layers, pool"),
        (["--target", "unicorn"], "no class 'unicorn'"),
        (["--target", "5"], "out of range"),
        (["--resolution", "33", "--method", "legrad"], "whole number of 8-pixel patches"),
    ],
)
def test_mistakes(home, aloe, tmp_path, words, sentence):
    code, _, err = aloe("attribute", home / "images", *both(home), "-o", tmp_path / "out", *words)
    assert code == 2
    assert sentence in err
    assert err.strip().count("\n") == 0
    assert not (tmp_path / "out").exists()


def test_a_teacher_has_no_inherent_explanation(home, aloe, tmp_path):
    code, _, err = aloe(
        "attribute", home / "images", "-m", home / "teacher", "-o", tmp_path / "out", "--method", "inherent"
    )
    assert (code, "is a teacher" in err) == (2, True)
    code, _, err = aloe("attribute", home / "images", "-m", home / "backbone", "-o", tmp_path / "out", "--target", "1")
    assert (code, "no class to explain" in err) == (2, True)
    code, _, err = aloe("attribute", home / "images", "-m", home / "teacher", "-o", home / "images")
    assert (code, "own folders" in err) == (2, True)
