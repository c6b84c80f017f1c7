"""A compiled model is explained as the model that was compiled."""

from __future__ import annotations

import copy

import pytest
import torch

import aloe
from aloe.attribution.methods import METHODS
from aloe.core.errors import UserError
from conftest import build_teacher


def compiled_whole(model):
    return torch.compile(model, backend="eager")


def compiled_in_place(model):
    model.compile(backend="eager")
    return model


def compiled_blocks(model):
    blocks = model.blocks if hasattr(model, "blocks") else model.base_model.layers
    for i, block in enumerate(blocks):
        blocks[i] = torch.compile(block, backend="eager")
    return model


def compiled_blocks_in_place(model):
    for block in model.blocks if hasattr(model, "blocks") else model.base_model.layers:
        block.compile(backend="eager")
    return model


def compiled_forward(model):
    model.forward = torch.compile(model.forward, backend="eager")
    return model


def compiled_forwards_of_blocks(model):
    for block in model.blocks if hasattr(model, "blocks") else model.base_model.layers:
        block.forward = torch.compile(block.forward, backend="eager")
    return model


WAYS = [
    *(compiled_whole, compiled_in_place, compiled_blocks, compiled_blocks_in_place),
    *(compiled_forward, compiled_forwards_of_blocks),
]


@pytest.fixture(scope="module")
def models():
    teacher = build_teacher("vit-classifier")
    return {"teacher": teacher, "student": aloe.bcosify(teacher).eval()}


@pytest.mark.parametrize("compiled", WAYS)
@pytest.mark.parametrize("which", ["teacher", "student"])
def test_every_method_gives_the_map_of_the_model_itself(models, images, which, compiled):
    model, images = models[which], images[:1]
    other = compiled(copy.deepcopy(model))
    other(images)  # as its owner runs it, compiled
    for method in METHODS:
        if method == "inherent" and which == "teacher":
            continue
        options = {"samples": 20} if method == "lime" else {}
        expected = aloe.attribute(model, images, 1, method, **options)
        try:
            found = aloe.attribute(other, images, 1, method, **options)
        except UserError as error:
            pytest.fail(f"{method}: {error}")
        torch.testing.assert_close(found.maps, expected.maps, rtol=0, atol=0, msg=method)
