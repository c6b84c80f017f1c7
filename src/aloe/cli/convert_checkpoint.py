"""`aloe convert-checkpoint SOURCE`: one of the authors' published checkpoints, written as a student of ALOE."""

from __future__ import annotations

from typing import Annotated

import typer

from aloe.cli.common import Json, OutputDir, quiet_libraries, say


def convert_checkpoint(
    source: Annotated[str, typer.Argument(help="rmaser/aloe-... or a folder with its config.json and safetensors.")],
    output_dir: OutputDir,
    revision: Annotated[str | None, typer.Option(help="Of the hub repository.")] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="A config key that is not known and is to be passed over; may be repeated.")
    ] = None,
    json: Json = False,
) -> None:
    """Translate a published checkpoint to ALOE's own format, every tensor accounted for, and say its licence."""
    quiet_libraries()
    from aloe.data.places import check_new
    from aloe.models.published import load_published
    from aloe.models.saving import save_student

    check_new(output_dir)
    student = load_published(source, revision=revision, ignore=ignore or ())
    save_student(student, output_dir)
    tensors = student.state_dict()
    facts = {
        "student": str(output_dir),
        "class": type(student).__name__,
        "teacher": student.config.teacher["name"],
        "tensors": len(tensors),
        "parameters": sum(t.numel() for t in tensors.values()),
        "licence": student.config.teacher["licence"],
    }
    words = (
        f"{facts['class']} of {facts['teacher'] or 'an unnamed teacher'}: {facts['parameters']:,} parameters in "
        f"{facts['tensors']} tensors, none left over, in {output_dir}"
    )
    say(facts, words, json)
