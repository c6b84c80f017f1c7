"""Rows of explanations: which stand side by side, Table B6 and the tables of all methods."""

from __future__ import annotations

import pytest
from result_rows import VIT, make_clarity, make_deletion, make_gridpg, make_inside, make_row

from aloe.core.errors import UserError
from aloe.draw.tables import MINUS, MISSING
from aloe.report.columns import number, numbers
from aloe.report.explained import accuracy, by_method, collect, measure_of, method_of
from aloe.report.explained_tables import explained_others, scores_table
from aloe.report.localization import localization_table
from aloe.report.methods import LOOKS, look, rank
from aloe.report.protocol import GRIDS, deviations, grid_protocol, protocols_of, settings_of
from aloe.report.rows import Result

BESIDE = "paper, ViT-B/16"


def results_of(*rows):
    return [Result(**row) for row in rows]


def b6(*rows, **options):
    """{(label of the row, data): {heading: text, bold in stars}}, without the paper's row of another teacher; footnotes."""
    results = results_of(*rows)
    table = localization_table(collect("b6", results), results, **options)
    shown = {
        (row.labels[0], row.labels[2]): {
            name: f"*{cell.text}*" if cell.bold else cell.text + cell.note
            for name, cell in zip(table.columns, row.cells, strict=True)
        }
        for block in table.blocks
        for row in block.rows
        if row.labels[0] != BESIDE
    }
    return shown, table.footnotes


def shown_values(name, *rows):
    measured = collect(name, results_of(*rows))
    found = {
        (line.name, method): row.value
        for _, data, ls in measured.cases()
        for line in ls
        for method, row in by_method(line, data).items()
    }
    return found, [(row.value, chosen and chosen.value) for row, chosen in measured.others]


def test_looks_are_those_of_the_methods_and_told_apart():
    from aloe.attribution.methods import METHODS

    assert [(key, method.title) for key, method in METHODS.items()] == [(k, v.title) for k, v in LOOKS.items()]
    for part in ("short", "colour", "marker"):
        assert len({getattr(value, part) for value in LOOKS.values()}) == len(LOOKS), part
    assert look("mine").title == "mine"
    assert sorted(["b", "a", "lime", "inherent"], key=rank) == ["inherent", "lime", "a", "b"]


def test_table_b6_has_the_papers_columns():
    rows = [make_gridpg("teacher", m, v) for m, v in (("legrad", 31.3), ("attnlrp", 54.43), ("intgrad", 38.8))]
    rows += [make_gridpg("aligned", "inherent", 81.04), make_gridpg("aligned", "attnlrp", 60.0)]
    for task, teacher, student in (("linear", 84.2, 83.8), ("knn", 80.4, 80.17)):
        rows += [make_row("teacher", teacher, task=task), make_row("aligned", student, task=task)]
    shown, notes = b6(*rows)
    assert shown == {
        ("my-aligned", "C10"): {
            "Lin. teacher": "84.20",
            "Lin. student": "83.80",
            "k-NN teacher": "80.40",
            "k-NN student": "80.17",
            "LRP": "54.43",
            "IG": "38.80",
            "LeG": "31.30",
            "W(x)x": "*81.04*",
            "Δ": "+26.61",
        }
    }
    assert "Δ against AttnLRP." in notes
    assert "Chance: 25.00." in notes
    assert (
        "Measured with protocol = windows, n = 2, grids = 0a1b2c3d, threshold = 0.95, images = 400, seed = 0." in notes
    )


def test_the_difference_is_to_the_best_method_of_the_teacher_and_of_the_numbers_shown():
    rows = [make_gridpg("teacher", "attnlrp", 30.0), make_gridpg("teacher", "random", 80.004)]
    shown, notes = b6(*rows, make_gridpg("aligned", "inherent", 70.006))
    assert shown["my-aligned", "C10"]["Δ"] == f"{MINUS}9.99"
    assert shown["my-aligned", "C10"]["Random"] == "*80.00*"
    assert "Δ against Random." in notes


def test_different_baselines_are_named_with_their_rows():
    rows = [make_gridpg("teacher", "lime", 40.0), make_gridpg("teacher", "attnlrp", 30.0, data="dtd")]
    rows += [make_gridpg("aligned", "inherent", 70.0), make_gridpg("aligned", "inherent", 60.0, data="dtd")]
    shown, notes = b6(*rows)
    assert {key: cells["Δ"] for key, cells in shown.items()} == {
        ("my-aligned", "C10"): "+30.00",
        ("my-aligned", "DTD"): "+30.00",
    }
    assert "Δ against LIME: my-aligned on C10." in notes
    assert "Δ against AttnLRP: my-aligned on DTD." in notes


@pytest.mark.parametrize(
    ("row", "cells"),
    [
        (make_gridpg("teacher", "attnlrp", 50.0), {"LRP": "50.00"}),
        (make_gridpg("aligned", "inherent", 50.0), {"W(x)x": "50.00"}),
        (make_gridpg("aligned", "attnlrp", 50.0), {}),
    ],
)
def test_one_row_alone_is_a_table_without_a_difference(row, cells):
    shown, notes = b6(row)
    assert shown == {(row["name"], "C10"): cells}
    assert not [note for note in notes if "Δ against" in note]
    table = scores_table(collect("b6", results_of(row)))
    assert [r.cells[0].text for block in table.blocks for r in block.rows] == ["50.00"]
    assert not table.blocks[0].rows[0].cells[0].bold, "nothing to be the best of"


def test_every_student_has_a_row_and_the_paper_one_behind_them_on_its_data():
    rows = [make_gridpg("teacher", "attnlrp", 60.0, data="imagenet", teacher=VIT)]
    rows += [
        make_gridpg(s, "inherent", v, data="imagenet", teacher=VIT) for s, v in (("aligned", 79.0), ("converted", 30.0))
    ]
    rows += [make_gridpg("aligned", "inherent", 70.0, teacher=VIT)]
    shown, notes = b6(*rows)
    assert list(shown) == [("my-converted", "IN1k"), ("my-aligned", "IN1k"), ("paper", "IN1k"), ("my-aligned", "C10")]
    paper = shown["paper", "IN1k"]
    assert (paper["Lin. teacher"], paper["LRP"], paper["Chf"], paper["W(x)x"], paper["Δ"]) == (
        *("81.16", "55.80", MISSING, "82.45", "+26.65"),
    )
    assert [note for note in notes if note.startswith("paper: as printed in Table B6")]
    without, notes = b6(*rows, with_paper=False)
    assert "paper" not in str(without) + str(notes)


def test_what_the_paper_could_not_run_is_marked():
    teacher = "google/siglip2-so400m-patch16-256"
    shown, _ = b6(make_gridpg("aligned", "inherent", 79.0, data="imagenet", teacher=teacher))
    assert (shown["paper", "IN1k"]["IG"], shown["paper", "IN1k"]["LeG"]) == (f"{MISSING}*", MISSING)


def test_an_accuracy_belongs_to_the_same_weights_or_name():
    explained = make_gridpg("aligned", "inherent", 1.0, name="a")
    right = make_row("aligned", 90.0, task="linear", name="a")
    other = make_row("aligned", 80.0, task="linear", name="b")

    def of(row, *rows):
        row, *rows = results_of(row, *rows)
        found = accuracy(row, "linear", [row, *rows])
        return found and found.value

    assert of(explained, right, other) == of(explained, other, right) == 90.0
    assert of(explained, make_row("aligned", 80.0, data="dtd", task="linear", name="a")) is None
    assert of(explained, make_row("aligned", 80.0, task="knn", name="a")) is None
    again = make_row("aligned", 91.0, task="linear", name="a", versions={"torch": "2.14"})
    assert of(explained, right, again) == 91.0, "the last of equals"
    assert of(explained, right, {**again, "official": False}) == 90.0
    assert of(explained, right, {**again, "settings": {**again["settings"], "epochs": 1}}) == 90.0


def test_of_several_k_the_accuracy_is_the_protocols():
    knn = make_row("aligned", 40.0, settings={"k": [1, 20]}, details={"by_k": {"1": 40.0, "20": 58.0}})
    shown, _ = b6(make_gridpg("aligned", "inherent", 70.0), knn)
    assert shown["my-aligned", "C10"]["k-NN student"] == "58.00"


def test_a_model_with_a_probe_is_the_one_that_the_probe_was_fitted_on():
    """Also where other models could be meant; of several probes of a backbone the one that is explained."""
    rows = [make_row("aligned", v, task="linear", name="a", details={"probe": f"probes/{v:g}"}) for v in (90.0, 91.0)]
    rows += [make_row("aligned", 50.0, task="linear", name="b"), make_row("aligned", 80.0, name="a")]
    rows += [make_gridpg("aligned", "inherent", 70.0, name="90", model="results/probes/90")]
    rows += [make_gridpg("aligned", "inherent", 60.0, name="c"), make_gridpg("aligned", "inherent", 65.0, name="b")]
    shown, notes = b6(*rows)
    assert {name: (cells["Lin. student"], cells["k-NN student"]) for (name, _), cells in shown.items()} == {
        "a": ("90.00", "80.00"),
        "c": (MISSING, MISSING),
        "b": ("50.00", MISSING),
    }
    assert not [note for note in notes if " is that of " in note]


def test_an_accuracy_of_another_name_is_taken_only_where_no_other_model_could_have_it():
    head, other = (
        make_gridpg("aligned", "inherent", 70.0, name="head"),
        make_gridpg("aligned", "inherent", 60.0, name="b"),
    )
    linear = make_row("aligned", 90.0, task="linear", name="a")
    shown, notes = b6(head, linear)
    assert shown["head", "C10"]["Lin. student"] == "90.00"
    assert "Lin. of head is that of a." in notes
    shown, _ = b6(head, other, linear)
    assert "Lin. student" not in shown["head", "C10"], "it may be the other's"
    shown, _ = b6(head, other, linear, make_row("aligned", 80.0, task="linear", name="b"))
    assert [cells["Lin. student"] for cells in shown.values()] == ["90.00", "80.00"]
    shown, _ = b6(head, other, make_row("aligned", 80.0, task="linear", name="b"))
    assert [cells["Lin. student"] for cells in shown.values()] == [MISSING, "80.00"], (
        "not that of another that is shown"
    )


def test_an_accuracy_beside_the_protocol_is_marked_and_explained():
    odd = make_row("aligned", 90.0, task="linear", settings={"epochs": 3})
    shown, notes = b6(make_gridpg("aligned", "inherent", 70.0), odd)
    assert shown["my-aligned", "C10"]["Lin. student"] == "90.00‡"
    assert "‡ Lin. of my-aligned, not the protocol's settings: epochs = 3." in notes


def test_of_several_teachers_the_one_with_most_methods_is_the_baseline():
    rows = [make_gridpg("teacher", "attnlrp", 90.0, name="probe")]
    rows += [make_gridpg("teacher", m, 50.0, name="own-head") for m in ("attnlrp", "lime")]
    shown, notes = b6(*rows, make_gridpg("aligned", "inherent", 70.0))
    assert shown["my-aligned", "C10"]["Δ"] == "+20.00"
    assert "The teacher on C10 is own-head; probe in the table of all methods." in notes


@pytest.mark.parametrize(
    ("name", "make", "other"),
    [
        ("b6", make_gridpg, {"settings": {"n": 3}}),
        ("b6", make_gridpg, {"settings": {"resolution": 64}}),
        ("b6", make_gridpg, {"settings": {"grids": "another list"}}),
        ("b6", make_gridpg, {"settings": {"smooth": 15}}),
        ("b6", make_gridpg, {"fingerprints": {"test": "other images"}}),
        ("deletion", make_deletion, {"settings": {"block": 4}}),
        ("deletion", make_deletion, {"settings": {"fill": "mean"}}),
        ("inside", make_inside, {"settings": {"resolution": 64}}),
        ("clarity", make_clarity, {"settings": {"resolution": 64}}),
    ],
)
def test_rows_measured_in_another_way_do_not_stand_beside(name, make, other):
    """The way with most numbers is shown; the protocol's goes before it."""
    shown, others = shown_values(
        name,
        make("teacher", "attnlrp", 40.0),
        make("aligned", "inherent", 70.0),
        make("aligned", "lime", 99.0, **other),
    )
    assert shown == {("my-teacher", "attnlrp"): 40.0, ("my-aligned", "inherent"): 70.0}
    assert others == [(99.0, 40.0)], "compared with a row that is shown"
    same, others = shown_values(
        name, *(make(s, "attnlrp", v, **other) for s, v in (("teacher", 1.0), ("aligned", 2.0)))
    )
    assert (list(same.values()), others) == ([1.0, 2.0], [])


def test_the_papers_way_goes_before_more_rows_of_another():
    odd = [make_deletion("aligned", m, 9.0, settings={"block": 4}) for m in ("inherent", "lime", "attnlrp")]
    shown, others = shown_values("deletion", make_deletion("aligned", "inherent", 20.0), *odd)
    assert shown == {("my-aligned", "inherent"): 20.0}
    assert others == [(9.0, 20.0)] * 3
    table = explained_others(collect("deletion", results_of(make_deletion("aligned", "inherent", 20.0), *odd)))
    assert [(row.labels[3], row.labels[4]) for row in table.blocks[0].rows] == [
        ("C10, W(x)x", "block = 4"),
        ("C10, LIME", "block = 4"),
        ("C10, AttnLRP", "block = 4"),
    ]


def test_teachers_may_have_lists_of_grids_of_their_own():
    """A list is confident under the models that are compared, so another teacher's is another list."""
    rows = [make_gridpg("aligned", "inherent", 70.0, settings={"grids": "one"})]
    rows += [make_gridpg("aligned", "inherent", 60.0, teacher="other", settings={"grids": "two"})]
    measured = collect("b6", results_of(*rows))
    assert [row.value for row in measured.results] == [70.0, 60.0]
    assert measured.others == []


def test_options_of_a_method_do_not_set_it_apart_but_the_later_stands_for_it():
    steps = [
        make_gridpg("teacher", "intgrad", v, settings={"options": {"steps": s}}) for v, s in ((30.0, 10), (35.0, 50))
    ]
    shown, others = shown_values("b6", make_gridpg("teacher", "attnlrp", 50.0), *steps)
    assert shown == {("my-teacher", "attnlrp"): 50.0, ("my-teacher", "intgrad"): 35.0}
    assert others == [(30.0, 35.0)]
    (row,) = explained_others(collect("b6", results_of(*steps))).blocks[0].rows
    assert row.labels[3:] == ("C10, Integrated Gradients", "options = steps 10")


def test_a_setting_that_is_not_the_papers_is_marked_where_it_stands_alone():
    table = scores_table(
        collect("deletion", results_of(make_deletion("aligned", "inherent", 20.0, settings={"block": 4})))
    )
    assert table.blocks[0].rows[0].cells[0].note == "‡"
    assert "‡ not the paper's settings: block = 4 (C10)." in table.footnotes
    usual = scores_table(collect("deletion", results_of(make_deletion("aligned", "inherent", 20.0))))
    assert not [note for note in usual.footnotes if note.startswith("‡")]


def test_insertion_is_a_measure_of_its_own():
    rows = results_of(
        make_deletion("aligned", "inherent", 20.0),
        make_deletion(
            "aligned", "inherent", 60.0, details={"mode": "insertion"}, settings={"deletion_mode": "insertion"}
        ),
        make_row("aligned", 1.0),
    )
    assert [measure_of(row) for row in rows] == ["deletion", "insertion", None]
    assert collect("insertion", rows).results == [rows[1]]
    assert collect("inside", rows) is None
    assert collect("b6", rows) is None


def test_a_row_without_a_method_has_no_place():
    row = make_gridpg("aligned", "inherent", 70.0)
    row["details"].pop("method")
    row["settings"].pop("method")
    measured = collect("b6", results_of(row))
    assert measured.groups == []
    assert explained_others(measured).blocks[0].rows[0].cells[0].text == "70.00"


@pytest.mark.parametrize(
    ("name", "make", "best"), [("b6", make_gridpg, 2), ("inside", make_inside, 2), ("deletion", make_deletion, 0)]
)
def test_the_table_of_all_methods_marks_each_models_best(name, make, best):
    """Of deletion the least area."""
    rows = [
        make(stage, m, v)
        for stage in ("teacher", "aligned")
        for m, v in (("lime", 40.0), ("attnlrp", 30.0), ("legrad", 20.0))
    ]
    table = scores_table(collect(name, results_of(*rows)))
    (block,) = table.blocks
    assert block.title == "my-teacher, C10"
    assert [row.labels[:3] for row in block.rows[:3]] == [
        ("my-teacher", "teacher", "AttnLRP"),
        ("my-teacher", "teacher", "LeGrad"),
        ("my-teacher", "teacher", "LIME"),
    ]
    order = [20.0, 30.0, 40.0]
    assert [row.cells[0].value for row in block.rows if row.cells[0].bold] == [order[best]] * 2
    assert [row.gray for row in block.rows] == [True] * 3 + [False] * 3


def test_the_table_of_all_methods_has_what_a_row_tells():
    row = make_gridpg("aligned", "inherent", 70.0, official=False)
    table = scores_table(collect("b6", results_of(row)))
    (shown,) = table.blocks[0].rows
    assert shown.labels == ("my-aligned", "ALOE", "W(x)x")
    found = dict(zip(table.columns, (cell.text + cell.note for cell in shown.cells), strict=True))
    assert found == {
        "GridPG": "70.00†",
        "95 % from": "68.50",
        "to": "72.00",
        "Least cell": "67.00",
        "Best cell": "72.00",
        "Chance": "25.00",
        "Grids": "250",
        "Maps": "1000",
        "Discarded": "2",
        "Forward": "1.0",
        "Backward": "1.0",
        "s / image": "0.012",
        "MiB": "1.5",
    }
    assert [note for note in table.footnotes if note.startswith("† C10")]
    area = scores_table(collect("deletion", results_of(make_deletion("aligned", "lime", 20.0))))
    assert [c.text for c in area.blocks[0].rows[0].cells] == [
        *("20.00", "18.00", "23.00", "67.00", "65.50", "69.25", "90.00", "100"),
    ]
    inside = scores_table(collect("inside", results_of(make_inside("aligned", "lime", 40.0))))
    assert inside.columns == ("Inside", "95 % from", "to", "Pointing", "Mask area", "Images")


def test_missing_and_broken_details_are_dashes():
    broken = {
        "interval": [float("nan"), "x"],
        "per_cell": [float("nan"), None],
        "cost": 3,
        "cells": True,
        "chance": None,
    }
    row, whole = results_of(
        make_gridpg("aligned", "lime", 70.0, details=broken), make_gridpg("aligned", "legrad", 71.0)
    )
    table = scores_table(collect("b6", [row, whole]))
    texts = [[cell.text for cell in line.cells] for line in table.blocks[0].rows]
    assert texts[1] == ["70.00", *[MISSING] * 5, "250", MISSING, "2", *[MISSING] * 4]
    alone = scores_table(collect("b6", [row]))
    assert alone.columns == ("GridPG", "Grids", "Discarded"), "a column without a number is left out"
    assert number(row, "interval", 0) is number(row, "cost", "forward") is number(row, "nothing") is None
    assert [value == value for value in numbers(whole, "per_cell")] == [True] * 4
    assert numbers(row, "cost") == []
    assert method_of(row) == "lime"


def test_options_stand_below_the_table():
    """Also where teacher and student were run with different ones."""
    rows = [
        make_gridpg(stage, "attnlrp", value, settings={"options": {"variant": "full", "gamma": gamma}})
        for stage, value, gamma in (("teacher", 40.0, 0.05), ("aligned", 50.0, 0.0))
    ]
    table = scores_table(collect("b6", results_of(*rows)))
    assert "AttnLRP: variant full, gamma 0.05 (teacher); variant full, gamma 0 (aligned)." in [
        note.replace(" = ", " ") for note in table.footnotes
    ]


# --- the protocols of GridPG and the paper's options


def whole(stage, method, value, grid_input="native", **other):
    """A row of before the protocols had names."""
    row = make_gridpg(stage, method, value, **other)
    for name in ("protocol", "smooth", "preset"):
        row["settings"].pop(name)
    row["details"].pop("protocol")
    return row | {"settings": {**row["settings"], "grid_input": grid_input}}


def test_rows_of_earlier_versions_are_those_of_whole_grids():
    old, resized, new = results_of(
        whole("aligned", "inherent", 36.0),
        whole("aligned", "inherent", 30.0, grid_input="resized"),
        make_gridpg("aligned", "inherent", 86.0),
    )
    older = old.model_copy(update={"settings": {}, "details": {"method": "inherent"}})
    assert [grid_protocol(row) for row in (old, older, resized, new)] == ["whole", "whole", "resized", "windows"]
    assert settings_of(old)["protocol"] == "whole"
    assert "grid_input" not in settings_of(old)
    assert deviations(old) == {"protocol": "whole"}
    assert deviations(new) == {}
    assert protocols_of([resized, old, new]) == ["windows", "whole", "resized"]


def test_protocols_are_never_mixed_in_one_table():
    rows = results_of(whole("teacher", "attnlrp", 38.0), make_gridpg("aligned", "inherent", 86.0))
    sentence = (
        r"windows \(windows of the model's own size\) and whole \(whole grids in one pass\) do not stand in one table"
    )
    with pytest.raises(UserError, match=sentence):
        collect("b6", rows)
    for protocol, shown in (("windows", [86.0]), ("whole", [38.0]), ("resized", None)):
        measured = collect("b6", rows, protocol)
        assert (measured and [row.value for row in measured.results]) == shown
    by_hand = collect("b6", rows, "windows")
    by_hand.groups += collect("b6", rows, "whole").groups
    for table in (lambda: localization_table(by_hand, rows), lambda: scores_table(by_hand)):
        with pytest.raises(UserError, match="do not stand in one table"):
            table()


def test_tables_of_other_protocols_say_so_in_name_and_caption():
    rows = results_of(whole("teacher", "attnlrp", 38.0), make_gridpg("aligned", "inherent", 86.0))
    for protocol, name in (("windows", "b6"), ("whole", "b6-whole")):
        measured = collect("b6", rows, protocol)
        tables = (localization_table(measured, rows), scores_table(measured))
        assert [table.name for table in tables] == [name, f"{name}-all"]
        assert all(GRIDS[protocol] in table.caption for table in tables)
    assert "‡" in str(localization_table(collect("b6", rows, "whole"), rows).blocks)


def test_the_papers_supervised_vit_stands_beside_windows_once_and_in_our_columns():
    rows = [make_gridpg("teacher", "attnlrp", 60.0, data=d) for d in ("cifar10", "dtd")]
    rows += [make_gridpg("aligned", "inherent", 79.0, data=d) for d in ("cifar10", "dtd")]
    results = results_of(*rows)
    table = localization_table(collect("b6", results), results)
    printed = [row for block in table.blocks for row in block.rows if row.labels[0] == BESIDE]
    assert [(row.labels, [cell.text for cell in row.cells]) for row in printed] == [
        ((BESIDE, "ALOE", "IN1k"), ["55.80", "82.45", "+26.65"])
    ]
    assert table.columns == ("LRP", "W(x)x", "Δ")
    old = results_of(*(whole(row["stage"], row["details"]["method"], row["value"]) for row in rows))
    assert BESIDE not in str(localization_table(collect("b6", old), old).blocks)
    assert BESIDE not in str(localization_table(collect("b6", results), results, with_paper=False).blocks)


def paper(stage, method, value, **settings):
    return make_gridpg(stage, method, value, settings={"preset": "paper", **settings})


def test_both_presets_stand_side_by_side():
    rows = [make_gridpg("teacher", "attnlrp", 54.5, settings={"options": {"variant": "full"}})]
    rows += [paper("teacher", "attnlrp", 38.5, options={"variant": "cp"}), paper("teacher", "chefercam", 31.0)]
    rows += [paper("aligned", "inherent", 86.0), paper("aligned", "legrad", 47.0), paper("teacher", "lime", 71.0)]
    shown, notes = b6(*rows)
    assert shown["my-aligned", "C10"] == {
        **{"LRP": "54.50", "LRP (paper's)": "38.50", "Chf": "31.00", "LIME (paper's)": "71.00"},
        **{"W(x)x": "*86.00*", "Δ": "+15.00"},
    }
    assert "Δ against LIME, paper's options." in notes
    as_there = "Δ as in the paper, against the best of its four baselines with its options, AttnLRP: +47.50"
    assert f"{as_there} (my-aligned on C10)." in notes, "LIME, which is better here, stands in no table of the paper"
    results = results_of(*rows)
    measured = collect("b6", results)
    titles = [row.labels[2] for row in scores_table(measured).blocks[0].rows]
    assert titles == [
        *(
            "AttnLRP",
            "AttnLRP, paper's options",
            "CheferCAM",
            "LIME, paper's options",
            "W(x)x",
            "LeGrad, paper's options",
        ),
    ]
    table = localization_table(measured, results)
    (printed,) = [row for block in table.blocks for row in block.rows if row.labels[0] == BESIDE]
    cells = dict(zip(table.columns, (cell.text for cell in printed.cells), strict=True))
    assert (cells["LRP"], cells["LRP (paper's)"]) == (MISSING, "55.80")
    assert look("attnlrp@paper").colour != look("attnlrp").colour
    assert look("mine@paper").title == "mine@paper"
    assert sorted(["lime", "attnlrp@paper", "attnlrp"], key=rank) == ["attnlrp", "attnlrp@paper", "lime"]


def test_a_row_that_both_presets_share_is_shown_once():
    rows = results_of(make_gridpg("aligned", "inherent", 86.0), paper("aligned", "inherent", 86.0))
    measured = collect("b6", rows)
    assert [row.value for row in measured.results] == [86.0]
    assert not measured.others
    two = [make("aligned", "legrad", 4.0) for make in (make_gridpg, paper)]
    two[1]["settings"]["options"] = {"layers": 1}
    assert len(collect("b6", results_of(*two)).results) == 2


def test_fewer_grids_of_a_costly_method_are_named():
    few = make_gridpg("teacher", "lime", 60.0, details={"grids": 10}, settings={"first": 10})
    rows = [few, make_gridpg("teacher", "attnlrp", 50.0)]
    _, notes = b6(*rows)
    assert "LIME: the first 10 of 250 grids." in notes
    assert "LIME: the first 10 of 250 grids." in scores_table(collect("b6", results_of(*rows))).footnotes
