"""`aloe report`: what it writes, what it leaves alone, what it refuses."""

from __future__ import annotations

import html.parser
import json
import os
import subprocess
import sys

import pytest
from PIL import Image
from result_rows import (
    VIT,
    make_clarity,
    make_correspondence,
    make_deletion,
    make_depth,
    make_gridpg,
    make_inside,
    make_normals,
    make_row,
    write_rows,
)

from aloe.cli import main
from aloe.core.errors import UserError
from aloe.report import sections
from aloe.report.files import write_report

EVIL = "<script>alert(1)</script>_%|&"
NAMES = {"index.html", "tables.md", "tables.tex", "plots/b2.svg", "plots/b2.png"}


@pytest.fixture(autouse=True)
def quick_plots(request, monkeypatch):
    """Pictures have tests of their own; here they are drawn only where a test asks for them."""
    if "drawn" not in request.fixturenames:
        drawing = {"svg": b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'></svg>", "png": b"png"}
        monkeypatch.setattr(sections, "bar_chart", lambda grid: drawing)
        monkeypatch.setattr(sections, "k_chart", lambda grid: None)
        for name in ("method_bars", "deletion_chart", "accuracy_chart"):
            monkeypatch.setattr(sections, name, lambda measured, *rest: drawing)


@pytest.fixture
def drawn():
    """Asks for real pictures."""


@pytest.fixture
def results(tmp_path):
    return write_rows(tmp_path / "results", make_row("teacher", 58.56), make_row("aligned", 58.12))


def written(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


class Page(html.parser.HTMLParser):
    """Tags, attributes and text of a page, whose tags must match."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.text, self.open = [], [], "", []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href") and value[0] != "#"]
        self.open += [tag] * (tag != "meta")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.usefixtures("drawn")
def test_a_report_of_everything(tmp_path):
    by_k = {"by_k": {"1": 50.0, "20": 58.0}}
    folder = write_rows(
        tmp_path / "results",
        make_row("teacher", 80.0, "imagenet", teacher=VIT, name=VIT, details=by_k),
        make_row("aligned", 79.0, "imagenet", teacher=VIT, name=EVIL, official=False, details=by_k),
        make_row("teacher", 81.0, "imagenet", "linear", teacher=VIT, name=VIT),
        make_row("teacher", 0.99, "imagenet", "guessing", teacher=VIT),
        tail='{"key": "cut',
    )
    report = write_report([folder], tmp_path / "out")
    assert (
        written(tmp_path / "out")
        == set(report.files)
        == NAMES | {f"plots/{name}.{kind}" for name in ("b1", "b2-by-k") for kind in ("svg", "png")}
    )
    with Image.open(tmp_path / "out" / "plots" / "b2.png") as image:
        assert image.width > 300
    page = Page((tmp_path / "out" / "index.html").read_text())
    assert "script" not in page.tags
    assert page.tags.count("svg") == 3
    assert page.tags.count("details") == 2 + 3, "one for each table and one for each of its rows"
    assert {link for link in page.links if not link.startswith("plots/")} == set(), "nothing is fetched"
    assert {link for link in page.links} <= written(tmp_path / "out")
    assert EVIL in page.text
    assert '"seconds": 1.5' in page.text
    assert "Measured with torch 2.13.0." in page.text
    assert "80.72" in page.text, "the paper's number"
    assert report.notes == [
        f"Line 5 of {folder / 'results.jsonl'} is cut off, as by an interrupted run, and was left out.",
        "The results have no rows for Table B3 (zero-shot).",
        "Rows of other tasks stand in none of the tables: guessing (1).",
    ]
    assert all(note in page.text for note in report.notes)
    latex = (tmp_path / "out" / "tables.tex").read_text()
    assert latex.count(r"\begin{table*}") == len(report.tables) == 3
    assert (tmp_path / "out" / "tables.md").read_text() == report.markdown


MAKERS = (make_gridpg, make_deletion, make_inside, make_clarity)


@pytest.mark.usefixtures("drawn")
def test_a_report_of_explanations(tmp_path):
    rows = [make("teacher", m, 40.0) for make in MAKERS for m in ("attnlrp", "lime")]
    rows += [make("aligned", "inherent", 60.0) for make in MAKERS]
    rows += [make_gridpg("aligned", "inherent", 50.0, settings={"n": 3}), make_row("teacher", 99.0, task="linear")]
    rows += [make_row("aligned", 98.0, task="linear")]
    out = tmp_path / "out"
    report = write_report([write_rows(tmp_path / "results", *rows)], out)
    pictures = ("b1", "b6", "b6-accuracy", "deletion", "inside", "clarity")
    assert written(out) == set(report.files)
    assert {f for f in report.files if f.startswith("plots/")} == {
        f"plots/{p}.{k}" for p in pictures for k in ("svg", "png")
    }
    assert [table.name for table in report.tables] == [
        "b1",
        "b6",
        "b6-all",
        "b6-other",
        "deletion",
        "inside",
        "clarity",
    ]
    assert report.notes == [f"The results have no rows for Table {t}." for t in ("B2 (k-NN)", "B3 (zero-shot)")]
    page = Page((out / "index.html").read_text())
    assert page.tags.count("svg") == 6
    assert set(page.links) == {f for f in report.files if f.startswith("plots/")}
    some = write_report([tmp_path / "results"], out, ["inside"])
    assert [table.name for table in some.tables] == ["inside"]
    assert written(out) == {"index.html", "tables.md", "tables.tex", "plots/inside.svg", "plots/inside.png"}


@pytest.mark.usefixtures("drawn")
def test_a_report_has_a_table_for_each_protocol_of_gridpg(tmp_path):
    rows = [make_gridpg("aligned", "inherent", v, settings={"protocol": p}) for p, v in GRID_PROTOCOLS.items()]
    rows += [make_gridpg("teacher", "attnlrp", v - 5, settings={"protocol": p}) for p, v in GRID_PROTOCOLS.items()]
    out = tmp_path / "out"
    report = write_report([write_rows(tmp_path / "results", *rows)], out, ["b6"])
    names = ("b6", "b6-whole", "b6-resized")
    assert [table.name for table in report.tables] == [n + kind for n in names for kind in ("", "-all")]
    assert {f for f in report.files if f.startswith("plots/")} == {
        f"plots/{n}.{kind}" for n in names for kind in ("svg", "png")
    }
    for protocol, table in zip(GRID_PROTOCOLS, report.tables[::2], strict=True):
        assert next(row.cells[-2].value for row in table.blocks[0].rows) == GRID_PROTOCOLS[protocol]
    page = Page((out / "index.html").read_text())
    for words in ("windows of the model's own size", "whole grids in one pass", "grids resized to"):
        assert words in page.text
    write_report([write_rows(tmp_path / "results", *rows[:1])], out, ["b6"])
    assert written(out) == {"index.html", "tables.md", "tables.tex", "plots/b6.svg", "plots/b6.png"}


GRID_PROTOCOLS = {"windows": 86.0, "whole": 36.0, "resized": 30.0}


def test_a_report_of_dense_prediction(tmp_path):
    rows = [make_depth(s, v, 0.5, (0.5, 0.9), name=EVIL) for s, v in (("teacher", 0.9), ("aligned", 0.8))]
    rows += [make_normals("teacher", (0.6, 0.7, 0.8), 23.0), make_correspondence("teacher", (10.0, 20.0, 30.0))]
    out = tmp_path / "out"
    report = write_report([write_rows(tmp_path / "results", *rows)], out)
    names = ["b4", "b5", "correspondence", "correspondence-angles"]
    assert [table.name for table in report.tables] == names
    assert report.notes == [
        f"The results have no rows for Table {t}." for t in ("B1 (linear-probe)", "B2 (k-NN)", "B3 (zero-shot)")
    ]
    page = Page((out / "index.html").read_text())
    assert page.tags.count("details") == 3 + 4
    assert EVIL in page.text
    assert "script" not in page.tags
    assert (out / "tables.tex").read_text().count(r"\begin{table*}") == 4
    some = write_report([tmp_path / "results"], out, ["B5"])
    assert [table.name for table in some.tables] == ["b5"]


def test_another_report_takes_the_place_of_the_first(tmp_path, results):
    out = tmp_path / "out"
    (out / "plots").mkdir(parents=True)
    (out / "thesis.tex").write_text("words")
    (out / "plots" / "mine.svg").write_text("drawing")
    write_report([results], out)
    other = write_rows(tmp_path / "other", make_row("teacher", 60.0, task="linear"))
    write_report([other], out)
    assert written(out) == {
        *("index.html", "tables.md", "tables.tex", "plots/b1.svg", "plots/b1.png"),
        *("thesis.tex", "plots/mine.svg"),
    }
    assert "60.00" in (out / "tables.md").read_text()
    assert "58.56" not in (out / "index.html").read_text()
    assert (out / "thesis.tex").read_text() == "words"


def test_a_report_may_lie_beside_its_results(results):
    before = (results / "results.jsonl").read_bytes()
    write_report([results], results)
    assert (results / "results.jsonl").read_bytes() == before
    assert written(results) == NAMES | {"results.jsonl"}


@pytest.mark.parametrize("name", ["index.html", "tables.md", "plots/b2.png"])
def test_somebody_elses_files_are_not_overwritten(tmp_path, results, name):
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name} was not written by `aloe report`; give another --output-dir"):
        write_report([results], out)
    assert written(out) == {name}
    assert (out / name).read_text() == "mine"


def test_a_full_disk_leaves_every_file_whole(tmp_path, results, monkeypatch):
    out = tmp_path / "out"
    write_report([results], out)
    before = {name: (out / name).read_bytes() for name in NAMES}

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"index\.html cannot be written: No space left"):
        write_report([write_rows(tmp_path / "new", make_row("teacher", 1.0))], out)
    assert written(out) == NAMES
    assert {name: (out / name).read_bytes() for name in NAMES} == before


@pytest.fixture
def aloe(monkeypatch, capsys, tmp_path):
    """Runs `aloe WORDS`: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["aloe", *map(str, words)])
        try:
            main.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run


def test_the_command_prints_the_tables(aloe, results):
    code, out, _ = aloe("report", results, "-o", "out")
    assert code == 0
    assert "| my-aligned   | ALOE" in out
    assert "Table B2." in out
    assert out.splitlines()[-1] == "5 files in out; open out/index.html"


def test_the_command_speaks_to_machines(aloe, results):
    code, out, _ = aloe("report", results, "-o", "out", "--tables", "B2", "--all", "--no-paper", "--json")
    said = json.loads(out)
    assert (code, said["output"], set(said["files"]), said["notes"]) == (0, "out", NAMES, [])
    table = said["tables"]["b2"]
    assert len(table["columns"]) == 10
    assert table["blocks"][0]["rows"][0]["cells"][8]["value"] == 58.56
    assert table["blocks"][0]["rows"][0]["cells"][0]["value"] is None


def test_a_terminal_without_ticks(results, tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "aloe", "report", results, "-o", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "| my-aligned   | ALOE           | B-ViT-B/16   | ?" in done.stdout


MISTAKES = {
    "report results -o out --tables b2,b22": "did you mean b2? Tables: b1, b2, b3, b4, b5, correspondence, b6, deletion,",
    "report results -o out --tables knn": "no table 'knn', did you mean",
    "report results -o out --tables ,": "Name at least one table: b1, b2, b3, b4, b5, correspondence, b6, deletion,",
    "report results -o out --tables b1": "no rows for Table B1 (linear-probe); `aloe evaluate` measures them.",
    "report results -o out --tables b1,b3": "no rows for Table B1 (linear-probe) or Table B3 (zero-shot)",
    "report results -o out --tables b6": "no rows for Table B6 (GridPG); `aloe evaluate`",
    "report results -o out --tables b4,correspondence": "no rows for Table B4 (depth) or Correspondence (correspondence);",
    "report results -o out --tables deletion": "no rows for Pixel deletion (pixel deletion)",
    "report nowhere -o out": "nowhere does not exist",
    "report empty -o out": "empty/results.jsonl does not exist",
    "report blank.jsonl -o out": "blank.jsonl holds no result rows",
    "report results -o blank.jsonl": "blank.jsonl is a file",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_sentence_with_nothing_written(aloe, results, tmp_path, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank.jsonl").write_text("")
    code, out, err = aloe(*words.split())
    assert (code, out) == (2, "")
    assert MISTAKES[words] in err
    assert err.count("\n") == 1
    assert written(tmp_path) == {"results/results.jsonl", "blank.jsonl"}


def test_without_matplotlib_there_are_tables_and_a_sentence(tmp_path, results, monkeypatch):
    out = tmp_path / "out"
    write_report([results], out)
    assert written(out) == NAMES
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    report = write_report([results], out)
    assert "58.56" in report.markdown
    assert report.notes[-1] == 'The report has tables alone. The plots need matplotlib: pip install "aloe-vit[report]".'
    assert written(out) == {"index.html", "tables.md", "tables.tex"}, (
        "plots of the earlier report are not of these rows"
    )
    assert "58.56" in (out / "index.html").read_text()
