"""`aloe report RESULTS`: the paper's tables B1 to B6 and B8 and figures B1 to B4 from result rows and sweeps."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from aloe.cli.common import Json, say


def report(
    results: Annotated[
        list[Path], typer.Argument(help="Folders of `aloe evaluate` or `aloe sweep`, or a results.jsonl.")
    ],
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Folder to write to.")] = Path("report"),
    tables: Annotated[
        str | None,
        typer.Option(
            help="Of b1, b2, b3, b4, b5, correspondence, b6, deletion, insertion, inside, clarity, classifier,"
            " cosine, sweep, with commas; default: those with results."
        ),
    ] = None,
    paper: Annotated[bool, typer.Option(help="The paper's own numbers beside ours, where it has the model.")] = True,
    all_columns: Annotated[bool, typer.Option("--all", help="All ten data sets, measured or not.")] = False,
    json: Json = False,
) -> None:
    """Write tables.md, tables.tex, index.html and plots, and print the tables."""
    from aloe.core.typed import words as words_of
    from aloe.report.files import write_report

    names = None if tables is None else words_of(tables, "--tables", none=True)
    done = write_report(results, output_dir, names, with_paper=paper, all_columns=all_columns)
    words = [done.markdown, *done.notes, f"{len(done.files)} files in {output_dir}; open {output_dir / 'index.html'}"]
    encoding = sys.stdout.encoding or "utf-8"  # that of a terminal may lack the ticks, whose place a ? then takes
    say(done.summary(), "\n".join(words).encode(encoding, "replace").decode(encoding), json)
