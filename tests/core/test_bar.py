"""Progress: nothing is lost on a narrow terminal or in a log file, and a mistake before the first step is one line."""

from __future__ import annotations

import re

import pytest

from aloe.core import progress
from aloe.core.progress import Bar, tracked

STATUS = "21 img/s, data wait 25%  loss 4:1.000 8:1.000 12:1.000 pooled:2.000  cosine 4:0.5 8:0.5"


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "\n", re.sub(r"\x1b\[[0-9;]*m", "", text))


@pytest.mark.parametrize("columns", [60, 80, 140])
def test_a_terminal_keeps_count_and_time_left(monkeypatch, capsys, columns):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    with Bar("aligning", 30_000) as bar:
        bar.update(12_000, status=STATUS)
        bar.update(12_001, status=STATUS)
    lines = [line for line in plain(capsys.readouterr().err).split("\n") if line.strip()]
    assert all(len(line) <= columns for line in lines)
    assert "12001/30000" in lines[-1]
    assert re.search(r"\d:\d\d:\d\d|-:--:--", lines[-1])
    assert "21 img/s" in lines[-1]


def test_a_log_file_gets_lines(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Bar("aligning", 300) as bar:
        for moment, done in ((0, 0), (10, 20), (40, 100), (50, 125)):
            now[0] = moment
            bar.update(done, status=STATUS)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"aligning 100/300, 1:20 left, {STATUS}"
    assert lines[1] == f"aligning 125/300, 1:10 left, {STATUS}"
    assert len(lines) == 2


def test_nothing_is_shown_before_the_first_step_without_a_title_or_on_another_rank(monkeypatch, capsys):
    with pytest.raises(ValueError, match="a mistake"), Bar("aligning", 3):
        raise ValueError("a mistake")
    assert list(tracked(range(3), None)) == [0, 1, 2]
    monkeypatch.setenv("RANK", "1")
    assert list(tracked(iter("ab"), "counting", 2)) == ["a", "b"]
    assert capsys.readouterr().err == ""


def test_items_are_counted(capsys):
    assert list(tracked(iter("abc"), "counting")) == ["a", "b", "c"]
    assert capsys.readouterr().err == "counting 3\n"
