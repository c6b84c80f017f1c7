"""The class head and the cosine by block have tables of their own."""

from __future__ import annotations

from pathlib import Path

from result_rows import make_row

from aloe.report.own_tables import own_table
from aloe.report.rows import Result


def cosine(name: str, **details: float):
    row = make_row("aligned", details["pooled"], "photos", task="cosine", name=name)
    return Result(**{**row, "details": details, "key": name})


def test_cosines_stand_by_block_and_in_order():
    rows = [cosine("a", after_block_12=0.7, after_block_4=0.9, pooled=0.8, pooled_centred=0.5), cosine("b", pooled=0.6)]
    table = own_table("cosine", rows)
    assert table.columns == ("block 4", "block 12", "pooled", "pooled, centred")
    values = [[cell.value for cell in row.cells] for block in table.blocks for row in block.rows]
    assert values == [[0.9, 0.7, 0.8, 0.5], [None, None, 0.6, None]]


def test_class_heads_stand_by_stage():
    made = (("aligned", 69.0), ("teacher", 71.6))
    rows = [Result(**{**make_row(s, v, "photos", task="classifier"), "key": s}) for s, v in made]
    table = own_table("classifier", rows)
    assert [row.labels[1] for block in table.blocks for row in block.rows] == ["teacher", "ALOE"]
    assert own_table("cosine", rows) is None


def test_a_report_of_cosines_alone_is_a_report(tmp_path: Path, aloe):
    from places import TESTS

    lines = (TESTS / "golden" / "results" / "results.jsonl").read_text().splitlines()
    (tmp_path / "results.jsonl").write_text("".join(f"{x}\n" for x in lines if '"task": "cosine"' in x))
    code, out, err = aloe("report", tmp_path / "results.jsonl", "-o", "report")
    assert code == 0, err
    assert "0.7272" in Path("report/tables.md").read_text()
    assert "none of the tables" not in out + err
