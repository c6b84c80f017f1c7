"""One table in three formats, each read back by a parser."""

from __future__ import annotations

import html.parser
import re

import pytest

from aloe.draw.tables import MINUS, MISSING, Block, Cell, Row, Table, printable

EVIL = "<script>alert('x')</script> a_b _c_ 50% | $x$ \\ & {d} #1 ~^ *e* [f] &lt;"


def table(*rows, footnotes=(), caption="A caption.", title="block"):
    return Table("b1", caption, ("Model", "Stage"), ("C10", "C100"), (Block(title, rows),), footnotes)


def row(*labels, cells=(), **style):
    return Row(labels, (*cells, *[Cell()] * (2 - len(cells))), **style)


def read_markdown(text):
    """Cells of the grid by line, escapes undone as GitHub does."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    entities = {"&lt;": "<", "&gt;": ">", "&amp;": "&"}
    plain = [[re.sub("&lt;|&gt;|&amp;", lambda m: entities[m[0]], c) for c in line] for line in cells]
    return [[re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", c) for c in line] for line in plain]


class Reader(html.parser.HTMLParser):
    """Rows of cells with their tags, and every tag there is."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.tags, self.classes, self.open = [], set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
            self.classes.append(dict(attributes).get("class", ""))
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            mark = {"b": "**", "sup": "^"}.get(self.open[-1], "")
            self.rows[-1][-1] += mark + data + (mark if mark == "**" else "")


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (Cell(), MISSING),
        (Cell(0.0), "0.00"),
        (Cell(58.555), "58.55"),  # as binary numbers are: 58.55499...
        (Cell(99.6, decimals=1), "99.6"),
        (Cell(3.471, delta=True), "+3.47"),
        (Cell(-0.12, delta=True), f"{MINUS}0.12"),
        (Cell(-0.001, delta=True), "+0.00"),
        (Cell(-0.001), "0.00"),
    ],
)
def test_a_number_is_shown_with_its_decimals_and_sign(cell, text):
    assert cell.text == text


def test_markdown_lines_up_and_can_be_read_back():
    text = table(
        row("teacher", "one", cells=[Cell(58.56, note="†"), Cell(1)], gray=True),
        row("ours", "two", cells=[Cell(58.6, bold=True, note="†")]),
        footnotes=("† a note",),
    ).to_markdown()
    assert read_markdown(text) == [
        ["Model", "Stage", "C10", "C100"],
        ["-------", "-----", "---------:", "---:"],
        ["*block*", "", "", ""],
        ["teacher", "one", "58.56†", "1.00"],
        ["ours", "two", "**58.60**†", MISSING],
    ]
    assert len({len(line) for line in text.splitlines() if line.startswith("|")}) == 1
    assert text.startswith("A caption.\n\n|")
    assert text.endswith("\n\n† a note\n")


def test_html_can_be_read_back():
    text = table(
        row("teacher", "one", cells=[Cell(58.56, note="†"), Cell(1)], gray=True),
        row("paper", "two", cells=[Cell(58.6, bold=True)], kind="paper"),
        footnotes=("† a note",),
    ).html_figure()
    reader = Reader(text)
    assert reader.rows == [
        ["Model", "Stage", "C10", "C100"],
        ["block"],
        ["teacher", "one", "58.56^†", "1.00"],
        ["paper", "two", "**58.60**", MISSING],
    ]
    assert reader.classes == ["", "", "model gray", "paper"]
    assert not reader.open
    assert "<li>† a note</li>" in text
    assert not re.search(r"(src|href)=|@import|url\(", text), "nothing is fetched"


def test_latex_has_a_cell_for_every_column():
    text = table(
        row("teacher", "one", cells=[Cell(58.56, note="†"), Cell(1)], gray=True),
        row("Δ", f"a {MINUS} b", cells=[Cell(-1.5, delta=True)], kind="delta"),
        row("paper", "two", cells=[Cell(2.5, bold=True)], kind="paper"),
    ).to_latex()
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [line.removesuffix(r" \\").split(" & ") for line in body.splitlines() if line.endswith(r"\\")]
    assert rows == [
        ["Model", "Stage", "C10", "C100"],
        [r"\multicolumn{4}{l}{\textit{block}}"],
        [rf"\textcolor{{gray}}{{{w}}}" for w in ("teacher", "one", r"58.56$^\dagger$", "1.00")],
        [r"$\Delta$", "a $-$ b", "$-$1.50", "--"],
        [r"\textit{paper}", r"\textit{two}", r"\textit{\textbf{2.50}}", r"\textit{--}"],
    ]
    assert r"\begin{tabular}{llrr}" in text
    assert r"\label{tab:b1}" in text


def test_hostile_words_stay_words():
    hostile = table(row(EVIL, "s"), footnotes=(EVIL,), caption=EVIL, title=EVIL)
    markdown = hostile.to_markdown()
    assert [cells[0] for cells in read_markdown(markdown)][2:] == [f"*{EVIL}*", EVIL]
    assert "<" not in markdown
    assert r"a_b \_c\_" in markdown, "an underscore inside a word needs no escape"

    reader = Reader(hostile.html_figure())
    assert "script" not in reader.tags
    assert [cells[0] for cells in reader.rows][1:] == [EVIL, EVIL]

    latex = re.sub(r"\\resizebox.*", "{", hostile.to_latex())
    plain = re.sub(r"\\(textbackslash|textless|textgreater|textbar|textasciitilde|textasciicircum)\{\}", "", latex)
    bare = re.sub(r"\\[#$%&_{}]", "", plain)
    assert not re.search("[#%~^<>|]", bare), "every special character is escaped"
    assert bare.count("{") == bare.count("}")
    assert bare.count("&") == 6, "only the separators of two rows are left"
    assert "{*}e{*}" in latex
    assert "{[}f{]}" in latex, "a row that starts with a bracket would be an option of the line break before it"


def test_words_that_cannot_be_printed_become_spaces():
    assert printable("a\nb\x1b[31m\u202ec\ud800é日") == "a b [31m c é日"
    text = table(row("a\nb\ud800", "\x1b[31m"))
    assert "a b " in text.to_markdown()
    for words in (text.to_markdown(), text.to_latex(), text.html_figure()):
        assert "\x1b" not in words
        words.encode()


def test_a_row_must_fit_its_headings():
    with pytest.raises(ValueError, match="does not fit"):
        table(Row(("one", "two"), (Cell(),)))


def test_a_block_without_a_title_has_no_title_row():
    text = table(row("a", "b"), title="")
    assert len(Reader(text.html_figure()).rows) == 2
    assert len(read_markdown(text.to_markdown())) == 3
    assert "multicolumn" not in text.to_latex()
