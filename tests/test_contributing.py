"""The recipes of CONTRIBUTING.md work as they stand, and what it says of the folders is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import aloe
from aloe.attribution.methods import METHODS
from aloe.data.benchmarks import BENCHMARKS
from aloe.evaluation.tasks import TASKS
from aloe.models import families
from aloe.models.teachers import family_of
from conftest import build_teacher
from pictures import write_pictures
from places import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def recipe(title: str) -> str:
    """The code under a heading."""
    section = TEXT.partition(f"### {title}\n")[2].partition("\n### ")[0]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]


@pytest.fixture
def registries(monkeypatch):
    for table in (METHODS, TASKS, BENCHMARKS):
        for name, value in list(table.items()):
            monkeypatch.setitem(table, name, value)
    known = [dict(table) for table in (METHODS, TASKS, BENCHMARKS)]
    monkeypatch.setattr(families, "FAMILIES", families.FAMILIES)
    yield
    for table, before in zip((METHODS, TASKS, BENCHMARKS), known, strict=True):
        table.clear()
        table.update(before)


@pytest.mark.usefixtures("registries")
def test_a_method(images):
    exec(recipe("Add an attribution method"), {})
    model = build_teacher("vit-classifier")
    found = aloe.attribute(model, images, 1, "brightness", power=2.0)
    torch.testing.assert_close(found.maps, images.mean(1) ** 2)
    with pytest.raises(aloe.UserError, match="finite"):
        aloe.attribute(model, images, 1, "brightness", power=float("inf"))


@pytest.mark.usefixtures("registries")
def test_a_task(tmp_path: Path):
    exec(recipe("Add a task"), {})
    for part in ("train", "test"):
        for name in "ab":
            write_pictures(tmp_path / part / name, 3)
    data = (str(tmp_path / "train"), str(tmp_path / "test"))
    row = aloe.evaluate(build_teacher("vit-classifier"), "images", data, device="cpu")
    assert (row["task"], row["value"], row["counts"]) == ("images", 6.0, {"test": 6})


@pytest.mark.usefixtures("registries")
def test_a_data_set(tmp_path: Path):
    exec(recipe("Add a data set"), {})
    for part in ("train", "test"):
        for name in ("heads", "tails"):
            write_pictures(tmp_path / part / name, 2)
    row = aloe.evaluate(build_teacher("vit-classifier"), "knn", f"coins={tmp_path}", device="cpu", k=1)
    assert (row["data"], row["counts"]["train"], row["counts"]["test"]) == ("coins", 4, 4)


@pytest.mark.usefixtures("registries")
def test_a_family():
    exec(recipe("Add a family of teachers"), {})
    assert families.FAMILIES[-1].name == "MyViT"
    known = {t for family in families.FAMILIES for t in family.model_types}
    assert "my_vit" in known
    assert family_of("vit").name == "ViT"


def test_the_map_names_every_folder():
    folders = {p.name for p in (ROOT / "src" / "aloe").iterdir() if (p / "__init__.py").is_file()}
    assert set(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)) == folders


def test_what_it_tells_to_run_is_there():
    targets = re.findall(r"^make (\S+)", TEXT, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert targets
    assert all(f"\n{target}:" in makefile for target in targets)
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert all(f"\n{target}:" in makefile for target in re.findall(r"run: make (\S+)", workflow))


def test_the_version_stands_in_one_place():
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text()
    assert f'__version__ = "{aloe.__version__}"' in (ROOT / "src" / "aloe" / "__init__.py").read_text()
