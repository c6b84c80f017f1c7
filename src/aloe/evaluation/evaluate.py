"""`evaluate` and `evaluate_all`: models x data x tasks to result rows, resumable, nothing skipped in silence."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from torch import nn

from aloe.attribution.methods import find_methods
from aloe.core import processes
from aloe.core.bounds import check_batch
from aloe.core.devices import choose_device
from aloe.core.errors import UserError
from aloe.core.torch_state import default_device, in_plain_torch
from aloe.data.benchmarks import open_benchmark, pair
from aloe.data.places import check_output
from aloe.data.splits import Splits, alone
from aloe.data.states import earlier_states
from aloe.evaluation.backbones import load_any, model_fingerprint
from aloe.evaluation.cache import archives_in_cache
from aloe.evaluation.case import ImageCase
from aloe.evaluation.dense.tasks import DenseSet, FrameCase, FrameSettings, draw_probes, tell_apart
from aloe.evaluation.explained_cases import map_cases
from aloe.evaluation.reads import check_read, task_names
from aloe.evaluation.results import ResultLog, Row, describe, row_key, versions
from aloe.evaluation.settings import EvaluateSettings
from aloe.evaluation.task import Case
from aloe.evaluation.tasks import TASKS
from aloe.evaluation.together import extract_together
from aloe.models.teachers import Teacher
from aloe.models.unwrap import unwrapped

Data = str | Path | tuple[str | Path | None, str | Path] | Splits


@in_plain_torch
@archives_in_cache
def evaluate(
    model: str | Path | Teacher | nn.Module,
    task: str,
    data: Data,
    *,
    device: str | None = None,
    cache: Path | None = None,
    progress: bool = False,
    **settings: Any,
) -> Row:
    """One result row: `task` for one model on one data set.

    Args:
        model: a folder, a hub id, a `Teacher`, or a student.
        task: `knn`, `linear`, `zeroshot`, `classifier` (the model's own), `cosine` (to a teacher); or `gridpg`, `deletion`,
            `inside`, `clarity` of one of the attribution `methods`; or `depth`, `normals`, `correspondence` of frames.
        data: a registered name, `NAME=PATH`, a path with train and test parts, a pair (train, test), or `Splits`; the
            tasks that need no training images take (None, test), and cosine images without labels.
        device: `cpu`, `cuda`, ...; default: the best one there is.
        cache: folder of cached features, see `aloe.evaluation.cache.default_cache`; default: nothing is kept.
        settings: see `EvaluateSettings`.

    Raises:
        UserError: anything in the arguments or the data that the user can mend.
    """
    (task,), device = task_names([task]), choose_device(device or default_device())
    check_read(settings, [task])
    job = _Job([task], settings, device, cache, progress, None)
    opened = job.open(data)
    job.check([opened])
    case = job.case(_name(model), unwrapped(model) if isinstance(model, nn.Module) else load_any(model), opened)
    _check(task, case)
    if TASKS[task].on == "maps":
        if len(find_methods(case.settings.methods)) != 1:
            raise UserError(f"evaluate gives one row: name one of the methods for {task}, or use evaluate_all.")
        (case,) = map_cases([case])
    return _measure(task, case, _facts(task, case))


@in_plain_torch
@archives_in_cache
def evaluate_all(
    models: str | Sequence[str],
    tasks: str | Sequence[str],
    data: str | Path | Sequence[Data],
    output_dir: Path,
    *,
    device: str | None = None,
    cache: Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> list[Row]:
    """Every task for every model on every data set; rows that `output_dir/results.jsonl` holds are not measured again.

    Raises:
        UserError: before any work, every data set, or every model, that cannot be opened or cannot do a task; later, the
            first measurement that cannot be made. Rows measured until then are kept.
    """
    tasks, device = task_names(tasks), choose_device(device or default_device())
    models = [models] if isinstance(models, str) else models
    data = [data] if isinstance(data, str | Path) else data
    check_read(settings, tasks)
    job = _Job(tasks, settings, device, cache, progress, output_dir, tuple(models))
    log = None
    if output_dir is not None:
        check_output([path for one in data for path in _paths(one)], output_dir)
        log = ResultLog(output_dir)
    opened, problems = processes.after_first(lambda: _open_all(job, data))
    asked = _check_all(job, opened)
    if problems := [*problems, *asked.problems]:
        raise UserError(" ".join(dict.fromkeys(problems)))
    processes.check_same(asked.read)
    alone, compared = ([t for t in tasks if (TASKS[t].on == "maps") is maps] for maps in (False, True))
    if not job.frames and cache is not None and len(models) > 1 and alone:
        _extract_together(job, alone, opened, log)
    rows = []
    for name in models if alone else ():
        model = load_any(name)
        for one in opened:
            case = job.case(name, model, one)
            rows += [_row(task, case, _facts(task, case), log) for task in alone]
    for one in opened if compared else ():
        rows += _compared(compared, [_as_written(job.case(name, load_any(name), one)) for name in models], log)
    if job.frames and log is not None and processes.is_first():
        draw_probes(opened, job.settings, log)
    return rows


class _Job:
    """What all cases of a run share: settings, device, and where things are kept."""

    def __init__(
        self,
        tasks: Sequence[str],
        settings: dict[str, Any],
        device: str,
        cache: Path | None,
        progress: bool,
        output_dir: Path | None,
        models: tuple[str, ...] = (),
    ) -> None:
        self.tasks, self.models = tasks, models
        self.frames = any(TASKS[task].on == "frames" for task in tasks)
        self.settings: Any = FrameSettings(tasks, settings) if self.frames else EvaluateSettings.of(**settings)
        self.others: Any = {"device": device, "cache": cache, "progress": progress, "output_dir": output_dir}

    def open(self, data: Data) -> Any:
        """A data set, in the form that the tasks read."""
        return DenseSet(_spec(data), self.tasks, self.settings.pairs) if self.frames else open_data(data)

    def check(self, opened: Sequence[Any]) -> None:
        """Hold all data sets against the settings; raises UserError for fewer images than a batch."""
        if self.frames:
            tell_apart(opened, self.tasks)
        elif sizes := [len(part) for splits in opened for part in (splits.train, splits.test) if part is not None]:
            check_batch(self.settings.batch_size, max(sizes))

    def case(self, name: str, model: Any, opened: Any) -> Any:
        """A model on one of them."""
        common = {"name": name, "model": model, "settings": self.settings, **self.others}
        if self.frames:
            return FrameCase(**common, frames=opened)
        return ImageCase(**common, splits=opened, models=self.models)


def _as_written(case: ImageCase) -> ImageCase:
    """A case of a model that is not compiled, as explanations are of models as they are written."""
    return replace(case, settings=case.settings.model_copy(update={"compile": False}))


def _spec(data: Data) -> str:
    """How dense data are named."""
    if not isinstance(data, str | Path):
        raise UserError(
            "Depth, normals and correspondence take --data rgbd=PATH, nyuv2=PATH, rendered, navi=PATH or scannet=PATH."
        )
    return str(data)


def _paths(data: Data) -> list[str]:
    """Where data may lie: what stands behind NAME=, and of a pair both."""
    specs = data if isinstance(data, tuple | list) else [data]
    return [str(s).partition("=")[2] or str(s) for s in specs if isinstance(s, str | Path)]


def _name(model: Any) -> str:
    if isinstance(model, Teacher):
        return model.title
    return type(model).__name__ if isinstance(model, nn.Module) else str(model)


def _check(name: str, case: Case) -> dict[str, str]:
    """Raises UserError for a task that a case cannot do; where several processes read, fingerprints of what they read."""
    task = TASKS[name]
    case.check(name, task)
    if task.check is None:
        task.settings(case)
    else:
        task.check(case, name)
    return _fingerprints(case, task.parts) if processes.count() > 1 else {}


def _fingerprints(case: Case, parts: Sequence[str]) -> dict[str, str]:
    return {"model": model_fingerprint(case.model), **_states(case, parts)}


def _states(case: Case, parts: Sequence[str]) -> dict[str, str]:
    states = {part: case.state(part) for part in parts}
    return {part: state for part, state in states.items() if state is not None}


def _facts(name: str, case: Case) -> dict[str, Any]:
    """What determines a row, and the names under which it is shown."""
    task = TASKS[name]
    return {
        "task": name,
        "settings": task.settings(case),
        "fingerprints": _fingerprints(case, task.parts),
        "versions": versions(*task.versions),
        "device": case.device.split(":")[0],
        "model": case.name,
        **describe(case.name, case.model),
        "data": case.data(task.parts),
        "metric": task.metric or case.metric,
    }


def _row(name: str, case: Case, facts: dict[str, Any], log: ResultLog | None) -> Row:
    """The row of these facts: of the results folder, or measured and added to it."""
    row = _known(name, case, facts, log)
    if row is None:
        row = _measure(name, case, facts)
        if log is not None:
            log.add(row)
    return row


def _known(name: str, case: Case, facts: dict[str, Any], log: ResultLog | None) -> Row | None:
    """The row of these facts in the results folder, perhaps under a state that large data once had."""
    row = None if log is None else log.find(facts)
    if log is None or row is not None:
        return row
    with earlier_states():
        states = processes.of_first(lambda: _states(case, TASKS[name].parts))  # a copy elsewhere has other inodes
    earlier = {**facts, "fingerprints": {**facts["fingerprints"], **states}}
    if earlier == facts or (row := log.find(earlier)) is None:
        return None
    row = {**row, "key": row_key(facts), "fingerprints": facts["fingerprints"]}
    log.add(row)
    return row


def _measure(name: str, case: Case, facts: dict[str, Any]) -> Row:
    start, task = time.perf_counter(), TASKS[name]
    outcome = task.run(case, facts)
    seconds = time.perf_counter() - start
    official, notes = case.standing(task.parts, outcome)
    return {
        "key": row_key(facts),
        **{key: facts[key] for key in ("task", "model", *describe(case.name, case.model), "data", "metric")},
        "value": outcome.value,
        "official": official and outcome.official,
        "notes": notes,
        "counts": outcome.counts,
        "details": outcome.details,
        **{key: facts[key] for key in ("settings", "fingerprints", "versions", "device")},
        "seconds": round(seconds, 1),
    }


def _compared(tasks: Sequence[str], cases: Sequence[ImageCase], log: ResultLog | None) -> list[Row]:
    """Rows of the measures of explanations for all models on one data set.

    Raises:
        UserError: too few images that all models classify with confidence, in the words of every task that lacks them; the
            other tasks are measured all the same.
    """
    explained = map_cases(cases)
    rows: list[Row] = []
    problems: dict[str, str] = {}
    for task in tasks:
        try:
            facts = [_facts(task, case) for case in explained]
        except UserError as error:
            problems[task] = f"{task}: {error}"
            continue
        rows += [_row(task, *each, log) for each in zip(explained, facts, strict=True)]
    if problems:
        others = [task for task in tasks if task not in problems]
        kept = f" The rows of {', '.join(others)} are kept." if others and log is not None else ""
        raise UserError(" ".join(problems.values()) + kept)
    return rows


def _extract_together(job: _Job, tasks: Sequence[str], opened: Sequence[Any], log: ResultLog | None) -> None:
    """Features that several models need of the same images, each image decoded once."""
    if processes.count() > 1:  # each model's images are dealt out to them instead
        return
    loaded = {name: load_any(name) for name in dict.fromkeys(job.models)}
    for splits in opened:
        cases = [job.case(name, model, splits) for name, model in loaded.items()]
        extract_together([(c, [t for t in tasks if _known(t, c, _facts(t, c), log) is None]) for c in cases])


def open_data(data: Data) -> Splits:
    if isinstance(data, Splits):
        return data
    if not isinstance(data, tuple):
        return open_benchmark(str(data))
    train, test = data
    return alone(test) if train is None else pair(train, test)


def _open_all(job: _Job, data: Sequence[Data]) -> tuple[list[Any], list[str]]:
    """What could be opened, and what is wrong with the rest."""
    if not data:
        raise UserError("Name at least one data set: --data NAME, --data NAME=PATH, or --train and --test.")
    opened, problems = [], []
    for item in data:
        try:
            opened.append(job.open(item))
        except UserError as error:
            problems.append(str(error))
    job.check(opened)
    return opened, problems


@dataclass(frozen=True)
class _Asked:
    """What is wrong, in sentences; and hashes of what is read, where several processes have to read the same."""

    problems: list[str] = field(default_factory=list)
    read: dict[str, str] = field(default_factory=dict)


def _check_all(job: _Job, opened: Sequence[Any]) -> _Asked:
    """Every model loaded once and every task asked what it needs, so that what is wrong stops the run at its start."""
    if not job.models:
        raise UserError("Name at least one model.")
    asked = _Asked()
    for name in dict.fromkeys(job.models):
        try:
            model = load_any(name)
        except UserError as error:
            asked.problems.append(str(error))
            continue
        for one, task in product(opened, job.tasks):
            case = job.case(name, model, one)
            try:
                prints = _check(task, case)
            except UserError as error:
                asked.problems.append(str(error))
                continue
            data = case.data(TASKS[task].parts)
            titles = {part: f"{data} ({part})" for part in prints} | {"model": f"model ({name})"}
            asked.read.update({titles[part]: value for part, value in prints.items()})
    return asked
