"""A folder of pictures belongs to one model and question, and says whose it is."""

from __future__ import annotations

import json

import pytest

from aloe.attribution.files import explain_files
from aloe.core.errors import UserError
from aloe.core.files import write_json
from aloe.evaluation.alike.files import explain_like
from aloe.evaluation.alike.neighbours import find_neighbours
from aloe.models.convert import bcosify
from aloe.models.fingerprint import fingerprint
from aloe.models.saving import save_student
from conftest import build_teacher
from pictures import write_pictures


@pytest.fixture
def student():
    return bcosify(build_teacher("vit-classifier"))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_another_model_or_question_is_refused_and_nothing_is_overwritten(tmp_path, student, aloe):
    images = write_pictures(tmp_path / "images", 3)
    save_student(student, tmp_path / "one")
    save_student(bcosify(build_teacher("vit-classifier"), b=1.5, stem="conv"), tmp_path / "two")
    code, _, err = aloe("explain", tmp_path / "one", images, "-o", "out")
    assert code == 0, err
    before = contents(tmp_path / "here" / "out")
    record = json.loads(before["explanations.json"])
    assert record["model"] == "one"
    assert [row["picture"] for row in record["explanations"]] == [f"{k:02}_explained.png" for k in range(3)]
    code, _, err = aloe("explain", tmp_path / "two", images, "-o", "out")
    assert code == 2
    assert "holds pictures of another model (model was 'one', now 'two')" in " ".join(err.split())
    assert contents(tmp_path / "here" / "out") == before
    code, _, err = aloe("explain", tmp_path / "one", write_pictures(tmp_path / "more", 2, start=7), "-o", "out")
    assert code == 0, err
    after = contents(tmp_path / "here" / "out")
    assert after["00_explained.png"] == before["00_explained.png"]
    assert len(json.loads(after["explanations.json"])["explanations"]) == 5


@pytest.mark.parametrize("name", ["thesis.tex", "00_explained.png"])
def test_a_folder_of_something_else_is_refused(tmp_path, student, name):
    images = write_pictures(tmp_path / "images", 2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("words")
    with pytest.raises(
        UserError, match=r"is not empty and holds no explanations\.json of aloe; give another --output-dir"
    ):
        explain_files(student, images, tmp_path / "out", progress=False)
    assert contents(tmp_path / "out") == {name: b"words"}


def test_nothing_readable_leaves_nothing(tmp_path, student):
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="None of the 1 images"):
        explain_files(student, images, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_comparisons_too(tmp_path, student, aloe):
    pytest.importorskip("matplotlib")
    images = write_pictures(tmp_path / "images", 2)
    save_student(student, tmp_path / "one")
    save_student(bcosify(build_teacher("vit-classifier"), b=1.5, stem="conv"), tmp_path / "two")
    code, _, err = aloe("attribute", images, "-m", tmp_path / "one", "-o", "out", "--methods", "inherent")
    assert code == 0, err
    before = contents(tmp_path / "here" / "out")
    assert len(json.loads(before["attributions.json"])["attributions"]) == 2
    code, _, err = aloe("attribute", images, "-m", tmp_path / "two", "-o", "out", "--methods", "inherent")
    assert code == 2
    assert "holds pictures of another model" in " ".join(err.split())
    assert contents(tmp_path / "here" / "out") == before


@pytest.mark.parametrize("rows", [5, None, "abc", {"a": 1}, [1], [{}], [{"picture": [1]}]])
@pytest.mark.parametrize("name", ["explanations", "alike", "neighbours"])
def test_a_damaged_record_is_refused_before_any_work(tmp_path, student, name, rows):
    images = write_pictures(tmp_path / "images", 1)
    about = {"model": "me", "model_fingerprint": fingerprint(student)}
    (tmp_path / "out").mkdir()
    key = name if name == "explanations" else "alike"
    write_json(tmp_path / "out" / f"{name}.json", {**about, key: rows})
    before, here = contents(tmp_path / "out"), {"progress": False, "name": "me"}
    run = {
        "explanations": lambda: explain_files(student, images, tmp_path / "out", **here),
        "alike": lambda: explain_like(student, images, images, tmp_path / "out", **here),
        "neighbours": lambda: find_neighbours(student, images, images, tmp_path / "out", **here),
    }[name]
    with pytest.raises(UserError, match=rf"{name}\.json is damaged: .* give another --output-dir"):
        run()
    assert contents(tmp_path / "out") == before
