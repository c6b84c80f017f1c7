"""The paper's tables, digit by digit: against its text where that is at hand, and against themselves."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest

from aloe.models.zoo import TEACHERS
from aloe.report.paper import AVERAGE, paper_tables
from places import SHARED

TEXT = next((SHARED / "paper").glob("*.txt"), None)
TEN = ["IN1k", "Cal101", "Flowers", "Food", "Aircr", "DTD", "Cars", "SUN", "C10", "C100"]


def printed_rows(table: str) -> list[list[str]]:
    """Cells of a table in the paper's text, without its markup and references; Table B6 stands above its caption."""
    if TEXT is None:
        pytest.skip("the paper's text is not in ../shared/paper")
    lines = TEXT.read_text().splitlines()
    caption = next(i for i, line in enumerate(lines) if line.startswith(f"Table {table}."))
    blank = [i for i, line in enumerate(lines) if not line.strip()]
    before = table == "B6"
    start = [i for i in blank if i < caption][-2] + 1 if before else caption + 2
    end = caption - 1 if before else next(i for i in blank if i >= start)
    return [[re.sub(r"</?[bi]>| \[\d+\]", "", c).strip() for c in line.split("\t")] for line in lines[start:end]]


@pytest.mark.parametrize("name", ["B1", "B2"])
def test_every_printed_cell_of_a_table_of_ten_data_sets(name):
    header, *rows = printed_rows(name)
    table = paper_tables()[name]
    assert list(table.columns.values()) == header[3:] == [*TEN, "Avg."]
    sections, found, titles = ("Fully Supervised", "Vision Language", "Self-Supervised"), [], ["", ""]
    for cells in rows:
        if not any(cells[1:]):
            titles = [cells[0], ""] if cells[0].startswith(sections) else [titles[0], cells[0]]
            continue
        found.append((*titles, *cells[:2], *cells[3:]))
    ours = [
        (row.section, row.block, row.name, row.architecture, *(_as_printed(row.stage, v) for v in row.values.values()))
        for row in table.rows
    ]
    assert ours == found


def test_every_printed_cell_of_the_zero_shot_table():
    _, *rows = printed_rows("B3")
    ours, block = [], ""
    for row in paper_tables()["B3"].rows:
        (value,) = row.values.values()
        if row.block != block:
            block = row.block
            ours.append([block, "", ""])
        name = r"$\Delta$ (ALOE vs. B-cosif.)" if row.stage == "delta" else f"{row.name} — {row.architecture}"
        tick = {"delta": "", "teacher": "✗"}.get(row.stage, "✓")
        ours.append([name, tick, _as_printed(row.stage, value)])
    assert ours == rows


def _as_printed(stage: str, value: Decimal) -> str:
    return f"{value:+}" if stage == "delta" else str(value)


@pytest.mark.parametrize("name", ["B1", "B2"])
def test_printed_averages_are_those_of_the_columns_but_for_one(name):
    """Table B1 prints 85.97 for ALOE B-ViT-S/16, whose ten columns average 85.816."""
    wrong = {}
    for row in paper_tables()[name].rows:
        *columns, average = row.values.values()
        if row.stage != "delta" and abs(sum(columns) / 10 - average) > Decimal("0.005"):
            wrong[row.architecture] = (average, sum(columns) / 10)
    assert wrong == ({"B-ViT-S/16": (Decimal("85.97"), Decimal("85.816"))} if name == "B1" else {})


@pytest.mark.parametrize("name", ["B4", "B5"])
def test_every_printed_cell_of_the_dense_tables(name):
    lines = printed_rows(name)
    table = paper_tables()[name]
    heads = [line[2:] for line in lines if line[0] in ("", "Method")]
    marks = str.maketrans({"$": "", "_": "", "{": "", "}": ""})
    plain = [h.translate(marks).replace(r"\delta", "δ").replace(r" \uparrow", " ↑") for h in heads[-1]]
    plain = [h.replace(r"\downarrow", "↓") for h in plain]
    groups = [f"{word} " for word in heads[0] if word for _ in range(2)] if name == "B4" else [""] * 4
    assert [a + b for a, b in zip(groups, plain, strict=True)] == list(table.columns.values())
    ours = [
        [
            row.name or r"$\Delta$ (ALOE vs. B-cosif.)",
            {"delta": "", "teacher": "✗"}.get(row.stage, "✓"),
            *(_as_printed(row.stage, value) for value in row.values.values()),
        ]
        for row in table.rows
    ]
    assert ours == lines[len(heads) :]


@pytest.mark.parametrize("name", ["B1", "B2", "B3", "B4", "B5"])
def test_printed_differences_are_those_of_the_rows_above(name):
    """Each to its own digits; the averages' difference is that of the averages, not the average of the differences."""
    table, checked = paper_tables()[name], 0
    for delta in (row for row in table.rows if row.stage == "delta"):
        aligned, baseline = table.find(delta.teacher, "aligned"), table.find(delta.teacher, "b-cosified")
        for column, value in delta.values.items():
            difference = aligned.values[column] - baseline.values[column]
            assert difference.quantize(value) == value, column
            checked += 1
    assert checked == {"B1": 33, "B2": 33, "B3": 1, "B4": 4, "B5": 4}[name]


def test_every_printed_cell_of_the_localization_table():
    _, _, *rows = printed_rows("B6")  # headings stand in two lines
    ours, section = [], ""
    for row in paper_tables()["B6"].rows:
        if row.section != section:
            section = row.section
            ours.append([section, *[""] * 10])
        cells = {key: f"{v:+}" if key == "delta" else str(v) for key, v in row.values.items()} | dict(row.absent)
        ours.append([row.architecture, *(cells[key] for key in paper_tables()["B6"].columns)])
    assert rows == ours


def test_printed_localization_deltas_are_aloe_minus_attnlrp():
    """To the digit, and AttnLRP is everywhere the best of the teacher's methods."""
    for row in paper_tables()["B6"].rows:
        posthoc = [row.values[key] for key in ("attnlrp", "intgrad", "legrad", "chefercam") if key in row.values]
        assert row.values["delta"] == row.values["inherent"] - row.values["attnlrp"]
        assert max(posthoc) == row.values["attnlrp"]
        assert len(posthoc) + len(row.absent) == 4


def test_accuracies_of_the_localization_table_are_those_of_the_others():
    for row in paper_tables()["B6"].rows:
        for task, name in (("linear", "B1"), ("knn", "B2")):
            for side, stage in (("teacher", "teacher"), ("student", "aligned")):
                other = paper_tables()[name].find(row.teacher, stage)
                assert row.values[f"{task}/{side}"] == other.values["imagenet"], (row.architecture, task, side)


def test_the_teachers_are_those_of_table_a1():
    ids = {teacher.id for teacher in TEACHERS}
    tables = paper_tables()
    for name in ("B1", "B2", "B6"):
        assert {row.teacher for row in tables[name].rows} == ids
        assert {row.teacher for row in tables[name].rows if row.stage == "aligned"} == ids
    assert {row.teacher for row in tables["B3"].rows} == {t.id for t in TEACHERS if t.family == "SigLIP2"}
    assert {row.teacher for name in ("B4", "B5") for row in tables[name].rows} <= ids
    for row in (row for table in tables.values() for row in table.rows if row.stage == "teacher"):
        (teacher,) = [t for t in TEACHERS if t.id == row.teacher]
        assert row.architecture.split("@")[0] == teacher.arch or (row.name, row.architecture) == ("Baseline", "")
    for row in tables["B6"].rows:  # which prints ViT-so for ViT-so400m
        (teacher,) = [t for t in TEACHERS if t.id == row.teacher]
        assert row.architecture.split("@")[0].replace("so/", "so400m/") == teacher.arch


def test_a_row_is_found_by_teacher_and_stage():
    table = paper_tables()["B2"]
    assert table.find("google/vit-base-patch16-224", "aligned").values[AVERAGE] == Decimal("69.82")
    assert table.find("google/vit-base-patch16-224", "converted") is None
    assert table.find("my-teacher", "aligned") is None
    tasks = [(t.name, t.task) for t in paper_tables().values()]
    dense = [("B4", "depth"), ("B5", "normals")]
    sweeps = [("B8", ""), ("Figure B2", "linear")]
    assert tasks == [("B1", "linear"), ("B2", "knn"), ("B3", "zeroshot"), *dense, ("B6", "gridpg"), *sweeps]


def test_every_printed_cell_of_the_objectives():
    header, *rows = printed_rows("B8")
    table = paper_tables()["B8"]
    assert ["Loss", *table.columns.values()] == header
    assert [[row.name, *map(str, row.values.values())] for row in table.rows] == rows


def test_the_numbers_of_figure_b2_are_those_of_its_caption():
    if TEXT is None:
        pytest.skip("the paper's text is not in ../shared/paper")
    caption = next(line for line in TEXT.read_text().splitlines() if line.startswith("Figure B2."))
    table = paper_tables()["Figure B2"]
    for row in table.rows:
        for value in row.values.values():
            assert re.search(rf"(?<![\d.]){re.escape(str(value))}(?!\d)", caption), value
