"""The settings of a fine-tuning: its own beside those of every training."""

from __future__ import annotations

import pytest

from aloe.core.errors import UserError
from aloe.train.finetune.settings import FinetuneSettings


def test_the_recipe_is_vanilla():
    assert FinetuneSettings.recipes() == ["short"]
    short = FinetuneSettings.resolve()
    assert (short.loss, short.freeze, short.calibrate, short.schedule) == ("bce", "none", False, "one-cycle")
    assert not {"stem", "b"} & short.model_fields_set  # a student has its own; a recipe must not contradict it


def test_all_mistakes_are_listed_at_once(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("freeze: head\nobjective: cosine\n")
    with pytest.raises(UserError) as caught:
        FinetuneSettings.resolve(file=file, overrides={"steps": 0, "loss": "hinge", "lerning_rate": 1})
    message = str(caught.value)
    for words in (
        "freeze:",
        "'head'",
        "objective: unknown",
        "steps:",
        "loss:",
        "'hinge'",
        "did you mean learning_rate?",
    ):
        assert words in message
    assert "\n" not in message


def test_flags_win_over_the_file_and_the_file_over_the_recipe(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("steps: 7\nloss: cross-entropy\n")
    settings = FinetuneSettings.resolve("short", file, {"steps": 5})
    assert (settings.steps, settings.loss, settings.batch_size) == (5, "cross-entropy", 128)


def test_a_recipe_of_another_training_is_not_one_of_this():
    with pytest.raises(UserError, match="no recipe 'paper'; recipes: short"):
        FinetuneSettings.resolve("paper")
