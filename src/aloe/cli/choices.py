"""What an option can be, from where it is defined: in its help and in the shell's completion, without importing torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pkgutil import resolve_name

CHOICES: dict[str, Callable[[], list[str]]] = {  # modules are imported when a choice is asked for, and not before
    "recipes": lambda: resolve_name("aloe.train.align.settings:AlignSettings").recipes(),
    "finetune-recipes": lambda: resolve_name("aloe.train.finetune.settings:FinetuneSettings").recipes(),
    "tasks": lambda: list(resolve_name("aloe.evaluation.settings:TASK_NAMES")),
    "methods": lambda: list(resolve_name("aloe.report.methods:LOOKS")),
    "zoo": lambda: [model.id for model in resolve_name("aloe.models.zoo_models:ZOO")],
}


def one_of(name: str, values: Sequence[str] = ()) -> Callable[[str], list[str]]:
    """The completion of an option that takes one of these values, or where none are given one of `CHOICES`."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values or CHOICES[name]() if value.startswith(incomplete)]

    return complete


def some_of(name: str, values: Sequence[str] = ()) -> Callable[[str], list[str]]:
    """The completion of an option that takes several values with commas, of those that `one_of` has."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        taken = before.split(",")
        known = values or CHOICES[name]()
        return [f"{before}{comma}{v}" for v in known if v.startswith(last) and v not in taken]

    return complete


def filled(text: str) -> str:
    """Help in which `{recipes}` and the like are the values of `CHOICES`."""
    for name, values in CHOICES.items():
        if (place := f"{{{name}}}") in text:
            text = text.replace(place, ", ".join(values()))
    return text
