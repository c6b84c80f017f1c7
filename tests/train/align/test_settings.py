"""Settings: recipes, precedence, and mistakes told all at once."""

from __future__ import annotations

import pytest

from aloe.core.errors import UserError
from aloe.train.align.settings import AlignSettings, usual_rate

recipes, resolve = AlignSettings.recipes, AlignSettings.resolve


def test_recipes_load():
    assert recipes() == ["multires", "paper", "short", "small"]
    short, paper = resolve("short"), resolve("paper")
    assert (short.stem, short.schedule, short.steps, short.after_block) == ("patch", "one-cycle", 30_000, "default")
    assert (paper.stem, paper.schedule, paper.steps, paper.after_block) == (
        "conv",
        "warmup-constant-cosine",
        170_000,
        "paper",
    )
    multires = resolve("multires")
    assert multires.resolutions == [224, 384, 480]
    assert multires.after_block == "default"  # with the last block
    assert {multires.resolution_at(step, 0) for step in range(20)} == {224, 384, 480}
    for wrong in ([], [0, 224], [224, 224]):
        with pytest.raises(UserError, match="resolutions"):
            resolve(overrides={"resolutions": wrong})
    assert (paper.learning_rate, paper.batch_size * 8, paper.weight_decay) == (3e-4, 1024, 0)


@pytest.mark.parametrize(
    ("width", "blocks", "images", "rate"),
    [
        (128, 6, 64, 6e-3),
        (384, 12, 16, 5e-4),
        (768, 3, 32, 1.4e-3),
        (768, 12, 128, 7.1e-4),
        (1024, 24, 128, 2.7e-4),
        (1024, 24, 1024, 2.7e-4),
    ],
)
def test_a_run_without_a_rate_has_the_usual_one(width, blocks, images, rate):
    assert usual_rate(width, blocks, images) == rate
    assert resolve("short").with_rate(width, blocks, images).learning_rate == rate
    for recipe, own in (("small", 6e-3), ("paper", 3e-4)):
        assert resolve(recipe).with_rate(width, blocks, images).learning_rate == own
    assert resolve("short", None, {"learning_rate": 0.1}).with_rate(width, blocks, images).learning_rate == 0.1


def test_the_usual_rate_does_not_grow_below_the_size_where_it_was_measured():
    assert usual_rate(16, 2, 64) == usual_rate(128, 6, 64) == usual_rate(256, 3, 64) > usual_rate(256, 6, 64)
    assert usual_rate(1024, 24, 1024) == usual_rate(1024, 24, 128)  # nor with larger batches


def test_flags_win_over_the_file_and_the_file_over_the_recipe(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("steps: 7\nbatch_size: 9\nlearning_rate: 1e-4\n")
    settings = resolve("paper", file, {"steps": 5, "seed": None})
    assert (settings.steps, settings.batch_size, settings.learning_rate) == (5, 9, 1e-4)
    assert (settings.stem, settings.seed) == ("conv", 0)


def test_all_mistakes_are_listed_at_once():
    with pytest.raises(UserError) as caught:
        resolve(overrides={"steps": 0, "objectiv": "mse", "precision": "int8", "crop_scale": (0.9, 0.1), "zzz": 1})
    message = str(caught.value)
    for words in (
        "steps:",
        "objectiv: unknown, did you mean objective?",
        "precision:",
        "'int8'",
        "crop_scale:",
        "zzz: unknown",
    ):
        assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"after_block": [0, 3]}, "count from 1"),
        ({"after_block": "last"}, "after_block"),
        ({"pooled": False, "objective": "infonce"}, "aligns nothing"),
        ({"pooled": False, "after_block": []}, "aligns nothing"),
        ({"warmup": 0.6, "decay": 0.6, "schedule": "warmup-constant-cosine"}, "exceed the run"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"b": 0.5}, "b:"),
    ],
)
def test_settings_that_make_no_sense(values, words):
    with pytest.raises(UserError, match=words):
        resolve(overrides=values)


@pytest.mark.parametrize("text", ["steps: [1", "- steps", "", "5", "\x00"])
def test_files_that_are_not_settings(tmp_path, text):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"run\.yaml") as caught:
        resolve(file=file)
    assert "\n" not in str(caught.value)


def test_a_key_that_is_not_a_word(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("1: 2\n")
    with pytest.raises(UserError, match="`key: value` lines"):
        resolve(file=file)


def test_a_file_and_a_recipe_that_do_not_exist(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        resolve(file=tmp_path / "none.yaml")
    with pytest.raises(UserError, match="did you mean paper; recipes: multires, paper, short, small"):
        resolve("papers")


def test_resolved_settings_survive_json():
    settings = resolve("paper", overrides={"after_block": [1, 2]})
    assert AlignSettings.model_validate_json(settings.model_dump_json()) == settings
