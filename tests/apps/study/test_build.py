"""From images and models to a study's file, and the commands around it."""

from __future__ import annotations

import io
import json
import sqlite3
from contextlib import closing
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aloe.apps.study.build import build_study
from aloe.apps.study.pictures import BLUE, SMALLEST, YELLOW, image_png, map_png
from aloe.apps.study.settings import StudySettings
from aloe.apps.study.store import Store
from aloe.attribution.methods import attribute
from aloe.core.errors import UserError
from aloe.data.transforms import to_tensor
from aloe.models.convert import bcosify
from aloe.models.saving import save_student
from conftest import build_teacher
from pictures import write_pictures

SETTINGS = StudySettings.of(methods=("inherent", "legrad"), trials=4, repeats=1)


@pytest.fixture(scope="module")
def models():
    teacher = build_teacher("vit-classifier")
    return bcosify(teacher), teacher


@pytest.fixture(scope="module")
def home(tmp_path_factory, models) -> Path:
    home = tmp_path_factory.mktemp("home")
    student, teacher = models
    teacher.model.save_pretrained(home / "teacher")
    save_student(student, home / "student")
    write_pictures(home / "images", 6)
    return home


def pixels_of(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_blue_speaks_for_yellow_against_and_white_is_nothing():
    values = torch.zeros(300, 300)
    values[:100], values[200:] = 2.0, -2.0
    shown = pixels_of(map_png(values))
    assert tuple(shown[50, 50]) == BLUE
    assert tuple(shown[150, 150]) == (255, 255, 255)
    assert tuple(shown[250, 250]) == YELLOW


def test_all_maps_have_one_format_and_small_ones_keep_their_pixels():
    noise = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    pngs = [map_png(values) for values in (noise, torch.zeros(32, 32), torch.full((32, 32), float("nan")))]
    opened = [Image.open(io.BytesIO(png)) for png in pngs]
    assert {(p.mode, p.size, tuple(p.getpalette())) for p in opened} == {
        ("P", (SMALLEST, SMALLEST), tuple(opened[0].getpalette()))
    }
    assert all(not p.info for p in opened)  # no words in the file
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(pixels_of(image_png(image))[::6, ::6], (image.permute(1, 2, 0) * 255).round().int().numpy())


def test_more_images_than_a_study_holds_are_refused_before_any_is_explained(home, models, tmp_path, monkeypatch):
    monkeypatch.setattr("aloe.apps.study.build.MAX_STUDIED", 1)
    settings = StudySettings.of(methods=("inherent", "inputxgrad"), trials=4, repeats=1)
    with pytest.raises(UserError, match="images are more than the 1 that a study may have; give --limit"):
        build_study(tmp_path / "study.sqlite", home / "images", models[0], None, settings)
    assert len(build_study(tmp_path / "study.sqlite", home / "images", models[0], None, settings, limit=1).images) == 1


def test_the_study_shows_the_models_own_maps_for_the_class_they_predict(home, models, tmp_path):
    student, _ = models
    db = tmp_path / "study.sqlite"
    settings = StudySettings.of(methods=("inherent", "legrad", "inputxgrad"), trials=4, repeats=1)
    built = build_study(db, home / "images", student, None, settings, limit=2)
    assert [name for name, _ in built.images] == ["00.png", "01.png"]
    image = to_tensor(Image.open(home / "images" / "00.png").resize((32, 32), Image.Resampling.BICUBIC))
    predicted = int(student.eval()(image[None]).logits.argmax())
    assert built.images[0][1] == student.config.id2label[predicted]
    with closing(Store(db)) as store, closing(sqlite3.connect(db)) as connection:
        for method in ("inherent", "legrad", "random"):
            row = connection.execute("SELECT picture FROM maps WHERE image = 0 AND method = ?", (method,)).fetchone()
            wanted = pixels_of(map_png(attribute(student, image[None], predicted, method).pixels()[0]))
            assert np.abs(pixels_of(store.picture(row[0])) - wanted).max() <= 4
        assert store.images == 2


def test_images_on_which_student_and_teacher_differ_are_left_out(home, models, tmp_path):
    student, twin = models[0], deepcopy(models[0])
    db, names = tmp_path / "study.sqlite", student.config.id2label
    twin.config.id2label = {i: names[(i + 1) % len(names)] for i in names}  # the same answer under another name
    with pytest.raises(
        UserError, match="6 images for which student and teacher predict different classes were left out"
    ):
        build_study(db, home / "images", student, twin, SETTINGS)
    assert not db.exists()
    twin.config.id2label = names
    assert build_study(db, home / "images", student, twin, SETTINGS).notes == []


def test_what_cannot_be_shown_is_said_before_any_work(home, models, tmp_path):
    student, teacher = models
    db, images = tmp_path / "study.sqlite", home / "images"
    with pytest.raises(UserError, match="give --student"):
        build_study(db, images, None, teacher, SETTINGS)
    with pytest.raises(UserError, match="no classifier"):
        build_study(db, images, bcosify(build_teacher("dinov3")), None, SETTINGS)
    with pytest.raises(UserError, match="no attribution method 'nope'"):
        build_study(db, images, student, None, StudySettings.of(methods=("inherent", "nope")))
    with pytest.raises(UserError, match="not among the study's methods"):
        build_study(db, images, student, None, SETTINGS, options={"lime": {"samples": 3}})
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.png").write_text("no picture")
    with pytest.raises(UserError, match="could not be read"):
        build_study(db, tmp_path / "text", student, None, SETTINGS)
    assert not db.exists()


def test_the_commands_from_build_to_export(home, aloe, tmp_path):
    db = tmp_path / "study.sqlite"
    words = ("--set", "repeats=1", "--trials", "3", "--methods", "inherent,legrad", "--limit", "2", "--db", db)
    code, text, err = aloe("study", "build", home / "images", "--student", home / "student", *words)
    assert code == 0, err
    assert f"aloe study serve --db {db}" in text
    code, _, err = aloe("study", "build", home / "images", "--student", home / "student", *words)
    assert (code, "is there already" in err) == (2, True)
    code, text, _ = aloe("study", "invite", "3", "--db", db, "--url", "https://study.example/", "--json")
    links = json.loads(text)["links"]
    assert len({link for link in links if link.startswith("https://study.example/s/")}) == 3
    assert aloe("study", "export", "--db", db, "-o", tmp_path / "a.csv")[0] == 0
    assert (tmp_path / "a.csv").read_text().startswith("participant,position")
    for wrong, said in (
        (("export", "--db", db, "-o", tmp_path / "a.txt"), "neither .csv nor .jsonl"),
        (("serve", "--db", tmp_path / "none.sqlite"), "aloe study build"),
        (("fit", db), "no answers"),
        (("build", home / "images", "--db", tmp_path / "b.sqlite"), "--student"),
        (("fit", db, "--rule", "noises=1"), "noises"),
    ):
        code, _, err = aloe("study", *wrong)
        assert code == 2
        assert said in err
        assert err.count("\n") == 1


def test_rehearsal_fit_and_power_from_the_command_line(aloe, tmp_path):
    answers, out = tmp_path / "answers.jsonl", tmp_path / "fit"
    scores = "inherent=1,attnlrp=0,lime=-1"
    assert aloe("study", "simulate", "-o", answers, "--scores", scores, "--participants", "12")[0] == 0
    code, text, err = aloe("study", "fit", answers, "-o", out, "--samples", "20")
    assert code == 0, err
    assert "W(x)x" in text
    assert "participants are counted" in text
    assert (out / "wins.png").is_file()
    code, text, _ = aloe("study", "power", "--difference", "0.8", "--trials", "20", "--simulations", "20", "--json")
    assert code == 0
    assert json.loads(text)["rows"][0]["power"] >= 0.8
    assert aloe("study", "simulate", "-o", answers, "--scores", "inherent")[0] == 2
