"""`aloe finetune MODEL IMAGES`: fine-tune on labels; from a teacher this is vanilla B-cosification."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aloe.cli.choices import one_of
from aloe.cli.common import Device, Json, OutputDir, quiet_libraries, say
from aloe.cli.flags import settings_flags
from aloe.core.devices import choose_device


@settings_flags(
    "aloe.train.finetune.settings:FinetuneSettings",
    *("steps", "batch_size", "learning_rate", "loss", "freeze", "stem", "resolution", "precision", "workers", "seed"),
    defaults=False,
    notes={"steps": "this and what follows is by default the recipe's"},
)
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
    *,
    validation: Annotated[
        str | None, typer.Option(help="Labelled images to evaluate on; default: a part of IMAGES.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="One of {finetune-recipes}.", autocompletion=one_of("finetune-recipes"))
    ] = "short",
    config: Annotated[Path | None, typer.Option(help="YAML file of settings over the recipe.")] = None,
    settings: dict[str, Any],
    device: Device = None,
    json: Json = False,
) -> None:
    """Fine-tune MODEL on labelled IMAGES. Run the same command again to resume."""
    quiet_libraries()
    from aloe.train.finetune.run import finetune as run
    from aloe.train.progress import EVAL_PREFIX, read_log

    run(
        model,
        images[0] if len(images) == 1 else images,
        output_dir,
        validation=validation,
        recipe=recipe,
        config=config,
        device=choose_device(device),
        progress=not json,
        **settings,
    )
    measured = [row for row in read_log(output_dir) if f"{EVAL_PREFIX}accuracy" in row]
    held_out = {f"held_out_{k}": round(measured[-1][f"{EVAL_PREFIX}{k}"], 4) for k in ("accuracy", "loss") if measured}
    words = "\n".join([f"Fine-tuned classifier: {output_dir}", *(f"  {k:24} {v:.4f}" for k, v in held_out.items())])
    say({"student": str(output_dir), **held_out}, words, json)
