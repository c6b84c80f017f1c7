"""`sweep`: every point of a plan aligned as `aloe align` does it and measured as `aloe evaluate` does it, resumable."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from aloe.apps.sweep.folder import RUNS, claim
from aloe.apps.sweep.plan import FRACTION, Point, SweepPlan
from aloe.apps.sweep.subset import nested, thinned
from aloe.core.errors import UserError
from aloe.core.progress import say
from aloe.data.places import check_output
from aloe.data.shards import ShardSource
from aloe.data.sources import open_source
from aloe.evaluation.backbones import load_any
from aloe.evaluation.cache import archives_in_cache
from aloe.evaluation.dense.tasks import DENSE
from aloe.evaluation.evaluate import Data, evaluate_all, open_data
from aloe.evaluation.reads import check_read, read_by, task_names
from aloe.evaluation.results import ResultLog, Row, row_key
from aloe.evaluation.settings import EvaluateSettings
from aloe.models.convert import student_config
from aloe.models.fingerprint import fingerprint
from aloe.models.teachers import Teacher, load_teacher
from aloe.report.rows import Result
from aloe.report.sweep_rows import SWEEP_NAME, SweepRow
from aloe.report.sweeps import Measure
from aloe.train.align.points import check_pair, resolve_blocks
from aloe.train.align.run import align
from aloe.train.align.settings import AlignSettings
from aloe.train.checkpoints import checkpoints
from aloe.train.runs import LATER, record, sole
from aloe.train.stopping import Diverged


@dataclass(frozen=True)
class Run:
    """A point with the folder it has in a sweep and all that makes it this run."""

    point: Point
    configuration: dict[str, Any]

    @cached_property
    def key(self) -> str:
        """Of what differs from the defaults, so that a setting which a later version adds leaves old runs what they are."""
        defaults = AlignSettings.model_construct().model_dump(mode="json")
        return row_key({k: v for k, v in self.configuration.items() if k not in defaults or defaults[k] != v})

    @property
    def name(self) -> str:
        """Readable, and another one for any other configuration."""
        chosen = self.point.settings
        return f"{chosen.objective}-{self.point.fraction:g}-seed{chosen.seed}-{self.key[:8]}"


class Sweep:
    """A plan with its teacher, images and folder, all opened and checked.

    Args:
        teacher: hub id or local folder. images: as `aloe.align` takes them. home: the folder, see `aloe.apps.sweep.folder`.

    Raises:
        UserError: any run that cannot be, before anything is written.
    """

    def __init__(self, teacher: str, images: str | Path | Sequence[str | Path], home: Path, plan: SweepPlan) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError("A sweep runs in one process; give several processes to `aloe align`.")
        check_output(images, home)
        points = plan.points()
        self.plan, self.home, self.teacher_name = plan, home, teacher
        self.source: Any = open_source(images)  # type: ignore[arg-type]
        self.teacher = load_teacher(teacher)
        for point in points:
            self._check(point)
        facts = {"teacher": self.teacher.name, "teacher_fingerprint": self._fingerprint()}
        self.runs = [Run(point, self._configuration(point, facts)) for point in points]

    @cached_property
    def log(self) -> ResultLog:
        return ResultLog(self.home, SWEEP_NAME, SweepRow)

    def state(self, run: Run) -> str:
        """finished, diverged, begun or to do; finished says that everything asked for is measured."""
        row = self.log.get(run.key)
        if row is None or (row["status"] == "finished" and not self._whole(row)):
            return "begun" if (self._folder(run) / "run.json").is_file() else "to do"
        return str(row["status"])

    def check(self) -> None:
        """What an evaluation of the runs will ask for.

        Raises:
            UserError: tasks, settings, data or other models that cannot be.
        """
        tasks = task_names(self.plan.tasks)
        check_read(self._evaluation(), tasks)
        if not set(tasks) & set(DENSE):
            EvaluateSettings.of(**self._evaluation())
        self._data()
        for model in self.plan.beside:
            load_any(model)

    @archives_in_cache
    def run(self, *, device: str = "cpu", cache: Path | None = None, progress: bool = True) -> list[SweepRow]:
        """All runs that are not done yet, and the rows of the whole plan.

        Raises:
            UserError: a folder of another sweep, data that cannot be evaluated on, or a run that cannot go on for another
                reason than that it diverged. What was done until then is kept.
        """
        plan = self.plan
        common: dict[str, Any] = {"device": device, "cache": cache, "progress": progress}
        options = self._evaluation()
        sets = self._data()
        evaluation = {**plan.evaluate, "train_images": plan.train_images, "test_images": plan.test_images}
        claim(self.home, [run.configuration for run in self.runs], {*plan.vary, "seed"}, evaluation)
        with sole(self.home):
            for model in (self.teacher_name, *plan.beside):
                if tasks := [t for t in plan.tasks if t != "cosine" or not isinstance(load_any(model), Teacher)]:
                    evaluate_all([model], tasks, sets, self.home, **read_by(options, tasks), **common)
            todo = [run for run in self.runs if self.state(run) not in ("finished", "diverged")]
            clock = _Clock(len(self.runs), len(todo), progress)
            for run in todo:
                clock.begin(run)
                self.log.add(self._row(run, sets, {**options, **common}).model_dump(mode="json"))
                if self.state(run) == "finished":  # a diverged run's last checkpoint is kept
                    for path in checkpoints(self._folder(run)):
                        shutil.rmtree(path)
        return [SweepRow.model_validate(self.log.rows[run.key]) for run in self.runs]

    def _row(self, run: Run, sets: list[Data], options: dict[str, Any]) -> SweepRow:
        """The run's row, with what an earlier row of it holds of other tasks and data."""
        start, point, home = time.perf_counter(), run.point, self._folder(run)
        known = self.log.get(run.key)
        before = SweepRow.model_validate(known) if known else None
        found: dict[str, Any] = {"asked": [*dict.fromkeys([*(before.asked if before else []), *self._asked()])]}
        try:
            part = nested(self.source, point.fraction, point.settings.seed)
            given = {**point.given, "recipe": point.recipe}
            align(self.teacher, part, home, device=options["device"], progress=options["progress"], **given)
        except Diverged as error:
            found = {"status": "diverged", "reason": str(error)}
        else:
            measured = map(
                Result.model_validate, evaluate_all([str(home)], list(self.plan.tasks), sets, home, **options)
            )
            results = {Measure.of(row): row for row in (*(before.results if before else []), *measured)}
            found["results"] = list(results.values())
        row = before or SweepRow(
            key=run.key,
            run=run.name,
            teacher=self.teacher.name,
            status="finished",
            configuration=run.configuration,
        )
        return row.model_copy(update={**found, "seconds": round(row.seconds + time.perf_counter() - start, 1)})

    def _folder(self, run: Run) -> Path:
        return self.home / RUNS / run.name

    def _whole(self, row: Row) -> bool:
        """Whether a finished run has been measured on everything asked for."""
        return set(self._asked()) <= set(row["asked"])

    def _asked(self) -> list[str]:
        """What is measured of every run, a word for each task on each of the data."""
        plan = self.plan
        pairs = [f"{plan.train or ''} {plan.test}"] if plan.test else []
        return [f"{task} {spec}" for task in plan.tasks for spec in (*plan.data, *pairs)]

    def _data(self) -> list[Data]:
        plan = self.plan
        if any(task in DENSE for task in plan.tasks):
            return list(plan.data)
        pairs: list[Data] = [(plan.train, plan.test)] if plan.test else []
        opened = map(open_data, [*plan.data, *pairs])
        return [thinned(splits, plan.train_images, plan.test_images) for splits in opened]

    def _evaluation(self) -> dict[str, Any]:
        return {**({"reference": self.teacher_name} if "cosine" in self.plan.tasks else {}), **self.plan.evaluate}

    def _check(self, point: Point) -> None:
        chosen = point.settings
        config = student_config(self.teacher, chosen.stem, chosen.b)
        for side in (chosen.resolution or config.resolution, *(chosen.resolutions or [])):
            check_pair(config, self.teacher, side)
        resolve_blocks(chosen.after_block, self.teacher.num_layers)
        if isinstance(self.source, ShardSource) and point.fraction < 1:
            raise UserError("A stream of shards has no fractions; give a folder, an archive or hf:... to vary them.")
        if not isinstance(self.source, ShardSource):
            nested(self.source, point.fraction, chosen.seed)

    def _configuration(self, point: Point, facts: dict[str, Any]) -> dict[str, Any]:
        known = record(point.settings, self.source, 1, **facts, **{FRACTION: point.fraction})
        known |= {name: getattr(point.settings, name) for name in LATER.keys() & self.plan.vary.keys()}
        return {k: v for k, v in known.items() if k not in ("versions", "image_count")}

    def _fingerprint(self) -> str:
        return fingerprint(self.teacher.model, self.teacher.mean, self.teacher.std)


class _Clock:
    """One line on standard error at the start of every run, with the time left by the runs before it."""

    def __init__(self, runs: int, todo: int, shows: bool) -> None:
        self.runs, self.todo, self.begun, self.shows = runs, todo, 0, shows
        self.start = time.perf_counter()

    def begin(self, run: Run) -> None:
        left = ""
        if self.begun:
            mean = (time.perf_counter() - self.start) / self.begun
            left = f", about {_duration(mean * (self.todo - self.begun))} left"
        self.begun += 1
        if self.shows:
            number = self.runs - self.todo + self.begun
            say(f"Run {number} of {self.runs}{left}: {run.point.words}")


def _duration(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
