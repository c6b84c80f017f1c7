"""GridPG, deletion and inside as evaluation tasks: shared images, stored grids, rows per method, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PretrainedConfig

from aloe.core.errors import UserError
from aloe.data.scenes import CLASSES, teacher_path
from aloe.evaluation.evaluate import evaluate, evaluate_all
from aloe.evaluation.tasks import class_of_logit
from aloe.metrics.grids import GridList
from aloe.models.convert import bcosify
from aloe.models.saving import save_student
from conftest import build_teacher
from pictures import write_pictures

COLOURS = {"blue": (0, 0, 200), "green": (0, 200, 0), "red": (200, 0, 0), "white": (230, 230, 230)}
QUICK = {"progress": False, "share": 1.0, "grids": 3, "images": 4}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Four classes by colour, a teacher and its B = 1 student (the same function), both with their linear probe."""
    home = tmp_path_factory.mktemp("home")
    for part, offset in (("train", 0), ("test", 50)):
        for name, colour in COLOURS.items():
            folder = write_pictures(home / part / name, 5 if part == "train" else 3, offset)
            for path in folder.iterdir():
                with Image.open(path) as image:
                    Image.blend(image, Image.new("RGB", image.size, colour), 0.9).save(path)
    teacher = build_teacher("vit", zero_bias=True)
    teacher.model.save_pretrained(home / "teacher")
    save_student(bcosify(teacher, b=1.0), home / "student")
    rows = evaluate_all(
        [str(home / "teacher"), str(home / "student")],
        ["linear"],
        [(str(home / "train"), str(home / "test"))],
        home / "fit",
        progress=False,
        epochs=20,
    )
    assert [r["value"] for r in rows] == [100, 100]
    for row, name in zip(rows, ("teacher-probe", "student-probe"), strict=True):
        (home / "fit" / row["details"]["probe"]).rename(home / name)
    return home


def models(home: Path) -> list[str]:
    return [str(home / "teacher-probe"), str(home / "student-probe")]


def test_rows_for_every_model_and_method(home, tmp_path):
    data = [(None, str(home / "test"))]
    rows = evaluate_all(
        models(home),
        ["gridpg", "deletion"],
        data,
        tmp_path,
        methods=["inherent", "inputxgrad", "legrad"],
        block=8,
        **QUICK,
    )
    named = [(r["task"], Path(r["model"]).name, r["details"]["method"]) for r in rows]
    per_task = [("teacher-probe", m) for m in ("legrad", "inputxgrad")]
    per_task += [("student-probe", m) for m in ("inherent", "legrad", "inputxgrad")]
    assert named == [(task, *pair) for task in ("gridpg", "deletion") for pair in per_task]
    game = rows[0]
    low, high = game["details"]["interval"]
    assert low <= game["value"] <= high
    assert (game["details"]["grids"], game["details"]["cells"], game["details"]["chance"]) == (3, 12, 25)
    assert len(game["details"]["per_cell"]) == 4
    assert (game["metric"], game["settings"]["share"], game["settings"]["n"]) == ("GridPG", 1.0, 2)
    assert game["details"]["cost"]["backward"] == 2  # LeGrad: one for each of two blocks
    curve = rows[5]["details"]
    assert curve["fractions"][0] == 0
    assert curve["fractions"][-1] == 1
    assert len(curve["most"]) == len(curve["least_high"]) == len(curve["fractions"])
    assert rows[5]["value"] == pytest.approx(curve["area_most"])
    # whichever comes first, nothing and everything removed are the same
    assert (curve["most"][0], curve["most"][-1]) == pytest.approx((curve["least"][0], curve["least"][-1]))
    json.dumps(rows)
    assert len({r["settings"]["grids"] for r in rows[:5]}) == 1
    again = evaluate_all(models(home), ["gridpg"], data, tmp_path, methods=["legrad"], **QUICK)
    assert [r["key"] for r in again] == [rows[0]["key"], rows[3]["key"]]
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == len(rows)


def test_the_stored_grids_serve_a_later_model(home, tmp_path):
    data = [(None, str(home / "test"))]
    first = evaluate_all(models(home)[:1], ["gridpg"], data, tmp_path, methods=["inputxgrad"], **QUICK)
    (stored,) = (tmp_path / "grids").iterdir()
    later = evaluate_all(
        models(home)[1:],
        ["gridpg"],
        data,
        tmp_path,
        methods=["inputxgrad"],
        grids_file=stored,
        **{**QUICK, "grids": 99},
    )
    assert later[0]["settings"]["grids"] == first[0]["settings"]["grids"]
    assert later[0]["details"]["grids"] == 3
    with pytest.raises(UserError, match="other images"):
        evaluate_all(models(home)[1:], ["gridpg"], [(None, str(home / "train"))], tmp_path, grids_file=stored, **QUICK)
    with pytest.raises(UserError, match="cannot be read"):
        evaluate_all(models(home), ["gridpg"], data, tmp_path, grids_file=tmp_path / "none.json", **QUICK)


def test_gridpg_is_that_of_the_maps(home, tmp_path):
    """The row's value from the stored grids and `explain`, by loops."""
    from aloe import explain
    from aloe.data.sources import open_images
    from aloe.data.transforms import ResizeCenterCrop, to_tensor
    from aloe.models.saving import load

    data = [(None, str(home / "test"))]
    row = evaluate_all(models(home)[1:], ["gridpg"], data, tmp_path, methods=["inherent"], **QUICK)[0]
    source, student = open_images(str(home / "test")), load(models(home)[1])
    (stored,) = (tmp_path / "grids").iterdir()
    grids = GridList.load(stored, state=source.state()[:16])
    crop, found = ResizeCenterCrop(32), []
    for indices, labels in zip(grids.indices.tolist(), grids.labels.tolist(), strict=True):
        a, b, c, d = (to_tensor(crop(source.load(i))) for i in indices)
        grid = torch.cat([torch.cat([a, b], 2), torch.cat([c, d], 2)], 1)
        for cell, label in enumerate(labels):
            positive = explain(student, grid, label).contributions[0].clamp_min(0)
            top, left = cell // 2 * 32, cell % 2 * 32
            found.append(float(positive[top : top + 32, left : left + 32].sum() / positive.sum()))
    assert row["value"] == pytest.approx(100 * np.mean(found), rel=1e-4)


def test_deletion_is_that_of_the_model(home, tmp_path):
    """The first and last points are the probabilities of the images and of the empty input."""
    from aloe.models.saving import load

    data = [(None, str(home / "test"))]
    row = evaluate_all(models(home)[1:], ["deletion"], data, tmp_path, methods=["inherent"], block=8, **QUICK)[0]
    student = load(models(home)[1])
    with torch.no_grad():
        empty = student(torch.zeros(1, 6, 32, 32)).logits.softmax(1)[0]
    assert row["details"]["images"] == 4  # one of each class
    assert row["details"]["most"][-1] == pytest.approx(100 * float(empty.mean()), rel=1e-4)


def test_inside_needs_masks_and_uses_them(home, tmp_path):
    name = str(teacher_path())
    rows = evaluate_all(
        [name], ["inside"], [(None, "scenes:20@5")], tmp_path, methods=["attnlrp", "random"], progress=False, images=10
    )
    attnlrp, random = rows
    assert attnlrp["details"]["images"] == 10
    assert 0 < attnlrp["details"]["area"] < 60
    assert attnlrp["value"] > random["value"]
    assert random["value"] == pytest.approx(random["details"]["area"], abs=5)
    with pytest.raises(UserError, match="no object masks"):
        evaluate_all(models(home), ["inside"], [(None, str(home / "test"))], tmp_path, **QUICK)


def test_resized_grids_are_named(home, tmp_path):
    data = [(None, str(home / "test"))]
    row = evaluate_all(models(home)[:1], ["gridpg"], data, tmp_path, methods=["legrad"], grid_input="resized", **QUICK)[
        0
    ]
    assert (row["details"]["grid_input"], row["details"]["pixels"]) == ("resized", 32)


def test_one_row_from_evaluate(home):
    data = (None, str(home / "test"))
    row = evaluate(models(home)[1], "gridpg", data, methods="inherent", share=1.0, grids=2)
    assert row["details"]["method"] == "inherent"
    with pytest.raises(UserError, match="one of the methods"):
        evaluate(models(home)[1], "gridpg", data, share=1.0)
    with pytest.raises(UserError, match="is a teacher"):
        evaluate(models(home)[0], "gridpg", data, methods="inherent", share=1.0)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"methods": ["sight"]}, "no attribution method 'sight'"),
        ({"options": {"sight": {}}}, "no attribution method 'sight'"),
        ({"methods": ["legrad"], "options": {"legrad": {"depth": 3}}}, "no option 'depth'"),
        ({"methods": ["legrad"], "options": {"legrad": {"layers": "last"}}}, "LeGrad, layers: .*integer"),
        ({"share": None, "confidence": 1.0}, "confiden"),
        ({"grid_size": 3}, "9"),
        ({"share": 0}, "share"),
        ({"fill": "pink"}, "fill"),
    ],
)
def test_bad_settings(home, tmp_path, settings, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        evaluate_all(models(home), ["gridpg"], [(None, str(home / "test"))], tmp_path, **{**QUICK, **settings})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "results.jsonl").exists()


def test_models_that_cannot_be_explained(home, tmp_path):
    with pytest.raises(UserError, match=r"no classifier.*fit one"):
        evaluate_all([str(home / "student")], ["gridpg"], [(None, str(home / "test"))], tmp_path, **QUICK)
    with pytest.raises(UserError, match="does not know all classes"):
        evaluate_all([str(teacher_path())], ["gridpg"], [(None, str(home / "test"))], tmp_path, **QUICK)
    with pytest.raises(UserError, match=r"Nothing can be explained: teacher is a teacher"):
        evaluate_all(models(home)[:1], ["gridpg"], [(None, str(home / "test"))], tmp_path, methods="inherent", **QUICK)
    with pytest.raises(UserError, match="has no labels"):
        evaluate_all(models(home), ["deletion"], [(None, str(home / "test" / "red"))], tmp_path, **QUICK)
    with pytest.raises(UserError, match="Blocks of 5 pixels"):
        evaluate_all(models(home), ["deletion"], [(None, str(home / "test"))], tmp_path, block=5, **QUICK)
    assert len(CLASSES) == 10


@pytest.mark.parametrize(
    ("known", "classes", "meant"),
    [
        (["Crane", "x", "crane"], ["crane", "x", "crane"], [0, 1, 2]),
        (["crane", "y", "crane"], ["crane"], [0, -1, 0]),
        (["crane", "x"], ["crane", "x", "crane"], None),
    ],
)
def test_classes_of_one_name_are_told_apart_by_their_order(known, classes, meant):
    found = class_of_logit(PretrainedConfig(id2label=dict(enumerate(known))), len(known), classes)
    assert (None if found is None else found.tolist()) == meant


def test_classes_without_a_confident_image_are_named(tmp_path):
    from aloe.data.sources import open_images
    from aloe.data.transforms import to_tensor
    from aloe.models.teachers import load_teacher

    source = open_images("scenes:10@5")
    images = torch.stack([to_tensor(source.load(i)) for i in range(10)])
    sure = load_teacher(teacher_path())(images).logits.softmax(1)[torch.arange(10), torch.as_tensor(source.labels)]
    settings = {"methods": ["legrad"], "confidence": float(sure.median()), "grids": 2, "progress": False}
    row = evaluate_all([str(teacher_path())], ["gridpg"], [(None, "scenes:10@5")], tmp_path, **settings)[0]
    absent = [CLASSES[source.labels[i]] for i in sure.argsort() if sure[i] < sure.median()]
    assert row["details"]["classes"] == 10 - len(absent)
    assert row["notes"] == [f"no confident image of {', '.join(sorted(absent))}: not in any grid"]


def test_a_later_model_that_is_wrong_on_the_grids_says_so(home, tmp_path):
    data = [(None, str(home / "test"))]
    evaluate_all(models(home)[:1], ["gridpg"], data, tmp_path, methods=["legrad"], **QUICK)
    (stored,) = (tmp_path / "grids").iterdir()
    worse = tmp_path / "worse"
    worse.mkdir()
    for file in (home / "student-probe").iterdir():
        (worse / file.name).write_bytes(file.read_bytes())
    from safetensors.torch import load_file, save_file

    tensors = load_file(worse / "model.safetensors")
    tensors["classifier.weight"] = tensors["classifier.weight"].roll(1, 0)
    save_file(tensors, worse / "model.safetensors", metadata={"format": "pt"})
    row = evaluate_all([str(worse)], ["gridpg"], data, tmp_path, methods=["legrad"], grids_file=stored, **QUICK)[0]
    images = row["details"]["images"]
    assert row["details"]["misclassified"] == images
    assert row["notes"] == [f"{worse} is wrong on {images} of the {images} images of these grids"]


def test_damaged_grids(home, tmp_path):
    data = [(None, str(home / "test"))]
    evaluate_all(models(home)[:1], ["gridpg"], data, tmp_path, methods=["legrad"], **QUICK)
    (stored,) = (tmp_path / "grids").iterdir()
    good = json.loads(stored.read_text())
    for change, sentence in (
        ({"rule": "none"}, "damaged"),
        ({"labels": [[7, 1, 2, 3]] * 3}, "do not fit"),
        ({"indices": [[99, 1, 2, 3]] * 3}, "do not fit"),
    ):
        stored.write_text(json.dumps(good | change))
        with pytest.raises(UserError, match=sentence):
            evaluate_all(models(home)[:1], ["gridpg"], data, tmp_path, methods=["legrad"], grids_file=stored, **QUICK)


def test_maps_that_are_nowhere_positive_are_counted(home, tmp_path, monkeypatch):
    from dataclasses import replace

    from aloe.attribution.methods import METHODS

    def negative(subject, images, target):
        maps, value = METHODS["inputxgrad"].run(subject, images, target)
        return -maps.abs() - 1, value

    monkeypatch.setitem(METHODS, "legrad", replace(METHODS["legrad"], run=negative))
    data = [(None, str(home / "test"))]
    rows = evaluate_all(models(home)[:1], ["gridpg"], data, tmp_path, methods=["legrad", "inputxgrad"], **QUICK)
    assert (rows[0]["value"], rows[0]["details"]["discarded"], rows[0]["details"]["cells"]) == (0, 12, 12)
    assert rows[0]["notes"] == ["LeGrad gave no map with positive mass"]
    assert rows[1]["value"] > 0
    json.dumps(rows, allow_nan=False)


def test_noise_differs_by_class(home, tmp_path):
    row = evaluate_all(models(home)[:1], ["gridpg"], [(None, str(home / "test"))], tmp_path, methods="random", **QUICK)[
        0
    ]
    low, high = row["details"]["interval"]
    assert low < 25 < high
    assert row["settings"]["options"] == {"seed": 0}
    assert {"captum", "scikit-learn"} <= set(row["versions"])
