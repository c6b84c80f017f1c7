"""Names that hold anything, as text."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe.core.printable import append_lines, read_lines, shown, shown_line


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a b (1).png", "a b (1).png"),
        ("Bärenjunges 熊 \u202f10.15.png", "Bärenjunges 熊 \u202f10.15.png"),
        ("back\\slash.png", "back\\slash.png"),
        (os.fsdecode(b"caf\xe9.jpg"), "caf\\xe9.jpg"),
        ("caf\\xe9.jpg", "caf\\\\xe9.jpg"),
        ("a\nb\x1b[2J.png", "a\\u000ab\\u001b[2J.png"),
        ("gpj.\u202eexe", "gpj.\\u202eexe"),
    ],
)
def test_shown(name, text):
    assert shown(name) == text
    assert shown(name).encode()
    assert shown_line(shown(name)) == shown(name)


@given(st.binary(min_size=1).filter(lambda b: b"/" not in b and b"\0" not in b), st.binary(min_size=1))
def test_any_bytes_are_shown_and_told_apart(one, two):
    one, two = os.fsdecode(one), os.fsdecode(two)
    assert not re.search("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", shown(one))
    assert (shown(one) == shown(two)) == (one == two)


def test_lines_there_and_back(tmp_path):
    lines = ["a: b", os.fsdecode(b"\xff: c"), "d\r\n\u2028e"]
    append_lines(tmp_path / "list.txt", lines)
    assert read_lines(tmp_path / "list.txt") == list(map(shown_line, lines))
    assert read_lines(tmp_path / "none.txt") == []
