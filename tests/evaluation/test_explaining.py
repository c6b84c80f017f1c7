"""GridPG, deletion and inside as evaluation tasks: shared images, stored grids, rows per method, and what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PretrainedConfig

from aloe.core.errors import UserError
from aloe.data.scenes import CLASSES, teacher_path
from aloe.evaluation.evaluate import evaluate
from aloe.evaluation.evaluate import evaluate_all as package_evaluate_all
from aloe.evaluation.tasks import TASKS, class_of_logit
from aloe.metrics.grids import GridList
from aloe.models.convert import bcosify
from aloe.models.saving import save_student
from conftest import build_teacher
from pictures import write_pictures

COLOURS = {"blue": (0, 0, 200), "green": (0, 200, 0), "red": (200, 0, 0), "white": (230, 230, 230)}
QUICK = {"progress": False, "share": 1.0, "grids": 3, "images": 4}


def evaluate_all(models, tasks, *rest, **settings):
    """The package's, without those of `QUICK` that none of the tasks reads."""
    unread = {k for k in ("share", "grids", "images") if not any(k in TASKS[task].reads for task in tasks)}
    unread |= {"grids"} if "grids_file" in settings else set()
    kept = {k: v for k, v in settings.items() if k not in unread or v != QUICK[k]}
    return package_evaluate_all(models, tasks, *rest, **kept)


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
    assert curve["fractions"][-1] == 0.8125
    assert len(curve["most"]) == len(curve["least_high"]) == len(curve["fractions"])
    assert rows[5]["value"] == pytest.approx(curve["area_most"])
    assert curve["most"][0] == pytest.approx(curve["least"][0])  # nothing removed is the same, whichever comes first
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
        **QUICK,
    )
    with pytest.raises(UserError, match="grids_file brings its own grids; leave grids out"):
        evaluate_all(
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


@pytest.mark.parametrize("protocol", ["windows", "whole"])
def test_gridpg_is_that_of_the_maps(home, tmp_path, protocol):
    """The row's value from the stored grids and `explain`, by loops."""
    from aloe import explain
    from aloe.data.sources import open_images
    from aloe.data.transforms import ResizeCenterCrop, to_tensor
    from aloe.models.saving import load

    data = [(None, str(home / "test"))]
    given = {"methods": ["inherent"], **QUICK, **({} if protocol == "windows" else {"protocol": protocol})}
    row = evaluate_all(models(home)[1:], ["gridpg"], data, tmp_path, **given)[0]
    source, student = open_images(str(home / "test")), load(models(home)[1])
    (stored,) = (tmp_path / "grids").iterdir()
    grids = GridList.load(stored, state=source.state()[:16])
    crop, found = ResizeCenterCrop(32), []
    for indices, labels in zip(grids.indices.tolist(), grids.labels.tolist(), strict=True):
        a, b, c, d = (to_tensor(crop(source.load(i))) for i in indices)
        grid = torch.cat([torch.cat([a, b], 2), torch.cat([c, d], 2)], 1)
        for cell, label in enumerate(labels):
            if protocol == "whole":
                mean = explain(student, grid, label).contributions[0]
            else:
                mean, count = torch.zeros(64, 64), torch.zeros(64, 64)
                for y in (0, 16, 32):
                    for x in (0, 16, 32):
                        window = explain(student, grid[:, y : y + 32, x : x + 32], label)
                        mean[y : y + 32, x : x + 32] += window.contributions[0]
                        count[y : y + 32, x : x + 32] += 1
                mean /= count
            positive = mean.clamp_min(0)
            top, left = cell // 2 * 32, cell % 2 * 32
            found.append(float(positive[top : top + 32, left : left + 32].sum() / positive.sum()))
    assert row["value"] == pytest.approx(100 * np.mean(found), rel=1e-4)
    assert row["settings"]["protocol"] == row["details"]["protocol"] == protocol
    assert row["details"]["pixels"] == {"windows": 32, "whole": 64}[protocol]
    assert row["details"].get("windows") == {"windows": 9, "whole": None}[protocol]


def test_deletion_is_that_of_the_model(home, tmp_path):
    """The first and last points are the probabilities of the images and of the empty input."""
    from aloe.models.saving import load

    data = [(None, str(home / "test"))]
    given = {"methods": ["inherent"], "block": 8, "fractions": "fine", **QUICK}
    row = evaluate_all(models(home)[1:], ["deletion"], data, tmp_path, **given)[0]
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


def test_clarity_is_that_of_the_maps(home, tmp_path):
    data = [(None, str(home / "test"))]
    given = {"methods": ["inherent", "random"], **QUICK}
    rows = evaluate_all(models(home)[1:], ["clarity"], data, tmp_path, **given)
    own, random = rows
    assert random["value"] == pytest.approx(75, abs=8)
    assert random["details"]["seams"] == pytest.approx(1, abs=0.2)
    assert own["details"]["patch"] == 8
    assert own["details"]["images"] == random["details"]["images"] > 0
    assert 0 < own["details"]["interval"][0] <= own["value"] <= own["details"]["interval"][1] < 75
    assert own["metric"] == "fine"


def test_resized_grids_are_named(home, tmp_path):
    data = [(None, str(home / "test"))]
    one = (models(home)[:1], ["gridpg"], data, tmp_path)
    row = evaluate_all(*one, methods=["legrad"], protocol="resized", **QUICK)[0]
    assert (row["settings"]["protocol"], row["details"]["protocol"], row["details"]["pixels"]) == (
        *("resized", "resized", 32),
    )
    by_its_first_name = evaluate_all(*one, methods=["legrad"], grid_input="resized", **QUICK)[0]
    assert by_its_first_name == row
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 1


def first_key(row):
    """The key of a row as versions before the protocols made it: a hash of all of its facts."""
    settings = {
        k: v for k, v in row["settings"].items() if k not in ("protocol", "smooth", "preset", "fractions", "among")
    }
    settings |= {"grid_input": "native"} if row["task"] == "gridpg" else {}
    names = ("task", "fingerprints", "versions", "device", "model", "name", "stage", "teacher", "architecture")
    facts = {**{k: row[k] for k in (*names, "interpretable", "data", "metric")}, "settings": settings}
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def test_rows_of_earlier_versions_are_found_again(home, tmp_path):
    """Whole grids and the finer list of shares on confident images were all there was; rows and keys of then still count."""
    data = [(None, str(home / "test"))]
    then = {"protocol": "whole", "fractions": "fine", "among": "confident", "block": 8, **QUICK}
    methods = ["attnlrp", "legrad", "lime", "random"]
    options = {"lime": {"samples": 8}}
    rows = evaluate_all(
        models(home)[:1], ["gridpg", "deletion"], data, tmp_path, methods=methods, options=options, **then
    )
    assert [row["key"] for row in rows] == [first_key(row) for row in rows]
    lime = next(row for row in rows if row["details"]["method"] == "lime")
    assert lime["settings"]["options"] == {"samples": 8, "segments": 8, "alpha": 1.0, "seed": 0}
    now = evaluate_all(models(home)[:1], ["gridpg", "deletion"], data, tmp_path, methods="legrad", block=8, **QUICK)
    assert not {row["key"] for row in now} & {row["key"] for row in rows}


def test_the_stored_grids_serve_every_protocol(home, tmp_path):
    data = [(None, str(home / "test"))]
    rows = [
        evaluate_all(models(home)[:1], ["gridpg"], data, tmp_path, methods=["legrad"], protocol=protocol, **QUICK)[0]
        for protocol in ("windows", "whole", "resized")
    ]
    (stored,) = (tmp_path / "grids").iterdir()
    assert len({row["settings"]["grids"] for row in rows}) == 1
    assert len({row["key"] for row in rows}) == 3
    for protocol, row in zip(("windows", "whole", "resized"), rows, strict=True):
        given = {**QUICK, "grids_file": stored, "protocol": protocol, "methods": ["legrad"]}
        assert evaluate_all(models(home)[:1], ["gridpg"], data, tmp_path, **given) == [row]


def test_a_costly_method_is_measured_on_the_first_grids(home, tmp_path):
    data = [(None, str(home / "test"))]
    given = {**QUICK, "first_grids": {"legrad": 2, "random": 99}, "methods": ["legrad", "random", "inputxgrad"]}
    legrad, other, random = evaluate_all(models(home)[:1], ["gridpg"], data, tmp_path, **given)
    assert (legrad["settings"]["first"], random["settings"]["first"]) == (2, 99)
    assert "first" not in other["settings"]
    assert [row["details"]["grids"] for row in (legrad, other, random)] == [2, 3, 3]
    assert len({row["settings"]["grids"] for row in (legrad, other, random)}) == 1
    two = evaluate_all(models(home)[:1], ["gridpg"], data, tmp_path, methods="legrad", **{**QUICK, "grids": 2})[0]
    assert two["value"] == legrad["value"], "not the same grids as a shorter list of that seed"


def test_a_preset_says_so_and_the_same_options_are_not_measured_twice(home, tmp_path):
    data = [(None, str(home / "test"))]
    given = {"methods": ["inherent", "attnlrp", "legrad"], **QUICK}
    best = evaluate_all(models(home)[1:], ["gridpg"], data, tmp_path, **given)
    paper = evaluate_all(models(home)[1:], ["gridpg"], data, tmp_path, preset="paper", **given)
    assert {row["settings"]["preset"] for row in best} == {"best"}
    assert {row["settings"]["preset"] for row in paper} == {"paper"}
    options = {row["details"]["method"]: row["settings"]["options"] for row in paper}
    assert options == {
        "inherent": {},
        "attnlrp": {"variant": "cp", "gamma": 0.0, "conv_gamma": 0.0},
        "legrad": {"layers": 1, "pool": "mean"},
    }
    own, lrp, legrad = zip(best, paper, strict=True)
    assert own[0]["seconds"] == own[1]["seconds"], "measured anew"
    assert own[0]["key"] != own[1]["key"]
    assert own[0]["value"] == own[1]["value"] == pytest.approx(lrp[1]["value"], rel=1e-4)
    assert legrad[0]["value"] != legrad[1]["value"]
    lines = len((tmp_path / "results.jsonl").read_text().splitlines())
    assert evaluate_all(models(home)[1:], ["gridpg"], data, tmp_path, preset="paper", **given) == paper
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == lines == 6
    by_hand = {"legrad": {"layers": 2}}
    mixed = evaluate_all(models(home)[1:], ["gridpg"], data, tmp_path, preset="paper", options=by_hand, **given)
    assert mixed[2]["settings"]["options"] == {"layers": 2, "pool": "mean"}


def test_heads_trained_with_binary_cross_entropy_are_read_by_sigmoids(home, tmp_path):
    """Of confidence and of deletion alike: a logit bias says so of a student, its record of a plain probe."""
    from aloe.evaluation.backbones import load_any
    from aloe.models.saving import load

    data = [(None, str(home / "test"))]
    student = load(models(home)[1])
    student.config.logit_bias = -1.5
    save_student(student, tmp_path / "biased")
    assert [load_any(name).by_sigmoids for name in (*models(home), tmp_path / "biased")] == [
        False,
        False,
        True,
    ]
    row = evaluate_all(
        [str(tmp_path / "biased")], ["deletion"], data, tmp_path, methods=["inherent"], block=8, **QUICK
    )[0]
    with torch.no_grad():
        empty = student(torch.zeros(1, 6, 32, 32)).logits.sigmoid()[0]
    assert row["details"]["fractions"][-1] == 0.8125  # 80 % of 16 blocks
    all_gone = evaluate_all(
        [str(tmp_path / "biased")],
        ["deletion"],
        data,
        tmp_path,
        methods=["inherent"],
        block=8,
        fractions="fine",
        **QUICK,
    )[0]
    assert all_gone["details"]["most"][-1] == pytest.approx(100 * float(empty.mean()), rel=1e-4)
    fitted = [(str(home / "train"), str(home / "test"))]
    probe = evaluate_all([str(home / "teacher")], ["linear"], fitted, tmp_path, progress=False, epochs=2, loss="bce")[0]
    assert load_any(tmp_path / probe["details"]["probe"]).by_sigmoids


def test_deletion_follows_the_papers_list_on_any_image(home, tmp_path):
    data = [(None, str(home / "test"))]
    given = {"methods": ["legrad"], "block": 4, **QUICK, "share": 0.01, "images": 12}
    row = evaluate_all(models(home)[:1], ["deletion"], data, tmp_path, **given)[0]
    whole = [0, 1, 1, 3, 6, 10, 13, 19, 26, 38, 51]  # of 64 blocks; 1 % and 2 % are one block
    assert row["details"]["fractions"] == [n / 64 for n in dict.fromkeys(whole)]
    assert (row["settings"]["fractions"], row["settings"]["among"]) == ("paper", "any")
    curve = row["details"]["most"]
    areas = [(a + b) / 2 * (y - x) for a, b, x, y in zip(curve, curve[1:], *pairwise_of(row), strict=False)]
    assert row["value"] == pytest.approx(sum(areas) / row["details"]["fractions"][-1])
    assert row["details"]["images"] == 12
    assert "share" not in row["settings"]
    sure = evaluate_all(models(home)[:1], ["deletion"], data, tmp_path, among="confident", **given)[0]
    assert sure["settings"]["share"] == 0.01
    assert sure["details"]["images"] == 4, "the surest of each class"


def test_an_image_that_cannot_be_read_is_none_of_those_that_are_drawn(home, tmp_path):
    import shutil

    shutil.copytree(home / "test", tmp_path / "test")
    first = sorted((tmp_path / "test" / "red").iterdir())[0]
    first.write_bytes(first.read_bytes()[:100])
    given = {**QUICK, "methods": ["legrad"], "block": 8, "images": 99}
    row = evaluate_all(models(home)[:1], ["deletion"], [(None, str(tmp_path / "test"))], tmp_path, **given)[0]
    assert row["details"]["images"] == 11
    assert any("could not be read" in note for note in row["notes"])


def pairwise_of(row):
    fractions = row["details"]["fractions"]
    return fractions, fractions[1:]


def test_a_model_without_a_size_of_its_own_asks_for_one(home, tmp_path):
    from aloe.evaluation.backbones import load_any
    from aloe.models.saving import load

    student, teacher = load(models(home)[1]), load_any(models(home)[0])
    student.config.image_size, student.config.teacher, teacher.resolution = None, {}, None
    for model in (student, teacher):
        with pytest.raises(UserError, match=r"does not say what size of images it is made for; give one with --reso"):
            evaluate(model, "gridpg", (None, str(home / "test")), methods="legrad", share=1.0, grids=1)
    given = {"methods": "legrad", "share": 1.0, "grids": 1, "resolution": 32}
    assert evaluate(teacher, "gridpg", (None, str(home / "test")), **given)["details"]["pixels"] == 32


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
        ({"smooth": 33}, "smooth = 33 pixels is wider than a cell of 32 pixels; give at most 32"),
        ({"smooth": 17, "protocol": "resized"}, "wider than a cell of 16 pixels"),
        ({"smooth": 2}, "odd number of pixels"),
        ({"preset": "papers"}, r"preset: input should be 'best' or 'paper' \(got 'papers'\)"),
        ({"protocol": "window"}, r"protocol: input should be 'windows', 'whole' or 'resized' \(got 'window'\)"),
        ({"protocol": "windows", "grid_input": "native"}, "protocol = windows and grid_input = native disagree"),
        ({"first_grids": {"sight": 3}}, "no attribution method 'sight'"),
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
    assert "scikit-learn" in row["versions"]
