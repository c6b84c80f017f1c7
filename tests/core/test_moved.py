"""Former names of modules still import, and are the present modules."""

from __future__ import annotations

import subprocess
import sys

import pytest

from aloe.core.moved import MOVED, new_name

FORMER = [
    *MOVED,
    "aloe.probes.knn",
    "aloe.dense.sources.nyuv2",
    "aloe.viz.explanations",
    "aloe.dense.normals",
]


@pytest.mark.parametrize("name", FORMER)
def test_a_former_name_is_the_present_module(name: str):
    program = f"""
import importlib, sys, warnings
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    former = importlib.import_module({name!r})
present = importlib.import_module({new_name(name)!r})
assert former is present
assert present.__spec__.name == {new_name(name)!r}, present.__spec__.name
assert any({new_name(name)!r} in str(w.message) for w in said)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if "No module named" in done.stderr and "aloe" not in done.stderr.rpartition("No module named")[2]:
        pytest.skip("an extra is not installed")
    assert done.returncode == 0, done.stderr


def test_a_present_name_did_not_move():
    assert new_name("aloe.attribution.methods") is None
    assert new_name("aloe.apps.explorer") is None


def test_what_never_was_is_still_an_error():
    with pytest.raises(ModuleNotFoundError), pytest.warns(DeprecationWarning, match="aloe.evaluation"):
        __import__("aloe.probes.nothing")
