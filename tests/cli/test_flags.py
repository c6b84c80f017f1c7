"""Flags that are made from settings: one for every field, with its bounds in the help, and its mistakes in one sentence."""

from __future__ import annotations

import pytest
import typer

from aloe.apps.export.settings import ExportSettings
from aloe.apps.grounding.settings import GroundSettings
from aloe.attribution.settings import AttributeSettings, ExplainSettings, NeighboursSettings
from aloe.cli.main import app

ROOT = typer.main.get_command(app)
WHOLE = {
    "explain": ExplainSettings,
    "attribute": AttributeSettings,
    "neighbours": NeighboursSettings,
    "export": ExportSettings,
    "ground": GroundSettings,
}
"""Verbs that have a flag for every field of their settings."""
WORDS = {
    "explain": ("student", "images", "-o", "out"),
    "attribute": ("images", "-m", "teacher", "-o", "out"),
    "export": ("student", "-o", "graph.onnx"),
    "ground": ("image", "-m", "model", "--prompt", "what", "-o", "out"),
    "neighbours": ("student", "folder", "images", "-o", "out"),
}


def bounds(field):
    """(lowest, highest) of a number."""
    found = {sign: getattr(info, sign) for info in field.metadata for sign in ("ge", "le") if hasattr(info, sign)}
    return found.get("ge"), found.get("le")


FIELDS = [(verb, name) for verb, kind in WHOLE.items() for name in kind.model_fields]
BOUNDED = [(verb, name) for verb, name in FIELDS if bounds(WHOLE[verb].model_fields[name]) != (None, None)]


@pytest.mark.parametrize(("verb", "name"), FIELDS)
def test_every_field_has_a_flag_with_its_words(verb, name):
    flag = {parameter.name: parameter for parameter in ROOT.commands[verb].params}[name]
    field = WHOLE[verb].model_fields[name]
    assert f"--{name.replace('_', '-')}" in flag.opts
    assert flag.default is None, "what is not typed is left to the settings"
    assert field.description[1:] in flag.help


@pytest.mark.parametrize(("verb", "name"), BOUNDED)
def test_bounds_are_in_the_help_and_are_held(aloe, verb, name):
    low, high = bounds(WHOLE[verb].model_fields[name])
    option = f"--{name.replace('_', '-')}"
    assert f"[{low}<=x<={high}]" in aloe(verb, "--help")[1]
    for value in (low - 1, high + 1):
        code, out, err = aloe(verb, *WORDS[verb], option, value)
        assert (code, out) == (2, "")
        assert err.startswith(f"aloe: Wrong settings: {name}: ")
        assert err.endswith(f"(got {value}).\n")


def test_all_mistakes_are_told_together(aloe):
    code, out, err = aloe("explain", *WORDS["explain"], "--limit", 0, "--batch-size", 0, "--pairs", -1)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert all(f"{name}: " in err for name in ("limit", "batch_size", "pairs"))


def test_bench_has_flags_of_an_alignment_under_its_own_defaults(aloe):
    flags = {parameter.name: parameter for parameter in ROOT.commands["bench"].params}
    assert "--compile" in flags["compile_teacher"].opts
    for name, words in (("batch_size", "default: 8.  [1<=x<=65536]"), ("workers", "default: 0.  [0<=x<=1024]")):
        assert flags[name].help.endswith(words)
    assert flags["precision"].help.endswith("default: float32, on CUDA also bf16.")
