"""`aloe publish STUDENT OWNER/NAME`: the student with a model card, as a folder and on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    json: Json = False,
) -> None:
    """Write STUDENT with its model card to a folder and push that to the hub: weights, configuration, card, nothing else."""
    quiet_libraries()
    from aloe.apps.publish.folder import publish as publish_student

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
    )
    found = {"repo_id": repo_id, "folder": str(done.folder), "files": done.files, "url": done.url, "notes": done.notes}
    where = (
        f"Published: {done.url}"
        if done.url
        else f"Not pushed. Read {done.folder / 'README.md'}, then run without --dry-run."
    )
    say(found, "\n".join([*done.notes, f"{', '.join(done.files)} in {done.folder}", where]), json)
