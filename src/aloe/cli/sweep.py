"""`aloe sweep TEACHER IMAGES --vary ...`: a grid of alignments, each evaluated, one row per run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aloe.cli.choices import one_of
from aloe.cli.common import (
    Cache,
    Device,
    Json,
    NoCache,
    OutputDir,
    cache_folder,
    parse_settings,
    quiet_libraries,
    say,
    table,
)
from aloe.cli.flags import plan_flags, settings_flags
from aloe.core.bounds import MAX_COUNT
from aloe.core.devices import choose_device


def _known() -> set[str]:
    from aloe.apps.sweep.plan import FRACTION
    from aloe.train.align.settings import AlignSettings

    return {*AlignSettings.model_fields, FRACTION}


@plan_flags(
    "aloe.apps.sweep.plan:SweepPlan",
    *("seeds", "tasks", "data", "train", "test", "beside", "train_images", "test_images"),
)
@settings_flags(
    "aloe.train.align.settings:AlignSettings",
    *("steps", "batch_size", "learning_rate"),
    known=_known,
    rest="Any setting of the alignments, key=value.",
    defaults=False,
    notes={"steps": "of every alignment"},
)
def sweep(
    teacher: Annotated[str, typer.Argument(help="Hub id or local folder of a teacher.", autocompletion=one_of("zoo"))],
    images: Annotated[list[str], typer.Argument(help="Unlabelled images, as `aloe align` takes them.")],
    output_dir: OutputDir,
    *,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            help="An axis: objective=cosine,mse,siglip,infonce, fraction=0.01,1, after_block=[2,4,6],[6], stem=, b=,"
            " resolution=, or any setting of an alignment. Repeatable: every combination is run."
        ),
    ] = None,
    plan: dict[str, Any],
    recipe: Annotated[
        str | None, typer.Option(help="One of {recipes}; default: short.", autocompletion=one_of("recipes"))
    ] = None,
    settings: dict[str, Any],
    evaluate: Annotated[
        list[str] | None, typer.Option("--evaluate", help="Any setting of the evaluation, key=value.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of a sweep; flags win over it.")] = None,
    cell: Annotated[
        int | None, typer.Option(min=1, max=MAX_COUNT, help="Only the run of this number, as --list counts them.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Number the runs and show what is done; run nothing.")] = False,
    cache: Cache = None,
    no_cache: NoCache = False,
    device: Device = None,
    json: Json = False,
) -> None:
    """Align TEACHER once for every point of a grid and evaluate each student. The same command again goes on."""
    quiet_libraries()
    from aloe.apps.sweep.run import Sweep

    plan |= {} if recipe is None else {"recipe": recipe}
    tables = {"vary": _axes(vary or []), "settings": settings, "evaluate": parse_settings(evaluate or [])}
    job = Sweep(teacher, images[0] if len(images) == 1 else images, output_dir, _plan(config, plan, tables))
    job.check()
    if list_:
        _list_runs(job, json)
        return
    features = cache_folder(cache, no_cache)
    rows = job.run(cell=cell, device=choose_device(device), cache=features, progress=not json)
    points = {run.key: run.point.words for run in job.runs}
    results = table([(points[row.key], _numbers(row)) for row in rows], ("point", "result"))
    elsewhere = 0 if cell else len(job.runs) - len(rows)
    more = f"\nOther processes work on {elsewhere} more of the {len(job.runs)} runs." if elsewhere else ""
    say(
        {"sweep": str(output_dir), "rows": [row.model_dump(mode="json") for row in rows], "elsewhere": elsewhere},
        f"{results}{more}\nKept in {output_dir}; tables and plots: aloe report {output_dir}",
        json,
    )


def _plan(config: Path | None, given: dict[str, Any], tables: dict[str, dict[str, Any]]) -> Any:
    """A file's plan, over which go the flags that were given, and each entry of the tables."""
    from aloe.apps.sweep.plan import SweepPlan, read_plan

    known: dict[str, Any] = read_plan(config) if config else {}
    merged = {name: {**(known.get(name) or {}), **table} for name, table in tables.items()}
    return SweepPlan.of(**{**known, **given, **{name: table for name, table in merged.items() if table}})


def _list_runs(job: Any, json: bool) -> None:
    done = job.folder.rows()
    head = ("cell", "run", "point", "state")
    lines = [(i, run.name, run.point.words, job.state(run, done)) for i, run in enumerate(job.runs, 1)]
    say({"runs": [dict(zip(head, line, strict=True)) for line in lines]}, table(lines, head), json)


def _numbers(row: Any) -> str:
    numbers = "  ".join(f"{r.task} {r.data} {r.value:.4g}" for r in row.results)
    return "diverged" if row.status == "diverged" else numbers


def _axes(pairs: list[str]) -> dict[str, list[Any]]:
    from aloe.core.errors import UserError

    bad = [pair for pair in pairs if "=" not in pair]
    if bad:
        raise UserError(f"--vary takes axis=value,value, got {bad[0]!r}.")
    return {axis: _list(values, "--vary") for axis, _, values in (pair.partition("=") for pair in pairs)}


def _list(text: str, option: str) -> list[Any]:
    """Values with commas, each read as YAML: 0.1,1 or [2,4,6],[6]."""
    from aloe.core.errors import UserError
    from aloe.core.files import parse_yaml

    try:
        return list(parse_yaml(f"[{text}]"))
    except ValueError as error:
        raise UserError(f"{option} takes values with commas, got {text!r}.") from error
