"""`aloe sweep` from end to end on a few rendered scenes: rows, going on, refusals, a run that diverges."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from aloe.apps.sweep import folder as folder_module
from aloe.apps.sweep import run as runs
from aloe.apps.sweep.plan import SweepPlan
from aloe.apps.sweep.run import Sweep
from aloe.core.errors import UserError
from aloe.data.sources import SceneImages
from aloe.evaluation.results import ResultLog
from aloe.report.files import write_report
from aloe.report.sweep_rows import SweepRow, read_sweep
from aloe.train.align.settings import usual_rate
from aloe.train.stopping import Diverged
from conftest import build_teacher

SETTINGS = {"steps": 2, "batch_size": 4, "workers": 0, "calibrate": False, "log_every": 1}
GRID = {"objective": ["cosine", "mse"], "fraction": [0.25, 1]}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A random teacher and rendered scenes in class folders, three for training and one for the test of each class."""
    folder, scenes = tmp_path_factory.mktemp("sweep"), SceneImages(40, seed=1, resolution=32)
    build_teacher("vit").model.save_pretrained(folder / "teacher")
    for i, label in enumerate(scenes.labels):
        place = folder / ("test" if i >= 30 else "train") / scenes.classes[label]
        place.mkdir(parents=True, exist_ok=True)
        scenes.load(i).save(place / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def done(home):
    """A finished sweep of four runs."""
    make(home, home / "sweep").run(progress=False)
    return home / "sweep"


@pytest.fixture
def copy(done, tmp_path):
    return shutil.copytree(done, tmp_path / "sweep")


def make(home, output, **values):
    data = {"train": str(home / "train"), "test": str(home / "test"), "train_images": 25, "evaluate": {"k": 3}}
    plan = {"vary": GRID, "settings": SETTINGS, **data, **values}
    return Sweep(str(home / "teacher"), str(home / "train"), output, SweepPlan.of(**plan))


def told(rows):
    """Rows without the times and places that no two sweeps share."""
    kept = []
    for row in rows:
        results = [(r.task, r.value, r.counts, r.fingerprints) for r in row.results]
        kept.append((row.key, row.run, row.status, row.configuration, results))
    return kept


def test_a_row_per_run_with_its_configuration_and_numbers(done):
    rows = read_sweep(done)
    assert [(r.configuration["objective"], r.configuration["fraction"]) for r in rows] == [
        (objective, fraction) for objective in ("cosine", "mse") for fraction in (0.25, 1.0)
    ]
    for row in rows:
        assert (row.status, row.seed, row.configuration["steps"]) == ("finished", 0, 2)
        (result,) = row.results
        assert (result.task, result.counts, result.settings["k"]) == ("knn", {"train": 25, "test": 10}, [3])
        assert not list((done / "runs" / row.run).glob("checkpoint-*"))
    assert len({row.results[0].fingerprints["model"] for row in rows}) == 4
    (teacher,) = map(json.loads, (done / "results.jsonl").read_text().splitlines())
    assert teacher["stage"] == "teacher"


def test_the_student_of_a_whole_fraction_is_that_of_align(home, done, tmp_path):
    from aloe.models.fingerprint import fingerprint
    from aloe.models.saving import load
    from aloe.train.align.run import align

    alone = align(home / "teacher", home / "train", tmp_path / "alone", holdout=0, progress=False, **SETTINGS)
    row = next(
        r for r in read_sweep(done) if (r.configuration["objective"], r.configuration["fraction"]) == ("cosine", 1)
    )
    assert fingerprint(load(done / "runs" / row.run)) == fingerprint(alone)


def test_the_same_command_again_does_nothing(home, copy, monkeypatch):
    before = (copy / "sweep.jsonl").read_bytes()
    monkeypatch.setattr(runs, "align", lambda *_, **__: pytest.fail("aligned again"))
    assert told(make(home, copy).run(progress=False)) == told(read_sweep(copy))
    assert (copy / "sweep.jsonl").read_bytes() == before


@pytest.mark.parametrize("when", ["before a run", "between alignment and evaluation"])
def test_an_interrupted_sweep_goes_on_to_the_same_rows(home, done, tmp_path, monkeypatch, when):
    output, calls, grid = tmp_path / "sweep", [], {"objective": ["cosine", "mse"]}
    name, at = ("align", 2) if when == "before a run" else ("evaluate_all", 3)  # which first has the teacher
    real = getattr(runs, name)

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(runs, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(home, output, vary=grid).run(progress=False)
    assert len(read_sweep(output)) == 1
    with (output / "sweep.jsonl").open("a") as file:
        file.write('{"key": "cut o')
    whole = [row for row in read_sweep(done) if row.configuration["fraction"] == 1]
    assert told(make(home, output, vary=grid).run(progress=False)) == told(whole)


def test_more_values_seeds_and_tasks_add_to_a_sweep(home, copy):
    few = {"vary": {"objective": ["mse"]}, "seeds": [0, 1], "tasks": ["knn", "cosine"]}
    job = make(home, copy, **few)
    assert [job.state(run) for run in job.runs] == ["begun", "to do"]  # a number of the first one is missing
    rows = job.run(progress=False)
    assert [[r.task for r in row.results] for row in rows] == [["knn", "cosine"]] * 2
    assert len(read_sweep(copy)) == 5
    assert len((copy / "results.jsonl").read_text().splitlines()) == 1  # a teacher has no cosine to itself


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"settings": {**SETTINGS, "steps": 3}}, "steps was 2, now 3"),
        ({"evaluate": {"k": 4}}, "evaluation was"),
    ],
)
def test_another_fixed_setting_is_refused_and_nothing_is_lost(home, copy, values, words):
    before = (copy / "sweep.jsonl").read_bytes()
    with pytest.raises(UserError, match=words):
        make(home, copy, **values).run(progress=False)
    assert (copy / "sweep.jsonl").read_bytes() == before


def test_a_setting_that_is_varied_may_differ_from_the_one_it_was_fixed_at(home, copy):
    job = make(home, copy, vary={"steps": [2]}, settings={k: v for k, v in SETTINGS.items() if k != "steps"})
    assert [job.state(run) for run in job.runs] == ["finished"]  # cosine on all images
    assert len(job.run(progress=False)) == 1


def test_a_sweep_has_one_usual_rate_and_takes_more_batches_one_at_a_time(home, tmp_path):
    settings = {k: v for k, v in SETTINGS.items() if k != "batch_size"}
    for batch in (4, 2):
        make(home, tmp_path / "sweep", vary={"batch_size": [batch]}, settings=settings).run(progress=False)
    known = {
        (row.configuration["batch_size"], row.configuration["learning_rate"]) for row in read_sweep(tmp_path / "sweep")
    }
    rate = usual_rate(16, 2, 128)  # of the recipe's batch
    assert known == {(4, rate), (2, rate)}
    assert "batch_size" in json.dumps(write_report([tmp_path / "sweep"], tmp_path / "report").summary())
    for run in (tmp_path / "sweep" / runs.RUNS).iterdir():
        assert json.loads((run / "run.json").read_text())["learning_rate"] == rate
    of_then = make(home, tmp_path / "sweep", vary={"batch_size": [2]}, settings={**settings, "learning_rate": 1e-3})
    with pytest.raises(UserError, match="learning_rate was"):
        of_then.run(progress=False)


def test_a_rate_that_was_the_default_leaves_a_run_the_name_that_it_had(home, tmp_path):
    of_then, other = (
        make(home, tmp_path, settings={**SETTINGS, "learning_rate": rate}).runs[0] for rate in (1e-3, 2e-3)
    )
    without = {k: v for k, v in of_then.configuration.items() if k != "learning_rate"}
    assert runs.Run(of_then.point, without).key == of_then.key != other.key


def test_a_run_that_diverges_is_a_row_and_the_sweep_goes_on(home, tmp_path, monkeypatch):
    real = runs.align

    def fails(*arguments, **options):
        if options["objective"] == "cosine":
            raise Diverged("The loss became nan by step 2.")
        return real(*arguments, **options)

    monkeypatch.setattr(runs, "align", fails)
    rows = make(home, tmp_path / "sweep", vary={"objective": ["cosine", "mse"]}).run(progress=False)
    assert [(row.status, len(row.results)) for row in rows] == [("diverged", 0), ("finished", 1)]
    monkeypatch.setattr(runs, "align", lambda *_, **__: pytest.fail("aligned again"))
    assert make(home, tmp_path / "sweep", vary={"objective": ["cosine", "mse"]}).run(progress=False)[0].reason


def test_a_real_divergence_is_one(home, tmp_path):
    settings = {**SETTINGS, "learning_rate": 1e38, "max_grad_norm": 1e30, "steps": 4}
    (row,) = make(home, tmp_path / "sweep", vary={"objective": ["mse"]}, settings=settings).run(progress=False)
    assert row.status == "diverged"
    assert "finite" in row.reason or "nan" in row.reason


def words(home, output, *more):
    settings = [w for k, v in SETTINGS.items() for w in ("--set", f"{k}={json.dumps(v)}")]
    data = ["--train", home / "train", "--test", home / "test", "--train-images", 25, "--evaluate", "k=3", "--no-cache"]
    return ["sweep", home / "teacher", home / "train", "-o", output, *data, *settings, *more]


def test_the_command_lists_runs_and_reports(aloe, home, copy):
    vary = ["--vary", "objective=cosine,mse", "--vary", "fraction=0.25,1"]
    code, out, _ = aloe(*words(home, copy, *vary, "--seeds", "0,1", "--list"))
    assert code == 0
    assert (out.count("finished"), out.count("to do")) == (4, 4)
    code, out, err = aloe(*words(home, copy, *vary, "--json"))
    assert (code, len(json.loads(out)["rows"])) == (0, 4), err
    code, out, err = aloe("report", copy, "-o", "report")
    assert code == 0, err
    assert "InfoNCE" not in out
    assert "teacher: teacher" in out
    assert "fraction 25 %" in out  # the block of objectives on a quarter of the images
    assert "objective MSE" in out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--vary", "objective"], "--vary takes axis=value,value"),
        (["--vary", "objective=cosine,[mse"], "--vary takes values with commas"),
        (["--vary", "resolution=30"], "not a whole number of 8-pixel patches"),
        (["--vary", "after_block=[9]"], "after_block 9 does not exist"),
        (["--vary", "fraction=0.01"], "not one image"),
        (["--seeds", "a"], "seeds"),
        (["--config", "absent.yaml"], "cannot be read"),
        (["--tasks", "knm"], "knm"),
    ],
)
def test_a_wrong_word_is_one_sentence_and_leaves_nothing(aloe, home, tmp_path, more, said):
    code, _, err = aloe(*words(home, tmp_path / "new", *more))
    assert code == 2
    assert said in err
    assert err.startswith("aloe: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "new" / "runs").exists()


def test_a_plan_that_another_worker_writes_at_this_moment_is_ours(tmp_path, monkeypatch):
    listed = Path.iterdir

    def write_and_list(folder):
        (tmp_path / "sweep.json").write_text("{}")
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", write_and_list)
    folder_module.check_ours(tmp_path)


def test_a_folder_of_something_else_is_refused(aloe, home, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    code, _, err = aloe(*words(home, tmp_path / "full"))
    assert (code, "holds no sweep" in err) == (2, True)


def test_a_damaged_line_is_left_out_and_named(done, copy):
    """By the rule of results.jsonl, for those who go on with a sweep and those who report it."""
    path = copy / "sweep.jsonl"
    path.write_text("[" * 100_000 + "\n" + '{"key": 1}\n' + path.read_text())
    notes: list[str] = []
    assert len(read_sweep(copy, notes)) == len(read_sweep(done))
    assert [note[:7] for note in notes] == ["Line 1 ", "Line 2 "]
    assert all("left out" in note for note in notes)
    assert len(ResultLog(copy, "sweep.jsonl", SweepRow).rows) == len(read_sweep(done))
