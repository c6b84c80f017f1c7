"""What an option can be, from where it is defined: in its help and in the shell's completion, without importing torch."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import get_args


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


def _literal(name: str) -> Callable[[], list[str]]:
    def values() -> list[str]:
        from aloe.evaluation.settings import EvaluateSettings
        from aloe.train.align.settings import AlignSettings

        for settings in (AlignSettings, EvaluateSettings):
            if name in settings.model_fields:
                return [str(value) for value in get_args(settings.model_fields[name].annotation)]
        raise KeyError(name)

    return values


CHOICES: dict[str, Callable[[], list[str]]] = {
    "recipes": _recipes,
    "finetune-recipes": _finetune_recipes,
    "tasks": _tasks,
    "methods": _methods,
    "zoo": _zoo,
    **{name: _literal(name) for name in ("objective", "precision", "feature", "protocol", "preset")},
}


def one_of(name: str) -> Callable[[str], list[str]]:
    """The completion of an option that takes one value of `CHOICES`."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in CHOICES[name]() if value.startswith(incomplete)]

    return complete


def some_of(name: str) -> Callable[[str], list[str]]:
    """The completion of an option that takes several values of `CHOICES` with commas."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        taken = before.split(",")
        return [f"{before}{comma}{v}" for v in CHOICES[name]() if v.startswith(last) and v not in taken]

    return complete


def filled(text: str) -> str:
    """Help in which `{recipes}` and the like are the values of `CHOICES`, and `{=k}` is the default of an evaluation's k."""
    for name, values in CHOICES.items():
        if (place := f"{{{name}}}") in text:
            text = text.replace(place, ", ".join(values()))
    return re.sub(r"\{=(\w+)\}", lambda found: _default(found[1]), text)


def _default(name: str) -> str:
    from aloe.evaluation.settings import EvaluateSettings

    value = EvaluateSettings.model_fields[name].default
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
