"""Footnotes and the two tables beside the main one."""

from __future__ import annotations

from result_rows import VIT, make_row

from aloe.report.columns import TEN
from aloe.report.rows import Result
from aloe.report.tables import build_grid, by_k, main_table, other_settings


def tables_of(*rows, name="b2", **options):
    grid = build_grid(name, [Result(**row) for row in rows], **options)
    return main_table(name, grid), other_settings(name, grid), by_k(grid)


def lines(table):
    return [
        [*row.labels, *(cell.text + cell.note for cell in row.cells)] for block in table.blocks for row in block.rows
    ]


def test_the_main_table_has_a_block_per_teacher_and_a_dash_for_what_is_missing():
    table, other, ks = tables_of(
        make_row("teacher", 58.0),
        make_row("aligned", 57.0),
        make_row("aligned", 0.0, "dtd", teacher=""),
    )
    assert table.caption.startswith("Table B2. k-NN accuracy (%)")
    assert table.headers == ("Model", "Stage", "Architecture", "Inter.")
    assert table.columns == ("DTD", "C10")
    assert [block.title for block in table.blocks] == ["my-teacher", "teacher unknown"]
    assert lines(table)[:2] == [
        ["my-teacher", "teacher", "ViT-B/16", "✗", "\u2013", "58.00"],
        ["my-aligned", "ALOE", "B-ViT-B/16", "✓", "\u2013", "57.00"],
    ]
    assert lines(table)[3] == ["my-aligned", "ALOE", "B-ViT-B/16", "✓", "0.00", "\u2013"], "0 is a number"
    assert [row.gray for row in table.blocks[0].rows] == [True, False, False]
    assert [row.kind for row in table.blocks[0].rows] == ["model", "model", "delta"]
    assert table.footnotes == ("✓ inherently interpretable, ✗ not.", "Accuracy: top-1.")
    assert (other, ks) == (None, None)


def test_a_footnote_says_what_was_used_instead_of_the_official_split():
    small = {"official": False, "counts": {"train": 50000, "test": 5000}}
    table, *_ = tables_of(
        make_row("teacher", 58.0, **small), make_row("aligned", 57.0, **small), make_row("aligned", 57.0, "dtd")
    )
    assert lines(table)[0][-2:] == ["58.00†", "\u2013"]
    assert lines(table)[1][-3:] == ["57.00", "57.00†", "57.00†"], "also its average"
    assert "† C10: not the official split, but 50000 train, 5000 test images." in table.footnotes


def test_models_measured_on_different_splits_are_told_apart():
    def row(stage, test, notes=()):
        return make_row(stage, 5.0, official=False, counts={"test": test}, notes=[*notes])

    table, *_ = tables_of(row("teacher", 100), row("aligned", 200, ["every second image."]))
    (note,) = [n for n in table.footnotes if n.startswith("†")]
    assert note == (
        "† C10: not the official split, but 100 test images, of my-teacher; "
        "200 test images (every second image), of my-aligned."
    )
    table, *_ = tables_of(make_row("teacher", 5.0, notes=["The list is ours."]))
    assert table.footnotes[-1] == "C10: The list is ours."
    table, *_ = tables_of(make_row("teacher", 5.0, "my/birds", official=False, counts={"train": 7}))
    assert table.footnotes[-1] == "† birds: no official split: 7 train images."
    table, *_ = tables_of(make_row("teacher", 5.0, official=False, counts={}))
    assert table.footnotes[-1] == "† C10: not the official split, but others."


def test_a_footnote_says_which_metric_is_whose():
    table, *_ = tables_of(make_row("teacher", 5.0), make_row("teacher", 6.0, "caltech101", metric="mean per class"))
    assert table.footnotes[1] == "Accuracy: mean per class for Cal101; top-1 for C10."


def test_a_number_that_is_not_the_protocols_is_marked():
    table, *_ = tables_of(make_row("teacher", 5.0, settings={"k": [5, 1], "votes": "distance"}))
    assert lines(table)[0][-1] == "5.00‡"
    assert table.footnotes[-1] == "‡ not the protocol's settings: k = 5, votes = distance (my-teacher on C10)."


def test_other_settings_are_listed_with_what_differs():
    _, other, _ = tables_of(
        make_row("teacher", 1.0, settings={"k": [5]}),
        make_row("teacher", 2.0),
        make_row("teacher", 3.0, settings={"distance": "euclidean", "k": [1]}, official=False, counts={"test": 9}),
        make_row("teacher", 4.0, versions={"torch": "2.12.0"}),
        make_row("teacher", 2.0, seconds=9.0),
    )
    assert other.name == "b2-other"
    assert [row[3:] for row in lines(other)] == [
        ["C10", "k = 5", "1.00"],
        ["C10", "measured before", "2.00"],
        ["C10", "k = 1, distance = euclidean, counts = test 9", "3.00†"],
        ["C10", "versions = torch 2.12.0", "4.00"],
    ]
    assert other.footnotes == ("† C10: not the official split, but 9 test images.",)
    _, heads, _ = tables_of(
        make_row("aligned", 60.0, task="linear"),
        make_row("aligned", 61.0, task="linear", settings={"head": "linear", "loss": "bce", "epochs": 5}),
        name="b1",
    )
    assert lines(heads)[0][4:] == ["loss = bce, epochs = 5, head = linear", "61.00"]


def test_a_users_own_prompts_are_other_settings():
    table, other, _ = tables_of(
        make_row("aligned", 60.0, "dtd", "zeroshot"),
        make_row("aligned", 61.0, "dtd", "zeroshot", settings={"templates": "mine.txt", "class_names": ["a"] * 47}),
        name="b3",
    )
    assert table.columns == ("DTD, 80 templates",)
    assert lines(other)[0][3:] == ["DTD", "templates = mine.txt", "61.00"]


def test_accuracy_by_k_is_a_table_of_its_own():
    values = {"20": 58.0, "1": 50.0, "words": 1.0, "3": None, "5": float("inf")}
    _, _, ks = tables_of(
        make_row("teacher", 58.0, details={"by_k": values}, official=False),
        make_row("aligned", 57.0, details={"by_k": {"20": 57.0, "100": 56.0}}),
        make_row("converted", 33.0, details={"by_k": {"20": 33.0}}),
    )
    assert ks.columns == ("k = 1", "k = 20", "k = 100")
    assert lines(ks) == [
        ["my-teacher", "teacher", "C10", "50.00†", "58.00†", "\u2013"],
        ["my-aligned", "ALOE", "C10", "\u2013", "57.00", "56.00"],
    ]
    assert ks.footnotes == ("† C10: not the official split, but 50000 train, 10000 test images.",)


def test_a_footnote_says_what_an_average_is_over():
    rows = [make_row("teacher", 5.0, d) for d in ("dtd", "cars", "cifar10")]
    table, *_ = tables_of(*rows, *(make_row("teacher", 5.0, d, teacher="t2") for d in ("dtd", "cars")))
    assert table.footnotes[-2:] == (
        "Avg.: over the data sets for which a block has numbers; a row that lacks one of them has no average.",
        "Avg. of the block t2: 2 of 3 data sets (DTD, Cars).",
    )


def test_footnotes_on_the_papers_numbers():
    table, *_ = tables_of(make_row("teacher", 80.0, "imagenet", teacher=VIT))
    words = "paper: as printed in Table B2 of the paper; its differences are computed from these rows"
    assert table.footnotes[-1] == f"{words}."
    table, *_ = tables_of(*(make_row("teacher", 80.0, d, teacher=VIT) for d in ("imagenet", "dtd")))
    assert table.footnotes[-1] == f"{words}, and its averages, over the data sets shown."
    small = "facebook/dinov3-vits16-pretrain-lvd1689m"
    rows = [make_row("aligned", 80.0, d, "linear", teacher=small) for d in TEN]
    table, *_ = tables_of(*rows, name="b1")
    assert table.footnotes[-1] == (
        "The paper prints 85.97 as average of ALOE B-ViT-S/16; its ten columns average 85.82."
    )
    assert lines(table)[1][-1] == "85.97"
    table, *_ = tables_of(*rows, name="b1", with_paper=False)
    assert not [note for note in table.footnotes if "paper" in note]
