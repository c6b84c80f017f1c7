"""What an option can be, from where it is defined: in its help and in the shell's completion, without importing torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def _recipes() -> list[str]:
    from aloe.train.align.settings import AlignSettings

    return AlignSettings.recipes()


def _finetune_recipes() -> list[str]:
    from aloe.train.finetune.settings import FinetuneSettings

    return FinetuneSettings.recipes()


def _tasks() -> list[str]:
    from aloe.evaluation.settings import TASK_NAMES

    return list(TASK_NAMES)


def _methods() -> list[str]:
    from aloe.report.methods import LOOKS

    return list(LOOKS)


def _zoo() -> list[str]:
    from aloe.models.zoo_models import ZOO

    return [model.id for model in ZOO]


CHOICES: dict[str, Callable[[], list[str]]] = {
    "recipes": _recipes,
    "finetune-recipes": _finetune_recipes,
    "tasks": _tasks,
    "methods": _methods,
    "zoo": _zoo,
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
