"""`aloe publish STUDENT OWNER/NAME`: the student with a model card, as a folder and on the hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from aloe.cli.common import Json, quiet_libraries, say


def publish(
    student: Annotated[Path, typer.Argument(help="Folder of a finished run of align or finetune.")],
    repo_id: Annotated[str, typer.Argument(help="OWNER/NAME on the hub.")],
    results: Annotated[
        list[Path] | None, typer.Option("--results", help="Folder of `aloe evaluate`, for the card. Repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the folder and push nothing.")] = False,
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", "-o", help="Folder to write to; default: published/NAME.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    licence: Annotated[
        str | None, typer.Option("--licence", "--license", help="Of the student; default: its teacher's, if known.")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="Hub id of the teacher, if it was aligned to a local folder.")
    ] = None,
    data_name: Annotated[str | None, typer.Option(help="Of the training images; a hub id or words.")] = None,
    data_licence: Annotated[str | None, typer.Option(help="Terms of the training images.")] = None,
    example: Annotated[
        list[Path] | None, typer.Option("--example", help="Image whose explanation the card shows. Repeatable.")
    ] = None,
    allow_unaligned: Annotated[
        bool, typer.Option("--allow-unaligned", help="Publish a student that was only converted.")
    ] = False,
    space: Annotated[
        bool, typer.Option("--space", help="Also the student's page, as a static Space beside the card.")
    ] = False,
    space_images: Annotated[
        str | None, typer.Option(help="Photos; the Space offers int8 weights where they are faithful on these.")
    ] = None,
    texts: Annotated[Path | None, typer.Option(help="File of texts that a SigLIP student's Space asks about.")] = None,
    text_tower: Annotated[str | None, typer.Option(help="Their SigLIP checkpoint; default: the teacher.")] = None,
    runtime: Annotated[
        Path | None, typer.Option(help="Folder of the npm package onnxruntime-web; default: through npm.")
    ] = None,
    json: Json = False,
) -> None:
    """Write STUDENT with its model card to a folder and push that to the hub: weights, configuration, card, nothing else."""
    quiet_libraries()
    from aloe.apps.publish.folder import publish as publish_student
    from aloe.apps.publish.space import SpaceSettings
    from aloe.core.errors import UserError

    of_space = {"--space-images": space_images, "--texts": texts, "--text-tower": text_tower, "--runtime": runtime}
    if not space and (lone := next((name for name, given in of_space.items() if given), None)):
        raise UserError(f"{lone} belongs to --space; give it as well.")
    done = publish_student(
        student,
        repo_id,
        results=results or [],
        output_dir=output_dir,
        dry_run=dry_run,
        private=private,
        licence=licence,
        base_model=base_model,
        data_name=data_name,
        data_licence=data_licence,
        examples=example or [],
        allow_unaligned=allow_unaligned,
        space=SpaceSettings(runtime, texts, text_tower, space_images) if space else None,
    )
    summary = {
        "repo_id": repo_id,
        "folder": str(done.folder),
        "files": done.files,
        "url": done.url,
        "notes": done.notes,
        **({"space": done.space.row(), "space_url": done.space_url} if done.space is not None else {}),
    }
    say(summary, "\n".join(_words(done)), json)


def _words(done: Any) -> Iterator[str]:
    yield from done.notes
    yield f"{', '.join(done.files)} in {done.folder}"
    if done.space is not None:
        size = sum(done.space.files.values()) / 1e6
        yield f"Space, {len(done.space.files)} files of {size:.1f} MB, in {done.space.folder}"
        yield from done.space.notes
    if done.space_url:
        yield f"Published: {done.space_url}"
    yield (
        f"Published: {done.url}"
        if done.url
        else f"Not pushed. Read {done.folder / 'README.md'}, then run without --dry-run."
    )
