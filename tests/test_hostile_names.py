"""Names of classes and files from strangers, on terminals, pages, cards, tables and in logs: words, never more."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path

import pytest

from aloe.apps.sweep.run import _Clock
from aloe.core.errors import UserError
from aloe.models.convert import bcosify
from aloe.models.labels import set_labels
from aloe.models.saving import save_student
from conftest import build_teacher
from pictures import write_pictures

LABELS = ("\ud800", "a\nb\r", "\x1b]0;owned\x07\u202e", "<script>alert(1)</script>", "=cmd|calc!A0")
RAW = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\ud800-\udfff]")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A student whose classes have these names, and images whose names are no better."""
    home = tmp_path_factory.mktemp("names")
    teacher = build_teacher("vit-classifier")
    set_labels(teacher.model.config, dict(enumerate(LABELS)))
    student = bcosify(teacher)
    set_labels(student.config, dict(enumerate(LABELS)))
    save_student(student, home / "student")
    write_pictures(home / "images", 3)
    names = ("\x1b[31m.png", "<script>alert(1)<.png", "=1+1.png")
    for path, name in zip(sorted((home / "images").iterdir()), names, strict=True):
        path.rename(path.with_name(name))
    return home


LINES = {
    "explain": "explain {}/student {}/images -o out",
    "explain a class": "explain {}/student {}/images -o out --target 2",
    "explain as JSON": "explain {}/student {}/images -o out --json",
    "attribute": "attribute {}/images -m {}/student --methods inherent -o out",
    "publish": "publish {}/student me/it --dry-run -o out --allow-unaligned --licence mit",
}


@pytest.mark.parametrize("line", LINES)
def test_names_are_words(aloe, home, line):
    code, out, err = aloe(*(word.replace("{}", str(home)) for word in LINES[line].split()))
    assert code == 0, err
    assert not RAW.search(out)
    assert not RAW.search(err.replace("\r", ""))
    written = [path for path in Path("out").rglob("*") if path.is_file()]
    assert written
    for path in written:
        assert path.name.isprintable()
        assert not set(path.name) & set('<>:"|?*\\')
        if path.suffix in (".json", ".md", ".html", ".csv", ".jsonl", ".txt"):
            text = path.read_text(encoding="utf-8", errors="surrogateescape")
            assert not RAW.search(text), path
            assert path.suffix not in (".md", ".html") or "<script>alert" not in text, path
    if line.startswith("explain"):
        rows = json.loads(Path("out/explanations.json").read_text())["explanations"]
        assert {row["prediction"] for row in rows} <= set(LABELS), "full names in the JSON beside"


def test_values_of_a_sweep_are_no_markup(capsys):
    _Clock(True).begin("Run 1 of 2", "[bold red]x[/] \x1b[31m", 2)
    assert "Run 1 of 2: [bold red]x[/] \\u001b[31m" in capsys.readouterr().err


def test_a_mistake_on_the_explorer_s_page_is_words():
    pytest.importorskip("gradio", reason="the extra `app` is not installed")
    from aloe.apps.explorer.requests import says

    assert says(UserError("<script>x</script>")) == '<p role="alert">&lt;script&gt;x&lt;/script&gt;.</p>'


@pytest.mark.parametrize("app", ["explorer/assets", "study/static"])
def test_scripts_of_pages_set_text_and_templates_escape(app):
    """What a page is sent becomes text: no script writes HTML, and no component's skeleton is filled in unescaped."""
    files = [path for path in resources.files("aloe.apps").joinpath(*app.split("/")).iterdir() if path.is_file()]
    scripts = [path.read_text(encoding="utf-8") for path in files if path.name.endswith((".js", ".html"))]
    assert scripts
    assert not any(
        re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\{\{\{|eval\(", text) for text in scripts
    )
