"""The demo on a handful of scenes: the page, its table and pictures, and running it again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from aloe.apps import demo
from aloe.core.errors import UserError
from aloe.data.scenes import files


@pytest.mark.slow
def test_the_demo_writes_its_page_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "TRAIN_SCENES", 60)
    monkeypatch.setattr(demo, "TEST_SCENES", 30)
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


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "index.html").write_text("my page")
    (tmp_path / "thesis.tex").write_text("words")
    with pytest.raises(UserError, match="something else"):
        demo.run_demo(tmp_path, steps=1, progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index.html", "thesis.tex"]
