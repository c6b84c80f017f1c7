"""Tables of numbers for people: one description, written as Markdown, LaTeX (booktabs) or HTML.

A table is blocks of rows; a row is words (its labels) followed by numbers (its cells). All words may come from users: they
are escaped for each format, and characters that cannot be printed become spaces.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from typing import Literal

import jinja2
from markupsafe import Markup

MISSING, MINUS = "\u2013", "\u2212"
LATEX_PACKAGES = ("booktabs", "graphicx", "xcolor", "amssymb")


@dataclass(frozen=True)
class Cell:
    """A number as it is shown: None is a dash, a `delta` carries its sign, `note` is a mark behind it, such as †."""

    value: float | None = None
    decimals: int = 2
    bold: bool = False
    delta: bool = False
    note: str = ""

    @property
    def text(self) -> str:
        """The number without its note."""
        if self.value is None:
            return MISSING
        rounded = round(self.value, self.decimals) + 0.0  # no negative zero
        return f"{rounded:{'+' if self.delta else ''}.{self.decimals}f}".replace("-", MINUS)


@dataclass(frozen=True)
class Row:
    """`kind` sets the style: the paper's numbers are in italics, a delta stands apart; teachers are `gray`."""

    labels: tuple[str, ...]
    cells: tuple[Cell, ...]
    kind: Literal["model", "paper", "delta"] = "model"
    gray: bool = False


@dataclass(frozen=True)
class Block:
    """Rows under a title; an empty title is left out."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """`headers` stand over the labels, `columns` over the cells, `footnotes` below; `name` is the label and the anchor.

    Raises:
        ValueError: a row whose labels or cells are not as many as the headings.
    """

    name: str
    caption: str
    headers: tuple[str, ...]
    columns: tuple[str, ...]
    blocks: tuple[Block, ...]
    footnotes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in (row for block in self.blocks for row in block.rows):
            if (len(row.labels), len(row.cells)) != (len(self.headers), len(self.columns)):
                raise ValueError(f"{self.name}: row {row.labels} does not fit {self.headers + self.columns}.")

    def to_markdown(self) -> str:
        """A GitHub table whose columns also line up as plain text; block titles in italics."""
        words, count = len(self.headers), len(self.headers) + len(self.columns)
        lines = [[_markdown(word) for word in self.headers + self.columns]]
        for block in self.blocks:
            lines += [[f"*{_markdown(block.title)}*", *[""] * (count - 1)]] * bool(block.title)
            lines += [[*map(_markdown, row.labels), *map(_markdown_number, row.cells)] for row in block.rows]
        widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
        sides = ["<" if i < words else ">" for i in range(count)]
        rule = ["-" * w if side == "<" else "-" * (w - 1) + ":" for w, side in zip(widths, sides, strict=True)]
        form = "| " + " | ".join(f"{{:{side}{w}}}" for w, side in zip(widths, sides, strict=True)) + " |"
        grid = "\n".join(form.format(*line) for line in [lines[0], rule, *lines[1:]])
        return "\n\n".join([_markdown(self.caption), grid, *map(_markdown, self.footnotes)]) + "\n"

    def to_latex(self) -> str:
        """A `table*` to `\\input`; the document loads the packages in `LATEX_PACKAGES`."""
        body = []
        for block in self.blocks:
            body.append(r"\midrule")
            if block.title:
                span = len(self.headers) + len(self.columns)
                body.append(rf"\multicolumn{{{span}}}{{l}}{{\textit{{{_latex(block.title)}}}}} \\")
            body += [" & ".join(_latex_cells(row)) + r" \\" for row in block.rows]
        lines = [
            r"\begin{table*}[t]",
            r"\centering",
            rf"\caption{{{_latex(self.caption)}}}",
            rf"\label{{tab:{re.sub('[^A-Za-z0-9-]', '-', self.name)}}}",
            r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{'l' * len(self.headers)}{'r' * len(self.columns)}}}",
            r"\toprule",
            " & ".join(map(_latex, self.headers + self.columns)) + r" \\",
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            *(rf"\par\smallskip{{\footnotesize\raggedright {_latex(note)}\par}}" for note in self.footnotes),
            r"\end{table*}",
        ]
        return "\n".join(lines) + "\n"

    def html_figure(self) -> Markup:
        """The `<figure>` alone, for a page with `HTML_STYLE`."""
        return Markup(_ENVIRONMENT.from_string(_FIGURE).render(table=self))


def printable(text: str) -> str:
    """One line without control characters, direction overrides or halves of surrogate pairs; those become spaces."""
    return "".join(c if c.isprintable() else " " for c in text)


def _markdown(text: str) -> str:
    """An underscore inside a word stays as it is, which Markdown does not take for emphasis."""
    text = re.sub(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", printable(text))
    return re.sub(r"&(?=#?\w+;)", "&amp;", text).replace("<", "&lt;").replace(">", "&gt;")


def _markdown_number(cell: Cell) -> str:
    return (f"**{cell.text}**" if cell.bold else cell.text) + _markdown(cell.note)


_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "#$%&_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "[": "{[}", "]": "{]}", "*": "{*}"}
    | {"✓": r"$\checkmark$", "✗": r"$\times$", "Δ": r"$\Delta$", MINUS: "$-$", MISSING: "--"}
    | {"†": r"$^\dagger$", "‡": r"$^\ddagger$"}
    | {"δ": r"$\delta$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "°": r"$^\circ$"}
)


def _latex(text: str) -> str:
    return printable(text).translate(_LATEX)


def _latex_cells(row: Row) -> list[str]:
    numbers = [rf"\textbf{{{_latex(c.text)}}}" if c.bold else _latex(c.text) for c in row.cells]
    noted = [number + _latex(cell.note) for number, cell in zip(numbers, row.cells, strict=True)]
    words = [*map(_latex, row.labels), *noted]
    if row.kind == "paper":
        words = [rf"\textit{{{word}}}" for word in words]
    return [rf"\textcolor{{gray}}{{{word}}}" for word in words] if row.gray else words


_FILES = resources.files("aloe.draw")
HTML_STYLE = Markup(_FILES.joinpath("tables.css").read_text(encoding="utf-8"))
_FIGURE = _FILES.joinpath("table.html.j2").read_text(encoding="utf-8")
_ENVIRONMENT = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
_ENVIRONMENT.filters["printable"] = printable
