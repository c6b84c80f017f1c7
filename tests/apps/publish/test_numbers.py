"""Which numbers come onto a card, and how."""

from __future__ import annotations

import shlex
import sys

import pytest
from runs_to_publish import VIT, result_row

from aloe.apps.publish.numbers import collect_numbers
from aloe.core.errors import UserError
from aloe.report.rows import Result

GRID = {
    "metric": "GridPG",
    "counts": {"test": 200},
    "settings": {"n": 2, "share": 0.2, "seed": 0, "count": 50, "images": 200, "grids": "1fa8", "grid_input": "native"},
}


def collect(*rows, model="ours", teacher=VIT):
    return collect_numbers([Result.model_validate(row) for row in rows], model, teacher, "me/x")


def test_only_rows_of_this_student_with_its_teacher_beside_them():
    numbers = collect(
        result_row("ours", 58.123456),
        result_row("teacher", 60.5, stage="teacher"),
        result_row("another", 99.0),
        result_row("other teacher", 98.0, stage="teacher", teacher="someone/else"),
    )
    [table] = numbers.tables
    [row] = table.blocks[0].rows
    assert [cell.text for cell in row.cells] == ["58.12", "60.50"]
    assert [e["metric_value"] for e in numbers.evaluations] == [58.1235]


@pytest.mark.parametrize(
    "other",
    [
        {"settings": {"k": [5]}},
        {"fingerprints": {"test": "other images"}},
        {"fingerprints": {"train": "other images"}},
        {"data": "cifar100"},
        {"task": "linear"},
        {"metric": "mean per class"},
    ],
)
def test_a_teacher_measured_otherwise_is_not_beside(other):
    teacher = result_row("teacher", 60.0, stage="teacher", **other)
    numbers = collect(result_row("ours", 58.0), teacher)
    assert [cell.text for cell in numbers.tables[0].blocks[0].rows[0].cells] == ["58.00", "\u2013"]


def test_an_unnamed_teacher_has_no_rows():
    numbers = collect(result_row("ours", 58.0), result_row("t", 60.0, stage="teacher", teacher=""), teacher="")
    assert numbers.tables[0].blocks[0].rows[0].cells[1].value is None


def test_rows_of_other_models_alone_are_refused():
    with pytest.raises(UserError, match="None of the 1 result rows is of this student"):
        collect(result_row("another", 99.0))
    assert collect().tables == []


def test_the_last_of_equal_rows_counts():
    numbers = collect(result_row("ours", 50.0, seconds=1.0), result_row("ours", 51.0, seconds=2.0))
    assert [e["metric_value"] for e in numbers.evaluations] == [51.0]


def test_commands_give_what_was_not_the_default_and_are_read_back(monkeypatch, tmp_path):
    numbers = collect(
        result_row("ours", 58.0, settings={"k": [5, 20], "feature": "cls"}),
        result_row("ours", 59.0, task="linear", settings={"epochs": 10, "head": "bcos", "learning_rates": [0.1]}),
        result_row("ours", 60.0, task="classifier"),
        result_row("ours", 0.9, task="cosine", metric="cosine", settings={"reference": "/home/jo/my teacher"}),
    )
    assert numbers.commands == [
        "aloe evaluate knn me/x --data cifar10 --set feature=cls --set 'k=[5,20]'",
        "aloe evaluate linear me/x --data cifar10 --set epochs=10 --set 'learning_rates=[0.1]'",
        "aloe evaluate classifier me/x --data cifar10",
        "aloe evaluate cosine me/x --data cifar10 --set 'reference=my teacher'",
    ]
    seen = _evaluated(monkeypatch, numbers.commands)
    assert seen[0][1] == ["knn"]
    assert [settings for *_, settings in seen] == [
        {"feature": "cls", "k": [5, 20]},
        {"epochs": 10, "learning_rates": [0.1]},
        {},
        {"reference": "my teacher"},
    ]


def test_explanations_have_a_line_for_each_method_and_share_a_command(monkeypatch):
    def grid(model, method, value, **other):
        return result_row(
            model, value, "gridpg", details={"method": method, "interval": [1.0, 2.0]}, **{**GRID, **other}
        )

    numbers = collect(
        grid("ours", "random", 25.0),
        grid("ours", "inherent", 80.0),
        grid("ours", "attnlrp", 70.0),
        grid("teacher", "attnlrp", 60.0, stage="teacher"),
    )
    lines = numbers.tables[0].blocks[0].rows
    assert [(line.labels[2], line.cells[0].text, line.cells[1].text) for line in lines] == [
        ("W(x)x", "80.00", "\u2013"),
        ("AttnLRP", "70.00", "60.00"),
        ("Random", "25.00", "\u2013"),
    ]
    assert "80.00 \\[1.00, 2.00\\]" in numbers.tables[0].to_markdown()
    assert numbers.commands == [
        "aloe evaluate gridpg me/x --data cifar10 --methods inherent,attnlrp,random --set share=0.2 --set grids=50"
        " --set protocol=whole"  # what rows of before the protocols had names were measured by
    ]
    assert _evaluated(monkeypatch, numbers.commands)[0][2] == {
        "methods": ["inherent", "attnlrp", "random"],
        "share": 0.2,
        "grids": 50,
        "protocol": "whole",
    }
    assert [(e["metric_type"], e["metric_value"]) for e in numbers.evaluations] == [("gridpg", 80.0)]


def test_both_presets_and_fewer_grids_are_told_apart(monkeypatch):
    def grid(model, method, value, preset, options, **other):
        settings = {**GRID["settings"], "protocol": "windows", "preset": preset, "options": options, **other}
        details = {"method": method, "interval": [1.0, 2.0]}
        stage = {} if model == "ours" else {"stage": "teacher"}
        return result_row(model, value, "gridpg", **{**GRID, "settings": settings}, details=details, **stage)

    numbers = collect(
        grid("ours", "inherent", 80.0, "best", {}),
        grid("ours", "inherent", 80.0, "paper", {}),
        grid("ours", "attnlrp", 70.0, "best", {"variant": "full"}),
        grid("ours", "attnlrp", 80.0, "paper", {"variant": "cp"}, first=3),
        grid("teacher", "attnlrp", 50.0, "best", {"variant": "full", "gamma": 0.05}),
        grid("teacher", "attnlrp", 40.0, "paper", {"variant": "cp"}, first=3),
    )
    lines = numbers.tables[0].blocks[0].rows
    assert [(line.labels[2], line.cells[0].text, line.cells[1].text) for line in lines] == [
        ("W(x)x", "80.00", "\u2013"),
        ("AttnLRP", "70.00", "50.00"),
        ("AttnLRP, paper's options", "80.00", "40.00"),
    ]
    assert not [command for command in numbers.commands if "protocol" in command], "windows are the default"
    (few,) = [settings for *_, settings in _evaluated(monkeypatch, numbers.commands) if "first_grids" in settings]
    assert (few["preset"], few["first_grids"], few["options"]) == (
        *("paper", {"attnlrp": 3}, {"attnlrp": {"variant": "cp"}}),
    )


def test_deletion_says_which_direction_is_better():
    def deleted(mode):
        settings = {"fill": "zero", "block": 4, "deletion_mode": mode, "seed": 0, "images": "8185"}
        details = {"method": "inherent", "mode": mode, "images": 100}
        return result_row("ours", 18.0, "deletion", metric="area", settings=settings, details=details)

    numbers = collect(deleted("deletion"), deleted("insertion"))
    assert [row.labels[0] for row in numbers.tables[0].blocks[0].rows] == [
        "pixel deletion (lower is better)",
        "pixel insertion (higher is better)",
    ]
    words = "--methods inherent --set fractions=fine --set among=confident --set block=4 --set images=100"
    assert numbers.commands[0].endswith(words)
    assert "--set deletion_mode=insertion" in numbers.commands[1]


def test_not_the_official_split_is_said():
    part = result_row("ours", 58.0, official=False, notes=["first /home/jo/x.jpg"], counts={"test": 5000})
    own = result_row("ours", 57.0, official=False, data="/home/jo/pets", counts={"test": 7})
    numbers = collect(part, own)
    text = numbers.tables[0].to_markdown()
    assert "58.00†" in text
    assert "† CIFAR-10, 5000 images: first x.jpg." in text
    assert "† pets, 7 images: no official split." in text
    assert "home" not in text + str(numbers.evaluations) + str(numbers.commands)
    assert [e["dataset_type"] for e in numbers.evaluations] == ["uoft-cs/cifar10", "pets"]
    assert all("not the official split" in e["dataset_name"] for e in numbers.evaluations)


@pytest.mark.parametrize(
    ("data", "train", "where"),
    [
        ("cifar10", False, "--data cifar10"),
        ("/home/jo/my pets", True, "--data 'my pets'"),
        ("/home/jo/pets", False, "--test pets"),
        ("scenes:300@7", False, "--test scenes:300@7"),
        ("scenes:300@7", True, "--train TRAINING_IMAGES --test scenes:300@7"),
    ],
)
def test_the_commands_name_the_data_as_evaluate_takes_it(data, train, where):
    row = result_row("ours", 58.0, data=data)
    row["fingerprints"] = {"model": "ours", "test": "b"} | ({"train": "a"} if train else {})
    assert collect(row).commands == [f"aloe evaluate knn me/x {where}"]


def _evaluated(monkeypatch, commands):
    """What `aloe evaluate` makes of the commands: (models, tasks, settings)."""
    from aloe.cli import main
    from aloe.evaluation import evaluate

    seen = []

    def catch(models, tasks, sets, output_dir, *, device, cache, progress, **settings):
        seen.append((models, tasks, settings))
        return []

    monkeypatch.setattr(evaluate, "evaluate_all", catch)
    for command in commands:
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as stop:
            main.main()
        assert stop.value.code == 0
    return seen
