"""Every number among the settings is bounded where it is declared: mistakes made from the fields themselves."""

from __future__ import annotations

import os

import pytest

from aloe.apps.export.settings import ExportSettings
from aloe.apps.grounding.settings import GroundSettings
from aloe.apps.study.fit import fit
from aloe.apps.study.power import power
from aloe.apps.study.settings import StudySettings
from aloe.apps.study.simulate import Preferences, simulate
from aloe.apps.sweep.plan import SweepPlan
from aloe.attribution.settings import AttributeSettings, ExplainSettings, NeighboursSettings
from aloe.core.devices import choose_device
from aloe.core.errors import UserError
from aloe.core.names import chosen, meant, nearest
from aloe.core.settings import merged, workers_here
from aloe.data.frames.pair_settings import CorrespondenceSettings, PairSettings
from aloe.evaluation.dense.settings import DenseSettings
from aloe.evaluation.reads import KNOWN, check_read, read_by, task_names
from aloe.evaluation.settings import EvaluateSettings
from aloe.evaluation.tasks import TASKS
from aloe.train.align.settings import AlignSettings
from aloe.train.finetune.settings import FinetuneSettings

SETTINGS = (
    *(AlignSettings, FinetuneSettings, EvaluateSettings, DenseSettings, CorrespondenceSettings, PairSettings),
    *(StudySettings, ExplainSettings, AttributeSettings, NeighboursSettings, ExportSettings, GroundSettings),
)
GIVEN = {StudySettings: {"methods": ("a", "b")}}
NUMBERS = (int, float, int | None, float | None)


def numbers(model):
    return [name for name, field in model.model_fields.items() if field.annotation in NUMBERS]


def wrong_values(model, name):
    """Below, above, not finite, empty, of a wrong type, and of twenty digits."""
    field = model.model_fields[name]
    yield from (float("nan"), float("inf"), float("-inf"), "", "x", [], {}, -(10**20), True, "1_0", "\u0663")
    if field.annotation in (int, int | None):
        yield from (10**20, 0.5)
    for bound in field.metadata:
        for attribute, step in (("ge", -1), ("gt", 0), ("le", 1), ("lt", 0)):
            if (value := getattr(bound, attribute, None)) is not None:
                yield value + step


CASES = [(model, name, value) for model in SETTINGS for name in numbers(model) for value in wrong_values(model, name)]


def test_there_are_cases():
    assert len(CASES) > 400
    assert {model for model, *_ in CASES} == set(SETTINGS)


@pytest.mark.parametrize(("model", "name", "value"), CASES, ids=lambda v: getattr(v, "__name__", str(v)))
def test_a_value_that_cannot_be_names_its_field(model, name, value):
    with pytest.raises(UserError, match=rf"^Wrong settings: .*\b{name}: ") as told:
        model.of(**{**GIVEN.get(model, {}), name: value})
    assert "\n" not in str(told.value)


FLAGS = [(task, name) for task in TASKS for name in sorted(KNOWN - set(TASKS[task].reads))]


@pytest.mark.parametrize(("task", "name"), FLAGS)
def test_what_no_task_reads_is_refused_with_those_that_do(task, name):
    with pytest.raises(UserError) as told:
        check_read([name], [task])
    words = str(told.value)
    readers = [t for t in TASKS if name in TASKS[t].reads]
    assert readers
    assert words.startswith(f"{name} is not read by {task}, but by ")
    assert all(t in words for t in readers)
    check_read([name], [task, readers[0]])


def test_what_is_read():
    for name, task in TASKS.items():
        check_read(task.reads, [name])
        assert set(task.reads) <= KNOWN
    with pytest.raises(UserError, match="ks is no setting of knn, did you mean k; settings"):
        check_read(["ks"], ["knn"])
    assert read_by({"k": 1, "reference": "x"}, ["knn"]) == {"k": 1}


def test_tasks_by_name():
    assert task_names(["KNN", " linear", "knn"]) == ["knn", "linear"]
    for words in ([], [""], ["kn"], ["magic"]):
        with pytest.raises(UserError, match="tasks: knn, linear"):
            task_names(words)


def test_flags_and_set():
    assert merged({"steps": 1, "seed": None}, {"b": 2}, {"steps", "b"}) == {"steps": 1, "b": 2}
    for pairs, words in (
        ({"steps": 2}, "steps is given twice, by --steps and by --set"),
        ({"steps": None}, "--set steps= has no value"),
        ({"images": "/nope"}, "images is an argument"),
        ({"device": "cpu"}, "device is an argument"),
    ):
        with pytest.raises(UserError, match=words):
            merged({"steps": 1 if pairs.get("steps") == 2 else None}, pairs, AlignSettings.model_fields)
    assert merged({}, {"images": 3}, KNOWN) == {"images": 3}


def test_workers_are_bounded_by_the_cores(capsys):
    cores = len(os.sched_getaffinity(0))
    assert [workers_here(n) for n in (0, 1, cores)] == [0, 1, cores]
    assert workers_here(1000) == cores
    assert f"1000 workers are asked for; {cores} are started" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize("device", ["meta", "gpu", "", "cuda:99", "cpu:x", 3.5])
def test_devices_that_are_not_here(device):
    with pytest.raises(UserError, match="device"):
        choose_device(device)
    assert choose_device("cpu") == "cpu"


def test_names():
    assert nearest("zoo:cifar10-alo", ["zoo:cifar10-vit", "zoo:cifar10-aloe"]) == "zoo:cifar10-aloe"
    assert nearest("lr", AlignSettings.model_fields) == "learning_rate"
    assert chosen(" CAT ", ["cat", "dog"]) == "cat"
    assert chosen("CAT", ["cat", "Cat"]) is None
    assert meant("x", ["abc"], "tasks") == "; tasks: abc."


def test_products_of_counts_are_bounded():
    data = {"vary": {"steps": list(range(1, 102)), "fraction": [0.5] * 100}, "data": ["cifar10"]}
    with pytest.raises(ValueError, match="101 values of steps x 100 values of fraction x 1 seeds are 10100, more than"):
        SweepPlan(**data)
    settings = StudySettings(methods=("a", "b"), trials=10_000, practice=0, repeats=0)
    with pytest.raises(UserError, match="1000 participants x 10"):
        simulate(settings, 4, 1000, Preferences({"a": 0.0, "b": 1.0}))
    with pytest.raises(
        UserError, match="10000 participants x 4950 pairs of methods are 49500000, more than the 10000000"
    ):
        power(0.5, 10_000, 10, methods=100)
    answers = simulate(StudySettings(methods=("a", "b"), trials=4, repeats=0), 4, 3, Preferences({"a": 0.0, "b": 0.5}))
    with pytest.raises(UserError, match="5000000 samples x 4 rates of winning are 20000000"):
        fit(answers, samples=5_000_000)
