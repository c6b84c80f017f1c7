"""The notebooks run as they are, from top to bottom, and are kept without outputs."""

from __future__ import annotations

import json

import pytest

from places import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = ["align_on_your_images", "compare_methods", "explain_an_image", "why_alike"]

# What a notebook must have shown in the end, besides running without an error.
SHOWN = {
    "align_on_your_images": ["converted: ", "the zoo's: 0.9", "model.safetensors"],
    "compare_methods": ["on the object", "1 forward, 1 backward", "image/png"],
    "explain_an_image": [
        "predicted: french_horn",
        "nothing covered: french_horn (french_horn 98%, logit 3.87)",
        "face covered: something else (french_horn 43%, logit -0.29)",
        "sum of all contributions: ",
        "image/png",
    ],
    "why_alike": ["nearest: ", "table (64, 64) sums to", "winner less second: ", "image/png"],
}


def test_the_notebooks_are_these():
    assert [path.stem for path in NOTEBOOKS] == NAMES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_without_a_network(path, tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = json.dumps([cell.get("outputs") for cell in book.cells])
    assert [words for words in SHOWN[path.stem] if words not in shown] == []
