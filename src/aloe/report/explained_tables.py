"""Tables of explanations: B6 in the paper's form, and for every measure one with all models, methods, intervals and costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from aloe.draw.tables import MINUS, Block, Cell, Row, Table
from aloe.report.explained import GRIDS, Measured, accuracy, by_method, variant_of
from aloe.report.grid import NOT_PROTOCOL, marks
from aloe.report.lines import STAGES, Column, Group, Line, heading, stage_title
from aloe.report.methods import INHERENT, PAPER, look, rank
from aloe.report.metric import Metric, detail, number, numbers
from aloe.report.paper import PaperRow, paper_tables
from aloe.report.protocol import deviations, in_words, settings_of, shared_settings
from aloe.report.rows import Result
from aloe.report.tables import LABELS, others_table, split_notes

PAPER_DATA = "imagenet"
PAPER_MODEL = "google/vit-base-patch16-224"  # stands beside teachers that the paper has not: its own supervised ViT
PAPER_BASELINES = ("attnlrp", "intgrad", "legrad", "chefercam")
_ACCURACY = {"linear": "Lin.", "knn": "k-NN"}
_SIDES = ("teacher", "student")
_DELTA = "Δ"
TITLES = {
    "b6": "Table B6",
    "deletion": "Pixel deletion",
    "insertion": "Pixel insertion",
    "inside": "Object masks",
    "clarity": "Clarity",
}
_AREA = (
    "Pixel {0}: the class's mean probability (%) over all fractions of blocks {1}, the most attributed first ({2} is"
    " better, bold) and the least attributed first."
)
_CAPTIONS = {
    "b6": "Table B6, all methods, {grids}. GridPG (%) with 95 % bootstrap intervals, and what each map costs. Bold: a model's"
    " best.",
    "deletion": _AREA.format("deletion", "removed", "lower"),
    "insertion": _AREA.format("insertion", "put back", "higher"),
    "inside": "Object masks. Share (%) of the positive attribution inside the object. Bold: a model's best.",
    "clarity": "Clarity. Share (%) of a map's spectrum above a quarter of the sampling rate (bold: the least), and seams.",
}


def localization_table(measured: Measured, results: Sequence[Result], with_paper: bool = True) -> Table:
    """Table B6: a row per student: accuracies, post-hoc GridPG of its teacher, W(x)x of its own, and delta.

    Args:
        results: all rows, of which accuracies are taken.
    """
    blocks: dict[str, list[Row]] = {}
    notes: list[str] = []
    deltas: dict[str, list[str]] = {}
    lines: list[tuple[str, tuple[str, ...], dict[str, Cell], bool]] = []
    beside: list[tuple[str, tuple[str, ...], dict[str, Cell], bool]] = []
    labels_of_paper = (STAGES["aligned"], heading(Column(PAPER_DATA)))
    for group, data, models in measured.cases():
        teacher = _baseline(models, data)
        students = [line for line in models if line.stage != "teacher"]
        for student in students or (None,):
            shown = student or teacher
            assert shown is not None
            cells = _accuracies(teacher, student, data, results, notes) | _scores(teacher, student, data)
            place = measured.place(data)
            labels = (shown.name, stage_title(shown.stage), place)
            lines.append((group.teacher, labels, cells, False))
            if best := _best_baseline(teacher, data) if _DELTA in cells else "":
                deltas.setdefault(best, []).append(f"{shown.name} on {place}")
        rest = [line.name for line in models if line.stage == "teacher" and line is not teacher]
        if teacher and rest:
            elsewhere = f"{', '.join(rest)} in the table of all methods"
            notes.append(f"The teacher on {measured.place(data)} is {teacher.name}; {elsewhere}.")
        if with_paper and (paper := paper_row(group, data, measured)):
            own = paper.teacher == group.teacher
            printed_labels = ("paper" if own else f"paper, {paper.architecture}", *labels_of_paper)
            row_of_paper = (group.teacher, printed_labels, _paper_cells(paper, _variants(models, data)), True)
            (lines if own else beside).append(row_of_paper)
    keys = _order({key for _, _, cells, _ in lines for key in cells})
    for other in beside:  # of another teacher: once, and in the columns of ours alone
        last = max(i for i, line in enumerate(lines) if line[0] == other[0])
        if other[:2] not in [line[:2] for line in lines]:
            lines.insert(last + 1, other)
    for teacher_name, words, cells, printed in lines:
        row = Row(words, tuple(cells.get(key, Cell()) for key in keys), "paper" if printed else "model")
        blocks.setdefault(teacher_name, []).append(row)
    caption = (
        f"Table B6, {GRIDS.get(measured.protocol, measured.protocol)}. Localization (GridPG, %) and recognition (%): post-hoc"
        " on the teacher, W(x)x of the student."
    )
    parts = tuple(Block(name or "teacher unknown", tuple(rows)) for name, rows in blocks.items())
    chances = {number(row, "chance") for row in measured.results} - {None}
    foot = [
        f"{_DELTA}: W(x)x of the student {MINUS} the best of the teacher's methods. Bold: the best GridPG of a row.",
        *_against(deltas),
        *_against_the_papers(measured),
        *_fewer_grids(measured),
        *dict.fromkeys(notes),
        *([f"Chance: {chances.pop():.2f}."] if len(chances) == 1 else []),
        *_option_notes(measured),
        *way_notes(measured),
        *split_notes(measured.results, measured.columns),
    ]
    if any(printed for *_, printed in lines):
        foot.append(
            f"paper: as printed in Table B6, on ImageNet; there {_DELTA} is against LRP, * has no implementation for the"
            " model. With another architecture behind it: not this teacher and not these data, for comparison."
        )
    return Table(
        table_name(measured), caption, (*LABELS[:2], "Data"), tuple(_title(key) for key in keys), parts, tuple(foot)
    )


def scores_table(measured: Measured) -> Table:
    """Every model with every method: value, interval and the measure's other numbers; columns without any are left out."""
    name, lower = measured.name, measured.name in ("deletion", "clarity")
    specs = [s for s in _NUMBERS[name] if any(s.of(row) is not None for row in measured.results)]
    blocks = []
    for group, data, models in measured.cases():
        rows = []
        for line in models:
            scores = by_method(line, data)
            best = (min if lower else max)(round(row.value, 2) for row in scores.values())
            for method, row in scores.items():
                cells = [Cell(spec.of(row), spec.decimals) for spec in specs]
                bold = len(scores) > 1 and round(row.value, 2) == best
                cells[0] = replace(cells[0], note=marks(row), bold=bold)
                labels = (line.name, stage_title(line.stage), look(method).title)
                rows.append(Row(labels, tuple(cells), gray=not line.interpretable))
        title = measured.title(group, data)
        blocks.append(Block(title, tuple(rows)))
    headers = (*LABELS[:2], "Method")
    notes = (
        *_METRIC_NOTES[name],
        *(_fewer_grids(measured) if name == "b6" else ()),
        *_option_notes(measured),
        *way_notes(measured),
        *split_notes(measured.results, measured.columns),
    )
    called, caption = (f"{table_name(measured)}-all", _CAPTIONS[name]) if name == "b6" else (name, _CAPTIONS[name])
    caption = caption.replace("{grids}", GRIDS.get(measured.protocol, measured.protocol))
    return Table(called, caption, headers, tuple(s.heading for s in specs), tuple(blocks), notes)


def explained_others(measured: Measured) -> Table | None:
    """Rows measured in another way than their teacher's block, or behind another row; None without any."""
    places = [heading(Column(row.data, variant_of(row)), measured.columns) for row, _ in measured.others]
    value = _NUMBERS[measured.name][0].heading
    return others_table(table_name(measured), TITLES[measured.name], measured.others, places, measured.columns, value)


def table_name(measured: Measured) -> str:
    """Tables and pictures of GridPG by windows have the plain name, those of other protocols have it in theirs."""
    other = measured.name == "b6" and measured.protocol not in ("windows", "")
    return f"{measured.name}-{measured.protocol}" if other else measured.name


def paper_row(group: Group, data: str, measured: Measured) -> PaperRow | None:
    """The paper's numbers for this teacher on its data; beside windows on other data those of its supervised ViT-B/16."""
    table = paper_tables()["B6"]
    if data == PAPER_DATA and (own := table.find(group.teacher, "aligned")):
        return own
    return table.find(PAPER_MODEL, "aligned") if measured.protocol == "windows" else None


def _variants(models: Sequence[Line], data: str) -> set[str]:
    return {method for line in models for method in by_method(line, data)}


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
            found = accuracy(row, task, results) if row else None
            if line and row and found:
                cells[f"{task}/{side}"] = Cell(found.value, note=marks(found))
                if found.name != row.name:
                    notes.append(f"{word} of {line.name} is that of {found.name}.")
                if away := deviations(found):
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
        yield f"{_DELTA} against {look(method).title}{f': {_listed(places)}' if len(deltas) > 1 else ''}."


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


def _fewer_grids(measured: Measured) -> Iterator[str]:
    """Methods that were measured on the first of the grids alone."""
    most = max((number(row, "grids") or 0 for row in measured.results), default=0)
    fewer = {(variant_of(r), int(n)) for r in measured.results if (n := number(r, "grids")) and n < most}
    for method, count in sorted(fewer, key=lambda found: rank(found[0])):
        yield f"{look(method).title}: the first {count} of {most:.0f} grids."


def _paper_cells(paper: PaperRow, variants: set[str]) -> dict[str, Cell]:
    """In the columns of methods with the paper's options, where there are such."""
    cells: dict[str, Cell] = {}
    for key, digits in paper.values.items():
        delta = key == "delta"
        decimals = -int(digits.as_tuple().exponent)
        cells[_DELTA if delta else key] = Cell(float(digits), decimals, delta=delta)
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


def way_notes(measured: Measured) -> Iterator[str]:
    """How each block was measured, and where that is not the paper's."""
    ways: dict[str, list[str]] = {}
    away: dict[str, list[str]] = {}
    for group, data, models in measured.cases():
        row = next(iter(by_method(models[0], data).values()))
        place = _block_name(group, data, measured)
        ways.setdefault(in_words(shared_settings(row)), []).append(place)
        if deviation := deviations(row):
            away.setdefault(in_words(deviation), []).append(place)
    for words, places in ways.items():
        if words:
            yield f"Measured with {words}{f' ({_listed(places)})' if len(ways) > 1 else ''}."
    for words, places in away.items():
        yield f"{NOT_PROTOCOL} not the paper's settings: {words} ({_listed(places)})."


def _option_notes(measured: Measured) -> Iterator[str]:
    """What every method was run with, by stage where stages differ: a number that options have made names them."""
    used: dict[str, dict[str, list[str]]] = {}
    for row in measured.results:
        options = settings_of(row).get("options")
        if isinstance(options, dict) and options:
            used.setdefault(variant_of(row), {}).setdefault(in_words(options), []).append(row.stage)
    for method in sorted(used, key=rank):
        ways = used[method]
        words = "; ".join(f"{w} ({_listed(stages)})" if len(ways) > 1 else w for w, stages in ways.items())
        yield f"{look(method).title}: {words}."


def _block_name(group: Group, data: str, measured: Measured) -> str:
    place = measured.place(data)
    return f"{place}, {group.teacher}" if len(measured.groups) > 1 else place


def _listed(places: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(places))


def _shown(cell: Cell) -> float:
    return round(cell.value or 0.0, cell.decimals)


def _cell(pick: Callable[[list[float]], float]) -> Callable[[Result], float | None]:
    def of(row: Result) -> float | None:
        known = [value for value in numbers(row, "per_cell") if value == value]
        return pick(known) if known else None

    return of


def _value(row: Result) -> float:
    return row.value


def _megabytes(row: Result) -> float | None:
    peak = number(row, "cost", "peak_bytes")
    return None if peak is None else peak / 2**20


_COST = (
    Metric("Forward", detail("cost", "forward"), 1),
    Metric("Backward", detail("cost", "backward"), 1),
    Metric("s / image", detail("cost", "seconds"), 3),
    Metric("MiB", _megabytes, 1),
)
_AREAS = (
    Metric("Most first", _value),
    Metric("95 % from", detail("area_most_interval", 0)),
    Metric("to", detail("area_most_interval", 1)),
    Metric("Least first", detail("area_least")),
    Metric("95 % from", detail("area_least_interval", 0)),
    Metric("to", detail("area_least_interval", 1)),
    Metric("Untouched", detail("most", 0)),
    Metric("Images", detail("images"), 0),
    *_COST,
)
_INTERVAL = (Metric("95 % from", detail("interval", 0)), Metric("to", detail("interval", 1)))
_NUMBERS: dict[str, tuple[Metric, ...]] = {
    "b6": (
        Metric("GridPG", _value),
        *_INTERVAL,
        Metric("Least cell", _cell(min)),
        Metric("Best cell", _cell(max)),
        Metric("Chance", detail("chance")),
        Metric("Grids", detail("grids"), 0),
        Metric("Maps", detail("cells"), 0),
        Metric("Discarded", detail("discarded"), 0),
        *_COST,
    ),
    "deletion": _AREAS,
    "insertion": tuple(s for s in _AREAS if s.heading != "Untouched"),
    "inside": (
        Metric("Inside", _value),
        *_INTERVAL,
        Metric("Pointing", detail("pointing")),
        Metric("Mask area", detail("area")),
        Metric("Images", detail("images"), 0),
        *_COST,
    ),
    "clarity": (
        Metric("Speckle", _value),
        *_INTERVAL,
        Metric("Seams", detail("seams")),
        Metric("Patch", detail("patch"), 0),
        Metric("Images", detail("images"), 0),
        *_COST,
    ),
}
_METRIC_NOTES: dict[str, tuple[str, ...]] = {
    "b6": (
        "Cells: the mean score of the grid's least and best position. Discarded: maps without positive attribution.",
        "Forward, backward: passes per image. MiB: peak memory for one image, beyond the model.",
    ),
    "deletion": (
        "95 % bootstrap intervals over images. Areas of models that start from other probabilities do not compare.",
    ),
    "insertion": ("95 % bootstrap intervals over images.",),
    "clarity": (
        "Speckle: white noise has 75. Seams: the median map's mean jump at patch borders over that elsewhere; 1: no grid.",
        "Maps that are made per token and enlarged are smooth whatever they show: compare methods of the same resolution.",
    ),
    "inside": ("Mask area: what an even map scores. Pointing: images (%) whose largest value lies in the mask.",),
}
