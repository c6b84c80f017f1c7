"""Several models on one data set: every image is decoded once, and rows and cached features are those of each model alone."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from aloe.data.sources import StoredImages
from aloe.evaluation.cache import read_part
from aloe.evaluation.evaluate import evaluate_all
from aloe.models.convert import bcosify
from aloe.models.saving import save_student
from conftest import build_teacher
from pictures import write_pictures


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A teacher, a student, and pictures of two classes, one of which is broken."""
    folder = tmp_path_factory.mktemp("together")
    build_teacher("vit").model.save_pretrained(folder / "vit")
    save_student(bcosify(build_teacher("vit")), folder / "student")
    for part, offset in (("train", 0), ("test", 50)):
        for name in ("blue", "red"):
            write_pictures(folder / part / name, 4, offset)
            offset += 10
    sorted((folder / "train" / "red").iterdir())[0].write_bytes(b"no image")
    return folder


@pytest.fixture
def loads(monkeypatch):
    """How often each image is loaded."""
    counts: Counter[str] = Counter()
    original = StoredImages.load

    def load(self, index, draft_size=None):
        counts[self._store.root.name + self._files[index]] += 1
        return original(self, index, draft_size)

    monkeypatch.setattr(StoredImages, "load", load)
    return counts


def evaluated(home, output, *models, **settings):
    names = [str(home / model) for model in models]
    return evaluate_all(names, ["knn"], [(home / "train", home / "test")], output, progress=False, k=1, **settings)


def told(rows):
    return [(r["key"], r["value"], r["counts"], r["notes"]) for r in rows]


def test_images_are_decoded_once_for_models_of_one_resolution(home, loads, tmp_path):
    rows = evaluated(home, tmp_path / "out", "vit", "student", cache=tmp_path / "cache")
    assert len(loads) == 16
    assert set(loads.values()) == {1}
    alone = [evaluated(home, tmp_path / m, m, cache=tmp_path / f"cache-{m}")[0] for m in ("vit", "student")]
    assert told(rows) == told(alone)
    for single in ("vit", "student"):
        for file in (tmp_path / f"cache-{single}").rglob("part-*.safetensors"):
            ours = read_part(tmp_path / "cache" / file.parent.name / file.name)
            expected = read_part(file)
            assert ours["unreadable"] == expected["unreadable"]
            assert all(torch.equal(ours[name], expected[name]) for name in ("features", "labels", "index"))
    assert set(loads.values()) == {3}  # once together, and once for each alone


def test_what_one_model_has_is_not_made_again(home, loads, tmp_path):
    evaluated(home, tmp_path / "out", "vit", cache=tmp_path / "cache")
    evaluated(home, tmp_path / "out", "vit", "student", cache=tmp_path / "cache")
    assert set(loads.values()) == {2}
    evaluated(home, tmp_path / "out", "vit", "student", cache=tmp_path / "cache")
    assert set(loads.values()) == {2}


def test_without_a_cache_every_model_reads_by_itself(home, loads, tmp_path):
    evaluated(home, tmp_path / "out", "vit", "student")
    assert set(loads.values()) == {2}
