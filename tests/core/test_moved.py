"""Former names of modules still import, and are the present modules."""

from __future__ import annotations

import importlib
import sys
import warnings

import pytest

from aloe.core.moved import MOVED, new_name
from several import run_in

FORMER = [
    *MOVED,
    "aloe.probes.knn",
    "aloe.dense.sources.nyuv2",
    "aloe.viz.explanations",
    "aloe.dense.normals",
]


@pytest.mark.parametrize("name", FORMER)
def test_a_former_name_is_the_present_module(name: str):
    """In a process that has none of aloe's modules yet, while what they import is there."""

    def job() -> tuple[bool, str, list[str]]:
        for known in [known for known in sys.modules if known.partition(".")[0] == "aloe"]:
            del sys.modules[known]
        sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "_Moved"]
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            former = importlib.import_module(name)
        present = importlib.import_module(str(new_name(name)))
        return former is present, present.__spec__.name, [str(warning.message) for warning in said]

    try:
        ((same, spec, said),) = run_in(1, job, joined=False)
    except RuntimeError as error:
        if "No module named" in str(error) and "aloe" not in str(error).rpartition("No module named")[2]:
            pytest.skip("an extra is not installed")
        raise
    assert same
    assert spec == new_name(name)
    assert any(spec in words for words in said)


def test_a_present_name_did_not_move():
    assert new_name("aloe.attribution.methods") is None
    assert new_name("aloe.apps.explorer") is None


def test_what_never_was_is_still_an_error():
    with pytest.raises(ModuleNotFoundError), pytest.warns(DeprecationWarning, match="aloe.evaluation"):
        __import__("aloe.probes.nothing")
