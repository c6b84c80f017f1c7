"""Arguments of the public functions that are of a wrong kind: accepted where they have one meaning, else one sentence."""

from __future__ import annotations

import pytest
import torch

import aloe
from aloe.core.errors import UserError
from aloe.models.convert import bcosify
from conftest import build_teacher
from pictures import write_pictures


@pytest.fixture(scope="module")
def student():
    return bcosify(build_teacher("vit-classifier"))


def test_a_loaded_student_is_itself(student):
    assert aloe.load(student) is student


@pytest.mark.parametrize("source", [None, 3, b"x", torch.nn.Identity(), ["a"]])
def test_what_cannot_be_loaded(source):
    with pytest.raises(UserError, match=r"aloe\.load takes"):
        aloe.load(source)


@pytest.mark.parametrize("size", ["2", 0, -1, 1.5, None, True, 10**20])
def test_batch_sizes(student, images, size):
    with pytest.raises(UserError, match="batch_size"):
        aloe.explain(student, images, batch_size=size)
    if size is not None:
        with pytest.raises(UserError, match="batch_size"):
            aloe.attribute(student, images, batch_size=size)


@pytest.mark.parametrize("place", [None, "", 3])
@pytest.mark.parametrize("verb", [aloe.align, aloe.finetune])
def test_no_folder(tmp_path, place, verb):
    for label in "ab":
        write_pictures(tmp_path / label, 5)
    with pytest.raises(UserError, match="output_dir"):
        verb(build_teacher("vit"), tmp_path, place, steps=1, progress=False, device="cpu", workers=0)


def test_a_folder_among_the_images(tmp_path):
    write_pictures(tmp_path / "a", 5)
    with pytest.raises(UserError, match="images' own folders"):
        aloe.align(build_teacher("vit"), tmp_path, tmp_path / "out", steps=1, progress=False, device="cpu")
    assert not (tmp_path / "out").exists()
