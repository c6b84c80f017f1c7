"""A class by its name: case and spaces around it do not count where one fits, and the nearest is named."""

from __future__ import annotations

import pytest
import torch

from aloe.attribution.targets import class_index
from aloe.core.errors import UserError
from aloe.models.labels import index_of

NAMES = {0: "Car", 1: "cat", 2: "tabby cat"}


class Config:
    id2label = NAMES


@pytest.mark.parametrize("wanted", ["cat", " cat", "CAT ", "\tCat"])
def test_case_and_spaces_are_forgiven(wanted):
    assert index_of(NAMES, wanted) == 1
    assert class_index(wanted, Config, 3) == 1


def test_the_nearest_is_named():
    with pytest.raises(UserError, match="There is no class 'tabby ctt'; did you mean tabby cat"):
        class_index("tabby ctt", Config, 3)


def test_numbers_are_read_by_one_rule():
    assert class_index("2", Config, 3) == 2
    assert class_index(torch.tensor(2).item(), Config, 3) == 2
    for wrong in ("3", "-1", "\u0661", "1_0", "2.0"):
        with pytest.raises(UserError):
            class_index(wrong, Config, 3)
