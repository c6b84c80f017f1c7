"""Pictures of explanations: panels, bars, lines and points where the numbers say, in the methods' colours."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image
from result_rows import make_deletion, make_gridpg, make_inside, make_row

from aloe.report import kit
from aloe.report.explained import collect
from aloe.report.explained_plots import accuracy_chart, deletion_chart, method_bars
from aloe.report.methods import look
from aloe.report.rows import Result


@pytest.fixture
def figures(monkeypatch):
    """Charts give their figure."""
    monkeypatch.setattr(kit, "as_files", lambda figure: figure)


def measured_of(name, *rows):
    return collect(name, [Result(**row) for row in rows])


def bars(panel):
    """(colour, height, middle, whether hatched as the teacher) of every bar."""
    return [
        (to_hex(p.get_facecolor()), round(p.get_height(), 3), p.get_x() + p.get_width() / 2, p.get_hatch() == "////")
        for p in panel.patches
    ]


def labels(panel):
    return [text.get_text() for text in panel.texts]


@pytest.mark.usefixtures("figures")
def test_bars_of_teacher_and_student_stand_side_by_side_in_the_methods_colour():
    rows = [make_gridpg("teacher", "attnlrp", 50.0), make_gridpg("teacher", "lime", 40.0)]
    rows += [make_gridpg("aligned", m, v) for m, v in (("lime", 60.0), ("inherent", 80.0))]
    (panel,) = method_bars(measured_of("b6", *rows)).axes
    assert [tick.get_text() for tick in panel.get_xticklabels()] == ["W(x)x", "AttnLRP", "LIME"]
    found = bars(panel)
    assert [bar[:2] for bar in found] == [
        (look("attnlrp").colour, 50.0),
        (look("lime").colour, 40.0),
        (look("inherent").colour, 80.0),
        (look("lime").colour, 60.0),
    ]
    assert [bar[3] for bar in found] == [True, True, False, False]
    assert [bar[2] for bar in found] == pytest.approx([1, 2 - 0.21, 0, 2 + 0.21]), "alone a bar stands in the middle"
    assert labels(panel) == ["50.0", "40.0", "80.0", "60.0", "chance"]
    (chance,) = [line for line in panel.lines if len(set(line.get_ydata())) == 1 and list(line.get_xdata()) == [0, 1]]
    assert chance.get_ydata()[0] == 25.0
    assert [t.get_text() for t in panel.get_legend().get_texts()] == ["teacher: my-teacher", "ALOE: my-aligned"]


@pytest.mark.usefixtures("figures")
def test_intervals_reach_as_far_as_they_do():
    (panel,) = method_bars(measured_of("b6", make_gridpg("aligned", "inherent", 70.0))).axes
    ends = {tuple(np.round(segment[:, 1], 6)) for c in panel.collections for segment in c.get_segments()}
    assert ends == {(68.5, 72.0)}
    without = make_gridpg("aligned", "inherent", 70.0, details={"interval": [None, float("nan")], "chance": None})
    (panel,) = method_bars(measured_of("b6", without)).axes
    assert not panel.collections
    assert labels(panel) == ["70.0"], "nor a line of chance"


@pytest.mark.usefixtures("figures")
def test_a_panel_for_each_teacher_and_data_set():
    rows = [make_inside("aligned", "lime", 40.0), make_inside("aligned", "lime", 30.0, data="dtd")]
    rows += [make_inside("aligned", "lime", 20.0, teacher="other")]
    panels = method_bars(measured_of("inside", *rows)).axes
    assert [panel.get_title(loc="left") for panel in panels] == ["my-teacher, C10", "my-teacher, DTD", "other, C10"]
    assert [len(panel.patches) for panel in panels] == [1, 1, 1]
    assert {panel.get_ylabel() for panel in panels} == {"positive attribution in the mask (%)"}


@pytest.mark.usefixtures("figures")
def test_words_of_bars_do_not_overlap_whatever_the_models_are_called():
    for names in (["a"], ["a rather long name of a run", "another long name of a run", "third", "fourth"]):
        rows = [make_gridpg("teacher", m, 50.0) for m in ("attnlrp", "lime", "intgrad")]
        rows += [make_gridpg("aligned", m, 60.0, name=n) for n in names for m in ("inherent", "attnlrp", "intgrad")]
        figure = method_bars(measured_of("b6", *rows))
        figure.draw_without_rendering()
        (panel,) = figure.axes
        words = [*panel.texts, *panel.get_legend().get_texts(), panel._left_title, *panel.get_xticklabels()]
        boxes = [w.get_window_extent() for w in words]
        for n, a in enumerate(boxes):
            assert a.x1 <= figure.bbox.x1 + 1
            for b in boxes[n + 1 :]:
                assert min(a.x1, b.x1) - max(a.x0, b.x0) < 1 or min(a.y1, b.y1) - max(a.y0, b.y0) < 1


@pytest.mark.usefixtures("figures")
def test_curves_have_a_panel_per_model_and_order_and_a_line_per_method():
    rows = [make_deletion("teacher", "attnlrp", 30.0), make_deletion("teacher", "lime", 40.0)]
    rows += [make_deletion("aligned", m, v) for m, v in (("inherent", 15.0), ("attnlrp", 25.0), ("lime", 35.0))]
    figure = deletion_chart(measured_of("deletion", *rows))
    teacher, student, teacher_least, student_least = figure.axes
    assert [len(panel.lines) for panel in figure.axes] == [2, 3, 2, 3]
    assert [len(panel.collections) for panel in figure.axes] == [2, 3, 2, 3], "an interval's band for each"
    assert [to_hex(line.get_color()) for line in student.lines] == [
        look(m).colour for m in ("lime", "attnlrp", "inherent")
    ]
    assert {line.get_linestyle() for line in (*teacher.lines, *student.lines)} == {"-"}
    assert {line.get_linestyle() for line in (*teacher_least.lines, *student_least.lines)} == {"--"}
    top = student.lines[-1]
    np.testing.assert_allclose(top.get_xdata(), np.linspace(0, 100, 11))
    np.testing.assert_allclose(top.get_ydata(), rows[2]["details"]["most"])
    assert labels(student) == ["most attributed first"]
    assert student.get_title(loc="left") == "my-aligned\nALOE, C10"
    assert teacher.get_ylim() == (0, 100)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["W(x)x", "AttnLRP", "LIME"]


@pytest.mark.usefixtures("figures")
def test_broken_curves_are_left_out_and_missing_points_are_gaps():
    gaps = make_deletion("aligned", "lime", 30.0, details={"most_low": None})
    gaps["details"]["most"][3] = float("nan")
    short = make_deletion("aligned", "attnlrp", 30.0, details={"most": [90.0], "least": None})
    figure = deletion_chart(measured_of("deletion", gaps, short))
    most, least = figure.axes
    (line,) = most.lines
    assert np.isnan(line.get_ydata()[3])
    assert np.isfinite(line.get_ydata()).sum() == 10
    assert not most.collections, "half a band is none"
    assert len(least.lines) == 1
    no_least = make_deletion("aligned", "lime", 30.0, details={"least": []})
    assert len(deletion_chart(measured_of("deletion", no_least)).axes) == 1
    assert deletion_chart(measured_of("deletion", short)) is None


@pytest.mark.usefixtures("figures")
def test_many_models_are_broken_into_lines_of_four():
    rows = [make_deletion("aligned", "lime", 30.0, name=f"run-{n}") for n in range(5)]
    panels = deletion_chart(measured_of("deletion", *rows)).axes
    assert len(panels) == 16
    assert sum(panel.get_visible() for panel in panels) == 10


@pytest.mark.usefixtures("figures")
def test_localisation_against_accuracy():
    rows = [make_gridpg("teacher", "attnlrp", 50.0), make_gridpg("teacher", "lime", 40.0)]
    rows += [make_gridpg("aligned", m, v) for m, v in (("lime", 99.0), ("inherent", 80.0))]
    rows += [make_row("teacher", 93.0, task="linear"), make_row("aligned", 91.0, task="linear")]
    results = [Result(**row) for row in rows]
    (panel,) = accuracy_chart(collect("b6", results), results).axes
    points = {
        (to_hex(line.get_color()), *map(float, (line.get_xdata()[0], line.get_ydata()[0]))) for line in panel.lines
    }
    assert points == {
        (look("attnlrp").colour, 93.0, 50.0),
        (look("lime").colour, 93.0, 40.0),
        (look("inherent").colour, 91.0, 80.0),
    }
    arrow, name = panel.texts
    assert (arrow.xyann, arrow.xy) == ((93.0, 50.0), (91.0, 80.0)), "from the teacher's best to the student"
    assert name.get_text() == "my-aligned"
    assert panel.get_xlabel() == "linear-probe accuracy (%)"


@pytest.mark.usefixtures("figures")
def test_several_students_are_numbered_and_the_kind_of_accuracy_is_one():
    rows = [make_gridpg("teacher", "attnlrp", 50.0)]
    rows += [make_gridpg("aligned", "inherent", 60.0 + n, name=f"run-{n}") for n in range(2)]
    rows += [make_row("teacher", 93.0, task="classifier"), make_row("aligned", 91.0, task="linear", name="run-0")]
    rows += [make_row("aligned", 90.0 + n, task="classifier", name=f"run-{n}") for n in range(2)]
    results = [Result(**row) for row in rows]
    (panel,) = accuracy_chart(collect("b6", results), results).axes
    assert panel.get_xlabel() == "accuracy of the model's own classifier (%)"
    assert [text for text in labels(panel) if text] == ["1", "2", "1  run-0\n2  run-1"]
    alone = results[:1] + results[3:4]
    assert accuracy_chart(collect("b6", alone), alone) is None


def test_formats_are_what_they_say_and_the_same_every_time():
    rows = [make_gridpg(s, "attnlrp", 50.0) for s in ("teacher", "aligned")]
    rows += [make_row(s, 90.0, task="linear") for s in ("teacher", "aligned")] + [
        make_gridpg("aligned", "inherent", 70.0)
    ]
    results = [Result(**row) for row in rows]
    curves = measured_of("deletion", make_deletion("aligned", "inherent", 20.0))
    for draw in (
        lambda: method_bars(collect("b6", results)),
        lambda: accuracy_chart(collect("b6", results), results),
        lambda: deletion_chart(curves),
    ):
        first = draw()
        assert first == draw()
        assert b"<svg" in first["svg"]
        with Image.open(io.BytesIO(first["png"])) as image:
            pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
        blue = [int(look("inherent").colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (pixels == blue).all(1).any()


def test_names_are_words_and_not_markup_or_mathematics():
    evil = "<script>alert(1)</script> --> $x_1$ $ _a"
    rows = [make_gridpg("teacher", "$m$", 50.0, teacher=evil), make_row("teacher", 9.0, evil, "linear", teacher=evil)]
    rows += [make_gridpg("aligned", "inherent", 50.0, teacher=evil, data=evil, name=f"_{n} {evil}") for n in range(4)]
    rows += [make_deletion("aligned", "\\frac{$", 50.0, teacher=evil, name="$\\frac{$")]
    for picture in (method_bars(measured_of("b6", *rows)), deletion_chart(measured_of("deletion", *rows))):
        assert b"<script" not in picture["svg"]
        assert picture["svg"].count(b"<!--") == picture["svg"].count(b"-->")


@pytest.mark.usefixtures("figures")
def test_bars_of_gridpg_name_the_protocol_and_mark_the_papers_numbers():
    rows = [make_gridpg("teacher", "attnlrp", 50.0), make_gridpg("aligned", "inherent", 80.0)]
    measured = measured_of("b6", *rows)
    (panel,) = method_bars(measured, with_paper=True).axes
    assert panel.get_title(loc="left") == "my-teacher, C10: windows of the model's own size"
    marks = {(line.get_xdata()[0], line.get_ydata()[0]) for line in panel.lines if line.get_marker() == "D"}
    assert marks == {(-0.47, 82.45), (0.53, 55.80)}
    assert panel.get_ylim()[1] > 82.45
    assert [t.get_text() for t in panel.get_legend().get_texts()][-1] == "paper: ViT-B/16, IN1k"
    (panel,) = method_bars(measured).axes
    assert not [line for line in panel.lines if line.get_marker() == "D"]
    whole = [make_gridpg("aligned", "inherent", 40.0, settings={"protocol": "whole"})]
    (panel,) = method_bars(measured_of("b6", *whole), with_paper=True).axes
    assert panel.get_title(loc="left") == "my-teacher, C10: whole grids in one pass"
    assert not [line for line in panel.lines if line.get_marker() == "D"]
