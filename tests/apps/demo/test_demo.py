"""The demo on a handful of scenes: the page, its table and pictures, and running it again."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from aloe.apps import demo
from aloe.core.errors import UserError
from aloe.data.scenes import files


@pytest.mark.slow
def test_the_demo_writes_its_page_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "TRAIN_SCENES", 60)
    monkeypatch.setattr(demo, "TEST_SCENES", 30)
    monkeypatch.setattr("aloe.apps.demo.localisation.GRIDS", 1)
    monkeypatch.setattr(files, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))  # starts at once
    out = tmp_path / "demo"
    first = demo.run_demo(out, steps=3, progress=False)
    html = first.page.read_text()
    for row, name in zip(first.rows, ("teacher", "converted", "aligned"), strict=True):
        assert row["model"] == name
        assert f'<tr class="{name}"><td>{name}</td>' in html
        assert 0 <= row["knn"] <= 100
        assert -1 <= row["pooled"] <= 1
    assert html.count('src="data:image/png;base64,') == 3 * 10, "three pictures for each of the ten classes"
    assert "http" not in html, "nothing is fetched"
    assert first.rows[-1]["completeness_error"] < 1e-4
    assert {p.name for p in out.iterdir()} == {"scenes", "student", "index.html"}

    weights = (out / "student" / "model.safetensors").stat().st_mtime_ns
    again = demo.run_demo(out, steps=3, progress=False)
    assert again.rows == first.rows
    assert (out / "student" / "model.safetensors").stat().st_mtime_ns == weights
    assert "k-NN" in again.words()
    assert (first.localisation is None) == ("Not measured: fewer than four classes" in html)


def test_a_demo_that_an_earlier_version_began_goes_on_with_its_settings(tmp_path):
    new = {"recipe": "small", "after_block": "all"}
    assert demo._settings(tmp_path) == new
    for objective, recipe, rate in (("cosine", "short", 1e-3), ("standardized", "small", 6e-3)):
        record = {"objective": objective, "after_block": "default", "learning_rate": rate}
        (tmp_path / "run.json").write_text(json.dumps(record))
        assert demo._settings(tmp_path) == {"recipe": recipe, "after_block": "default", "learning_rate": rate}
    for damaged in ("[", "[]", "{}"):
        (tmp_path / "run.json").write_text(damaged)
        assert demo._settings(tmp_path) == new


@pytest.mark.parametrize("sure", [True, False])
def test_localisation_compares_students_and_teachers_on_the_same_grids(sure, monkeypatch, tmp_path):
    """With the shipped pair W(x)x finds the object far better than the teacher's best method; without it nothing is said."""
    import torch

    from aloe.apps.demo import localisation
    from aloe.apps.demo.page import write_page
    from aloe.attribution.methods import METHODS, attribute
    from aloe.metrics.gridpg import grid_pointing
    from aloe.models.saving import load
    from aloe.models.teachers import load_teacher

    monkeypatch.setattr(demo, "TEST_SCENES", 40)
    monkeypatch.setattr(localisation, "GRIDS", 2)
    played = []
    monkeypatch.setattr(localisation, "grid_pointing", lambda *a, **k: played.append(a[2]) or grid_pointing(*a, **k))
    student, teacher = load("zoo:scenes-aloe"), load_teacher("zoo:scenes-vit")
    images, labels = demo._scenes()
    if not sure:
        labels = (labels + 1) % 10
    found = localisation.localise(student, teacher, images, labels)
    rows = [{"model": "aligned", "knn": 1.0, "classifier": 1.0, "pooled": 1.0, "inside": 1.0, "area": 1.0}]
    page = write_page(tmp_path, [rows[0] | {"completeness_error": 0.0}], [], found, [], {}, 1).read_text()
    if not sure:
        assert found is None
        assert "Not measured: fewer than four classes" in page
        return
    assert found.own > found.best + 10 > found.chance
    assert found.own_interval[0] <= found.own <= found.own_interval[1]
    assert found.method in [METHODS[key].title for key in localisation.POST_HOC]
    assert len({id(grids) for grids in played}) == 1
    scores = grid_pointing(
        lambda x, y: attribute(student, x, y, "inherent").pixels(), lambda k: images[list(k)], played[0], samples=2
    )
    assert found.own == pytest.approx(100 * scores.score)
    assert f"<td>{found.own:.1f}</td>" in page
    assert f"{found.method} on the teacher" in page
    assert f"W(x)x {found.own:.1f} %" in found.words()
    assert torch.equal(images, demo._scenes()[0])


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "index.html").write_text("my page")
    (tmp_path / "thesis.tex").write_text("words")
    with pytest.raises(UserError, match="something else"):
        demo.run_demo(tmp_path, steps=1, progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index.html", "thesis.tex"]
