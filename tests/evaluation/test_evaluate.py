"""Evaluation on tiny class folders: rows, resuming, and what is missing said before any work."""

from __future__ import annotations

import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import aloe.evaluation.evaluate as module
from aloe.core.errors import UserError
from aloe.data.benchmarks import pair
from aloe.data.sources import open_images
from aloe.evaluation.backbones import load_any
from aloe.evaluation.evaluate import evaluate, evaluate_all
from aloe.evaluation.features import extract
from aloe.evaluation.heads import load_probe
from aloe.evaluation.tasks import TASKS, score
from aloe.models.convert import bcosify
from aloe.models.saving import load, save_student
from conftest import build_teacher
from pictures import write_pictures


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[str, str]:
    """A teacher with zero biases and its student at B = 1, which answers the same; both on disk."""
    home = tmp_path_factory.mktemp("models")
    teacher = build_teacher("vit", zero_bias=True)
    teacher.model.save_pretrained(home / "teacher")
    teacher.name = "teacher"
    save_student(bcosify(teacher, b=1.0), home / "student")
    return str(home / "teacher"), str(home / "student")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[str, str]:
    """Two classes, red and blue with noise."""
    home = tmp_path_factory.mktemp("classes")
    for part, offset in (("train", 0), ("test", 50)):
        for name, colour in (("blue", (0, 0, 200)), ("red", (200, 0, 0))):
            folder = write_pictures(home / part / name, 8 if part == "train" else 4, offset)
            for path in folder.iterdir():
                with Image.open(path) as image:
                    Image.blend(image, Image.new("RGB", image.size, colour), 0.9).save(path)
    return str(home / "train"), str(home / "test")


def test_what_was_fitted_and_tested_on_the_same_images_is_said(models, folders, tmp_path):
    shutil.copytree(folders[1], tmp_path / "test")
    for k in range(3):
        file = sorted((Path(folders[0]) / "red").iterdir())[k]
        shutil.copy(file, tmp_path / "test" / "red" / f"copy-{k}.png")
    rows = evaluate_all(models[:1], ["knn", "linear"], [(folders[0], str(tmp_path / "test"))], tmp_path / "out", k=3)
    assert [row["notes"] for row in rows] == [["3 of the 11 test images are training images too"]] * 2
    (row,) = evaluate_all(models[0], "knn", [folders], tmp_path / "out", k=3)  # a text is one of each
    assert row["notes"] == []


def test_archives_are_decompressed_into_the_chosen_cache(models, folders, tmp_path, monkeypatch):
    monkeypatch.setenv("ALOE_CACHE", str(tmp_path / "elsewhere"))
    with tarfile.open(tmp_path / "data.tar.gz", "w:gz") as out:
        for part, folder in zip(("train", "test"), folders, strict=True):
            out.add(folder, part)
    evaluate(models[0], "knn", str(tmp_path / "data.tar.gz"), cache=tmp_path / "cache", k=3)
    assert [p.suffix for p in (tmp_path / "cache" / "archives").iterdir()] == [".tar"]
    assert not (tmp_path / "elsewhere").exists()


def test_models_times_tasks(models, folders, tmp_path):
    rows = evaluate_all(models, ["knn", "linear"], [folders], tmp_path / "out", progress=False, k=[3, 1], seed=4)
    assert [(r["name"], r["task"]) for r in rows] == [(m, t) for m in ("teacher", "student") for t in ("knn", "linear")]
    assert all(r["value"] == 100 for r in rows)
    assert [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()] == rows
    first, probe = rows[0], rows[3]
    assert first["details"]["by_k"] == {"3": 100.0, "1": 100.0}
    assert first["counts"] == {"train": 16, "test": 8}
    assert (first["stage"], first["interpretable"], first["architecture"]) == ("teacher", False, "ViT 3x48/8")
    assert (probe["stage"], probe["interpretable"], probe["architecture"]) == ("converted", True, "B-ViT 3x48/8")
    assert {r["teacher"] for r in rows} == {"teacher"}
    assert first["settings"] == {
        "feature": "pooled",
        "resolution": None,
        "precision": "float32",
        "k": [3, 1],
        "distance": "cosine",
        "votes": "uniform",
    }
    assert (rows[1]["settings"]["head"], probe["settings"]["head"]) == ("linear", "bcos")
    assert set(probe["fingerprints"]) == {"model", "train", "test"}
    json.dumps(rows)


def test_saved_probes_classify_and_explain(models, folders, tmp_path):
    from aloe.attribution.inherent import explain

    rows = evaluate_all(models, ["linear"], [folders], tmp_path, progress=False)
    test = open_images(folders[1])
    for row in rows:
        classifier = load_any(tmp_path / row["details"]["probe"])
        images = torch.stack(
            [torch.from_numpy(__import__("numpy").array(test.load(i).resize((32, 32)))) for i in (0, 7)]
        )
        with torch.no_grad():
            logits = classifier(images.permute(0, 3, 1, 2).float() / 255).logits
        assert logits.argmax(1).tolist() == [0, 1]
    student = load(tmp_path / rows[1]["details"]["probe"])
    assert student.config.id2label == {0: "blue", 1: "red"}
    explanation = explain(student, test.load(0), "blue")
    assert float(explanation.completeness_error()) < 1e-5


def test_rows_that_exist_are_not_measured_again(models, folders, tmp_path, monkeypatch):
    def run(k: int = 3, which=models):
        return evaluate_all(which, ["knn"], [folders], tmp_path, progress=False, k=k)

    first = run(which=models[:1])
    path = tmp_path / "results.jsonl"
    path.write_text(path.read_text() + '{"key": "cut off by a cra')
    both = run()
    assert both[0] == first[0]
    assert len(path.read_text().splitlines()) == 2
    monkeypatch.setattr(module, "_measure", None)
    assert run() == both
    with pytest.raises(TypeError):
        run(k=2)  # another setting is another row


def test_results_survive_a_task_that_fails(models, folders, tmp_path):
    broken = bcosify(build_teacher("vit"))
    broken.norm.weight.data[:] = 3e38  # finite, but no feature is
    save_student(broken, tmp_path / "broken")
    with pytest.raises(UserError, match="not finite"):
        evaluate_all([models[0], str(tmp_path / "broken")], ["knn"], [folders], tmp_path, progress=False, k=3)
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (["knn", "classifier"], "student has no classifier"),
        (["knn", "cosine"], "needs the teacher to compare with"),
        (["knn", "zeroshot"], "text tower|text-tower"),
    ],
    ids=["classifier", "cosine", "zeroshot"],
)
def test_what_a_model_cannot_do_is_said_before_any_work(models, folders, tmp_path, monkeypatch, tasks, message):
    monkeypatch.setattr(module, "_measure", None)
    with pytest.raises(UserError, match=message):
        evaluate_all(models, tasks, [folders], tmp_path / "out", progress=False, k=3)
    assert not (tmp_path / "out").exists()


def test_the_same_images_under_another_name_are_another_row(models, folders, tmp_path):
    whole, copy = Path(folders[0]).parent, tmp_path / "copy"
    copy.symlink_to(whole, target_is_directory=True)
    first = evaluate_all(models[:1], ["knn"], [str(whole)], tmp_path, progress=False, k=3)
    other = evaluate_all(models[:1], ["knn"], [str(copy)], tmp_path, progress=False, k=3)
    assert [r["data"] for r in first + other] == [str(whole), str(copy)]


def test_a_file_that_is_not_result_rows_is_left_alone(models, folders, tmp_path):
    (tmp_path / "results.jsonl").write_text("my notes\n")
    with pytest.raises(UserError, match=r"holds no result rows \(Line 1 of .* is not JSON"):
        evaluate_all(models, ["knn"], [folders], tmp_path, progress=False)
    assert (tmp_path / "results.jsonl").read_text() == "my notes\n"


def test_everything_missing_is_said_before_any_work(models, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_measure", None)
    data = [folders, f"food101={tmp_path / 'nothing'}", "cifar11"]
    with pytest.raises(UserError) as caught:
        evaluate_all([*models, str(tmp_path / "model")], ["knn"], data, tmp_path / "out", progress=False)
    message = str(caught.value)
    assert "food101" in message
    assert "did you mean cifar10" in message
    assert "model" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ["guess"]}, "no task 'guess'; tasks: knn, linear"),
        ({"tasks": []}, "There is no task given"),
        ({"models": []}, "at least one model"),
        ({"data": []}, "at least one data set"),
        ({"k": 0}, r"k: input should be greater than or equal to 1 \(got 0\)\.$"),
        ({"k": 17}, "k is 17 but there are 16"),
        ({"distance": "manhattan", "k": 0}, "k: .*distance: |distance: .*k: "),
        ({"neighbours": 3}, "neighbours is no setting of knn"),
    ],
    ids=str,
)
def test_mistakes(models, folders, tmp_path, change, message):
    call = {"models": models, "tasks": ["knn"], "data": [folders], "output_dir": tmp_path, "progress": False, **change}
    with pytest.raises(UserError, match=message):
        evaluate_all(**call)


def test_a_single_row_from_python(models, folders):
    row = evaluate(load_any(models[1]), "knn", folders, k=1)
    assert (row["value"], row["task"], row["name"]) == (100.0, "knn", "BcosViTModel")


def test_a_class_whose_images_are_all_broken(models, folders, tmp_path):
    write_pictures(tmp_path / "train" / "blue", 3)
    write_pictures(tmp_path / "test" / "blue", 3)
    write_pictures(tmp_path / "test" / "red", 3)
    (tmp_path / "train" / "red").mkdir()
    (tmp_path / "train" / "red" / "a.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"Class 'red' of .* has no readable training image"):
        evaluate(models[1], "knn", str(tmp_path), k=1)


def test_cosine_of_a_student_that_equals_its_teacher_is_1(models, folders):
    teacher, student = models
    row = evaluate(student, "cosine", (None, folders[1]), reference=teacher)
    assert list(row["details"]) == ["after_block_1", "after_block_2", "after_block_3", "pooled", "pooled_centred"]
    assert all(value == pytest.approx(1, abs=1e-5) for value in [*row["details"].values(), row["value"]])


def test_cosine_refuses_a_student_of_another_teacher(models, folders, tmp_path):
    config = bcosify(build_teacher("vit")).config
    config.num_hidden_layers = 2
    save_student(type(bcosify(build_teacher("vit")))(config), tmp_path / "shallow")
    with pytest.raises(UserError, match="number of blocks is 2 and the teacher's 3"):
        evaluate(tmp_path / "shallow", "cosine", (None, folders[1]), reference=models[0])
    with pytest.raises(UserError, match="is a teacher"):
        evaluate(models[0], "cosine", (None, folders[1]), reference=models[0])
    with pytest.raises(UserError, match="needs the teacher to compare with"):
        evaluate(models[1], "cosine", (None, folders[1]))


def test_only_tasks_that_need_no_training_images_do_without(models, folders, tmp_path):
    with pytest.raises(UserError, match="Task knn needs training images"):
        evaluate(models[1], "knn", (None, folders[1]))
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match="could be read"):
        evaluate(models[1], "cosine", (None, str(tmp_path)), reference=models[0])
    with pytest.raises(UserError, match="no labels"):
        evaluate(models[1], "classifier", (None, str(tmp_path)))


@pytest.mark.parametrize(
    ("names", "right"),
    [(["RED", "Blue"], 100), (["blue", "red"], 0), (["red", "blue", "green"], 100), (["cat", "blue"], None)],
    ids=str,
)
def test_a_classifier_is_read_by_the_names_of_its_classes(folders, tmp_path, names, right):
    """A classifier whose first logit is high for red and second for blue, whatever they are called."""
    teacher = build_teacher("vit-classifier")
    found = extract(teacher, open_images(folders[0]))
    blue, red = (found.tensor()[found.labels == i].mean(0) for i in range(2))
    weight = torch.stack([red - blue, blue - red, 0 * red])[: len(names)]
    teacher.model.config.id2label = dict(enumerate(names))
    teacher.model.classifier = torch.nn.Linear(48, len(names))
    teacher.model.classifier.weight.data = weight
    teacher.model.classifier.bias.data = -weight @ (red + blue) / 2
    teacher.model.classifier.bias.data[2:] = -1e6
    teacher.model.save_pretrained(tmp_path)
    if right is None:
        with pytest.raises(UserError, match="does not know all classes"):
            evaluate(tmp_path, "classifier", folders)
    else:
        assert evaluate(tmp_path, "classifier", folders)["value"] == right


def test_mean_per_class_weighs_classes_alike():
    predicted, labels = torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1])
    assert score(predicted, labels, "top-1") == 75
    assert score(predicted, labels, "mean per class") == 50


def test_every_task_is_named_in_the_help(aloe):
    _, out, _ = aloe("evaluate", "--help")
    assert all(task in out.partition("Options:")[0] for task in TASKS)


def test_folders_are_found_by_their_parts(models, folders):
    row = evaluate(models[0], "knn", str(Path(folders[0]).parent), k=3)
    assert (row["value"], row["official"]) == (100, False)


def test_images_that_cannot_be_read_are_told_and_leave_no_class_out(models, folders, tmp_path):
    broken = tmp_path / "test"
    shutil.copytree(folders[1], broken)
    first, *others = sorted((broken / "red").iterdir())
    first.write_bytes(b"broken")
    row = evaluate(models[0], "knn", replace(pair(folders[0], broken), official=True), k=3)
    assert row["counts"]["test"] == 7
    assert len(row["notes"]) == 1
    assert row["notes"][0].startswith(f"1 test images could not be read, first red/{first.name}: ")
    assert not row["official"]
    for other in others:
        other.write_bytes(b"broken")
    with pytest.raises(UserError, match=r"'red' of .* has no readable test image"):
        evaluate(models[0], "knn", (folders[0], broken), k=3)


def test_a_teacher_takes_a_bcos_head_on_request(models, folders, tmp_path):
    (row,) = evaluate_all(models[:1], ["linear"], [folders], tmp_path, progress=False, head="bcos", epochs=5)
    probe, _ = load_probe(tmp_path / row["details"]["probe"])
    assert (probe.kind, probe.b) == ("bcos", 2.0)


def test_broken_weights_give_no_cosine(models, folders, tmp_path):
    student = load(models[1])
    next(student.parameters()).data.fill_(float("nan"))
    save_student(student, tmp_path / "broken")
    with pytest.raises(UserError, match="not finite"):
        evaluate(tmp_path / "broken", "cosine", (None, folders[1]), reference=models[0])


def test_settings_that_a_task_does_not_follow_are_not_in_its_row(models, folders):
    row = evaluate(models[1], "cosine", (None, folders[1]), reference=models[0])
    assert (row["settings"]["feature"], row["settings"]["precision"]) == ("pooled", "float32")
    for name, value in {"feature": "mean", "precision": "bf16"}.items():
        with pytest.raises(UserError, match=f"{name} is not read by cosine"):
            evaluate(models[1], "cosine", (None, folders[1]), reference=models[0], **{name: value})


def test_a_cache_that_is_a_file(models, folders, tmp_path):
    (tmp_path / "cache").write_text("mine")
    with pytest.raises(UserError, match="--no-cache"):
        evaluate(models[0], "knn", folders, k=3, cache=tmp_path / "cache")
