"""Several files of answers: exports of one study count once, what contradicts is refused, different studies add up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from aloe.apps.study.answers import read_studies, to_csv, to_jsonl
from aloe.apps.study.settings import StudySettings
from aloe.apps.study.simulate import Preferences, simulate
from aloe.core.errors import UserError
from apps.study.studies import read_answers

SCORES = {"inherent": 1.0, "attnlrp": 0.0, "lime": -1.0}
SETTINGS = StudySettings.of(methods=tuple(SCORES), trials=10, repeats=2)


def study(seed=0, participants=12, day=0.0):
    found = simulate(SETTINGS, 6, participants, Preferences(SCORES), seed)
    return [replace(a, answered=day and day + 60 * i + 0.123456 + seed) for i, a in enumerate(found)]


def write(folder, name, answers):
    path = folder / name
    path.write_text(to_csv(answers) if path.suffix == ".csv" else to_jsonl(answers))
    return path


def spreadsheet(path, separator=";"):
    """A CSV as a spreadsheet of another country saves it: a mark, semicolons, decimal commas, moments to the second."""
    header, *lines = path.read_text().splitlines()
    rows = [line.split(",") for line in lines]
    cells = [[*row[:-2], row[-2].replace(".", ","), f"{float(row[-1]):.0f}"] for row in rows]
    text = "\r\n".join(separator.join(row) for row in [header.split(","), *cells, [""] * len(cells[0])])
    path.write_bytes(text.encode("utf-8-sig"))
    return path


@pytest.mark.parametrize("day", [0.0, 1.7e9])
def test_exports_of_one_study_count_every_answer_once(tmp_path, day):
    answers = study(day=day)
    early = [a for a in answers if int(a.participant) <= 7 and (a.participant != "7" or a.position < 3)]
    paths = [write(tmp_path, "a.jsonl", early), write(tmp_path, "a.csv", answers)]
    for files in (paths, paths[::-1], [*paths, paths[0]]):
        found, notes = read_studies(files)
        assert found == answers
        assert " and ".join(map(str, files)) in notes[0]
        again = sum(len(read_answers(path)) for path in files) - len(answers)
        assert notes[0].endswith("are of one study.")
        assert notes[1] == f"{again} answers came more than once and counted once."


def test_an_export_that_a_spreadsheet_saved_is_of_the_same_study(tmp_path):
    answers = study(day=1.7e9)
    paths = [write(tmp_path, "a.jsonl", answers), spreadsheet(write(tmp_path, "a.csv", answers))]
    assert read_answers(paths) == answers
    alone = read_answers(paths[1])
    assert [replace(a, answered=round(a.answered)) for a in answers] == alone


def test_parts_of_one_study_are_put_together(tmp_path):
    answers = study(day=1.7e9)
    first, rest = [a for a in answers if a.position < 5], [a for a in answers if a.position >= 5]
    assert read_answers([write(tmp_path, "b.csv", rest), write(tmp_path, "a.csv", first)]) == answers
    # The third file shows that the first two, of different people, are of one study.
    some, others = ([a for a in answers if (int(a.participant) < 6) == low] for low in (True, False))
    files = [write(tmp_path, name, part) for name, part in (("s.csv", some), ("o.csv", others), ("all.csv", answers))]
    assert read_answers(files) == answers


@pytest.mark.parametrize("day", [0.0, 1.7e9])
def test_different_studies_add_up_and_are_told_apart(tmp_path, day):
    one, two = study(0, day=day), study(1, day=day)
    paths = [write(tmp_path, "a.csv", one), write(tmp_path, "b.csv", two), write(tmp_path, "a.jsonl", one)]
    found, notes = read_studies(paths)
    assert len(found) == len(one) + len(two)
    assert len({a.participant for a in found}) == 24
    assert {a.participant[:2] for a in found} == {"1:", "2:"}
    assert f"{paths[0]} and {paths[2]} are of one study." in notes
    assert f"Study 2 of 2 is {paths[1]}; its participants are named 2:1 and so on." in notes


@pytest.mark.parametrize("change", [{"choice": "right"}, {"seconds": 9.5}, {"image": "other"}, {"planned": 99}])
def test_answers_that_contradict_each_other_are_refused_by_name(tmp_path, change):
    (name,) = change
    answers = [replace(a, choice="left") for a in study()]
    edited = [*answers[:4], replace(answers[4], **change), *answers[5:]]
    one, two = write(tmp_path, "a.jsonl", answers), write(tmp_path, "b.csv", edited)
    words = f"Line 5 of {one} and line 6 of {two} contradict each other on position 4 of participant 1: {name}"
    for files in ([one, two], [one, write(tmp_path, "c.jsonl", answers), two]):
        with pytest.raises(UserError) as caught:
            read_answers(files)
        assert str(caught.value).startswith(words)
    alone = write(tmp_path, "d.jsonl", [*answers, edited[4]])
    with pytest.raises(UserError, match=rf"^Line 5 of .* and line {len(answers) + 1} of .* contradict each other"):
        read_answers(alone)


def test_a_file_that_holds_rows_twice_is_said(tmp_path):
    answers = study()
    path = write(tmp_path, "a.jsonl", [*answers, answers[3]])
    assert read_studies(path) == (answers, ["1 answer came more than once and counted once."])


def test_the_fit_of_two_exports_is_the_fit_of_one(aloe, tmp_path):
    one, two = write(tmp_path, "a.jsonl", study()), spreadsheet(write(tmp_path, "a.csv", study()))
    told = []
    for files in ([one], [one, two], [two, one]):
        code, text, err = aloe("study", "fit", *files, "-o", tmp_path / "fit", "--samples", "20", "--json")
        assert code == 0, err
        told.append(json.loads(text))
    notes = [each.pop("notes") for each in told]
    assert told[0] == told[1] == told[2]
    assert notes[0] == []
    assert f"{one} and {two} are of one study." in notes[1]
    assert str(two) in (tmp_path / "fit" / "tables.md").read_text()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "participant",
            "teilnehmer",
            "holds no answer of a study: its first line does not name the column participant",
        ),
        ("left", "links", "column"),
        ("1.", "x", "Line 2 of .* is no answer of a study: its seconds is"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_in_its_words(tmp_path, old, new, words):
    path = write(tmp_path, "a.csv", [replace(study()[0], seconds=1.5)])
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=words):
        read_answers(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"position": "²"}, "its position is '²'"),
        ({"position": 1.5}, "its position is 1.5"),
        ({"position": True}, "its position is True"),
        ({"seconds": float("nan")}, "its seconds is nan"),
        ({"participant": None}, "its participant is None"),
        ({"choice": "both"}, "its kind is 'practice' and its choice 'both'"),
    ],
)
def test_a_value_that_is_none_of_a_study_is_said(tmp_path, change, words):
    row = json.loads(to_jsonl(study()[:1])) | change
    path = Path(tmp_path / "a.jsonl")
    path.write_text(json.dumps(row))
    with pytest.raises(UserError, match=r"Line 1 of .* is no answer of a study") as caught:
        read_answers(path)
    assert words in str(caught.value)


def rounded(answers, decimals, shift=0.0):
    """Answers as a spreadsheet keeps them that rounds seconds and shows moments of another time zone."""
    return [replace(a, seconds=round(a.seconds, decimals), answered=a.answered + shift) for a in answers]


@pytest.mark.parametrize(
    ("decimals", "shift"), [(2, 0.0), (1, 0.0), (0, 0.0), (15, 7200.0), (15, -19800.4), (2, 7200.0)]
)
def test_a_rounded_or_shifted_export_is_of_the_same_study_and_the_exact_one_counts(tmp_path, decimals, shift):
    answers = study(day=1.7e9)
    exact, sheet = write(tmp_path, "a.jsonl", answers), write(tmp_path, "b.csv", rounded(answers, decimals, shift))
    for files in ([exact, sheet], [sheet, exact], [sheet, exact, spreadsheet(write(tmp_path, "c.csv", answers))]):
        found, notes = read_studies(files)
        assert [replace(a, answered=0.0) for a in found] == [replace(a, answered=0.0) for a in answers]
        assert notes[0].endswith("are of one study.")


def test_of_two_studies_of_few_pictures_none_is_taken_for_the_other(tmp_path):
    settings = StudySettings.of(methods=("inherent", "lime"), trials=20, repeats=2)
    for seed in range(3):
        one, two = (simulate(settings, 3, 10, Preferences(SCORES), 2 * seed + i) for i in (0, 1))
        two = [replace(a, answered=1.7e9 + 37.3 * i**1.1) for i, a in enumerate(two)]
        one = [replace(a, answered=1.6e9 + 41.7 * i) for i, a in enumerate(one)]
        paths = [write(tmp_path, "a.csv", rounded(one, 1)), write(tmp_path, "b.csv", two)]
        assert len(read_answers(paths)) == len(one) + len(two)


def test_seconds_beyond_the_rounding_contradict_each_other(tmp_path):
    answers = [replace(a, seconds=a.seconds + 0.001) for a in study(day=1.7e9)]
    sheet = rounded(answers, 2)
    edited = [replace(sheet[0], seconds=round(sheet[0].seconds + 0.02, 2)), *sheet[1:]]
    paths = [write(tmp_path, "a.jsonl", answers), write(tmp_path, "b.csv", edited)]
    with pytest.raises(UserError, match="contradict each other on position 0 of participant 1: seconds"):
        read_answers(paths)


@pytest.mark.parametrize("mark", ["\x0b", "\x1c", "\x85", "\u2028", "\u2029", "\n"])
def test_titles_with_marks_that_some_take_for_line_ends_come_back(tmp_path, mark):
    answers = [replace(a, title=f"a{mark}b", image=f"c{mark}.png") for a in study()]
    for name in ("a.csv", "a.jsonl"):
        assert read_answers(write(tmp_path, name, answers)) == answers


@pytest.mark.parametrize("name", ["a.tsv", "a.txt", "a.json", "a", "a.sqlite"])
def test_a_table_or_lines_are_read_whatever_the_file_is_called(tmp_path, name):
    answers, path = study(), tmp_path / name
    for text in (to_csv(answers), to_csv(answers).replace(",", "\t"), to_jsonl(answers)):
        path.write_text(text)
        assert read_answers(path) == answers


@pytest.mark.parametrize("data", [b"PK\x03\x04xlsx", b"%PDF-1.7", b'[{"participant": "1"}]', b"a\0b"])
def test_what_is_neither_names_what_is_accepted(tmp_path, data):
    path = tmp_path / "a.xlsx"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"holds no answers of a study; give .* table \(CSV\) or as JSON lines\.$"):
        read_answers(path)


def test_a_missing_table_is_said_to_be_missing(tmp_path):
    with pytest.raises(UserError, match=r"a\.tsv cannot be read: No such file"):
        read_answers(tmp_path / "a.tsv")


def test_moments_of_another_time_zone_alone_show_one_study_so_that_other_seconds_are_refused(tmp_path):
    answers = study(day=1.7e9)
    cut = [replace(a, seconds=a.seconds + 0.3, answered=a.answered + 5.5 * 3600) for a in answers]
    with pytest.raises(UserError, match="contradict each other on position 0 of participant 1: seconds"):
        read_answers([write(tmp_path, "a.csv", answers), write(tmp_path, "b.csv", cut)])
