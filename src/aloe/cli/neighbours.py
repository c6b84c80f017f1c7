"""`aloe neighbours MODEL FOLDER IMAGES`: the nearest images, and why they are near."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aloe.cli.common import (
    Cache,
    Device,
    Json,
    NoCache,
    OutputDir,
    Student,
    cache_folder,
    quiet_libraries,
    replaced_words,
    say,
    table,
)
from aloe.cli.flags import plan_flags
from aloe.core.devices import choose_device


@plan_flags("aloe.attribution.settings:NeighboursSettings")
def neighbours(
    model: Student,
    folder: Annotated[str, typer.Argument(help="What to choose from: folder, archive, hf:NAME@split, wds:shards.")],
    images: Annotated[list[str], typer.Argument(help="The queries: files, folders, globs or archives.")],
    output_dir: OutputDir,
    *,
    plan: dict[str, Any],
    cache: Cache = None,
    no_cache: NoCache = False,
    device: Device = None,
    json: Json = False,
) -> None:
    """Write each image's nearest images with what makes them alike; with class folders, the k-NN vote explained."""
    quiet_libraries()
    from aloe.attribution.settings import NeighboursSettings
    from aloe.evaluation.alike.neighbours import find_neighbours
    from aloe.models.saving import load
    from aloe.models.stages import standing

    asked = NeighboursSettings.of(**plan)
    student = load(model)
    done = find_neighbours(
        student,
        folder,
        images[0] if len(images) == 1 else images,
        output_dir,
        **asked.model_dump(),
        device=choose_device(device),
        cache=cache_folder(cache, no_cache),
        progress=not json,
        name=Path(model).name if Path(model).exists() else model,
    )
    student_is = standing(student.config.teacher)
    rows = [(r["file"], n["file"], n.get("class", ""), n["cosine"]) for r in done.rows for n in r["neighbours"]]
    words = [f"{model}: {student_is}", table(rows, ("image", "neighbour", "class", "cosine"))]
    for row in done.rows:
        if vote := row.get("vote"):
            second = f" less {vote['second']}" if vote["second"] else ""
            words.append(f"{row['file']}: votes {vote['class']}{second}, {vote['value']:.4f}")
    kept = f", {done.kept} of them were there" if done.kept else ""
    words += [f"{len(done.rows)} pictures in {output_dir}{kept}", *replaced_words(done.replaced)]
    words += [f"left out: {line}" for line in [*done.unreadable, *done.left_out]]
    say({**done.told("neighbours"), "student": student_is}, "\n".join(words), json)
