"""`aloe explain MODEL IMAGES`: one PNG per image, for a class, for texts, or for what it has in common with other images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from aloe.cli.common import Device, Json, Limit, OutputDir, Resolution, Student, quiet_libraries, replaced_words, say
from aloe.core.bounds import MAX_BATCH, MAX_HELD
from aloe.core.devices import choose_device
from aloe.core.errors import UserError


def explain(
    model: Student,
    images: Annotated[list[str], typer.Argument(help="Files, folders, globs, archives or wds: shards.")],
    output_dir: OutputDir,
    target: Annotated[str | None, typer.Option(help="Class name or index; default: the predicted class.")] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="Explain the similarity to this text (SigLIP students); may be repeated.")
    ] = None,
    text_tower: Annotated[
        str | None, typer.Option(help="Folder or hub id of the text tower; default: the student's teacher.")
    ] = None,
    templates: Annotated[
        str | None, typer.Option(help="Prompts that each text is put into: single, openclip or a file; default: none.")
    ] = None,
    like: Annotated[
        list[str] | None, typer.Option(help="Explain why each image is like this one, or the nearest of these.")
    ] = None,
    region: Annotated[
        list[str] | None, typer.Option(help="With --like: only like this region, x,y,width,height in its pixels.")
    ] = None,
    pairs: Annotated[
        int, typer.Option(min=0, max=MAX_HELD, help="With --like: draw this many of the strongest pairs of patches.")
    ] = 0,
    toward: Annotated[
        str | None, typer.Option(help="Explain the direction of the mean feature of these images.")
    ] = None,
    against: Annotated[str | None, typer.Option(help="With --toward: less the mean feature of these.")] = None,
    resolution: Resolution = None,
    precision: Annotated[
        str, typer.Option(help="float32, or bf16 where the device is fast at it; of classes and texts.")
    ] = "float32",
    limit: Limit = None,
    batch_size: Annotated[int, typer.Option(min=1, max=MAX_BATCH)] = 16,
    device: Device = None,
    json: Json = False,
) -> None:
    """Write a picture for every image: the input, the model's own colour explanation, and the signed contributions. Run the
    same command again to go on: pictures that are there are not made again."""
    quiet_libraries()
    from aloe.attribution.files import explain_files
    from aloe.core import processes
    from aloe.evaluation.alike.files import explain_like, explain_toward
    from aloe.evaluation.zeroshot import text_targets
    from aloe.models.saving import load
    from aloe.models.stages import standing
    from aloe.models.text import text_tower_for

    processes.join()
    _check(target, text, text_tower or templates, like, region or pairs, toward, against)
    if precision != "float32" and (like or toward is not None):
        raise UserError("--precision is of classes and texts; leave it out with --like and --toward.")
    source = images[0] if len(images) == 1 else images
    student = load(model)
    settings: dict[str, Any] = {
        "resolution": resolution,
        "limit": limit,
        "batch_size": batch_size,
        "device": choose_device(device),
        "progress": not json,
        "name": Path(model).name if Path(model).exists() else model,
    }
    done: Any
    if like:
        others = like[0] if len(like) == 1 else like
        done = explain_like(student, source, others, output_dir, regions=region or (), pairs=pairs, **settings)
    elif toward is not None:
        done = explain_toward(student, source, toward, output_dir, against=against, **settings)
    else:
        texts = text_targets(text_tower_for(student, text_tower), text, templates) if text else None
        done = explain_files(student, source, output_dir, target=target, texts=texts, precision=precision, **settings)
    standing_of = standing(student.config.teacher)
    say(
        {**done.told("explanations"), "student": standing_of},
        "\n".join([f"{model}: {standing_of}", *_words(done, output_dir)]),
        json,
    )


def _check(
    target: object, text: object, of_text: object, like: object, of_like: object, toward: object, against: object
) -> None:
    """Raises UserError for options that do not go together."""
    if text and target is not None:
        raise UserError("Give --target or --text, not both.")
    if not text and of_text:
        raise UserError("--text-tower and --templates belong to --text; give a text as well.")
    if sum([bool(text), target is not None, bool(like), toward is not None]) > 1:
        raise UserError("Give one of --target, --text, --like and --toward.")
    if of_like and not like:
        raise UserError("--region and --pairs belong to --like; give an image that the others are like.")
    if against is not None and toward is None:
        raise UserError("--against belongs to --toward; give the images that the direction points to.")


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
