"""`aloe export`: what it writes and says, and one sentence for every mistake."""

from __future__ import annotations

import json
import os

import pytest
import torch

from aloe.apps.export import formats
from aloe.models.saving import load, save_student
from apps.export.students import SIZE, build, rand
from conftest import build_teacher


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    save_student(build(classifier=True), folder)
    return folder


def test_the_command_writes_and_reports(aloe, student, tmp_path):
    path = tmp_path / "x.pt2"
    code, out, err = aloe("export", student, "-o", path, "--json")
    assert code == 0, err
    said = json.loads(out)
    assert (said["path"], said["what"], said["format"]) == (str(path), "forward", "torch")
    assert max(said["differences"].values()) < 1e-4
    found = torch.export.load(path).module()(rand(2, 3, SIZE, SIZE))
    with torch.no_grad():
        torch.testing.assert_close(found["logits"], load(student)(rand(2, 3, SIZE, SIZE)).logits)
    code, out, _ = aloe("export", student, "-o", path, "--resolution", 48, "--overwrite")
    assert code == 0
    assert "48 x 48" in out
    assert "last_hidden_state" in out


@pytest.mark.slow
def test_explanation_and_int8_in_words(aloe, student, tmp_path):
    for needed in formats.PACKAGES["onnx"]:
        pytest.importorskip(needed)
    code, out, err = aloe("export", student, "-o", tmp_path / "x.onnx", "--int8")
    assert code == 0, err
    assert "times smaller, cosine of pooled outputs 0.9" in out
    assert "random noise" in out
    code, out, err = aloe("export", student, "-o", tmp_path / "y.onnx", "--what", "explanation", "--target", "class")
    assert code == 0, err
    assert "completeness error" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["-o", "x.txt"], "ends in neither"),
        (["-o", "x.onnx", "--format", "coreml"], "format must be"),
        (["-o", "x.onnx", "--what", "maps"], "what must be"),
        (["-o", "x.onnx", "--resolution", 30], "not a whole number of 8-pixel patches"),
        (["-o", "nowhere/x.onnx"], "does not exist"),
        (["-o", "x.onnx", "--images", "photos"], "--images belongs to --int8"),
        (["-o", "x.pt2", "--int8"], "int8 is for the forward graph in ONNX"),
        (["-o", "x.onnx", "--target", "class"], "belongs to an explanation"),
    ],
)
def test_mistakes_are_one_sentence(aloe, student, words, sentence):
    code, _, err = aloe("export", student, *words)
    assert code == 2
    assert sentence in err
    assert len(err.strip().splitlines()) == 1
    assert not os.listdir()


def test_a_file_that_exists_stays(aloe, student, tmp_path):
    path = tmp_path / "x.onnx"
    path.write_bytes(b"mine")
    code, _, err = aloe("export", student, "-o", path)
    assert code == 2
    assert "exists" in err
    assert path.read_bytes() == b"mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(aloe, student, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    code, _, err = aloe("export", student, "-o", tmp_path / "locked" / "x.onnx")
    assert code == 2
    assert "cannot be written" in err


def test_a_teacher_is_not_a_student(aloe, tmp_path):
    build_teacher("vit").model.save_pretrained(tmp_path / "teacher")
    code, _, err = aloe("export", tmp_path / "teacher", "-o", "x.pt2")
    assert code == 2
    assert "not a B-cos student" in err


def test_missing_packages_are_named(aloe, student, monkeypatch):
    present = formats.find_spec
    gone = ("onnxruntime", "onnxscript")
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name in gone else present(name))
    code, _, err = aloe("export", student, "-o", "x.onnx")
    assert code == 2
    assert "onnxruntime and onnxscript are not installed: pip install 'aloe-vit[export]'" in err
