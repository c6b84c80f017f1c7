"""Figure B1: panels and curves where the numbers say; bins without pairs are gaps, and broken rows no stumbling block."""

from __future__ import annotations

import io
import math

import pytest
from PIL import Image
from result_rows import make_correspondence, write_rows

from aloe.report import kit
from aloe.report.correspondence import correspondence_chart
from aloe.report.dense_tables import collect_dense
from aloe.report.files import write_report
from aloe.report.kit import COLOURS
from aloe.report.rows import Result


@pytest.fixture
def figures(monkeypatch):
    """Charts give their figure."""
    monkeypatch.setattr(kit, "as_files", lambda figure: figure)


def chart(*rows):
    return correspondence_chart(collect_dense("correspondence", [Result(**row) for row in rows]))


def curves(panel):
    """[(colour, heights of the bins, mean)]; the upright line between bins and mean is left out."""
    drawn = [line for line in panel.lines if line.get_marker() != "None"]
    heights = [[None if math.isnan(y) else round(float(y), 3) for y in line.get_ydata()] for line in drawn]
    return [
        (line.get_color(), bins, *mean)
        for line, bins, mean in zip(drawn[::2], heights[::2], heights[1::2], strict=True)
    ]


def words(panel):
    return [tick.get_text() for tick in panel.get_xticklabels()]


@pytest.mark.usefixtures("figures")
def test_a_curve_per_model_and_a_panel_per_distance():
    rows = [make_correspondence("teacher", (30.0, 45.0, 60.0)), make_correspondence("aligned", (28.0, 42.0, 57.0))]
    panels = chart(*rows).axes
    assert [panel.get_title(loc="left").split("\n")[1] for panel in panels] == [
        "within 1 cm",
        "within 2 cm",
        "within 5 cm",
    ]
    assert panels[0].get_title(loc="left").split("\n")[0] == "my-teacher, navi"
    for panel, teacher, aligned in zip(panels, (30.0, 45.0, 60.0), (28.0, 42.0, 57.0), strict=True):
        assert curves(panel) == [
            (COLOURS["teacher"], [teacher + 5, teacher - 5, None], teacher),
            (COLOURS["aligned"], [aligned + 5, aligned - 5, None], aligned),
        ]
        assert words(panel) == ["0-30°", "30-60°", "60-90°", "mean"]
        assert panel.get_ylim() == pytest.approx((0, 1.08 * (teacher + 5)))
    assert [text.get_text() for text in panels[2].get_legend().get_texts()] == [
        "teacher: my-teacher",
        "ALOE: my-aligned",
    ]


@pytest.mark.usefixtures("figures")
def test_data_sets_have_their_own_bins_and_distances():
    other = {"bins": [[0.0, 15.0], [15.0, 180.0]], "binned": [[1.0, 2.0]] * 2, "mean_of_bins": [1.5] * 2}
    rows = [make_correspondence("teacher", (30.0, 45.0, 60.0))]
    rows += [make_correspondence("teacher", (0.0,) * 3, data="scannet", details={**other, "thresholds": [0.02, 0.1]})]
    panels = chart(*rows).axes
    assert [words(panel)[:-1] for panel in panels[3:5]] == [["0-15°", "15-180°"]] * 2
    assert [panel.get_title(loc="left") for panel in panels[3:5]] == [
        "my-teacher, scannet\nwithin 2 cm",
        "\nwithin 10 cm",
    ]
    assert [panel.get_visible() for panel in panels] == [True] * 5 + [False]


@pytest.mark.usefixtures("figures")
def test_models_of_one_stage_are_told_apart():
    rows = [make_correspondence("aligned", (30.0, 45.0, 60.0), name=name) for name in ("a", "b")]
    drawn = [line for line in chart(*rows).axes[0].lines if line.get_marker() != "None"]
    assert {line.get_color() for line in drawn} == {COLOURS["aligned"]}
    looks = {(line.get_marker(), line.get_linestyle()) for line in drawn}
    assert len(looks) == 2


@pytest.mark.usefixtures("figures")
def test_rows_without_numbers_are_left_out():
    whole = make_correspondence("teacher", (30.0, 45.0, 60.0))
    for broken in ({"bins": []}, {"bins": [[0.0, "?"]]}, {"bins": None}, {"thresholds": []}, {"thresholds": ["?"]}):
        assert chart(make_correspondence("aligned", (1.0, 2.0, 3.0), details=broken)) is None
    nothing = make_correspondence("aligned", (1.0, 2.0, 3.0), details={"binned": "?", "mean_of_bins": [None] * 3})
    assert curves(chart(whole, nothing).axes[0])[1] == (COLOURS["aligned"], [None] * 3, None)


def test_pictures_are_the_same_bytes_every_time():
    rows = [make_correspondence("teacher", (30.0, 45.0, 60.0), name="a_$x$ <b>")]
    files = chart(*rows)
    assert files == chart(*rows)
    with Image.open(io.BytesIO(files["png"])) as image:
        assert image.width > 600
    assert files["svg"].startswith(b"<?xml")


def test_a_report_has_the_figure_below_its_table(tmp_path):
    write_report(
        [write_rows(tmp_path / "results", make_correspondence("teacher", (30.0, 45.0, 60.0)))], tmp_path / "out"
    )
    assert {path.name for path in (tmp_path / "out" / "plots").iterdir()} == {
        "correspondence.svg",
        "correspondence.png",
    }
    assert (tmp_path / "out" / "index.html").read_text().count("plots/correspondence.svg") == 1
