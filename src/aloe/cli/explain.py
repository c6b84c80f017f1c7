"""`aloe explain MODEL IMAGES`: one PNG per image, for a class, for texts, or for what it has in common with other images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from aloe.cli.common import Device, Json, OutputDir, Student, quiet_libraries, replaced_words, say
from aloe.cli.flags import plan_flags
from aloe.core.devices import choose_device


@plan_flags("aloe.attribution.settings:ExplainSettings")
def explain(
    model: Student,
    images: Annotated[list[str], typer.Argument(help="Files, folders, globs, archives or wds: shards.")],
    output_dir: OutputDir,
    *,
    plan: dict[str, Any],
    device: Device = None,
    json: Json = False,
) -> None:
    """Write a picture for every image: the input, the model's own colour explanation, and the signed contributions. Run the
    same command again to go on: pictures that are there are not made again."""
    quiet_libraries()
    from aloe.attribution.files import explain_files
    from aloe.attribution.settings import ExplainSettings
    from aloe.core import processes
    from aloe.evaluation.alike.files import explain_like, explain_toward
    from aloe.evaluation.zeroshot import text_targets
    from aloe.models.saving import load
    from aloe.models.stages import standing
    from aloe.models.text import text_tower_for

    processes.join()
    asked = ExplainSettings.of(**plan)
    asked.check()
    source = images[0] if len(images) == 1 else images
    student = load(model)
    settings: dict[str, Any] = {
        **asked.model_dump(include={"resolution", "limit", "batch_size"}),
        "device": choose_device(device),
        "progress": not json,
        "name": Path(model).name if Path(model).exists() else model,
    }
    done: Any
    if asked.like:
        others = asked.like[0] if len(asked.like) == 1 else asked.like
        done = explain_like(student, source, others, output_dir, regions=asked.region, pairs=asked.pairs, **settings)
    elif asked.toward is not None:
        done = explain_toward(student, source, asked.toward, output_dir, against=asked.against, **settings)
    else:
        texts = None
        if asked.text:
            texts = text_targets(text_tower_for(student, asked.text_tower), asked.text, asked.templates)
        settings |= asked.model_dump(include={"target", "precision"})
        done = explain_files(student, source, output_dir, texts=texts, **settings)
    standing_of = standing(student.config.teacher)
    say(
        {**done.told("explanations"), "student": standing_of},
        "\n".join([f"{model}: {standing_of}", *_words(done, output_dir)]),
        json,
    )


def _words(done: Any, output_dir: Path) -> Iterator[str]:
    for row in done.rows[:20]:
        if "like" in row:
            yield f"{row['file']} is like {row['like']}: cosine {row['cosine']:.4f}"
    kept = f", {done.kept} of them were there" if done.kept else ""
    yield f"{len(done.rows)} explanations in {output_dir}{kept}"
    if done.unreadable:
        yield f"{len(done.unreadable)} unreadable images were left out: {'; '.join(done.unreadable[:3])}"
    yield from (f"left out: {line}" for line in done.left_out)
    yield from replaced_words(done.replaced)
