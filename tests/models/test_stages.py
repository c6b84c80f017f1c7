"""What a student is, in one line, wherever it is explained."""

from __future__ import annotations

import pytest

from aloe.models.stages import STAGES, after_training, standing, table_name, title_of
from conftest import build_teacher
from pictures import write_pictures

ALIGNED = {"name": "dinov2", "stage": "aligned"}


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"name": "dinov2", "stage": "converted"}, "only converted from dinov2, not trained: its features are not"),
        ({"name": "t", "stage": "converted", "calibrated": True}, "converted from t and calibrated, not trained"),
        (ALIGNED, "aligned to dinov2"),
        (ALIGNED | {"steps": 30000, "held_out": {"cosine_pooled": 0.9534}}, "30000 steps, held-out cosine 0.953"),
        (ALIGNED | {"steps": 20, "held_out": {"cosine_pooled": 0.41}}, "20 steps, held-out cosine 0.410: poor"),
        ({"name": "t", "stage": "finetuned", "held_out": {"accuracy": 0.5}}, "held-out accuracy 50.0%"),
        ({"name": "t", "stage": "b-cosified"}, "fine-tuned on labels, not aligned"),
        ({}, "made from an unnamed teacher; how it was trained is not recorded"),
    ],
)
def test_a_student_is_told_in_one_line(record, words):
    assert words in standing(record)
    assert "\n" not in standing(record)


def test_good_is_not_called_poor():
    assert "poor" not in standing(ALIGNED | {"held_out": {"cosine_pooled": 0.9}})


def test_steps_of_several_trainings_add_up():
    once = after_training(ALIGNED, "aligned", 100, {"cosine_pooled": 0.123456})
    assert once["held_out"] == {"cosine_pooled": 0.1235}
    assert after_training(once, "finetuned", 50, {})["steps"] == 150


def test_every_stage_has_its_words():
    assert [table_name(s) for s in ("aligned", "b-cosified", "new")] == ["ALOE", "B-cosified", "new"]
    assert title_of("aligned") == "aligned student"
    assert len({stage.colour for stage in STAGES.values()}) == len(STAGES)


def test_an_alignment_leaves_its_record(tmp_path, aloe):
    import aloe as package

    write_pictures(tmp_path / "images", 24, 40)
    settings = {"steps": 2, "batch_size": 4, "holdout": 2, "workers": 0, "progress": False, "device": "cpu"}
    teacher = build_teacher("vit-classifier")
    package.align(teacher, tmp_path / "images", tmp_path / "run", **settings)
    record = package.load(tmp_path / "run").config.teacher
    assert record["steps"] == 2
    assert {"cosine_pooled"} <= set(record["held_out"])
    code, out, err = aloe("explain", tmp_path / "run", tmp_path / "images", "-o", "pictures", "--limit", "1")
    assert code == 0, err
    assert "aligned to vit-classifier, 2 steps, held-out cosine" in out
    package.align(teacher, tmp_path / "images", tmp_path / "more", student=package.load(tmp_path / "run"), **settings)
    assert package.load(tmp_path / "more").config.teacher["steps"] == 4
