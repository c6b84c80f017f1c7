"""What `aloe ground` writes, read by a program, a person and a browser."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image
from transformers import SiglipImageProcessor
from vlms import build, picture, student_of

from aloe.apps.grounding.ground import ground
from aloe.apps.grounding.page import page, write_grounding
from browser import open_browser, open_page

PROMPT, ANSWER = "what is there in the picture ?", "a red cup left of a blue tree"


@pytest.fixture(scope="module")
def found():
    model = build()
    model = model.with_student(student_of(model))
    return ground(model, picture(), PROMPT, answer=ANSWER, words=["red", "cup", "tree"])


def test_files(found, tmp_path):
    numbers = write_grounding(found, tmp_path / "out")
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["01_red.png", "02_cup.png", "03_tree.png", "grounding.json", "index.html", "sentence.png"]
    stored = json.loads((tmp_path / "out/grounding.json").read_text())
    assert stored == numbers
    for line in stored["words"]:
        parts = [line[k] for k in ("image", "constants", "prompt", "before", "rest")]
        assert abs(sum(parts) - line["value"]) < 1e-5
        assert np.asarray(Image.open(tmp_path / "out" / line["picture"])).std() > 1


def test_text_is_escaped_and_nothing_is_fetched(found):
    bad = "<script>alert(1)</script>"
    found.prompt, before = bad, found.prompt
    found.pieces[0], piece = bad, found.pieces[0]
    html = page(found)
    found.prompt, found.pieces[0] = before, piece
    assert bad not in html
    assert "&lt;script&gt;" in html
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)", html)
    assert html.count("<script") == 1


@pytest.mark.browser
def test_words_show_their_maps_by_mouse_and_keyboard(found, tmp_path):
    write_grounding(found, tmp_path)
    with open_browser() as browser, open_page(browser) as tab:
        tab.goto((tmp_path / "index.html").as_uri())
        image, plain = tab.locator("#map"), tab.locator("#map").get_attribute("src")
        buttons = tab.locator("button[data-word]")
        assert buttons.all_inner_texts() == ["red", "cup", "tree"]
        assert tab.locator(".answer").inner_text().strip() == ANSWER
        buttons.nth(1).hover()
        cup = image.get_attribute("src")
        assert cup != plain
        assert "cup" in (image.get_attribute("alt") or "")
        assert tab.locator("section:visible h2").all_inner_texts() == ["cup"]
        tab.mouse.move(2, 2)
        assert image.get_attribute("src") == plain
        tab.keyboard.press("Tab")
        tab.keyboard.press("Tab")
        assert image.get_attribute("src") == cup
        tab.keyboard.press("Enter")
        assert buttons.nth(1).get_attribute("aria-pressed") == "true"
        tab.keyboard.press("Escape")
        assert image.get_attribute("src") == plain
        assert not tab.errors
        assert tab.asked <= {""}


# --- the command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path):
    """A LLaVA in transformers' layout, its student, and a picture."""
    model = build("llama")
    home, eye = tmp_path / "llava", tmp_path / "student"
    model.model.save_pretrained(home)
    model.tokenizer.save_pretrained(home)
    half, size = [0.5] * 3, {"height": 32, "width": 32}
    SiglipImageProcessor(size=size, image_mean=half, image_std=half).save_pretrained(home)
    student_of(model).save_pretrained(eye)
    picture().save(tmp_path / "picture.png")
    return tmp_path


def test_the_command(folders, aloe):
    words = ["ground", folders / "picture.png", "--model", folders / "llava", "--prompt", PROMPT, "-o", folders / "out"]
    words += ["--answer", ANSWER, "--words", "cup,red cup"]
    code, out, err = aloe(*words, "--vision", folders / "student", "--json")
    assert code == 0, err
    assert [w["word"] for w in json.loads(out)["words"]] == ["red cup", "cup"]
    assert json.loads(out)["visual_path"] == "inherent"
    code, out, _ = aloe(*words, "--against", "tree")
    assert code == 0
    assert ANSWER in out
    assert json.loads((folders / "out/grounding.json").read_text())["visual_path"] == "attnlrp"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda home: ["--words", "boat"], "The answer has no 'boat'"),
        (
            lambda home: ["--model", home / "gone"],
            "is neither a local folder nor reachable|holds no config.json|not a folder",
        ),
        (lambda home: ["--model", home / "student"], "is a bcos_vit model; token grounding takes LLaVA models"),
        (lambda home: ["--vision", home / "llava"], "not a B-cos student"),
        (lambda home: ["--prompt", "<image> <image>"], "has 2 image tokens"),
        (lambda home: ["--precision", "int4"], "--precision is float32, bfloat16 or float16"),
        (lambda home: ["--device", "cuda:9"], "no device"),
    ],
)
def test_mistakes_are_one_line(change, message, folders, aloe):
    words = ["ground", folders / "picture.png", "--model", folders / "llava", "--prompt", PROMPT]
    words += ["-o", folders / "out", "--answer", ANSWER]
    code, _, err = aloe(*words, *change(folders))
    assert code == 2
    assert re.search(message, err), err
    assert len(err.strip().splitlines()) == 1
    assert not (folders / "out").exists()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("processor_config.json", "has no image processor"),
        ("preprocessor_config.json", "has no image processor"),
        ("tokenizer.json", "has no tokenizer"),
        ("model.safetensors", "no model.safetensors"),
    ],
)
def test_missing_files_are_named(file, message, folders, aloe):
    path = folders / "llava" / file
    if not path.exists():
        pytest.skip(f"this transformers writes no {file}")
    path.unlink()
    code, _, err = aloe(
        "ground", folders / "picture.png", "-m", folders / "llava", "--prompt", PROMPT, "-o", folders / "o"
    )
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_broken_picture_is_one_line(folders, aloe):
    (folders / "picture.png").write_bytes(b"no picture")
    code, _, err = aloe(
        "ground", folders / "picture.png", "-m", folders / "llava", "--prompt", PROMPT, "-o", folders / "o"
    )
    assert code == 2
    assert "picture.png" in err
    assert len(err.strip().splitlines()) == 1


def test_another_text_tower_is_refused_before_its_weights_are_read(folders, aloe):
    path = folders / "llava/config.json"
    values = json.loads(path.read_text())
    values["text_config"]["model_type"] = "mistral"
    path.write_text(json.dumps(values))
    (folders / "llava/model.safetensors").unlink()
    code, _, err = aloe(
        "ground", folders / "picture.png", "-m", folders / "llava", "--prompt", PROMPT, "-o", folders / "o"
    )
    assert code == 2
    assert "The text tower is a mistral model; token grounding has rules for gemma2, llama, qwen2" in err
