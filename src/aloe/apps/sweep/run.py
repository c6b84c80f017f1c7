"""`sweep`: every point of a plan aligned as `aloe align` does it and measured as `aloe evaluate` does it, resumable.

Any number of processes may run one sweep: each takes a cell that nobody has, and one whose holder died is taken again.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from aloe.apps.sweep.folder import RUNS, SweepFolder, check_ours, claim
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
from aloe.evaluation.results import Row, row_key
from aloe.evaluation.settings import EvaluateSettings
from aloe.models.convert import student_config
from aloe.models.fingerprint import fingerprint
from aloe.models.teachers import Teacher, load_teacher
from aloe.report.rows import Result
from aloe.report.sweep_rows import SweepRow
from aloe.report.sweeps import Measure
from aloe.train.align.points import check_pair, resolve_blocks
from aloe.train.align.run import align
from aloe.train.align.settings import AlignSettings
from aloe.train.checkpoints import checkpoints
from aloe.train.runs import FIRST_DEFAULTS, LATER, record
from aloe.train.stopping import Diverged


@dataclass(frozen=True)
class Run:
    """A point with the folder it has in a sweep and all that makes it this run."""

    point: Point
    configuration: dict[str, Any]

    @cached_property
    def key(self) -> str:
        """Of what differs from the defaults, so that a setting which a later version adds leaves old runs what they are."""
        defaults = {**AlignSettings.model_construct().model_dump(mode="json"), **FIRST_DEFAULTS}
        return row_key({k: v for k, v in self.configuration.items() if k not in defaults or defaults[k] != v})

    @property
    def name(self) -> str:
        """Readable, and another one for any other configuration."""
        settings = self.point.settings
        return f"{settings.objective}-{self.point.fraction:g}-seed{settings.seed}-{self.key[:8]}"


class Sweep:
    """A plan with its teacher, images and folder, all opened and checked.

    Args:
        teacher: hub id or local folder. images: as `aloe.align` takes them. home: the folder, see `aloe.apps.sweep.folder`.

    Raises:
        UserError: any run that cannot be, before anything is written.
    """

    def __init__(self, teacher: str, images: str | Path | Sequence[str | Path], home: Path, plan: SweepPlan) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(
                "A sweep is not started by torchrun; start `aloe sweep` several times, each takes the runs that nobody has."
            )
        check_output(images, home)
        points = plan.points()
        self.plan, self.home, self.teacher_name = plan, home, teacher
        self.source: Any = open_source(images)  # type: ignore[arg-type]
        self.teacher = load_teacher(teacher)
        for point in points:
            self._check(point)
        size = (self.teacher.width, self.teacher.num_layers, plan.images_per_step())
        points = [point.with_rate(*size) for point in points]
        facts = {"teacher": self.teacher.name, "teacher_fingerprint": self._fingerprint()}
        self.runs = [Run(point, self._configuration(point, facts)) for point in points]

    @cached_property
    def folder(self) -> SweepFolder:
        return SweepFolder(self.home)

    def state(self, run: Run, rows: Mapping[str, Row] | None = None) -> str:
        """finished, diverged, running, begun or to do; finished says that everything asked for is measured.

        Args:
            rows: those of `folder.rows()`, where many runs are asked about at once.
        """
        row = (self.folder.rows() if rows is None else rows).get(run.key)
        if row is not None and self._whole(row):
            return str(row["status"])
        if self.folder.is_taken(run.name):
            return "running"
        return "begun" if (self._place(run) / "run.json").is_file() else "to do"

    def cell(self, number: int) -> Run:
        """A run by its number in the grid, from 1.

        Raises:
            UserError: there is no such number.
        """
        if not 1 <= number <= len(self.runs):
            raise UserError(f"There is no cell {number}; the cells of this grid are 1 to {len(self.runs)}.")
        return self.runs[number - 1]

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
    def run(
        self, *, cell: int | None = None, device: str = "cpu", cache: Path | None = None, progress: bool = True
    ) -> list[SweepRow]:
        """All runs that are not done yet and that no other process works on.

        Args:
            cell: only the run of this number, from 1.

        Returns:
            The rows of the plan, or of the cell; without those that other processes work on.

        Raises:
            UserError: a folder of another sweep, data that cannot be evaluated on, a cell that another process works on, or
                a run that cannot go on for another reason than that it diverged. What was done until then is kept.
        """
        plan = self.plan
        runs = self.runs if cell is None else [self.cell(cell)]
        common: dict[str, Any] = {"device": device, "cache": cache, "progress": progress}
        options = self._evaluation()
        sets = self._data()
        evaluation = {**plan.evaluate, "train_images": plan.train_images, "test_images": plan.test_images}
        check_ours(self.home)
        with self.folder.alone():
            claim(self.home, [run.configuration for run in self.runs], {*plan.vary, "seed"}, evaluation)
        with self.folder.taken("models") as mine:
            for model in (self.teacher_name, *plan.beside) if mine else ():
                if tasks := [t for t in plan.tasks if t != "cosine" or not isinstance(load_any(model), Teacher)]:
                    evaluate_all([model], tasks, sets, self.home, **read_by(options, tasks), **common)
        busy = self._work(runs, sets, {**options, **common})
        if cell is not None and busy:
            raise UserError(f"{self.folder.holder(runs[0].name)} works on cell {cell}; wait for it, or give another.")
        rows = self.folder.rows()
        return [SweepRow.model_validate(rows[run.key]) for run in runs if self.is_done(run, rows)]

    def _work(self, runs: Sequence[Run], sets: list[Data], options: dict[str, Any]) -> list[Run]:
        """Do what nobody else does, until there is nothing of it left; the runs that others work on."""
        clock, left, number = (
            _Clock(options["progress"]),
            list(runs),
            {run.key: i for i, run in enumerate(self.runs, 1)},
        )
        while left:
            busy, before = [], clock.made
            for run in left:
                with self.folder.taken(run.name) as mine:
                    if not mine:
                        busy.append(run)
                        continue
                    rows = self.folder.rows()
                    if self.is_done(run, rows):
                        continue
                    todo = sum(not self.is_done(one, rows) for one in runs)
                    clock.begin(f"Run {number[run.key]} of {len(self.runs)}", run.point.words, todo)
                    self._make(run, rows.get(run.key), sets, options)
                    clock.made += 1
            left = busy if clock.made > before else []  # someone may have died meanwhile
        rows = self.folder.rows()
        return [run for run in busy if not self.is_done(run, rows)]

    def is_done(self, run: Run, rows: Mapping[str, Row]) -> bool:
        """Whether nothing is left to do for a run, by the rows of the folder."""
        row = rows.get(run.key)
        return row is not None and self._whole(row)

    def _make(self, run: Run, earlier: Row | None, sets: list[Data], options: dict[str, Any]) -> None:
        row = self._row(run, earlier, sets, options)
        self.folder.add(row.model_dump(mode="json"))
        if row.status == "finished":  # a diverged run's last checkpoint is kept
            for path in checkpoints(self._place(run)):
                shutil.rmtree(path)

    def _row(self, run: Run, earlier: Row | None, sets: list[Data], options: dict[str, Any]) -> SweepRow:
        """The run's row, with what `earlier`, a row of it, holds of other tasks and data."""
        start, point, home = time.perf_counter(), run.point, self._place(run)
        before = SweepRow.model_validate(earlier) if earlier else None
        changes: dict[str, Any] = {"asked": [*dict.fromkeys([*(before.asked if before else []), *self._asked()])]}
        try:
            part = nested(self.source, point.fraction, point.settings.seed)
            settings = {**point.given, "recipe": point.recipe, "learning_rate": point.settings.learning_rate}
            align(self.teacher, part, home, device=options["device"], progress=options["progress"], **settings)
        except Diverged as error:
            changes = {"status": "diverged", "reason": str(error)}
        else:
            measured = map(
                Result.model_validate, evaluate_all([str(home)], list(self.plan.tasks), sets, home, **options)
            )
            results = {Measure.of(row): row for row in (*(before.results if before else []), *measured)}
            changes["results"] = list(results.values())
        row = before or SweepRow(
            key=run.key,
            run=run.name,
            teacher=self.teacher.name,
            status="finished",
            configuration=run.configuration,
        )
        return row.model_copy(update={**changes, "seconds": round(row.seconds + time.perf_counter() - start, 1)})

    def _place(self, run: Run) -> Path:
        return self.home / RUNS / run.name

    def _whole(self, row: Row) -> bool:
        """Whether a run has been measured on everything asked for; one that diverged has nothing to measure."""
        return row["status"] == "diverged" or set(self._asked()) <= set(row["asked"])

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
        settings = point.settings
        config = student_config(self.teacher, settings.stem, settings.b)
        for side in (settings.resolution or config.resolution, *(settings.resolutions or [])):
            check_pair(config, self.teacher, side)
        resolve_blocks(settings.after_block, self.teacher.num_layers)
        if isinstance(self.source, ShardSource) and point.fraction < 1:
            raise UserError("A stream of shards has no fractions; give a folder, an archive or hf:... to vary them.")
        if not isinstance(self.source, ShardSource):
            nested(self.source, point.fraction, settings.seed)

    def _configuration(self, point: Point, facts: dict[str, Any]) -> dict[str, Any]:
        configuration = record(point.settings, self.source, 1, **facts, **{FRACTION: point.fraction})
        configuration |= {name: getattr(point.settings, name) for name in LATER.keys() & self.plan.vary.keys()}
        return {k: v for k, v in configuration.items() if k not in ("versions", "image_count")}

    def _fingerprint(self) -> str:
        return fingerprint(self.teacher.model, self.teacher.mean, self.teacher.std)


class _Clock:
    """One line on standard error at the start of every run, with the time left by the runs that this process `made`."""

    def __init__(self, shows: bool) -> None:
        self.made, self.shows = 0, shows
        self.start = time.perf_counter()

    def begin(self, place: str, words: str, todo: int) -> None:
        left = ""
        if self.made:
            left = f", about {_duration((time.perf_counter() - self.start) / self.made * todo)} left"
        if self.shows:
            say(f"{place}{left}: {words}")


def _duration(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
