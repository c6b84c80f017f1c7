"""`evaluate` and `evaluate_all`: models x data x tasks to result rows, resumable, nothing skipped in silence."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
from aloe.evaluation.backbones import load_any, model_fingerprint
from aloe.evaluation.cache import archives_in_cache
from aloe.evaluation.dense.tasks import DENSE, evaluate_dense
from aloe.evaluation.explaining import EXPLAINING, check_explanations, measure_explanations
from aloe.evaluation.reads import check_read, task_names
from aloe.evaluation.results import ResultLog, Row, describe, row_key, versions
from aloe.evaluation.settings import EvaluateSettings
from aloe.evaluation.tasks import TASKS, Case, Outcome
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
            `inside` of one of the attribution `methods`; or `depth`, `normals`, `correspondence` (see `probes.dense`).
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
    if task in DENSE:
        options = {"device": device, "cache": cache, "progress": progress, **settings}
        return evaluate_dense([model], [task], [_spec(data)], None, **options)[0]  # type: ignore[list-item]
    chosen = EvaluateSettings.of(**settings)
    splits = open_data(data)
    _check_batch(chosen, [splits])
    case = _case(_name(model), model, splits, chosen, device, cache, progress)
    if task in EXPLAINING:
        if len(find_methods(chosen.methods)) != 1:
            raise UserError(f"evaluate gives one row: name one of the methods for {task}, or use evaluate_all.")
        check_explanations(case, [task])
        return measure_explanations([case], [task], _facts, _row, None)[0]
    return _measure(case, task, _row_facts(case, task))


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
    if any(task in DENSE for task in tasks):
        specs, options = list(map(_spec, data)), {"device": device, "cache": cache, "progress": progress}
        return evaluate_dense(models, tasks, specs, output_dir, **options, **settings)  # type: ignore[arg-type]
    chosen = EvaluateSettings.of(**settings)
    check_output([path for one in data for path in _paths(one)], output_dir)
    log = ResultLog(output_dir)
    opened, problems = processes.after_first(lambda: _open_all(data))
    _check_batch(chosen, opened)
    asked = _check_all(
        models,
        tasks,
        opened,
        lambda name, model, splits: _case(name, model, splits, chosen, device, None, False, None, list(models)),
    )
    problems += asked.problems
    if problems:
        raise UserError(" ".join(dict.fromkeys(problems)))
    processes.check_same(asked.read)
    rows = []
    recognition, explaining = [t for t in tasks if t in TASKS], [t for t in tasks if t in EXPLAINING]
    if cache is not None and len(models) > 1 and recognition and os.environ.get("WORLD_SIZE", "1") == "1":
        loaded = {name: load_any(name) for name in dict.fromkeys(models)}
        for splits in opened:
            cases = [
                _case(n, m, splits, chosen, device, cache, progress, None, list(models)) for n, m in loaded.items()
            ]
            extract_together(
                [(c, [t for t in recognition if log.get(row_key(_row_facts(c, t))) is None]) for c in cases]
            )
        del loaded
    for name in models if recognition else ():
        model = load_any(name)
        for splits in opened:
            case = _case(name, model, splits, chosen, device, cache, progress, output_dir, list(models))
            for task in recognition:
                facts = _row_facts(case, task)
                row = log.get(row_key(facts))
                if row is None:
                    row = _measure(case, task, facts)
                    log.add(row)
                rows.append(row)
    for splits in opened if explaining else ():
        cases = [_case(n, n, splits, chosen, device, cache, progress, output_dir, list(models)) for n in models]
        rows += measure_explanations(cases, explaining, _facts, _row, log)
    return rows


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


def _case(
    name: str,
    model: Any,
    splits: Splits,
    settings: EvaluateSettings,
    device: str,
    cache: Path | None,
    progress: bool,
    output_dir: Path | None = None,
    models: Sequence[str] = (),
) -> Case:
    loaded = unwrapped(model) if isinstance(model, nn.Module) else load_any(model)
    return Case(name, loaded, splits, settings, device, cache, progress, output_dir, tuple(models))


def _row_facts(case: Case, task: str) -> dict[str, Any]:
    """What determines a row of a recognition task: its value, and the names under which it is shown."""
    chosen, name = TASKS[task], case.splits.name
    if "train" in chosen.parts and case.splits.train is None:
        raise UserError(f"Task {task} needs training images besides {name}: --train FOLDER with one folder per class.")
    if task != "cosine" and case.splits.test.labels is None:
        raise UserError(f"{name} has no labels (one folder per class), which task {task} needs.")
    return _facts(case, task, chosen.settings(case), chosen.parts)


def _facts(case: Case, task: str, settings: dict[str, Any], parts: Sequence[str]) -> dict[str, Any]:
    sources = {part: getattr(case.splits, part) for part in parts}
    return {
        "task": task,
        "settings": settings,
        "fingerprints": {
            "model": model_fingerprint(case.model),
            **{part: source.state()[:16] for part, source in sources.items() if source is not None},
        },
        # captum, which perturbations once ran on, stays part of the key, so that rows of then are found again
        "versions": versions("captum", "scikit-learn") if task in EXPLAINING else versions(),
        "device": case.device.split(":")[0],
        "model": case.name,
        **describe(case.name, case.model),
        "data": case.splits.name,
        "metric": _METRICS.get(task, case.splits.metric),
    }


def _measure(case: Case, task: str, facts: dict[str, Any]) -> Row:
    start = time.perf_counter()
    outcome = TASKS[task].run(case, facts)
    return _row(case, facts, outcome, time.perf_counter() - start, TASKS[task].parts)


def _row(case: Case, facts: dict[str, Any], outcome: Outcome, seconds: float, parts: Sequence[str] = ("test",)) -> Row:
    unreadable = (*case.unreadable(parts), *outcome.notes)
    shared = case.splits.shared if {"train", "test"} <= set(parts) else 0
    leak = (f"{shared} of the {len(case.splits.test)} test images are training images too",) if shared else ()
    return {
        "key": row_key(facts),
        **{key: facts[key] for key in ("task", "model", *describe(case.name, case.model), "data", "metric")},
        "value": outcome.value,
        "official": case.splits.official and not unreadable,
        "notes": [*case.splits.notes, *leak, *unreadable],
        "counts": outcome.counts,
        "details": outcome.details,
        **{key: facts[key] for key in ("settings", "fingerprints", "versions", "device")},
        "seconds": round(seconds, 1),
    }


_METRICS = {"cosine": "cosine", "gridpg": "GridPG", "deletion": "area", "inside": "inside", "clarity": "fine"}


def open_data(data: Data) -> Splits:
    if isinstance(data, Splits):
        return data
    if not isinstance(data, tuple):
        return open_benchmark(str(data))
    train, test = data
    return alone(test) if train is None else pair(train, test)


def _check_batch(settings: EvaluateSettings, opened: Sequence[Splits]) -> None:
    """Hold the batch against the largest part of the data; raises UserError."""
    if sizes := [len(part) for splits in opened for part in (splits.train, splits.test) if part is not None]:
        check_batch(settings.batch_size, max(sizes))


def _open_all(data: Sequence[Data]) -> tuple[list[Splits], list[str]]:
    """What could be opened, and what is wrong with the rest."""
    if not data:
        raise UserError("Name at least one data set: --data NAME, --data NAME=PATH, or --train and --test.")
    opened, problems = [], []
    for item in data:
        try:
            opened.append(open_data(item))
        except UserError as error:
            problems.append(str(error))
    return opened, problems


@dataclass(frozen=True)
class _Asked:
    """What is wrong, in sentences; and hashes of what is read, where several processes have to read the same."""

    problems: list[str] = field(default_factory=list)
    read: dict[str, str] = field(default_factory=dict)


def _check_all(
    models: Sequence[str], tasks: Sequence[str], opened: Sequence[Splits], case: Callable[[str, Any, Splits], Case]
) -> _Asked:
    """Every model loaded once and every task asked what it needs, so that what is wrong stops the run at its start."""
    if not models:
        raise UserError("Name at least one model.")
    found = _Asked()
    for name in dict.fromkeys(models):
        try:
            model = load_any(name)
        except UserError as error:
            found.problems.append(str(error))
            continue
        for splits in opened:
            for task in tasks:
                try:
                    one = case(name, model, splits)
                    if task in EXPLAINING:
                        check_explanations(one, [task])
                        facts = _facts(one, task, {}, ("test",)) if processes.count() > 1 else {}
                    else:
                        facts = _row_facts(one, task)
                    prints = facts.get("fingerprints", {})
                    titles = {part: f"{splits.name} ({part})" for part in prints} | {"model": f"model ({name})"}
                    found.read.update({titles[part]: value for part, value in prints.items()})
                except UserError as error:
                    found.problems.append(str(error))
    return found
