"""A student tells pixels that are normalised or bytes, without a sync per step, and never while a graph is traced."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import aloe
from aloe.models.pixels import can_be_checked
from aloe.models.saving import save_student
from conftest import build_teacher

WRONG = {
    "normalised": lambda x: (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / 0.225,
    "minus one to one": lambda x: 2 * x - 1,
    "bytes": lambda x: 255 * x,
    "not a number": lambda x: x * float("nan"),
}


@pytest.fixture
def student():
    return aloe.bcosify(build_teacher("vit-classifier")).eval()


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("part", ["classifier", "backbone"])
def test_wrong_values_are_told(student, images, wrong, part):
    model = student if part == "classifier" else student.base_model
    with pytest.raises(aloe.UserError, match=r"RGB in \[0, 1\]: do not normalise"):
        model(WRONG[wrong](images))
    model.base_model.check_pixels = "warn"
    with pytest.warns(UserWarning, match="do not normalise"):
        model(WRONG[wrong](images))
    model.base_model.check_pixels = "off"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(WRONG[wrong](images))


def test_right_values_pass_in_any_form(student, images):
    student(images)
    student(images * 1.04)  # as bicubic resizing overshoots
    student(student.base_model.encode(images))


def test_elsewhere_only_the_first_batch_is_looked_at(student, images, monkeypatch):
    looked = []
    monkeypatch.setattr("aloe.models.modeling.check_range", lambda pixels, mode: looked.append(mode))

    class Elsewhere:
        type = "cuda"

    encode = type(student.base_model).encode
    student.base_model._pixels_seen = True
    encode(student.base_model, images)
    assert looked == ["error"]  # on a CPU every batch
    monkeypatch.setattr(torch.Tensor, "device", property(lambda _: Elsewhere), raising=False)
    encode(student.base_model, images)
    assert looked == ["error"]


def test_shapes_alone_are_not_looked_at(student, images):
    assert not can_be_checked(images.to("meta"))
    program = torch.export.export(student, (images,), strict=False)
    torch.testing.assert_close(program.module()(images).logits, student(images).logits)


def test_the_saved_processor_gives_what_the_student_wants(student, tmp_path):
    from transformers import AutoImageProcessor

    save_student(student, tmp_path / "student")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "student")
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8))
    pixels = processor(photo, return_tensors="pt")["pixel_values"]
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    assert student(pixels).logits.shape == (1, 5)
