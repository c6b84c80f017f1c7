"""A student whose classes are told by sigmoids says that an image is none of them; by the softmax nobody can."""

from __future__ import annotations

import json

import pytest
import torch

from aloe.attribution.files import explain_files, seen
from aloe.models.convert import bcosify
from conftest import build_teacher
from pictures import write_pictures


@pytest.mark.parametrize(("bias", "shift"), [(-2.0, -6.0), (-2.0, 6.0), (0.0, -6.0)])
def test_the_rows_say_what_the_classifier_can(tmp_path, bias, shift):
    student = bcosify(build_teacher("vit-classifier")).eval()
    student.config.logit_bias = bias + (shift if bias else 0)
    images = write_pictures(tmp_path / "images", 2)
    done = explain_files(student, images, tmp_path / "out", progress=False, device="cpu")
    stored = json.loads((tmp_path / "out" / "explanations.json").read_text())["explanations"]
    for row, again in zip(done.rows, stored, strict=True):
        assert again["probability"] == row["probability"]
        if bias:
            expected = torch.tensor(row["logit"]).sigmoid().item()
            assert row["probability"] == pytest.approx(expected, rel=1e-5)
            assert row["known"] is (expected >= 0.5)
            assert seen(row, student).startswith("none of its ") is (expected < 0.5)
        else:
            assert "known" not in row
            assert 1 / student.config.num_labels <= row["probability"] < 1
            assert seen(row, student) == f"{row['prediction']} {row['probability']:.0%}"
