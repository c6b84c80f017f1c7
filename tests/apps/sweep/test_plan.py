"""The grid of a sweep and the parts of the data that its runs see."""

from __future__ import annotations

import numpy as np
import pytest

from aloe.apps.sweep.plan import SweepPlan, read_plan
from aloe.apps.sweep.subset import nested, thinned
from aloe.core.errors import UserError
from aloe.data.sources import SceneImages
from aloe.data.splits import Splits


def plan(**values):
    return SweepPlan.of(**{"data": ["cifar10"], **values})


def test_every_combination_is_a_point_and_the_first_seed_comes_first():
    points = plan(vary={"objective": ["cosine", "mse"], "fraction": [0.01, 1]}, seeds=[3, 4]).points()
    assert [point.words for point in points] == [
        f"objective={objective} fraction={fraction} seed={seed}"
        for seed in (3, 4)
        for objective in ("cosine", "mse")
        for fraction in ("0.01", "1")
    ]
    assert {(p.settings.objective, p.fraction, p.settings.seed) for p in points} == {
        (objective, fraction, seed) for objective in ("cosine", "mse") for fraction in (0.01, 1.0) for seed in (3, 4)
    }


def test_points_that_are_the_same_run_are_one():
    points = plan(vary={"fraction": [1, 1.0, "1e-3"]}, seeds=[0, 0]).points()
    assert [point.fraction for point in points] == [1.0, 0.001]


def test_nothing_is_held_out_of_a_run_unless_it_is_asked_for():
    assert plan().points()[0].settings.holdout == 0
    assert plan(settings={"holdout": 12}).points()[0].settings.holdout == 12


def test_layers_and_the_other_settings_of_an_alignment_are_axes_too():
    points = plan(vary={"after_block": [[2, 4], "all", []], "b": [1.5]}, settings={"steps": 7}).points()
    assert [p.settings.after_block for p in points] == [[2, 4], "all", []]
    assert [p.words for p in points] == [f"after_block={k} b=1.5 seed=0" for k in ("2,4", "all", "none")]
    assert {p.settings.steps for p in points} == {7}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"vary": {"objectiv": ["mse"]}}, "did you mean objective"),
        ({"vary": {"fraction": [0]}}, "above 0 and at most 1"),
        ({"vary": {"fraction": [1.5]}}, "above 0 and at most 1"),
        ({"vary": {"objective": ["l1"]}}, "objective"),
        ({"vary": {"b": []}}, "b has no values"),
        ({"vary": {"seed": [1]}}, "an option of their own"),
        ({"vary": {"b": [2]}, "settings": {"b": 2}}, "varied and given a single value"),
        ({"data": []}, "at least one data set"),
        ({"data": [], "train": "x"}, "at least one data set"),
        ({"seeds": []}, "seeds"),
        ({"recipe": "shrot"}, "did you mean short"),
        ({"stpes": 3}, "stpes"),
    ],
)
def test_a_mistake_is_one_sentence(values, words):
    with pytest.raises(UserError) as told:
        plan(**values).points()
    assert words in str(told.value)
    assert str(told.value).count("\n") == 0


def test_a_file_of_a_sweep_is_read(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text("vary: {objective: [mse, cosine]}\nseeds: [1]\ndata: [cifar10]\nsettings: {steps: 3}\n")
    assert [p.words for p in SweepPlan.of(**read_plan(file)).points()] == [
        "objective=mse seed=1",
        "objective=cosine seed=1",
    ]
    file.write_text("- a list")
    with pytest.raises(UserError, match="must hold"):
        read_plan(file)
    with pytest.raises(UserError, match="cannot be read"):
        read_plan(tmp_path / "absent.yaml")


def test_fractions_of_one_seed_are_nested_and_seeds_differ():
    source = SceneImages(1000)
    parts = {f: nested(source, f, seed=5) for f in (0.001, 0.01, 0.1)}
    assert [len(part) for part in parts.values()] == [1, 10, 100]
    sets = [set(part.indices.tolist()) for part in parts.values()]
    assert sets[0] < sets[1] < sets[2]
    assert nested(source, 1, seed=5) is source
    assert not np.array_equal(nested(source, 0.1, seed=6).indices, parts[0.1].indices)
    assert np.array_equal(nested(source, 0.1, seed=5).indices, parts[0.1].indices)
    with pytest.raises(UserError, match="not one image"):
        nested(source, 0.0001, seed=5)


def test_fewer_images_to_evaluate_on_are_said_to_be_fewer():
    whole = Splits("scenes", "scenes", SceneImages(50), SceneImages(20, seed=1), official=True)
    part = thinned(whole, 10, None)
    assert part.sizes == {"train": 10, "test": 20}
    assert not part.official
    assert part.notes == ("10 of the 50 train images, drawn with seed 0",)
    assert thinned(whole, 50, 100) == whole
