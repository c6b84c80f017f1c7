"""Names that nobody knows."""

from __future__ import annotations

import pytest

from aloe.core.errors import UserError
from aloe.core.names import chosen, first_few, meant
from aloe.evaluation.reads import task_names


def test_a_name_is_known_by_its_letters():
    assert chosen(" KNN ", ["knn", "linear"]) == "knn"
    assert meant("knm", ["knn", "linear"], "tasks") == ", did you mean knn; tasks: knn, linear."


@pytest.mark.parametrize("name", [["knn"], ("knn",), None, 5, {"knn"}])
def test_what_is_no_text_is_no_name(name):
    assert chosen(name, ["knn"]) is None
    with pytest.raises(UserError, match=r"^There is no task .*; tasks: knn, .*\.$"):
        task_names([name])


def test_of_many_names_the_first_are_told():
    assert first_few(["a", "b"]) == "a, b"
    assert first_few(list("abcde")) == "a, b, c, d, e"
    assert first_few(list("abcdef")) == "a, b, c, d, e, ..."
    assert first_few(["{}", "b", "c", "d"], 2, " and {} more") == "{}, b and 2 more"
    assert first_few(["a: b", "c"], 1, "; and {} more", "; ") == "a: b; and 1 more"
    assert first_few([]) == ""
