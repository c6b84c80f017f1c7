"""`aloe evaluate TASKS MODELS --data ...`: numbers for teachers and students, kept in a results folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aloe.cli.choices import one_of, some_of
from aloe.cli.common import Cache, Device, Json, NoCache, cache_folder, quiet_libraries, say, table
from aloe.cli.flags import settings_flags
from aloe.core.devices import choose_device


def _known() -> frozenset[str]:
    from aloe.evaluation.reads import KNOWN

    return KNOWN


@settings_flags(
    "aloe.evaluation.settings:EvaluateSettings",
    *("k", "head", "feature", "templates", "text_tower", "class_names", "reference", "methods", "preset", "protocol"),
    *("confidence", "share", "grids", "grids_file", "images", "block", "resolution", "precision", "compile"),
    *("batch_size", "workers", "seed"),
    known=_known,
)
def evaluate(
    tasks: Annotated[
        str,
        typer.Argument(help="With commas, of {tasks}.", autocompletion=some_of("tasks")),
    ],
    models: Annotated[
        list[str],
        typer.Argument(help="Teachers and students: folders, hub ids or zoo:NAME.", autocompletion=one_of("zoo")),
    ],
    *,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            "-d",
            help="cifar10, ...; NAME=PATH for a local copy; a path; rgbd=, nyuv2=, navi=, scannet=PATH. Repeatable.",
        ),
    ] = None,
    train: Annotated[str | None, typer.Option(help="Your own training images, class-per-folder.")] = None,
    test: Annotated[str | None, typer.Option(help="Your own test images, class-per-folder.")] = None,
    output_dir: Annotated[
        Path, typer.Option("--output-dir", "-o", help="Results folder: rows are added, none is measured twice.")
    ] = Path("results"),
    settings: dict[str, Any],
    cache: Cache = None,
    no_cache: NoCache = False,
    device: Device = None,
    json: Json = False,
) -> None:
    """Evaluate MODELS on data sets. Run the same command again to go on; `aloe report` makes tables of the results."""
    quiet_libraries()
    from aloe.core import processes
    from aloe.core.errors import UserError
    from aloe.core.typed import words
    from aloe.evaluation.evaluate import Data, evaluate_all

    processes.join()
    if train is not None and test is None:
        raise UserError("--train needs --test; or give data sets with --data.")
    sets: list[Data] = [*(data or []), *([(train, test)] if test is not None else [])]
    rows = evaluate_all(
        models,
        words(tasks, "TASKS"),
        sets,
        output_dir,
        device=choose_device(device),
        cache=cache_folder(cache, no_cache),
        progress=not json,
        **settings,
    )
    lines = [table([_line(row) for row in rows], ("data", "task", "model", "stage", "method", "value", "metric"))]
    lines += _by_block(rows)
    lines += dict.fromkeys(f"{row['data']}: {note}." for row in rows for note in row["notes"])
    lines += _left_out(rows)
    lines += [f"Kept in {output_dir}; tables: aloe report {output_dir}"]
    say({"results": str(output_dir), "rows": rows}, "\n".join(lines), json)


def _by_block(rows: list[dict[str, Any]]) -> list[str]:
    """The cosines after every block, where they were measured."""
    cosines = [row for row in rows if row["task"] == "cosine"]
    heads = list(dict.fromkeys(k for row in cosines for k in row["details"] if k.startswith(("after_block", "pooled"))))
    lines = [(row["data"], row["name"], *(row["details"].get(k, "") for k in heads)) for row in cosines]
    short = (k.replace("after_block_", "block ").replace("_", " ") for k in heads)
    return ["", table(lines, ("cosine on", "model", *short)), ""] if cosines else []


def _left_out(rows: list[dict[str, Any]]) -> list[str]:
    """Methods that some model of the same task has no row for."""
    explained = {
        (r["task"], r["name"], r["interpretable"], r["details"]["method"]) for r in rows if "method" in r["details"]
    }
    teachers = {name for _, name, interpretable, _ in explained if not interpretable}
    inherent = any(method == "inherent" for _, _, _, method in explained)
    return [f"{name} has no W(x)x: it is a teacher." for name in sorted(teachers)] if inherent else []


def _line(row: dict[str, Any]) -> tuple[Any, ...]:
    value = round(row["value"], 4 if row["metric"] == "cosine" else 2)
    return row["data"], row["task"], row["name"], row["stage"], row["details"].get("method", ""), value, row["metric"]
