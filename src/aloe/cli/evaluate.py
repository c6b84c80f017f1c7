"""`aloe evaluate TASKS MODELS --data ...`: numbers for teachers and students, kept in a results folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aloe.cli.choices import one_of, some_of
from aloe.cli.common import Device, Json, cache_folder, choose_device, parse_settings, quiet_libraries, say, table
from aloe.core.bounds import MAX_COUNT, MAX_SIDE


def evaluate(
    tasks: Annotated[
        str,
        typer.Argument(help="With commas, of {tasks}.", autocompletion=some_of("tasks")),
    ],
    models: Annotated[
        list[str],
        typer.Argument(help="Teachers and students: folders, hub ids or zoo:NAME.", autocompletion=one_of("zoo")),
    ],
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
    k: Annotated[str | None, typer.Option(help="Neighbours, 20 or 1,5,20; the first counts; default: {=k}.")] = None,
    head: Annotated[
        str | None, typer.Option(help="auto, bcos or linear; of depth and normals linear or dpt; default: {=head}.")
    ] = None,
    feature: Annotated[
        str | None, typer.Option(help="One of {feature}; default: {=feature}.", autocompletion=one_of("feature"))
    ] = None,
    templates: Annotated[
        str | None, typer.Option(help="single, openclip, or a file of prompts with {}; default: {=templates}.")
    ] = None,
    text_tower: Annotated[str | None, typer.Option(help="SigLIP checkpoint; default: the model's teacher.")] = None,
    class_names: Annotated[Path | None, typer.Option(help="JSON or text file of names for zeroshot.")] = None,
    reference: Annotated[
        str | None, typer.Option("--reference", "--teacher", help="Teacher that cosine compares with.")
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods", "--method", help="With commas, of {methods}; default: all.", autocompletion=some_of("methods")
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Options of methods: best, or paper, as the authors ran them; default: {=preset}."),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="Grids for gridpg, {protocol}; default: {=protocol}.", autocompletion=one_of("protocol")),
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(help="Least probability of images for gridpg, deletion; default: {=confidence}.")
    ] = None,
    share: Annotated[float | None, typer.Option(help="Instead: the most confident share of each class.")] = None,
    grids: Annotated[int | None, typer.Option(help="Grids for gridpg; default: {=grids}.")] = None,
    grids_file: Annotated[Path | None, typer.Option(help="Stored grids of an earlier run.")] = None,
    images: Annotated[
        int | None, typer.Option(min=1, max=MAX_COUNT, help="Images for deletion, inside, clarity; default: {=images}.")
    ] = None,
    block: Annotated[
        int | None, typer.Option(min=1, max=MAX_COUNT, help="Pixels on a side of deletion's blocks; default: {=block}.")
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(min=1, max=MAX_SIDE, help="Pixels; default: each model's own.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="One of {precision}; default: {=precision}.", autocompletion=one_of("precision"))
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per pass.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that decode images, at most one per core.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of draws.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Any other setting, as key=value.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Where features are kept; default: ~/.cache/aloe.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep no features.")] = False,
    device: Device = None,
    json: Json = False,
) -> None:
    """Evaluate MODELS on data sets. Run the same command again to go on; `aloe report` makes tables of the results."""
    quiet_libraries()
    from aloe.core import processes
    from aloe.core.errors import UserError
    from aloe.core.settings import merged
    from aloe.core.typed import whole_numbers
    from aloe.core.typed import words as words_of
    from aloe.evaluation.evaluate import Data, evaluate_all
    from aloe.evaluation.reads import KNOWN

    processes.join()
    if train is not None and test is None:
        raise UserError("--train needs --test; or give data sets with --data.")
    sets: list[Data] = [*(data or []), *([(train, test)] if test is not None else [])]
    given = {
        "k": None if k is None else whole_numbers(k, "--k", "1,5,20", 1),
        "head": head,
        "feature": feature,
        "templates": templates,
        "text_tower": text_tower,
        "class_names": class_names,
        "reference": reference,
        "methods": None if methods is None else words_of(methods, "--methods"),
        "preset": preset,
        "protocol": protocol,
        "confidence": confidence,
        "share": share,
        "grids": grids,
        "grids_file": grids_file,
        "images": images,
        "block": block,
        "resolution": resolution,
        "precision": precision,
        "batch_size": batch_size,
        "workers": workers,
        "seed": seed,
    }
    flags = merged(given, parse_settings(set_ or []), KNOWN)
    rows = evaluate_all(
        models,
        words_of(tasks, "TASKS"),
        sets,
        output_dir,
        device=choose_device(device),
        cache=cache_folder(cache, no_cache),
        progress=not json,
        **flags,
    )
    words = [table([_line(row) for row in rows], ("data", "task", "model", "stage", "method", "value", "metric"))]
    words += _by_block(rows)
    words += dict.fromkeys(f"{row['data']}: {note}." for row in rows for note in row["notes"])
    words += _left_out(rows)
    words += [f"Kept in {output_dir}; tables: aloe report {output_dir}"]
    say({"results": str(output_dir), "rows": rows}, "\n".join(words), json)


def _by_block(rows: list[dict[str, Any]]) -> list[str]:
    """The cosines after every block, where they were measured."""
    found = [row for row in rows if row["task"] == "cosine"]
    heads = list(dict.fromkeys(k for row in found for k in row["details"] if k.startswith(("after_block", "pooled"))))
    lines = [(row["data"], row["name"], *(row["details"].get(k, "") for k in heads)) for row in found]
    short = (k.replace("after_block_", "block ").replace("_", " ") for k in heads)
    return ["", table(lines, ("cosine on", "model", *short)), ""] if found else []


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
