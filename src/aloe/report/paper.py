"""The paper's own numbers (appendix, Tables B1 to B6 and B8, caption of Figure B2), from `paper.yaml`, to stand beside ours.

Values are decimals with the digits that the paper prints. Further tables are further entries of the file: whatever their
columns are called, a row is found by teacher identifier and stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import Any

from aloe.draw.tables import Cell

AVERAGE = "average"
_ABSENT = ("-", "*")


@dataclass(frozen=True)
class PaperRow:
    """One printed row; `values` holds the columns that the paper fills, `absent` what it prints in the others. A `delta` row
    has no name and no architecture."""

    section: str
    block: str
    stage: str
    teacher: str
    name: str
    architecture: str
    values: Mapping[str, Decimal]
    absent: Mapping[str, str]


@dataclass(frozen=True)
class PaperTable:
    """`columns` maps keys (data set names, `data/templates`, `average`) to the headings that the paper prints."""

    name: str
    task: str
    title: str
    columns: Mapping[str, str]
    rows: tuple[PaperRow, ...]

    def find(self, teacher: str, stage: str) -> PaperRow | None:
        """The row of a model, or None where the paper has no such model."""
        return next((row for row in self.rows if (row.teacher, row.stage) == (teacher, stage)), None)


def as_printed(digits: Decimal, *, delta: bool = False) -> Cell:
    """A number with the digits that the paper prints."""
    return Cell(float(digits), -int(digits.as_tuple().exponent), delta=delta)


@cache
def paper_tables() -> dict[str, PaperTable]:
    """All tables of the file by their printed name, `B1` first."""
    import yaml

    loaded = yaml.safe_load(resources.files(__package__).joinpath("paper.yaml").read_text(encoding="utf-8"))
    return {name: _table(name, entry) for name, entry in loaded.items()}


def _table(name: str, entry: Mapping[str, Any]) -> PaperTable:
    columns = entry["columns"]
    rows = [_row(block, row, columns) for block in entry["blocks"] for row in block["rows"]]
    return PaperTable(name, entry["task"], entry["title"], columns, tuple(rows))


def _row(block: Mapping[str, Any], row: Mapping[str, str], columns: Mapping[str, str]) -> PaperRow:
    printed = list(zip(columns, row["values"].split(), strict=True))
    return PaperRow(
        section=block.get("section", ""),
        block=block.get("title", ""),
        stage=row["stage"],
        teacher=row["teacher"],
        name=row.get("name", ""),
        architecture=row.get("architecture", ""),
        values={key: Decimal(text) for key, text in printed if text not in _ABSENT},
        absent={key: text for key, text in printed if text in _ABSENT},
    )
