"""A sweep's rows as tables and pictures: means, intervals, what stands beside them, what is left out."""

from __future__ import annotations

import html
import io
import json

import pytest
from PIL import Image
from result_rows import make_deletion, make_gridpg, make_row, write_rows

from aloe.core.errors import UserError
from aloe.draw.tables import MISSING
from aloe.report.files import write_report
from aloe.report.rows import Result
from aloe.report.sweep_plots import sweep_chart
from aloe.report.sweep_rows import SweepRow, read_sweep
from aloe.report.sweep_tables import sweep_table
from aloe.report.sweeps import axes_of, curves_along, mean_interval, measures_of

IMAGES = {"train": "t", "test": "e"}


def run(value, objective="cosine", seed=0, *, status="finished", **configuration):
    """A row of a sweep; `value` is its k-NN accuracy, and half of it its linear probe's."""
    known = {"objective": objective, "seed": seed, "fraction": 1.0, "steps": 5, "batch_size": 8, "learning_rate": 1e-3}
    known |= {"teacher": "my-teacher", "data_fingerprint": "d", **configuration}
    results = [
        make_row("aligned", v, task=task, fingerprints={"model": f"{objective}{seed}", **IMAGES})
        for task, v in (("knn", value), ("linear", value / 2))
    ]
    row = {"key": json.dumps(known), "run": "r", "teacher": "my-teacher", "status": status, "configuration": known}
    return {**row, "results": results if status == "finished" else []}


def beside(stage, value, **fingerprints):
    return make_row(stage, value, fingerprints={"model": stage, **IMAGES, **fingerprints})


def rows_of(*runs):
    return [SweepRow.model_validate(r) for r in runs]


def results_of(*rows):
    return [Result.model_validate(row) for row in rows]


RUNS = (
    *(run(value, "cosine", seed) for seed, value in enumerate((50, 52, 54))),
    *(run(value, "mse", seed) for seed, value in enumerate((40, 40, 46))),
    run(45, "siglip", 0),
    run(0, "siglip", 1, status="diverged"),
)


def cells(row):
    return [(cell.text, cell.bold) for cell in row.cells]


def test_mean_and_interval_are_those_of_students_t():
    mean, half = mean_interval([50, 52, 54])
    assert mean == 52
    assert half == pytest.approx(4.303 * 2 / 3**0.5)  # t(0.975, 2) s / sqrt(n)
    assert mean_interval([50]) == (50, None)
    assert mean_interval([0.0, 1.0] * 50)[1] == pytest.approx(2.042 * 0.502519 / 10, rel=1e-4)


def test_objectives_stand_in_the_papers_order_beside_its_numbers():
    table = sweep_table("objective", rows_of(*RUNS), results_of(beside("teacher", 60), beside("teacher", 99, test="x")))
    assert table.columns[:4] == ("C10 k-NN", "± 95 %", "C10 linear probe", "± 95 %")
    assert table.columns[4:] == ("paper: DINOv3", "paper: SigLIP2", "paper: Google ViT")
    (block,) = table.blocks
    assert [row.labels for row in block.rows] == [
        ("MSE", "0, 1, 2"),
        ("Cosine", "0, 1, 2"),
        ("SigLIP", "0; 1 diverged"),
        ("teacher: my-teacher", ""),  # measured on the same images; the other one was not
    ]
    mse, cosine, siglip, teacher = map(cells, block.rows)
    assert cosine[:2] == [("52.00", True), ("4.97", False)]
    assert mse[:2] == [("42.00", False), ("8.61", False)]
    assert siglip[:2] == [("45.00", False), (MISSING, False)]
    assert [text for text, _ in mse[4:]] == ["83.9", "75.5", "81.0"]
    assert [text for text, _ in teacher] == ["60.00", *[MISSING] * 6]
    assert "1 of 8 runs diverged and are in no mean." in table.footnotes
    assert "Every run: 5 steps of 8 images, learning rate 0.001." in table.footnotes


def test_without_the_papers_numbers_none_is_there():
    table = sweep_table("objective", rows_of(*RUNS), [], with_paper=False)
    assert "paper" not in table.to_markdown()


def test_fractions_stand_in_their_order_with_the_figures_numbers():
    runs = [run(v, fraction=f, seed=s) for f, v in ((1.0, 55), (0.001, 51), (0.01, 53)) for s in (0, 1)]
    table = sweep_table("fraction", rows_of(*runs), results_of(beside("teacher", 60), beside("b-cosified", 40)))
    labels = [row.labels[0] for row in table.blocks[0].rows]
    assert labels == ["0.1 %", "1 %", "100 %", "teacher: my-teacher", "B-cosified: my-b-cosified"]
    note = table.footnotes[-1]
    assert all(number in note for number in ("82.59", "82.99", "84.04", "84.36", "9.3"))


def test_a_curve_keeps_everything_else_the_same():
    grid = [run(50, objective, 0, fraction=f) for objective in ("mse", "cosine") for f in (0.1, 1.0)]
    runs = rows_of(*grid, run(50, "infonce", 0, fraction=0.5))
    axes = axes_of(runs)
    assert axes == ["objective", "fraction"]
    assert [(c.title, c.values) for c in curves_along(runs, "fraction", axes)] == [
        ("my-teacher, objective MSE", [0.1, 1.0]),
        ("my-teacher, objective Cosine", [0.1, 1.0]),
    ]
    assert [c.title for c in curves_along(runs, "objective", axes)] == [
        "my-teacher, fraction 10 %",
        "my-teacher, fraction 100 %",
    ]


def test_lists_and_names_of_layers_are_one_axis():
    runs = rows_of(*(run(50, after_block=value) for value in ("all", [2, 4, 6], [6], [])))
    (curve,) = curves_along(runs, "after_block", axes_of(runs))
    table = sweep_table("after_block", runs, [])
    assert len(curve.points) == 4
    assert {row.labels[0] for row in table.blocks[0].rows} == {"all", "2,4,6", "6", "none"}


@pytest.mark.parametrize("axis", ["objective", "fraction"])
def test_pictures_are_drawn_alike_every_time(axis):
    runs = rows_of(*RUNS, *(run(v, "cosine", s, fraction=f) for f, v in ((0.01, 40), (0.1, 47)) for s in (0, 1, 2)))
    rows = results_of(beside("teacher", 60))
    chart = sweep_chart(axis, runs, rows)
    assert chart == sweep_chart(axis, runs, rows)
    assert Image.open(io.BytesIO(chart["png"])).width > 500
    assert chart["png"] != sweep_chart(axis, runs[1:], [])["png"]


def test_runs_that_all_diverged_have_a_table_and_no_picture():
    runs = rows_of(*(run(0, objective, 0, status="diverged") for objective in ("mse", "cosine")))
    assert sweep_chart("objective", runs, []) is None
    assert [row.labels[1] for row in sweep_table("objective", runs, []).blocks[0].rows] == ["0 diverged"] * 2


def sweep_folder(folder, *runs, tail=""):
    write_rows(folder, beside("teacher", 60))
    (folder / "sweep.jsonl").write_text("".join(json.dumps(r) + "\n" for r in runs) + tail)
    return folder


def test_a_report_of_a_sweep_has_its_tables_and_pictures_only(tmp_path):
    fractions = [run(v, fraction=f) for f, v in ((0.01, 40), (0.1, 47))]
    home = sweep_folder(tmp_path / "sweep", *RUNS, *fractions, tail='{"key": "cut')
    done = write_report([home], tmp_path / "report")
    assert [table.name for table in done.tables] == ["sweep-objective", "sweep-fraction"]
    assert {"plots/sweep-objective.png", "plots/sweep-fraction.svg", "tables.tex"} <= set(done.files)
    assert done.notes == []
    page = html.unescape((tmp_path / "report" / "index.html").read_text())
    assert '"alignment": {' in page  # the configuration of the run behind every number
    (tmp_path / "sweep" / "sweep.jsonl").write_text("".join(json.dumps(r) + "\n" for r in RUNS))
    write_report([home], tmp_path / "report")
    left = {path.name for path in (tmp_path / "report" / "plots").iterdir()}
    assert left == {"sweep-objective.png", "sweep-objective.svg"}


def test_a_sweep_beside_other_results_is_one_section_among_others(tmp_path):
    home = sweep_folder(tmp_path / "sweep", *RUNS)
    other = write_rows(tmp_path / "results", beside("aligned", 59))
    names = [table.name for table in write_report([home, other], tmp_path / "report").tables]
    assert names == ["sweep-objective", "b2"]
    assert [t.name for t in write_report([home], tmp_path / "report", ["b2"]).tables] == ["b2"]


def test_what_cannot_be_reported_is_said(tmp_path):
    alone = sweep_folder(tmp_path / "alone", RUNS[0], RUNS[1])
    with pytest.raises(UserError, match="no two runs that differ"):
        write_report([alone], tmp_path / "report")
    other = write_rows(tmp_path / "results", beside("aligned", 59))
    with pytest.raises(UserError, match="None of these folders holds runs of a sweep"):
        write_report([other], tmp_path / "report", ["sweep"])
    (alone / "sweep.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"holds no row of a sweep \(Line 1 of"):
        read_sweep(alone)


def test_seeds_measured_by_other_protocols_are_never_averaged():
    """Grids by windows in one seed and whole in another, or other shares of deletion, are numbers of their own."""
    first, second = (run(50, "cosine", seed) for seed in (0, 1))
    other = {"protocol": "whole"}, {"fractions": "fine"}
    for row, (grids, shares) in ((first, ({}, {})), (second, other)):
        row["results"] = [
            make_gridpg("aligned", "inherent", 80.0, settings=grids),
            make_deletion("aligned", "inherent", 20.0, settings=shares),
        ]
    found = measures_of(rows_of(first, second, run(40, "mse", 0)))
    assert [(m.task, m.way) for m in found if m.method] == [
        *(("gridpg", "windows"), ("deletion", ""), ("gridpg", "whole"), ("deletion", "fine shares")),
    ]
    (curve,) = curves_along(rows_of(first, second, run(40, "mse", 0)), "objective", ["objective"])
    assert [curve.numbers('"cosine"', m) for m in found if m.method] == [[80.0], [20.0], [80.0], [20.0]]
    assert len({m.heading for m in found}) == len(found)


def test_rows_of_a_run_are_held_against_each_other(tmp_path):
    first = run(50, "cosine", 0)
    more = {**first, "results": [*first["results"], make_row("aligned", 12.0, task="classifier")], "seconds": 9.0}
    home, notes = sweep_folder(tmp_path / "a", first, more, more), []
    (row,) = read_sweep(home, notes)
    assert [r.value for r in row.results] == [50, 25, 12.0]
    assert notes == ["1 sweep row came more than once and counted once."]
    for change in ({"status": "diverged", "results": []}, {"results": [{**first["results"][0], "value": 51}]}):
        home = sweep_folder(tmp_path / "b", first, {**first, **change})
        with pytest.raises(UserError, match=r"^Line 1 of .* and line 2 of .*sweep.jsonl contradict each other on r"):
            read_sweep(home)
