"""What people type: one rule for numbers and lists, a sentence for everything else."""

from __future__ import annotations

import pytest

from aloe.core.errors import UserError
from aloe.core.typed import named_numbers, number, whole_number, whole_numbers, words

NOT_WHOLE = ["", " ", "1 2", "²", "1²", "\u0661", "1_0", "1.0", "--1", "+", "-", "0x1", "1e3", "one", "⑤", "9" * 5000]


@pytest.mark.parametrize(("text", "value"), [("1", 1), (" 12 ", 12), ("-3", -3), ("+4", 4), ("007", 7)])
def test_a_whole_number_is_read(text, value):
    assert whole_number(text) == value


@pytest.mark.parametrize("text", NOT_WHOLE)
def test_what_is_no_whole_number_is_none(text):
    assert whole_number(text) is None
    with pytest.raises(UserError, match=r"^--k takes a whole number, or several with commas, such as 1,5,20; got"):
        whole_numbers(f"1,{text},2", "--k", "1,5,20")


@pytest.mark.parametrize(("text", "value"), [("1", 1), (".5", 0.5), ("-2.", -2), ("1e-3", 0.001), (" 0.97 ", 0.97)])
def test_a_number_is_read(text, value):
    assert number(text) == value


@pytest.mark.parametrize(
    "text", ["", "nan", "inf", "-Infinity", "1e999", "1_0", "²", "\u0661", "0,5", "1 2", "e5", "."]
)
def test_what_is_no_finite_number_is_none(text):
    assert number(text) is None


def test_lists_have_one_comma_between_two_values():
    assert whole_numbers(" 1, 5 ,20", "--k", "1,5,20") == [1, 5, 20]
    assert words("knn, linear", "TASKS") == ["knn", "linear"]
    assert named_numbers("a=1, b = -.5", "--scores", "a=1") == {"a": 1, "b": -0.5}
    for text in ("", ",", "a,,b", "a,", ",a", " "):
        with pytest.raises(UserError, match="--methods takes one or several words with a comma between two"):
            words(text, "--methods")
    assert words(" ,", "--tables", none=True) == []
    for text in ("", "a", "=1", "a=", "a=1,,b=2", "a=1,a=2", "a=nan", "a=²"):
        with pytest.raises(UserError, match="--scores takes name=number with commas, each name once, such as a=1"):
            named_numbers(text, "--scores", "a=1")


def test_a_number_below_the_least_is_said():
    with pytest.raises(UserError, match=r"a whole number of at least 1.*got '0'"):
        whole_numbers("0", "--k", "1,5,20", least=1)
