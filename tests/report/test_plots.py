"""Plots: right bars in right colours, safe against names, the same bytes every time."""

from __future__ import annotations

import builtins
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image
from result_rows import VIT, make_row

from aloe.core.errors import UserError
from aloe.report import plots
from aloe.report.kit import COLOURS
from aloe.report.plots import bar_chart, k_chart
from aloe.report.rows import Result
from aloe.report.tables import build_grid

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "<script>alert(1)</script> --> $x_1$ $ _a"


def grid_of(*rows, table="b2"):
    return build_grid(table, [Result(**row) for row in rows])


def bars(svg):
    """{fill colour: heights in points} of the bars: closed rectangles that are clipped to the axes."""
    found = {}
    for path in ET.fromstring(svg).iter(f"{SVG}path"):
        fill = re.search(r"fill: (#\w+)", path.get("style", ""))
        ys = [float(y) for y in re.findall(r"[ML] \S+ (\S+)", path.get("d", ""))]
        if fill and path.get("clip-path") and len(ys) == 4:
            found.setdefault(fill[1], []).append(max(ys) - min(ys))
    return found


def test_a_bar_is_as_high_as_its_number_and_has_its_stages_colour():
    rows = [
        make_row(stage, 10.0 * (i + 1)) for i, stage in enumerate(("teacher", "converted", "b-cosified", "aligned"))
    ]
    found = bars(bar_chart(grid_of(*rows))["svg"])
    stages = ("teacher", "converted", "b-cosified", "aligned")
    heights = [found[COLOURS[stage]][0] for stage in stages]
    np.testing.assert_allclose(np.array(heights) / heights[0], [1, 2, 3, 4], rtol=1e-4)


def test_a_missing_number_has_no_bar():
    rows = [make_row("teacher", 50.0), make_row("teacher", 50.0, "dtd"), make_row("aligned", 25.0, "dtd")]
    found = bars(bar_chart(grid_of(*rows))["svg"])
    assert len(found[COLOURS["teacher"]]) == 3, "two data sets and their average"
    assert len(found[COLOURS["aligned"]]) == 1


def test_numbers_stand_beside_bars_that_are_as_wide_as_a_digit(monkeypatch):
    rows = [make_row("teacher", 51.25, data) for data in ("dtd", "pets")] + [make_row("aligned", 25.5, "dtd")]

    def numbers() -> int:
        return len(re.findall(r"<!-- \d+\.\d -->|>\d+\.\d</text>", bar_chart(grid_of(*rows))["svg"].decode()))

    assert numbers() == 4, "three numbers and an average"
    monkeypatch.setattr(plots, "READABLE", 5)
    assert numbers() == 0


def test_formats_are_what_they_say_and_the_same_every_time():
    grid = grid_of(
        make_row("teacher", 50.0, "imagenet", teacher=VIT), make_row("aligned", 49.0, "imagenet", teacher=VIT)
    )
    first, second = bar_chart(grid), bar_chart(grid)
    assert first == second
    with Image.open(io.BytesIO(first["png"])) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for stage in ("teacher", "aligned"):
        colour = [int(COLOURS[stage][i : i + 2], 16) for i in (1, 3, 5)]
        assert (pixels == colour).all(1).mean() > 0.01
    assert "2026" not in ET.tostring(ET.fromstring(first["svg"])).decode()


def test_names_are_words_and_not_markup_or_mathematics():
    rows = [
        make_row("teacher", 50.0, EVIL, teacher=EVIL, name=EVIL),
        make_row("student", 40.0, teacher=EVIL, name="_s"),
    ]
    rows += [make_row("aligned", v, EVIL, teacher=EVIL, name=f"{EVIL} {v}\n\x1b") for v in (1.0, 2.0, 3.0, 4.0, 5.0)]
    rows += [make_row("odd\\frac{$", 9.0, teacher="$\\frac{$")]
    svg = bar_chart(grid_of(*rows))["svg"].decode()
    assert not list(ET.fromstring(svg).iter(f"{SVG}script"))
    assert "<script" not in svg
    assert "$x_1$" in svg, "the drawing's comments quote its words as they are"
    assert svg.count("<!--") == svg.count("-->")


def test_accuracy_against_k():
    rows = [
        make_row("teacher", 50.0, details={"by_k": {"1": 40.0, "5": 45.0, "20": 50.0}}),
        make_row("aligned", 50.0, details={"by_k": {"1": 40.0, "20": 49.0}}),
        make_row("aligned", 50.0, "dtd", details={"by_k": {"20": 49.0}}),
    ]
    svg = k_chart(grid_of(*rows))["svg"]
    points = {}
    for path in ET.fromstring(svg).iter(f"{SVG}path"):
        stroke = re.search(r"fill: none; stroke: (#\w+)", path.get("style", ""))
        if stroke and path.get("clip-path"):
            points.setdefault(stroke[1], []).append(len(re.findall("[ML]", path.get("d"))))
    assert points[COLOURS["teacher"]] == [3]
    assert points[COLOURS["aligned"]] == [2]
    assert b"<!-- C10" in svg
    assert b"<!-- DTD" not in svg, "one k is no curve"
    assert k_chart(grid_of(make_row("teacher", 1.0))) is None


def test_without_matplotlib_the_sentence_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    grid = grid_of(make_row("teacher", 1.0))
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r'pip install "aloe-vit\[report\]"'):
        bar_chart(grid)
