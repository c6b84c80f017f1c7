"""`aloe finetune MODEL IMAGES`: fine-tune on labels; from a teacher this is vanilla B-cosification."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aloe.cli.choices import one_of
from aloe.cli.common import Device, Json, OutputDir, choose_device, parse_settings, quiet_libraries, say
from aloe.core.bounds import MAX_SIDE


def finetune(
    model: Annotated[
        str,
        typer.Argument(
            help="A teacher (hub id or folder; it is converted first) or a B-cos student.", autocompletion=one_of("zoo")
        ),
    ],
    images: Annotated[
        list[str],
        typer.Argument(help="One folder per class, zip or tar (archive.tar::inner/path), hf:NAME@split, scenes:N."),
    ],
    output_dir: OutputDir,
    validation: Annotated[
        str | None, typer.Option(help="Labelled images to evaluate on; default: a part of IMAGES.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="One of {finetune-recipes}.", autocompletion=one_of("finetune-recipes"))
    ] = "short",
    config: Annotated[Path | None, typer.Option(help="YAML file of settings over the recipe.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Optimiser steps; this and what follows is by default the recipe's.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step and process.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", "--lr", help="The highest of the schedule.")
    ] = None,
    loss: Annotated[str | None, typer.Option(help="bce (uniform off-targets) or cross-entropy.")] = None,
    freeze: Annotated[str | None, typer.Option(help="none, or backbone: only the head learns.")] = None,
    stem: Annotated[
        str | None, typer.Option(help="Of a teacher: patch (folded), conv (the paper's) or conv-even.")
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(min=1, max=MAX_SIDE, help="Student pixels; default: the model's own.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="One of {precision}.", autocompletion=one_of("precision"))
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that decode images, at most one per core.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of draws and order.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Any other setting, as key=value.")] = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Fine-tune MODEL on labelled IMAGES. Run the same command again to resume."""
    quiet_libraries()
    from aloe.core.settings import merged
    from aloe.train.finetune.run import finetune as run
    from aloe.train.finetune.settings import FinetuneSettings
    from aloe.train.progress import EVAL_PREFIX, read_log

    given = {
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "loss": loss,
        "freeze": freeze,
        "stem": stem,
        "resolution": resolution,
        "precision": precision,
        "workers": workers,
        "seed": seed,
    }
    flags = merged(given, parse_settings(set_ or []), FinetuneSettings.model_fields)
    run(
        model,
        images[0] if len(images) == 1 else images,
        output_dir,
        validation=validation,
        recipe=recipe,
        config=config,
        device=choose_device(device),
        progress=not json,
        **flags,
    )
    measured = [row for row in read_log(output_dir) if f"{EVAL_PREFIX}accuracy" in row]
    held_out = {f"held_out_{k}": round(measured[-1][f"{EVAL_PREFIX}{k}"], 4) for k in ("accuracy", "loss") if measured}
    words = "\n".join([f"Fine-tuned classifier: {output_dir}", *(f"  {k:24} {v:.4f}" for k, v in held_out.items())])
    say({"student": str(output_dir), **held_out}, words, json)
