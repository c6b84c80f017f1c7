"""Depth, normals and correspondence as tasks of `aloe evaluate`: rows, pictures, resuming, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import aloe.evaluation.dense.tasks as dense
from aloe.core.errors import UserError
from aloe.data.frames.named import open_frames, open_pairs
from aloe.evaluation.dense.tasks import DENSE
from aloe.evaluation.evaluate import evaluate, evaluate_all
from aloe.models.convert import bcosify
from aloe.models.saving import save_student
from captures import write_capture, write_depth
from conftest import build_teacher

DATA = "rendered:6,3@1/32"
FAST = {"epochs": 1, "batch_size": 4, "bins": 16}
OF_NORMALS = {name: value for name, value in FAST.items() if name != "bins"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    teacher = build_teacher("dinov3")
    teacher.model.save_pretrained(folder / "teacher")
    teacher.name = "teacher"
    save_student(bcosify(teacher), folder / "student")
    return [str(folder / "teacher"), str(folder / "student")]


def rows_of(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_rows_pictures_and_resume(models, tmp_path, monkeypatch):
    run = lambda: evaluate_all(models, list(DENSE), [DATA], tmp_path / "r", cache=tmp_path / "c", num_corr=20, **FAST)  # noqa: E731
    rows = run()
    assert [(r["task"], r["stage"]) for r in rows] == [(t, s) for s in ("teacher", "converted") for t in DENSE]
    depth, normals, match = rows[:3]
    assert depth["value"] == 100 * depth["details"]["relative"]["delta1"]
    assert set(depth["details"]["absolute"]) == {"delta1", "delta2", "delta3", "rmse"}
    assert normals["value"] == 100 * normals["details"]["delta1"]
    assert match["details"]["pairs"] == 15
    assert match["value"] == match["details"]["mean_of_bins"][1]
    assert depth["counts"] == {"train": 6, "test": 3}
    assert depth["settings"]["bins"] == 16
    assert "uncertainty" not in depth["settings"]
    assert "bins" not in normals["settings"]
    assert rows_of(tmp_path / "r") == json.loads(json.dumps(rows))
    pictures = sorted((tmp_path / "r" / "dense").glob("*.png"))
    assert [p.stem.partition("-rendered")[0] for p in pictures] == ["correspondence"] * 2 + ["depth", "normals"]
    assert Image.open(pictures[2]).width == 4 * 224 + 3 * 8  # image, truth, two models
    # nothing is measured twice, and the features of both probes were made once
    assert len(list((tmp_path / "c" / "dense").iterdir())) == 2 * 9
    before = {p: p.read_bytes() for p in pictures}
    monkeypatch.setattr(dense, "fit_probe", None)
    monkeypatch.setattr(dense, "correspondence", None)
    assert run() == json.loads(json.dumps(rows))
    assert {p: p.read_bytes() for p in pictures} == before


def test_cached_features_are_the_features(models, tmp_path):
    first = evaluate(models[1], "depth", DATA, cache=tmp_path, **FAST)
    second = evaluate(models[1], "depth", DATA, cache=tmp_path, **FAST)
    without = evaluate(models[1], "depth", DATA, **FAST)
    assert first["details"] == second["details"]
    for kind in ("relative", "absolute"):  # another memory layout may change the last bits
        assert first["details"][kind] == pytest.approx(without["details"][kind], rel=1e-6)
    (broken, *_) = (tmp_path / "dense").rglob("*.safetensors")
    broken.write_bytes(b"half")
    assert evaluate(models[1], "depth", DATA, cache=tmp_path, **FAST)["details"] == first["details"]


def test_a_loaded_model(models):
    row = evaluate(build_teacher("vit"), "normals", DATA, **OF_NORMALS)
    assert (row["name"], row["stage"]) == ("vit", "teacher")
    assert torch.tensor(list(row["details"].values())[:4]).isfinite().all()


@pytest.mark.parametrize(
    ("tasks", "data", "settings", "words"),
    [
        (["depth", "knn"], DATA, {}, "apart from knn"),
        (["depth"], "cifar10", {}, "'cifar10' is not a data set with depth"),
        (["depth"], ("a", "b"), {}, "take --data rgbd=PATH"),
        (["depth"], DATA, {"epoch": 3}, "epoch is no setting of depth, did you mean epochs"),
        (["depth"], DATA, {"num_corr": 3}, "num_corr is not read by depth, but by correspondence"),
        (
            ["correspondence"],
            DATA,
            {"epochs": 3},
            "epochs is not read by correspondence, but by linear, depth, normals",
        ),
        (["correspondence"], DATA, {"scale": 2.0}, "scale: input should be less"),
        (["correspondence"], DATA, {"gaps": [8, 64]}, "pairs of rendered are fixed"),
        (["correspondence"], DATA, {"gaps": 8}, "gaps: input should be a valid tuple"),
        (["correspondence"], DATA, {"num_corr": "many"}, "num_corr: input should be a valid integer"),
        (["correspondence"], DATA, {"blocks": [9]}, "Block 9 does not exist"),
        (["correspondence"], DATA, {"resolution": 30}, "not a whole number of 8-pixel patches"),
        (["depth"], DATA, {"resolution": 30}, "not a whole number of 8-pixel patches"),
        (["depth"], DATA, {"blocks": [9]}, "Block 9 does not exist"),
        (["depth"], "rgbd=nowhere", {}, "nowhere does not exist"),
    ],
)
def test_what_is_refused(models, tmp_path, tasks, data, settings, words):
    with pytest.raises(UserError, match=words):
        evaluate_all(models[:1], tasks, [data], tmp_path / "r", **settings)
    assert not (tmp_path / "r").exists()


def test_the_seed_draws_pairs_where_pairs_are_drawn(models, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(dense, "open_pairs", lambda spec, **options: asked.append(options) or open_pairs(DATA))
    monkeypatch.setattr(dense, "open_frames", lambda spec: open_frames(DATA))
    tasks = ["correspondence", "normals"]
    match, normals = evaluate_all(models[:1], tasks, [DATA], None, seed=3, num_corr=10, epochs=1)
    assert "seed" not in match["settings"]
    assert normals["settings"]["seed"] == 3
    dense.DenseSet("rgbd=room", tasks, {"seed": 3, "count": 2})
    assert asked == [{}, {"seed": 3, "count": 2}]


def test_pairs_of_a_capture_say_how_they_were_chosen(models, tmp_path):
    write_capture(tmp_path / "room")
    data = [f"rgbd={tmp_path / 'room'}"]
    (row,) = evaluate_all(models[:1], ["correspondence"], data, None, gaps=[1, 64], min_overlap=0.0, num_corr=10)
    chosen = {name: row["settings"][name] for name in ("gaps", "count", "min_overlap", "seed")}
    assert chosen == {"gaps": [1, 64], "count": 200, "min_overlap": 0.0, "seed": 0}


def test_rows_say_what_was_left_out_and_how_the_rate_was_chosen(models, tmp_path):
    write_capture(tmp_path / "room", range(10))
    for number in (8, 72):  # one that trains and one that tests
        write_depth(tmp_path / "room" / f"frame-{number:06d}.depth.png", np.zeros((48, 48)))
    data = f"rgbd={tmp_path / 'room'}"
    for task in ("depth", "normals"):
        settings = (FAST if task == "depth" else OF_NORMALS) | {"learning_rate": [1e-3, 1e-2], "repeats": 2}
        row = evaluate_all(models[:1], [task], [data], tmp_path / "r", **settings)[0]
        assert row["counts"] == {"train": 7, "test": 1}
        assert f"1 of 8 train frames have no valid {task} and are left out" in row["notes"]
        assert f"1 of 2 test frames have no valid {task} and are left out" in row["notes"]
        assert row["details"]["learning_rate"] in (1e-3, 1e-2)
        assert set(row["details"]["held_out_errors"]) == {"0.001", "0.01"}
        assert set(row["details"]["spread"]) >= {"relative_rmse" if task == "depth" else "rmse"}
    assert len(list((tmp_path / "r" / "dense").glob("*.png"))) == 2


def test_pictures_show_the_models_of_the_folder_and_sets_of_one_name_apart(models, tmp_path):
    for room, seed in (("a", 4), ("b", 5)):
        write_capture(tmp_path / room / "room", seed=seed)
    data = [f"rgbd={tmp_path / room / 'room'}" for room in ("a", "b")]
    tests = [open_frames(spec).test.state()[:8] for spec in data]
    for model in models:
        evaluate_all([model], ["normals"], data, tmp_path / "r", epochs=1)
    assert len(rows_of(tmp_path / "r")) == 4
    pictures = sorted((tmp_path / "r" / "dense").glob("*.png"))
    assert [p.stem for p in pictures] == sorted(f"normals-rgbd-room-{state}" for state in tests)
    assert all(Image.open(p).width == 4 * 224 + 3 * 8 for p in pictures)  # image, truth, both runs' models


def test_official_is_the_protocols_settings_on_its_pairs(models, monkeypatch):
    defaults = {"sampling": "at-points", "pixel_thresholds": (20.0, 40.0, 80.0)}
    pairs = replace(open_pairs(DATA), official=True, defaults=defaults)
    monkeypatch.setattr(dense, "open_pairs", lambda spec, **_: pairs)
    row = evaluate(models[0], "correspondence", DATA)
    assert row["official"]
    assert row["settings"]["sampling"] == "at-points"
    assert row["details"]["pixels"]["thresholds"] == [20, 40, 80]
    assert not evaluate(models[0], "correspondence", DATA, num_corr=10)["official"]
    assert not evaluate(models[0], "correspondence", DATA, sampling="upsampled")["official"]


def test_the_command(models, aloe):
    code, out, err = aloe(
        *("evaluate", "depth,correspondence", *models, "--data", DATA, "-o", "r", "--no-cache", "--device", "cpu"),
        *("--set", "epochs=1", "--set", "num_corr=10", "--batch-size", "3", "--json"),
    )
    assert code == 0, err
    assert [r["task"] for r in json.loads(out)["rows"]] == ["depth", "correspondence"] * 2
    code, out, _ = aloe("report", "r", "--tables", "b4,correspondence")
    assert code == 0
    assert "Relative" in out
    with pytest.raises(UserError, match="at least one model"):
        evaluate_all([], ["depth"], [DATA], None)


def test_frames_that_are_trained_on_and_tested_on_are_counted(models, monkeypatch):
    splits = open_frames(DATA)
    assert splits.shared == 0
    assert not any("training frames too" in note for note in evaluate(models[1], "depth", DATA, **FAST)["notes"])
    monkeypatch.setattr(dense, "open_frames", lambda spec: replace(splits, test=splits.train))
    row = evaluate(models[1], "depth", DATA, **FAST)
    assert "6 of the 6 test frames are training frames too" in row["notes"]
