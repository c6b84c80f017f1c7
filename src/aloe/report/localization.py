"""Table B6 in the paper's form: a row per student, beside it its teacher's methods and what both recognise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from aloe.draw.tables import MINUS, Cell, Row, Table
from aloe.report.columns import Column, heading, number
from aloe.report.explained import accuracy, by_method, table_name
from aloe.report.footnotes import fewer_grids, listed, measured_notes
from aloe.report.lines import LABELS, STAGES, Group, Line, blocks_of, stage_title
from aloe.report.methods import INHERENT, PAPER, look, rank
from aloe.report.paper import PaperRow, as_printed, paper_tables
from aloe.report.protocol import NOT_PROTOCOL, deviations, in_words, marks
from aloe.report.rows import Result
from aloe.report.selection import Measured

PAPER_DATA = "imagenet"
PAPER_MODEL = "google/vit-base-patch16-224"  # stands beside teachers that the paper has not: its own supervised ViT
PAPER_BASELINES = ("attnlrp", "intgrad", "legrad", "chefercam")
_ACCURACY = {"linear": "Lin.", "knn": "k-NN"}
_SIDES = ("teacher", "student")
_DELTA = "Δ"


class _Entry(NamedTuple):
    """A row of the table before its columns are known."""

    block: str
    labels: tuple[str, ...]
    cells: dict[str, Cell]
    printed: bool = False  # in the paper


def localization_table(measured: Measured, results: Sequence[Result], with_paper: bool = True) -> Table:
    """Table B6: a row per student: accuracies, post-hoc GridPG of its teacher, W(x)x of its own, and delta.

    Args:
        results: all rows, of which accuracies are taken.
    """
    notes: list[str] = []
    deltas: dict[str, list[str]] = {}
    entries: list[_Entry] = []
    beside: list[_Entry] = []
    for group, data, models in measured.cases():
        teacher, place = _baseline(models, data), measured.place(data)
        for student in [line for line in models if line.stage != "teacher"] or (None,):
            shown = student or teacher
            assert shown is not None
            cells = _accuracies(teacher, student, data, results, notes) | _scores(teacher, student, data)
            entries.append(_Entry(group.title, (shown.name, stage_title(shown.stage), place), cells))
            if best := _best_baseline(teacher, data) if _DELTA in cells else "":
                deltas.setdefault(best, []).append(f"{shown.name} on {place}")
        rest = [line.name for line in models if line.stage == "teacher" and line is not teacher]
        if teacher and rest:
            notes.append(f"The teacher on {place} is {teacher.name}; {', '.join(rest)} in the table of all methods.")
        if with_paper and (paper := paper_row(group, data, measured)):
            own = paper.teacher == group.teacher
            name = "paper" if own else f"paper, {paper.architecture}"
            labels = (name, STAGES["aligned"], heading(Column(PAPER_DATA)))
            (entries if own else beside).append(_Entry(group.title, labels, _paper_cells(paper, models, data), True))
    keys = _order({key for entry in entries for key in entry.cells})
    for other in beside:  # of another teacher: once, and in the columns of ours alone
        last = max(i for i, entry in enumerate(entries) if entry.block == other.block)
        if other[:2] not in [entry[:2] for entry in entries]:
            entries.insert(last + 1, other)
    rows = (
        (e.block, Row(e.labels, tuple(e.cells.get(key, Cell()) for key in keys), "paper" if e.printed else "model"))
        for e in entries
    )
    caption = (
        f"Table B6, {measured.protocol_in_words}. Localization (GridPG, %) and recognition (%): post-hoc on the teacher,"
        " W(x)x of the student."
    )
    chances = {number(row, "chance") for row in measured.results} - {None}
    foot = [
        f"{_DELTA}: W(x)x of the student {MINUS} the best of the teacher's methods. Bold: the best GridPG of a row.",
        *_against(deltas),
        *_against_the_papers(measured),
        *fewer_grids(measured),
        *dict.fromkeys(notes),
        *(f"Chance: {chance:.2f}." for chance in chances if len(chances) == 1),
        *measured_notes(measured),
    ]
    if any(entry.printed for entry in entries):
        foot.append(
            f"paper: as printed in Table B6, on ImageNet; there {_DELTA} is against LRP, * has no implementation for the"
            " model. With another architecture behind it: not this teacher and not these data, for comparison."
        )
    headers = (*LABELS[:2], "Data")
    return Table(table_name(measured), caption, headers, tuple(map(_title, keys)), blocks_of(rows), tuple(foot))


def paper_row(group: Group, data: str, measured: Measured) -> PaperRow | None:
    """The paper's numbers for this teacher on its data; beside windows on other data those of its supervised ViT-B/16."""
    table = paper_tables()["B6"]
    if data == PAPER_DATA and (own := table.find(group.teacher, "aligned")):
        return own
    return table.find(PAPER_MODEL, "aligned") if measured.protocol == "windows" else None


def _baseline(models: Sequence[Line], data: str) -> Line | None:
    """The teacher with most methods."""
    teachers = [line for line in models if line.stage == "teacher"]
    return max(teachers, key=lambda line: len(by_method(line, data)), default=None)


def _accuracies(
    teacher: Line | None, student: Line | None, data: str, results: Sequence[Result], notes: list[str]
) -> dict[str, Cell]:
    cells = {}
    for task, word in _ACCURACY.items():
        for line, side in ((teacher, _SIDES[0]), (student, _SIDES[1])):
            row = next(iter(by_method(line, data).values())) if line else None
            accuracy_row = accuracy(row, task, results) if row else None
            if line and row and accuracy_row:
                cells[f"{task}/{side}"] = Cell(accuracy_row.value, note=marks(accuracy_row))
                if accuracy_row.name != row.name:
                    notes.append(f"{word} of {line.name} is that of {accuracy_row.name}.")
                if away := deviations(accuracy_row):
                    notes.append(
                        f"{NOT_PROTOCOL} {word} of {line.name}, not the protocol's settings: {in_words(away)}."
                    )
    return cells


def _scores(teacher: Line | None, student: Line | None, data: str) -> dict[str, Cell]:
    cells = {}
    if teacher:
        cells = {m: Cell(row.value, note=marks(row)) for m, row in by_method(teacher, data).items() if m != INHERENT}
    baselines = [_shown(cell) for cell in cells.values()]
    if student and (own := by_method(student, data).get(INHERENT)):
        cells[INHERENT] = Cell(own.value, note=marks(own))
        if baselines:
            difference = _shown(cells[INHERENT]) - max(baselines)  # of the numbers as they are shown
            cells[_DELTA] = Cell(difference, delta=True, note=cells[INHERENT].note)
    best = max((_shown(cell) for key, cell in cells.items() if key != _DELTA), default=0.0)
    several = len(cells) - (_DELTA in cells) > 1
    return {k: replace(c, bold=several and k != _DELTA and _shown(c) == best) for k, c in cells.items()}


def _best_baseline(teacher: Line | None, data: str) -> str:
    posthoc = {m: row for m, row in by_method(teacher, data).items() if m != INHERENT} if teacher else {}
    return max(posthoc, key=lambda method: round(posthoc[method].value, 2), default="")


def _against(deltas: dict[str, list[str]]) -> Iterator[str]:
    """Which method each delta is against."""
    for method, places in deltas.items():
        yield f"{_DELTA} against {look(method).title}{f': {listed(places)}' if len(deltas) > 1 else ''}."


def _against_the_papers(measured: Measured) -> Iterator[str]:
    """The difference to the best of the paper's four baselines as it ran them, where any of them has other options."""
    for _, data, models in measured.cases():
        teacher = _baseline(models, data)
        rows = by_method(teacher, data) if teacher else {}
        theirs = {m: r for m, r in rows.items() if m.partition(PAPER)[0] in PAPER_BASELINES and m + PAPER not in rows}
        if not any(m.endswith(PAPER) for m in theirs):
            continue
        best = max(theirs, key=lambda m: round(theirs[m].value, 2))
        for line in models:
            if line.stage != "teacher" and (own := by_method(line, data).get(INHERENT)):
                difference = round(own.value, 2) - round(theirs[best].value, 2)
                place = f"{line.name} on {measured.place(data)}"
                words = f"{difference:+.2f}".replace("-", MINUS)
                baseline = look(best.partition(PAPER)[0]).title
                yield (
                    f"{_DELTA} as in the paper, against the best of its four baselines with its options, {baseline}: {words}"
                    f" ({place})."
                )


def _paper_cells(paper: PaperRow, models: Sequence[Line], data: str) -> dict[str, Cell]:
    """In the columns of methods with the paper's options, where there are such."""
    variants = {method for line in models for method in by_method(line, data)}
    cells = {
        _DELTA if key == "delta" else key: as_printed(digits, delta=key == "delta")
        for key, digits in paper.values.items()
    }
    cells |= {key: Cell(note=mark.strip("-")) for key, mark in paper.absent.items()}
    return {key + PAPER if key + PAPER in variants else key: cell for key, cell in cells.items()}


def _order(keys: set[str]) -> list[str]:
    first = [f"{task}/{side}" for task in _ACCURACY for side in _SIDES]
    methods = sorted(keys - {*first, INHERENT, _DELTA}, key=rank)
    return [key for key in (*first, *methods, INHERENT, _DELTA) if key in keys]


def _title(key: str) -> str:
    task, _, side = key.partition("/")
    if side:
        return f"{_ACCURACY[task]} {side}"
    return key if key == _DELTA else look(key).short


def _shown(cell: Cell) -> float:
    return round(cell.value or 0.0, cell.decimals)
