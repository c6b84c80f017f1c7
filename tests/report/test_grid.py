"""Which number stands where: groups, order, protocol, paper, averages, differences, the best."""

from __future__ import annotations

import pytest
from result_rows import VIT, make_row

from aloe.draw.tables import MINUS
from aloe.report.columns import MEAN, TEN, Column, heading
from aloe.report.rows import Result
from aloe.report.tables import build_grid

STAGES = ("teacher", "converted", "b-cosified", "aligned")


def grid_of(*rows, table="b2", **options):
    return build_grid(table, [Result(**row) for row in rows], **options)


def shown(grid, group=0):
    """(name, stage, {column key: text}) of every line; bold in stars, ASCII minus."""
    return [
        (line.name, line.stage.replace(MINUS, "-"), {c.key: _text(cell) for c, cell in line.cells.items()})
        for line in grid.groups[group].lines
    ]


def _text(cell):
    return (f"*{cell.text}*" if cell.bold else cell.text).replace(MINUS, "-")


def test_stages_stand_in_order_with_the_difference_below_and_the_best_in_bold():
    values = dict(zip(STAGES, (58.56, 37.9, 52.3, 58.12), strict=True))
    grid = grid_of(*(make_row(stage, values[stage]) for stage in reversed(STAGES)))
    assert shown(grid) == [
        ("my-teacher", "teacher", {"cifar10": "58.56"}),
        ("my-converted", "converted", {"cifar10": "37.90"}),
        ("my-b-cosified", "b-cosified", {"cifar10": "52.30"}),
        ("my-aligned", "aligned", {"cifar10": "*58.12*"}),
        ("Δ my-aligned", "ALOE - B-cosified", {"cifar10": "+5.82"}),
    ]


def test_without_a_b_cosified_model_the_difference_is_to_the_teacher():
    grid = grid_of(make_row("teacher", 58.56), make_row("aligned", 58.12), make_row("converted", 3))
    assert shown(grid)[-1] == ("Δ my-aligned", "ALOE - teacher", {"cifar10": "-0.44"})
    assert [stage for _, stage, _ in shown(grid_of(make_row("aligned", 58.12), make_row("converted", 3)))] == [
        "converted",
        "aligned",
    ]


def test_a_baseline_without_a_shared_data_set_is_none():
    grid = grid_of(make_row("b-cosified", 40.0, "dtd"), make_row("teacher", 58.0), make_row("aligned", 57.0))
    assert shown(grid)[-1] == ("Δ my-aligned", "ALOE - teacher", {"cifar10": "-1.00"})


def test_the_best_of_several_baselines_is_taken_and_named():
    rows = [make_row("b-cosified", v, name=f"base-{v}") for v in (50, 52, 51)]
    grid = grid_of(*rows, make_row("aligned", 58.0, name="a"), make_row("aligned", 57.0, name="b"))
    assert shown(grid)[-2:] == [
        ("Δ a", "ALOE - base-52", {"cifar10": "+6.00"}),
        ("Δ b", "ALOE - base-52", {"cifar10": "+5.00"}),
    ]


def test_the_difference_is_that_of_the_numbers_shown():
    grid = grid_of(make_row("b-cosified", 10.005001), make_row("aligned", 20.014))  # shown as 10.01 and 20.01
    assert shown(grid)[-1][2] == {"cifar10": "+10.00"}


def test_bold_is_for_interpretable_models_with_a_rival_and_for_every_tie():
    grid = grid_of(
        make_row("teacher", 99.0),
        make_row("converted", 50.001),
        make_row("aligned", 50.004),
        make_row("b-cosified", 49.0),
        make_row("aligned", 77.0, "dtd"),
        make_row("teacher", 99.0, "dtd"),
        make_row("aligned", 1.0, teacher="other"),
        make_row("teacher", 0.5, teacher="other"),
    )
    bold = [(name, column) for name, _, cells in shown(grid) for column, text in cells.items() if "*" in text]
    assert bold == [("my-converted", "cifar10"), ("my-aligned", "cifar10")]
    assert "*" not in str(shown(grid, 1)), "one model alone is not the best of anything"


def test_an_average_needs_every_column_of_its_block():
    grid = grid_of(
        *(make_row("teacher", v, d) for v, d in ((50.0, "dtd"), (61.0, "cars"))),
        make_row("aligned", 49.0, "dtd"),
        make_row("aligned", 77.0, "cifar10", teacher="other"),
    )
    assert grid.columns == [Column("dtd"), Column("cars"), Column("cifar10"), MEAN]
    teacher, aligned, delta = shown(grid)
    assert teacher[2] == {"dtd": "50.00", "cars": "61.00", "/average": "55.50"}
    assert aligned[2] == {"dtd": "49.00"}
    assert delta[2] == {"dtd": "-1.00"}
    assert shown(grid, 1)[0][2] == {"cifar10": "77.00"}, "one number is its own average"
    assert MEAN not in grid_of(make_row("teacher", 50.0)).columns


def test_all_columns_on_request():
    few = grid_of(make_row("teacher", 50.0), make_row("teacher", 3.0, "a/my-data"))
    assert [c.key for c in few.columns] == ["cifar10", "a/my-data", "/average"]
    many = grid_of(make_row("teacher", 50.0), make_row("teacher", 3.0, "a/my-data"), all_columns=True)
    assert [c.key for c in many.columns] == [*TEN, "a/my-data", "/average"]
    zero = grid_of(make_row("teacher", 50.0, "dtd", "zeroshot"), table="b3", all_columns=True)
    assert [c.key for c in zero.columns] == ["imagenet/single", "imagenet/openclip", "dtd/openclip"]


def test_the_paper_stands_below_the_same_teacher_and_stage_only():
    rows = [make_row(stage, 50.0 + i, "food101", teacher=VIT) for i, stage in enumerate(STAGES)]
    rows += [make_row("aligned", 60.0, "food101", teacher=VIT, name="second")]
    rows += [make_row("aligned", 70.0, "my-data", teacher=VIT)]
    lines = [(name, stage, cells.get("food101")) for name, stage, cells in shown(grid_of(*rows))]
    assert lines == [
        ("my-teacher", "teacher", "50.00"),
        ("paper", "teacher", "78.88"),
        ("my-converted", "converted", "51.00"),
        ("my-b-cosified", "b-cosified", "52.00"),
        ("paper", "b-cosified", "65.00"),
        ("my-aligned", "aligned", "53.00"),
        ("second", "aligned", "*60.00*"),
        ("paper", "aligned", "79.58"),
        ("Δ my-aligned", "ALOE - B-cosified", "+1.00"),
        ("Δ second", "ALOE - B-cosified", "+8.00"),
        ("paper", "ALOE - B-cosified", "+14.58"),
    ]
    assert "paper" not in str(shown(grid_of(*rows, with_paper=False)))
    for teacher in ("vit-base-patch16-224", VIT.upper(), "my-teacher"):
        assert "paper" not in str(shown(grid_of(*({**row, "teacher": teacher} for row in rows))))
    elsewhere = grid_of(make_row("aligned", 70.0, "my-data", teacher=VIT))
    assert "paper" not in str(shown(elsewhere)), "it has no number for this data set"


def test_the_paper_keeps_its_digits_and_its_own_average_of_all_ten():
    teacher = "google/siglip2-so400m-patch14-384"
    rows = [make_row("teacher", 50.0, data, "linear", teacher=teacher) for data in TEN]
    paper = shown(grid_of(*rows, table="b1"))[1][2]
    assert (paper["flowers102"], paper["cifar100"], paper["/average"]) == ("100.0", "89.6", "92.92")
    paper = shown(grid_of(*rows[:2], table="b1"))[1][2]
    assert paper == {"imagenet": "88.62", "caltech101": "99.21", "/average": "93.91"}, "of the two that are shown"
    paper = shown(grid_of(*rows, make_row("teacher", 1.0, "mine", "linear", teacher=teacher), table="b1"))[1][2]
    assert "/average" not in paper, "it lacks a column of this block"


def test_zero_shot_has_a_column_for_each_set_of_prompts():
    siglip = "google/siglip2-base-patch16-224"

    def row(value, templates):
        return make_row("teacher", value, "imagenet", "zeroshot", teacher=siglip, settings={"templates": templates})

    grid = grid_of(row(77.9, "openclip"), row(76.5, "single"), row(10.0, "prompts.txt"), table="b3")
    assert shown(grid) == [
        ("my-teacher", "teacher", {"imagenet/openclip": "77.90", "imagenet/single": "76.50"}),
        ("paper", "teacher", {"imagenet/openclip": "78.07"}),
    ]
    assert [heading(c) for c in grid.columns] == ["IN1k, single prompt", "IN1k, 80 templates"]
    assert [(r.value, chosen) for r, chosen in grid.others] == [(10.0, None)]
    alone = grid_of(row(10.0, "prompts.txt"), table="b3")
    assert (alone.groups, alone.columns, len(alone.others)) == ([], [], 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"k": [5]},
        {"k": 5},
        {"distance": "euclidean"},
        {"votes": "distance"},
        {"feature": "cls"},
    ],
)
def test_of_several_settings_the_protocol_is_shown_wherever_it_stands(settings):
    usual, other = make_row("aligned", 58.0), make_row("aligned", 90.0, settings=settings)
    for rows in ((usual, other), (other, usual)):
        grid = grid_of(*rows)
        assert shown(grid) == [("my-aligned", "aligned", {"cifar10": "58.00"})]
        ((behind, chosen),) = grid.others
        assert (behind.value, chosen.value) == (90.0, 58.0)
    (line,) = grid_of(other).groups[0].lines
    assert line.cells[Column("cifar10")].note == "‡", "alone it is shown and marked"


def test_heads_follow_the_model():
    heads = [("teacher", "linear"), ("aligned", "bcos")]
    rows = [make_row(stage, 1.0 * i, "dtd", "linear", settings={"head": h}) for i, (stage, h) in enumerate(heads)]
    odd = [
        make_row(s, 9.0, "dtd", "linear", settings={"head": h}) for s, h in (("teacher", "bcos"), ("aligned", "linear"))
    ]
    grid = grid_of(*rows, *odd, table="b1")
    assert [line.cells[Column("dtd")].value for line in grid.groups[0].of("model")] == [0.0, 1.0]
    assert len(grid.others) == 2


def test_the_official_split_goes_before_another_and_the_later_of_equals_before_the_earlier():
    official, small = make_row("aligned", 58.0), make_row("aligned", 60.0, official=False)
    assert shown(grid_of(official, small))[0][2] == {"cifar10": "58.00"}
    again = make_row("aligned", 58.5, versions={"torch": "2.14.0"})
    grid = grid_of(official, again)
    assert shown(grid)[0][2] == {"cifar10": "58.50"}
    assert [row.value for row, _ in grid.others] == [58.0]


def test_of_several_k_the_protocols_is_the_number():
    by_k = {"1": 50.0, "20": 58.0}
    grid = grid_of(make_row("aligned", 50.0, settings={"k": [1, 20]}, details={"by_k": by_k}))
    (line,) = grid.groups[0].lines
    cell = line.cells[Column("cifar10")]
    assert (cell.text, cell.note) == ("58.00", "")
    without = grid_of(make_row("aligned", 50.0, settings={"k": [1, 5]}, details={"by_k": {"1": 50.0, "5": 51.0}}))
    assert without.groups[0].lines[0].cells[Column("cifar10")].note == "‡"


def test_marks_follow_into_averages_and_differences():
    grid = grid_of(
        make_row("teacher", 58.0, official=False),
        make_row("teacher", 60.0, "dtd"),
        make_row("aligned", 57.0),
        make_row("aligned", 59.0, "dtd", settings={"k": [5]}),
    )
    notes = [{c.key: cell.note for c, cell in line.cells.items()} for line in grid.groups[0].lines]
    assert notes == [
        {"cifar10": "†", "dtd": "", "/average": "†"},
        {"cifar10": "", "dtd": "‡", "/average": "‡"},
        {"cifar10": "†", "dtd": "‡", "/average": "†‡"},
    ]


def test_models_are_their_weights_and_names_that_clash_are_told_apart():
    same = {"fingerprints": {"model": "0123456789"}, "name": "run"}
    grid = grid_of(
        make_row("aligned", 58.0, **same, model="here/run"),
        make_row("aligned", 70.0, "dtd", **same, model="/there/run"),
    )
    assert [name for name, _, _ in shown(grid)] == ["run"], "the same weights in two places are one model"
    other = {"fingerprints": {"model": "abcdefghij"}, "name": "run"}
    grid = grid_of(make_row("aligned", 1.0, **same, model="a/run"), make_row("aligned", 2.0, **other, model="b/run"))
    assert [name for name, _, _ in shown(grid)] == ["a/run", "b/run"]
    grid = grid_of(make_row("aligned", 1.0, **same, model="a/run"), make_row("aligned", 2.0, **other, model="a/run"))
    assert [name for name, _, _ in shown(grid)] == ["run (01234567)", "run (abcdefgh)"], "trained anew in one place"


def test_groups_stand_in_the_papers_order_and_then_as_measured():
    teachers = ["zeta", "facebook/dinov3-vitb16-pretrain-lvd1689m", "alpha", VIT]
    grid = grid_of(*(make_row("teacher", 1.0, teacher=t) for t in teachers))
    assert [group.teacher for group in grid.groups] == [teachers[3], teachers[1], "zeta", "alpha"]


def test_an_unknown_stage_comes_last():
    grid = grid_of(make_row("distilled", 3.0), make_row("student", 2.0), make_row("finetuned", 1.0))
    assert [stage for _, stage, _ in shown(grid)] == ["finetuned", "student", "distilled"]


def test_a_data_set_may_be_called_average():
    grid = grid_of(make_row("teacher", 1.0, "average"), make_row("teacher", 3.0, "dtd"))
    assert shown(grid) == [("my-teacher", "teacher", {"average": "1.00", "dtd": "3.00", "/average": "2.00"})]


def test_headings_of_paths_tell_them_apart():
    columns = [Column("a/data"), Column("b/data"), Column("c/birds"), Column("c/cifar10"), Column("cifar10")]
    assert [heading(c, columns) for c in columns] == ["a/data", "b/data", "birds", "c/cifar10", "C10"]
    assert heading(Column("rendered:400,100@0/64")) == "rendered:400,100@0/64", "no path"
    assert [heading(Column(path)) for path in ("c/cifar10", "c/C10")] == ["c/cifar10", "c/C10"], (
        "not the registered one"
    )


def test_a_task_without_rows_has_no_grid():
    assert grid_of(make_row("teacher", 1.0), table="b1") is None
