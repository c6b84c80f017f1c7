"""A report on disk: tables.md, tables.tex, plots and one self-contained page, each file whole or not there."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import aloe
from aloe.core.errors import UserError
from aloe.core.files import write_whole
from aloe.draw.figures import load_matplotlib
from aloe.draw.tables import HTML_STYLE, LATEX_PACKAGES, Table, printable
from aloe.evaluation.settings import RESULTS_NAME
from aloe.report.explained_tables import MEASURES
from aloe.report.lines import STAGES
from aloe.report.own_tables import OWN
from aloe.report.paper import paper_tables
from aloe.report.protocol import DENSE, EXPLANATIONS, GRIDS
from aloe.report.rows import Result, read_results
from aloe.report.sections import CHOICES, SWEEP, Section, called, sections_of, sweep_sections
from aloe.report.sweep_rows import read_sweep
from aloe.report.tables import TABLES

_DRAWN = (*TABLES, *MEASURES, "b2-by-k", "b6-accuracy", "correspondence")
_DRAWN += tuple(f"b6-{protocol}{kind}" for protocol in GRIDS for kind in ("", "-accuracy"))
_PICTURES = [f"plots/{name}.{kind}" for name in _DRAWN for kind in ("svg", "png")]
_NAMES = ["index.html", "tables.md", "tables.tex", *_PICTURES]
_MARK = '<meta name="generator" content="aloe report'


@dataclass
class Report:
    """What was written, and a sentence for everything that was left out."""

    folder: Path
    sections: list[Section]
    files: list[str]
    notes: list[str]

    @property
    def tables(self) -> list[Table]:
        return [table for section in self.sections for table in section.tables]

    @property
    def markdown(self) -> str:
        return "\n".join(table.to_markdown() for table in self.tables)

    def summary(self) -> dict[str, Any]:
        """For machines: the tables cell by cell."""
        tables = {table.name: asdict(table) for table in self.tables}
        return {"output": str(self.folder), "files": self.files, "notes": self.notes, "tables": tables}


def write_report(
    results: Sequence[Path],
    folder: Path,
    tables: Sequence[str] | None = None,
    *,
    with_paper: bool = True,
    all_columns: bool = False,
) -> Report:
    """Tables B1 to B6, those of sweeps, of correspondence and of other measures of explanations (or those of `tables`, keys
    of `CHOICES`) from results files, or folders that hold one, written to `folder`.

    A report that is there is written anew; other files stay as they are. Without matplotlib there are tables alone.

    Raises:
        UserError: unreadable results, an unknown table, no rows for any table, or a folder that cannot be written or in which
            a file of a report's name is not a report's.
    """
    again: list[str] = []
    sweeps = {path: runs for path in results if (runs := read_sweep(path, again))}
    only_sweeps = len(sweeps) == len(results)  # whose own results.jsonl holds the models beside the runs
    names = _known([SWEEP] if only_sweeps and tables is None else tables)
    rows, notes = read_results([path for path in results if path not in sweeps or (path / RESULTS_NAME).is_file()])
    notes = [*again, *notes]
    _check_ours(folder)
    sections, absent = sweep_sections(sweeps, rows, with_paper) if SWEEP in names else [], []
    for name in (name for name in names if name != SWEEP):
        own = sections_of(name, rows, with_paper=with_paper, all_columns=all_columns)
        sections += own
        absent += [] if own else [name]
    if SWEEP in names and tables is not None and not sweeps:
        raise UserError("None of these folders holds runs of a sweep; `aloe sweep` makes them.")
    if not sections and only_sweeps:
        raise UserError(
            "The sweep has no two runs that differ in more than their seed yet; `aloe sweep` goes on with it."
        )
    if not sections:
        raise UserError(
            f"The results have no rows for {' or '.join(map(called, absent))}; `aloe evaluate` measures them."
        )
    notes += [f"The results have no rows for {called(m)}." for m in absent if tables is not None or m in TABLES]
    notes += [] if only_sweeps else _other_tasks(rows)
    notes += _draw(sections)
    report = Report(folder, sections, [], [printable(note) for note in notes])
    _write(report)
    return report


def _known(tables: Sequence[str] | None) -> list[str]:
    names = list(dict.fromkeys(name.lower() for name in tables)) if tables is not None else list(CHOICES)
    for name in names:
        if name not in CHOICES:
            near = difflib.get_close_matches(name, CHOICES, n=1, cutoff=0)[0]
            raise UserError(f"There is no table {name!r}, did you mean {near}? Tables: {', '.join(CHOICES)}.")
    if not names:
        raise UserError(f"Name at least one table: {', '.join(CHOICES)}.")
    return names


def _draw(sections: Sequence[Section]) -> list[str]:
    """Draw every section's charts; without matplotlib none, and a sentence that says so."""
    try:
        load_matplotlib()
    except UserError as missing:
        return [f"The report has tables alone. {missing}"]
    for section in sections:
        section.pictures = {name: picture for name, chart in section.charts.items() if (picture := chart())}
    return []


def _other_tasks(rows: Sequence[Result]) -> list[str]:
    ours = {*OWN, *(paper_tables()[name.upper()].task for name in TABLES), *DENSE.values(), *EXPLANATIONS}
    tasks = [row.task for row in rows if row.task not in ours]
    counted = ", ".join(f"{task} ({tasks.count(task)})" for task in dict.fromkeys(tasks))
    return [f"Rows of other tasks stand in none of the tables: {counted}."] if tasks else []


def _check_ours(folder: Path) -> None:
    """Refuse a folder where a file of ours would take the place of somebody else's."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give a folder as --output-dir.")
    page = folder / "index.html"
    taken = [name for name in _NAMES if os.path.lexists(folder / name)]
    if taken and not (page.is_file() and _MARK in page.read_text(encoding="utf-8", errors="replace")[:1000]):
        raise UserError(f"{folder / taken[0]} was not written by `aloe report`; give another --output-dir.")


def _write(report: Report) -> None:
    """The page first: it is what marks the folder as a report's."""
    needs = "".join(f"%   \\usepackage{{{package}}}\n" for package in LATEX_PACKAGES)
    head = f"% Written by aloe report; names beyond Latin letters want XeLaTeX. The document needs:\n{needs}\n"
    latex = head + "\n".join(t.to_latex() for t in report.tables)
    files = {
        "index.html": _page(report).encode(errors="replace"),
        "tables.md": report.markdown.encode(),
        "tables.tex": latex.encode(),
    }
    for section in report.sections:
        for name, formats in section.pictures.items():
            files |= {f"plots/{name}.{kind}": data for kind, data in formats.items()}
    for name, data in files.items():
        write_whole(report.folder / name, data)
    of_sweeps = {f"plots/{path.name}" for path in (report.folder / "plots").glob(f"{SWEEP}-*.*")}
    for name in {*_PICTURES, *of_sweeps} - set(files):  # of an earlier report with other tables
        (report.folder / name).unlink(missing_ok=True)
    report.files = list(files)


def _page(report: Report) -> str:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["printable"] = printable
    template = resources.files("aloe.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        version=aloe.__version__,
        style=HTML_STYLE,
        stages=STAGES,
        sections=report.sections,
        notes=report.notes,
        versions=_versions(report),
        svg=_inline,
        configuration=_configuration,
    )


def _versions(report: Report) -> dict[str, str]:
    by_package: dict[str, list[str]] = {}
    for row in (row for section in report.sections for row in section.results):
        for package, version in row.versions.items():
            by_package.setdefault(package, []).append(version)
    return {package: ", ".join(dict.fromkeys(versions)) for package, versions in by_package.items()}


def _inline(picture: dict[str, bytes]) -> Markup:
    """The drawing without what makes it a file; its words are outlines and escaped comments."""
    text = picture["svg"].decode()
    return Markup(text[text.index("<svg") :])


def _configuration(row: Result) -> str:
    return json.dumps(row.model_dump(), indent=1, ensure_ascii=False)
