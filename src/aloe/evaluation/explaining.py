"""Attribution methods measured on labelled images: the grid pointing game, pixel deletion and, where object masks are known,
the share of the attribution inside the object. One row for each model and method.

All models of a run are compared on the same images: those that every one of them classifies correctly and with confidence.
The grids are kept in the results folder and named in every row, so that a later model can be measured on them as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aloe.attribution.methods import check_options, find_method, find_methods, unsupported
from aloe.attribution.presets import PRESETS, preset_options
from aloe.core.errors import UserError
from aloe.core.progress import Bar
from aloe.evaluation.explained_cases import Common, Explainer, stored_grids
from aloe.evaluation.explained_tasks import PREPARE
from aloe.evaluation.results import ResultLog, Row, row_key
from aloe.evaluation.tasks import Case, Outcome, class_of_logit
from aloe.metrics.gridpg import check_smooth

EXPLAINING = ("gridpg", "deletion", "inside", "clarity")


def measure_explanations(
    cases: Sequence[Case],
    tasks: Sequence[str],
    facts_of: Callable[[Case, str, dict[str, Any], tuple[str, ...]], dict[str, Any]],
    row_of: Callable[[Case, dict[str, Any], Outcome, float], Row],
    log: ResultLog | None,
) -> list[Row]:
    """Rows of `tasks` (of `EXPLAINING`) for all models, one case each, on one data set.

    Raises:
        UserError: a model without a classifier of these classes, too few images that all of them classify with confidence,
            images without masks, or a method that no model can be explained with.
    """
    chosen = cases[0].settings
    methods = find_methods(chosen.methods)
    reasons = [unsupported(case.model, method.key) for case in cases for method in methods]
    if all(reasons):
        raise UserError(f"Nothing can be explained: {'; '.join(str(r) for r in dict.fromkeys(reasons))}.")
    common = Common(cases)
    rows: list[Row] = []
    problems: list[str] = []
    for task in tasks:
        try:
            prepared = PREPARE[task](common)
        except UserError as error:  # the other tasks are measured all the same
            problems.append(f"{task}: {error}")
            continue
        for case in cases:
            for method in methods:
                if unsupported(case.model, method.key) is not None:
                    continue
                given = preset_options(chosen.preset, method.key, chosen.options.get(method.key))
                settings = {**prepared.of_method(method.key), "preset": chosen.preset, "method": method.key}
                settings["options"] = method.resolved(given, case.model)
                facts = facts_of(case, task, settings, ("test",))
                row = _known(log, facts) if log is not None else None
                if row is None:
                    start = time.perf_counter()
                    title = f"{Path(case.name).name} {task} {method.title}" if case.progress else None
                    with Bar(title) as bar:
                        outcome = prepared.run(case, Explainer(case, method.key), bar.update)
                    outcome = replace(outcome, details={"method": method.key, **outcome.details})
                    row = row_of(case, facts, outcome, time.perf_counter() - start)
                    if log is not None:
                        log.add(row)
                rows.append(row)
    if problems:
        others = [task for task in tasks if not any(problem.startswith(f"{task}: ") for problem in problems)]
        kept = f" The rows of {', '.join(others)} are kept." if others and log is not None else ""
        raise UserError(" ".join(problems) + kept)
    return rows


def check_explanations(case: Case, tasks: Sequence[str]) -> None:
    """What can be said before any work is done.

    Raises:
        UserError: labels, masks, the classifier or the method is missing.
    """
    find_methods(case.settings.methods)
    for name, options in case.settings.options.items():
        check_options(find_method(name), options)
    if case.splits.test.labels is None:
        raise UserError(f"{case.splits.name} has no labels (one folder per class), which {', '.join(tasks)} need.")
    if "gridpg" in tasks:
        _check_grids(case)
    if "inside" in tasks and not hasattr(case.splits.test, "mask"):
        raise UserError(f"{case.splits.name} has no object masks, which task inside needs; rendered scenes have them.")
    classifier = getattr(case.model, "classifier", None)
    if classifier is None:
        raise UserError(
            f"{case.name} has no classifier to explain: fit one (aloe evaluate linear) and name its folder under probes/."
        )
    if class_of_logit(case.model.config, len(next(classifier.parameters())), case.classes) is None:
        asked = ", ".join(tasks)
        raise UserError(
            f"{asked}: the classifier of {case.name} does not know all classes of {case.splits.name} by name; leave {asked} "
            "out, or fit a classifier on them (aloe evaluate linear)."
        )


def _check_grids(case: Case) -> None:
    """What GridPG's settings ask of the stored grids and of the model's own size."""
    chosen = case.settings
    for name in chosen.first_grids:
        find_method(name)
    n = chosen.grid_size
    if chosen.grids_file is not None:
        n = stored_grids(chosen.grids_file, case.splits.test).n
    side = chosen.resolution or case.model.side()
    check_smooth(chosen.smooth, side // n if chosen.protocol == "resized" else side)


def _known(log: ResultLog, facts: dict[str, Any]) -> Row | None:
    """The row that was measured, perhaps under the other preset, where that gives the method the same options."""
    key = row_key(facts)
    if (row := log.get(key)) is not None:
        return row
    for preset in PRESETS:
        twin = log.get(row_key({**facts, "settings": {**facts["settings"], "preset": preset}}))
        if twin is not None:
            log.add({**twin, "key": key, "settings": facts["settings"]})
            return log.get(key)
    return None
