"""The one table of class names: read and checked when a model is opened, and asked by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aloe.core.errors import UserError

STATED = ("id2label", "label2id", "num_labels")


def label_table(values: Mapping[str, Any], rows: int, where: str) -> dict[int, str] | None:
    """The names of a classifier's `rows`, in their order; None where config.json states none.

    Args:
        values: the fields of config.json, or those among `STATED` that are stated.
        where: what to call the model in errors.

    Raises:
        UserError: other numbers than 0 to rows - 1, or something that is no name; a `label2id` that contradicts.
    """
    if (count := values.get("num_labels")) not in (None, rows):
        raise UserError(f"{where}: num_labels of config.json is {count!r}, but the classifier has {rows} rows.")
    stated, numbers = values.get("id2label"), values.get("label2id")
    if "id2label" not in values and isinstance(numbers, dict) and len(numbers) == rows:
        stated = {index: name for name, index in numbers.items()}
    elif "id2label" not in values:
        return None
    if not isinstance(stated, dict):
        raise UserError(
            f"{where}: id2label of config.json is {'null' if stated is None else 'no table'}; name the classifier's {rows}"
            f' rows as {{"0": NAME, ...}}, or take the field out.'
        )
    if len(stated) != rows:
        raise UserError(
            f"{where}: the classifier has {rows} rows, config.json names {len(stated)} labels; id2label needs one name for"
            " every row."
        )
    try:
        numbered = {int(key): name for key, name in stated.items()}
    except (TypeError, ValueError):
        numbered = {}
    if sorted(numbered) != list(range(rows)):
        extent = f" but {min(numbered)} to {max(numbered)}" if numbered else ""
        raise UserError(f"{where}: id2label of config.json does not name the labels 0 to {rows - 1}{extent}.")
    wrong = [i for i, name in numbered.items() if not isinstance(name, str | int | float) or isinstance(name, bool)]
    if wrong:
        raise UserError(
            f"{where}: id2label of config.json has no name for the label {wrong[0]}, but {numbered[wrong[0]]!r}."
        )
    names = {i: str(numbered[i]) for i in range(rows)}
    _check_same(names, numbers, where)
    return names


def _check_same(names: Mapping[int, str], numbers: Any, where: str) -> None:
    """Refuse a `label2id` that gives a name to another row than `id2label` does."""
    for name, index in numbers.items() if isinstance(numbers, dict) else ():
        rows = [i for i, label in names.items() if label == str(name)]
        if rows and str(index) not in map(str, rows):
            raise UserError(
                f"{where}: config.json contradicts itself: id2label gives the row {rows[0]} the name {name!r}, label2id gives"
                f" it the row {index}; correct one of them."
            )


def labels_of(names: Mapping[int, str]) -> dict[str, Any]:
    """`id2label` and `label2id` of a table; of a name twice `label2id` knows the first index, as a list's `index` does."""
    indices: dict[str, int] = {}
    for index, name in names.items():
        indices.setdefault(name, index)
    return {"id2label": dict(names), "label2id": indices}


def set_labels(config: Any, names: Mapping[int, str]) -> None:
    """Give a configuration the table, if it has another."""
    if config.id2label != names or not config.label2id:
        for field, value in labels_of(names).items():
            setattr(config, field, value)


def index_of(names: Mapping[int, str], wanted: str) -> int | None:
    """The index of the class of a name, upper and lower case alike where only one fits; None where there is none.

    Raises:
        UserError: two classes have that name.
    """
    exact = [int(i) for i, name in names.items() if str(name) == wanted]
    plain = wanted.strip().lower()
    matches = exact or [int(i) for i, name in names.items() if str(name).strip().lower() == plain]
    if len(matches) > 1:
        indices = f"{', '.join(map(str, matches[:-1]))} and {matches[-1]}"
        raise UserError(f"The classes {indices} are all called {wanted!r}; give the index of the one that is meant.")
    return matches[0] if matches else None
