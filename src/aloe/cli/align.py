"""`aloe align TEACHER IMAGES`: align a B-cos student to a teacher on unlabelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aloe.cli.choices import one_of
from aloe.cli.common import Device, Json, OutputDir, quiet_libraries, say, table
from aloe.cli.flags import settings_flags
from aloe.core.devices import choose_device


@settings_flags(
    "aloe.train.align.settings:AlignSettings",
    *("steps", "batch_size", "learning_rate", "stem", "objective", "after_block", "resolution", "precision"),
    *("workers", "seed"),
    defaults=False,
    notes={"steps": "this and what follows is by default the recipe's"},
)
def align(
    teacher: Annotated[
        str,
        typer.Argument(
            help="Hub id or local folder of a ViT, DINOv2, DINOv3, SigLIP or SigLIP2.", autocompletion=one_of("zoo")
        ),
    ],
    images: Annotated[
        list[str],
        typer.Argument(
            help="Folder, zip or tar (archive.tar::inner/path), files, hf:NAME@split, wds:shards, scenes:N."
        ),
    ],
    output_dir: OutputDir,
    *,
    recipe: Annotated[str, typer.Option(help="One of {recipes}.", autocompletion=one_of("recipes"))] = "short",
    config: Annotated[Path | None, typer.Option(help="YAML file of settings over the recipe.")] = None,
    student: Annotated[
        str | None, typer.Option(help="Go on from this student instead of converting the teacher.")
    ] = None,
    settings: dict[str, Any],
    find_rate: Annotated[
        bool, typer.Option("--find-rate", help="Try rates on a few steps and propose one; nothing is written.")
    ] = False,
    device: Device = None,
    json: Json = False,
) -> None:
    """Align a B-cos student to TEACHER on unlabelled IMAGES. Run the same command again to resume."""
    quiet_libraries()
    from aloe.models.saving import load
    from aloe.train.align.run import align as run
    from aloe.train.progress import read_log

    source = images[0] if len(images) == 1 else images
    if find_rate:
        from aloe.train.align.rates import find_rate as find

        tried = {k: v for k, v in settings.items() if k != "learning_rate"}
        start = None if student is None else load(student)
        test = find(teacher, source, recipe=recipe, config=config, student=start, device=choose_device(device), **tried)
        rows = [(f"{rate:.1e}", f"{loss:.4f}") for rate, loss in test.thinned(12)]
        say(test.summary(), f"{table(rows, ('rate', 'loss'))}\nProposed: --lr {test.proposed:.1e}", json)
        return
    run(
        teacher,
        source,
        output_dir,
        recipe=recipe,
        config=config,
        student=None if student is None else load(student),
        device=choose_device(device),
        progress=not json,
        **settings,
    )
    cosines = [r for r in read_log(output_dir) if "eval_cosine_pooled" in r]
    last = {k.removeprefix("eval_"): round(v, 4) for k, v in (cosines[-1] if cosines else {}).items() if "cosine" in k}
    words = "\n".join([f"Aligned student: {output_dir}", *(f"  {k:24} {v:.4f}" for k, v in last.items())])
    say({"student": str(output_dir), **last}, words, json)
