"""Reading result rows: a row counts once, what contradicts it is refused, what is broken is left out and said."""

from __future__ import annotations

import json

import pytest
from result_rows import make_row, write_rows

from aloe.core.errors import UserError
from aloe.evaluation.results import ResultLog
from aloe.report.rows import read_results


def test_a_row_that_comes_again_counts_once_at_its_last_place(tmp_path):
    first, other = make_row("teacher", 50.0), make_row("aligned", 51.0)
    again = {**first, "value": 50.0 * (1 + 1e-12), "seconds": 9.0, "device": "cuda"}
    folder = write_rows(tmp_path / "a", first, other, again)
    rows, notes = read_results([folder])
    assert [(row.stage, row.seconds) for row in rows] == [("aligned", other["seconds"]), ("teacher", 9.0)]
    assert notes == ["1 result row came more than once and counted once."]
    assert read_results([folder / "results.jsonl"])[0] == rows
    more = write_rows(tmp_path / "b", other)
    rows, notes = read_results([folder, more, more])
    assert [row.stage for row in rows] == ["teacher", "aligned"]
    assert notes == ["3 result rows came more than once and counted once."]


@pytest.mark.parametrize("change", [{"value": 50.1}, {"metric": "top-5"}, {"data": "other"}, {"counts": {"test": 1}}])
def test_rows_of_a_key_that_contradict_each_other_are_refused_by_name(tmp_path, change):
    first, other = make_row("teacher", 50.0), make_row("aligned", 51.0)
    (name,) = change
    one, two = write_rows(tmp_path / "a", first, other), write_rows(tmp_path / "b", other, {**first, **change})
    words = f"Line 1 of {one / 'results.jsonl'} and line 2 of {two / 'results.jsonl'} contradict each other on knn of"
    with pytest.raises(UserError) as caught:
        read_results([one, two])
    assert str(caught.value).startswith(f"{words} my-teacher on ")
    assert f": {name} {first[name]!r} and" in str(caught.value)
    both = write_rows(tmp_path / "c", first, {**first, **change})
    with pytest.raises(UserError, match="contradict each other on knn of my-teacher on"):
        ResultLog(both)


@pytest.mark.parametrize("tail", ['{"key": "a", "task": "kn', '{"key": "\\ud8', '"'])
def test_a_line_cut_off_by_a_crash_is_left_out_and_said(tmp_path, tail):
    folder = write_rows(tmp_path, make_row("teacher", 50.0), tail=tail)
    before = (folder / "results.jsonl").read_bytes()
    rows, (note,) = read_results([folder])
    assert [row.value for row in rows] == [50.0]
    assert note.startswith(f"Line 2 of {folder / 'results.jsonl'} is cut off")
    assert (folder / "results.jsonl").read_bytes() == before, "results are only read"


def test_half_a_letter_at_the_end(tmp_path):
    folder = write_rows(tmp_path, make_row("teacher", 50.0))
    with (folder / "results.jsonl").open("ab") as file:
        file.write('{"name": "é'.encode()[:-1])
    rows, (note,) = read_results([folder])
    assert len(rows) == 1
    assert "cut off" in note


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"value": float("nan")}, "value: Input should be a finite number"),
        ({"value": "58"}, "value: Input should be a valid number"),
        ({"value": True}, "value: Input should be a valid number"),
        ({"value": None}, "value"),
        ({"interpretable": "yes"}, "interpretable"),
        ({"counts": {"train": "many"}}, "counts.train"),
        ({"settings": []}, "settings"),
    ],
)
def test_a_line_that_is_no_row_is_left_out_and_said(tmp_path, change, words):
    folder = write_rows(tmp_path, {**make_row("aligned", 1.0), **change}, make_row("teacher", 50.0))
    rows, (note,) = read_results([folder])
    assert [row.stage for row in rows] == ["teacher"]
    assert note.startswith("Line 1 of")
    assert f"is no result row and was left out: {words}" in note


def test_rows_may_say_more_than_is_known_here_but_not_less(tmp_path):
    row = {**make_row("teacher", 50.0), "device": "cpu", "new": [1]}
    assert read_results([write_rows(tmp_path, row)])[0][0].value == 50.0
    for name in ("key", "task", "model", "name", "stage", "interpretable", "data", "value"):
        short = {k: v for k, v in row.items() if k != name}
        _, (note,) = read_results([write_rows(tmp_path, row, short)])
        assert f"{name}: Field required" in note


@pytest.mark.parametrize("words", ["", "\n\n", "words\n", "[1]\n", "[" * 100_000])
def test_a_file_without_rows(tmp_path, words):
    (tmp_path / "results.jsonl").write_text(words)
    with pytest.raises(UserError, match=r"results\.jsonl holds no result rows.*`aloe evaluate` writes them"):
        read_results([tmp_path])


def test_places_without_results(tmp_path):
    good = write_rows(tmp_path / "some", make_row("teacher", 1.0))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty/results\.jsonl does not exist"):
        read_results([good, tmp_path / "empty"])
    with pytest.raises(UserError, match=r"nowhere does not exist; give a folder"):
        read_results([tmp_path / "nowhere"])


def test_only_whole_lines_count_as_lines(tmp_path):
    """A separator that Python's splitlines knows and JSON does not must not cut a row in two."""
    row = make_row("teacher", 50.0, name="a\u2028b")
    (tmp_path / "results.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n")
    rows, notes = read_results([tmp_path])
    assert (rows[0].name, notes) == ("a\u2028b", [])


@pytest.mark.parametrize("bad", ["my notes", "[1]", '{"key": "a"}', "\udcff"])
def test_what_is_measured_further_leaves_out_and_names_the_lines_that_a_report_does(tmp_path, capsys, bad):
    first, other = make_row("teacher", 50.0), make_row("aligned", 51.0)
    path = tmp_path / "results.jsonl"
    lines = [json.dumps(first), bad, json.dumps(other)]
    path.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))
    before = path.read_bytes()
    log = ResultLog(tmp_path)
    assert list(log.rows.values()) == [first, other]
    told = capsys.readouterr().err
    assert told.count(f"Line 2 of {path}") == 1
    assert told.strip() == read_results([tmp_path])[1][0]
    log.add(new := make_row("aligned", 52.0, "other"))
    assert path.read_bytes() == before + json.dumps(new).encode() + b"\n"
