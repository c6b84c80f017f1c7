"""Help and completion name what there is, and no sentence of them is cut."""

from __future__ import annotations

import click
import pytest
import typer

from aloe import __version__
from aloe.attribution.methods import METHODS
from aloe.cli.choices import CHOICES, one_of, some_of
from aloe.cli.main import app
from aloe.evaluation.settings import EvaluateSettings
from aloe.evaluation.tasks import TASKS
from aloe.models.zoo_models import ZOO
from aloe.train.align.settings import AlignSettings

ROOT = typer.main.get_command(app)
VERBS = [(name,) for name in ROOT.commands if name != "study"] + [("study", n) for n in ROOT.commands["study"].commands]


def test_the_choices_are_those_of_the_registries():
    assert CHOICES["tasks"]() == list(TASKS)
    assert CHOICES["methods"]() == list(METHODS)
    assert CHOICES["recipes"]() == AlignSettings.recipes()
    assert CHOICES["zoo"]() == [model.id for model in ZOO]
    assert CHOICES["finetune-recipes"]() == ["short"]
    assert all(CHOICES[name]() for name in CHOICES)


def test_help_shows_the_bounds_of_settings():
    help_of = {parameter.name: parameter.help for parameter in ROOT.commands["evaluate"].params}
    assert help_of["batch_size"].endswith("  [1<=x<=65536]")
    assert help_of["share"].endswith("  [0<x<=1]")
    assert help_of["resolution"].endswith("  [1<=x<=16384]"), "a number or none"
    assert not help_of["head"].endswith("]")


def test_completion_offers_one_or_several_values():
    assert one_of("recipes")("s") == ["short", "small"]
    assert one_of("zoo")("zoo:c") == ["zoo:cifar10-vit", "zoo:cifar10-aloe"]
    assert some_of("tasks")("knn,c") == ["knn,classifier", "knn,cosine", "knn,clarity", "knn,correspondence"]
    assert "inherent,inherent" not in some_of("methods")("inherent,")
    assert some_of("methods")("inherent,att") == ["inherent,attnlrp"]
    assert one_of("stem", ("patch", "conv", "conv-even"))("c") == ["conv", "conv-even"]
    assert some_of("k", ("a", "b"))("a,") == ["a,b"]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("aloe align --recipe p", "paper"),
        ("aloe align --objective ", "cosine\nmse\nstandardized\nsiglip\ninfonce"),
        ("aloe finetune --precision b", "bf16"),
        ("aloe evaluate --feature co", "concat"),
        ("aloe evaluate --protocol res", "resized"),
        ("aloe evaluate --preset p", "paper"),
        ("aloe evaluate knn,lin", "knn,linear"),
        ("aloe evaluate gridpg zoo:scenes-a", "zoo:scenes-aloe"),
        ("aloe evaluate gridpg m --methods inherent,li", "inherent,lime"),
        ("aloe attribute i -m zoo:cifar10-v", "zoo:cifar10-vit"),
        ("aloe explain zoo:scenes-a", "zoo:scenes-aloe"),
        ("aloe sweep t i -o o --tasks kn", "knn"),
        ("aloe finetune m i --recipe s", "short"),
        ("aloe study build i --methods leg", "legrad"),
    ],
)
def test_the_shell_is_offered_the_values(monkeypatch, capsys, words, offered):
    count = len(words.split(" ")) - 1
    for name, value in (("_ALOE_COMPLETE", "complete_bash"), ("COMP_WORDS", words), ("COMP_CWORD", str(count))):
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        app(prog_name="aloe")
    assert capsys.readouterr().out == f"{offered}\n"


def test_the_version_is_said(aloe):
    assert aloe("--version") == (0, f"aloe {__version__}\n", "")


@pytest.mark.parametrize("line", [(), ("study",)])
def test_no_line_of_the_verbs_is_cut(aloe, monkeypatch, line):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = aloe(*line, "--help")
    lines = out.partition("Commands:")[2].strip().splitlines()
    assert code == 0
    assert len(lines) == len(ROOT.commands["study"].commands if line else ROOT.commands)
    assert all(words.endswith(".") and not words.endswith("..") and len(words) <= 80 for words in lines)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_names_the_choices_and_every_option_has_words(aloe, verb):
    code, out, _ = aloe(*verb, "--help")
    assert code == 0
    assert not any(f"{{{name}}}" in out.partition("\n\n")[2] for name in CHOICES)
    command: click.Command = ROOT
    for name in verb:
        command = command.commands[name]
    assert command.short_help


def test_help_of_evaluate_shows_the_defaults_of_its_settings(aloe):
    words = " ".join(aloe("evaluate", "--help")[1].split())
    for name in (
        "head",
        "feature",
        "templates",
        "preset",
        "protocol",
        "confidence",
        "grids",
        "images",
        "block",
        "precision",
    ):
        assert f"default: {EvaluateSettings.model_fields[name].default}." in words, name
    assert "default: 20." in words
    assert "{=" not in words
