"""What the caller has set of torch does not reach into a public call, and is as it was afterwards."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

import aloe
from aloe.attribution.methods import METHODS
from aloe.core.torch_state import plain_torch
from aloe.models.saving import save_student
from conftest import build_teacher
from pictures import write_pictures


@contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


AROUND = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
}


@pytest.fixture(scope="module")
def student():
    return aloe.bcosify(build_teacher("vit-classifier")).eval()


@pytest.fixture(params=AROUND)
def around(request):
    return AROUND[request.param]


@pytest.mark.parametrize("method", METHODS)
def test_maps_are_the_same_under_any_state(student, images, around, method):
    options = {"samples": 20} if method == "lime" else {}
    expected = aloe.attribute(student, images, 1, method, **options)
    with around():
        found = aloe.attribute(student, images, 1, method, **options)
        assert torch.get_default_dtype() in (torch.float32, torch.float64)
    torch.testing.assert_close(found.maps, expected.maps, rtol=0, atol=0)
    torch.testing.assert_close(found.value, expected.value, rtol=0, atol=0)


def test_explanations_are_the_same_under_any_state(student, images, around):
    expected = aloe.explain(student, images)
    with around():
        found = aloe.explain(student, images)
    torch.testing.assert_close(found.contributions, expected.contributions, rtol=0, atol=0)


def test_what_was_made_under_a_state_is_explained_as_ever(student, images, around, tmp_path):
    save_student(student, tmp_path / "student")
    teacher = build_teacher("vit-classifier")
    with around():
        loaded, converted = aloe.load(tmp_path / "student"), aloe.bcosify(teacher)
        inside = images.clone()
    assert {p.dtype for p in (*loaded.parameters(), *converted.parameters())} == {torch.float32}
    for model in (loaded, converted):
        expected = aloe.explain(student, images)
        torch.testing.assert_close(aloe.explain(model, images).contributions, expected.contributions, rtol=0, atol=0)
        torch.testing.assert_close(aloe.explain(model, inside).contributions, expected.contributions, rtol=0, atol=0)
        aloe.attribute(model, inside, 1, "attnlrp")


def test_a_model_of_inference_tensors_is_explained(student, images):
    import copy

    with torch.inference_mode():
        other = copy.deepcopy(student)
        for parameter in other.parameters():
            parameter.data = parameter.data.clone()
    expected = aloe.explain(student, images)
    torch.testing.assert_close(aloe.explain(other, images).contributions, expected.contributions, rtol=0, atol=0)
    for method in ("attnlrp", "inputxgrad", "legrad"):
        torch.testing.assert_close(
            aloe.attribute(other, images, 1, method).maps,
            aloe.attribute(student, images, 1, method).maps,
            rtol=0,
            atol=0,
        )


def test_the_state_comes_back_after_an_error(student, images):
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), default_dtype(torch.float64):
        with pytest.raises(aloe.UserError):
            aloe.explain(student, images, 99)
        assert not torch.is_grad_enabled()
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_default_dtype() == torch.float64
    with plain_torch():
        assert torch.is_grad_enabled()


@pytest.mark.parametrize("task", ["linear", "knn", "gridpg"])
def test_rows_are_the_same_under_any_state(around, task, tmp_path):
    teacher = build_teacher("vit-classifier")
    names = [f"LABEL_{i}" for i in range(5)]
    for part in ("train", "test"):
        for i, name in enumerate(names):
            write_pictures(tmp_path / part / name, 4, 10 * i)
    data = (str(tmp_path / "train"), str(tmp_path / "test"))
    settings = {"linear": {}, "knn": {"k": 1}, "gridpg": {"methods": "inputxgrad", "share": 1.0, "grids": 2}}[task]

    def measured():
        try:
            return aloe.evaluate(teacher, task, data, device="cpu", **settings)["value"]
        except aloe.UserError as error:
            return str(error)  # a random teacher may be right about too few images: then everywhere

    expected = measured()
    with around():
        assert measured() == expected
