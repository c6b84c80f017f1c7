"""What stands below a table: the splits, settings and options that its numbers were measured with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aloe.report.columns import TEN, Column, heading, number
from aloe.report.explained import variant_of
from aloe.report.methods import look, rank
from aloe.report.protocol import NOT_OFFICIAL, NOT_PROTOCOL, deviations, in_words, settings_of, shared_settings
from aloe.report.rows import Result
from aloe.report.selection import Measured

_DENSE_DATA = ("nyuv2", "scannet")  # which have official splits or pairs, as the ten have


def split_notes(results: Sequence[Result], columns: Sequence[Column]) -> Iterator[str]:
    """What was used instead of the official split, by data set; and what is to be said of official ones."""
    used: dict[str, dict[str, list[str]]] = {}
    registered = {own_heading(row, columns) for row in results if row.data in (*TEN, *_DENSE_DATA)}
    for row in (r for r in results if not r.official):
        counts = ", ".join(f"{count} {part}" for part, count in row.counts.items())
        words = (counts if "pairs" in row.counts else f"{counts} images") if counts else "others"
        words += f" ({'; '.join(note.rstrip('.') for note in row.notes)})" if row.notes else ""
        used.setdefault(own_heading(row, columns), {}).setdefault(words, []).append(row.name)
    for name, models in used.items():
        parts = [f"{words}, of {listed(of, ', ')}" if len(models) > 1 else words for words, of in models.items()]
        own = name not in registered
        yield f"{NOT_OFFICIAL} {name}: {'no official split:' if own else 'not the official split, but'} {'; '.join(parts)}."
    yield from dict.fromkeys(
        f"{own_heading(r, columns)}: {n.rstrip('.')}." for r in results if r.official for n in r.notes
    )


def measured_notes(measured: Measured) -> Iterator[str]:
    """Options of methods, the way of each block, and the splits."""
    yield from _option_notes(measured)
    yield from _way_notes(measured)
    yield from split_notes(measured.results, measured.columns)


def _way_notes(measured: Measured) -> Iterator[str]:
    """How each block was measured, and where that is not the paper's."""
    ways: dict[str, list[str]] = {}
    away: dict[str, list[str]] = {}
    for group, data, models in measured.cases():
        row = next(row for column, row in models[0].results.items() if column.data == data)
        place = measured.place(data) + (f", {group.teacher}" if len(measured.groups) > 1 else "")
        ways.setdefault(in_words(shared_settings(row)), []).append(place)
        if deviation := deviations(row):
            away.setdefault(in_words(deviation), []).append(place)
    for words, places in ways.items():
        if words:
            yield f"Measured with {words}{f' ({listed(places)})' if len(ways) > 1 else ''}."
    for words, places in away.items():
        yield f"{NOT_PROTOCOL} not the paper's settings: {words} ({listed(places)})."


def _option_notes(measured: Measured) -> Iterator[str]:
    """What every method was run with, by stage where stages differ: a number that options have made names them."""
    used: dict[str, dict[str, list[str]]] = {}
    for row in measured.results:
        options = settings_of(row).get("options")
        if isinstance(options, dict) and options:
            used.setdefault(variant_of(row), {}).setdefault(in_words(options), []).append(row.stage)
    for method in sorted(used, key=rank):
        ways = used[method]
        words = "; ".join(f"{w} ({listed(stages)})" if len(ways) > 1 else w for w, stages in ways.items())
        yield f"{look(method).title}: {words}."


def fewer_grids(measured: Measured) -> Iterator[str]:
    """Methods that were measured on the first of the grids alone."""
    most = max((number(row, "grids") or 0 for row in measured.results), default=0)
    fewer = {(variant_of(r), int(n)) for r in measured.results if (n := number(r, "grids")) and n < most}
    for method, count in sorted(fewer, key=lambda pair: rank(pair[0])):
        yield f"{look(method).title}: the first {count} of {most:.0f} grids."


def own_heading(row: Result, columns: Sequence[Column]) -> str:
    """The heading of a row's data set, with the prompts where the table has a column for each."""
    variant = str(row.settings.get("templates", "")) if row.task == "zeroshot" else ""
    column = Column(row.data, variant)
    return heading(column if column in columns else Column(row.data), columns)


def listed(places: Sequence[str], between: str = "; ") -> str:
    return between.join(dict.fromkeys(places))
