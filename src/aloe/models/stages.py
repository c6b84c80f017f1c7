"""What has been done to a model, in the words of tables, pictures and cards, and how good it has become, in one line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

POOR = 0.8
"""A held-out cosine below which features are told to be unlike the teacher's; the paper's students reach 0.9 and more."""


@dataclass(frozen=True)
class Stage:
    """A stage: its name in the paper's tables, in pictures, in sentences, and its colour in plots."""

    table: str
    title: str
    words: str
    colour: str


STAGES = {
    "teacher": Stage("teacher", "teacher", "the teacher", "#8c8c8c"),
    "converted": Stage("converted", "converted", "converted, not trained", "#e69f00"),
    "b-cosified": Stage("B-cosified", "B-cosified", "converted and fine-tuned on labels, not aligned", "#56b4e9"),
    "aligned": Stage("ALOE", "aligned student", "aligned", "#0072b2"),
    "finetuned": Stage("ALOE, fine-tuned", "fine-tuned", "aligned, then fine-tuned on labels", "#009e73"),
    "student": Stage("student", "student", "not recorded", "#cc79a7"),
}
"""In the order of tables. A model of another stage is shown by the stage's own name."""


def table_name(stage: str) -> str:
    """A stage as the paper's tables and our plots name it."""
    return STAGES[stage].table if stage in STAGES else stage


def title_of(stage: str) -> str:
    """A stage as the titles of pictures name it."""
    return STAGES[stage].title if stage in STAGES else stage


def after_training(before: dict[str, Any], stage: str, steps: int, held_out: dict[str, float]) -> dict[str, Any]:
    """The record of a student (`config.teacher`) after a training: its stage, all its steps, and its last evaluation.

    Args:
        before: the record before. steps: of this training. held_out: numbers by name, on images kept out of training.
    """
    numbers = {name: round(float(value), 4) for name, value in held_out.items()}
    return {**before, "stage": stage, "steps": int(before.get("steps") or 0) + steps, "held_out": numbers}


def standing(record: dict[str, Any]) -> str:
    """What a student is, in one line: its teacher, its stage, its steps and its quality, and a clear word where it is poor.

    `record` is `config.teacher`; students of before it knew steps and quality are told without them.
    """
    name, stage = record.get("name") or "an unnamed teacher", record.get("stage", "student")
    if stage == "converted":
        kind = "converted from {} and calibrated" if record.get("calibrated") else "only converted from {}"
        return f"{kind.format(name)}, not trained: its features are not the teacher's; align it with `aloe align`"
    kinds = {
        "aligned": f"aligned to {name}",
        "finetuned": f"aligned to {name}, then fine-tuned on labels",
        "b-cosified": f"converted from {name} and fine-tuned on labels, not aligned",
    }
    words = kinds.get(stage, f"made from {name}; how it was trained is not recorded")
    steps, numbers = record.get("steps"), record.get("held_out") or {}
    words += f", {steps} steps" if isinstance(steps, int) and steps else ""
    cosine = numbers.get("cosine_pooled")
    if isinstance(cosine, int | float):
        words += f", held-out cosine {cosine:.3f}"
        words += ": poor, train it longer before its explanations are trusted" if cosine < POOR else ""
    accuracy = numbers.get("accuracy")
    if isinstance(accuracy, int | float):
        words += f", held-out accuracy {accuracy:.1%}"
    return words
