"""`aloe bcosify TEACHER`: convert without aligning, and say what became of every tensor."""

from __future__ import annotations

from typing import Annotated

import typer

from aloe.cli.choices import one_of
from aloe.cli.common import Json, OutputDir, quiet_libraries, say, table
from aloe.core.bounds import MAX_SEED


def bcosify(
    teacher: Annotated[str, typer.Argument(help="Hub id or local folder.", autocompletion=one_of("zoo"))],
    output_dir: OutputDir,
    stem: Annotated[str, typer.Option(help="patch, conv or conv-even.")] = "patch",
    b: Annotated[float, typer.Option(min=1, max=100, help="Exponent of every B-cos unit.")] = 2.0,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED)] = 0,
    calibrate: Annotated[
        str | None, typer.Option(metavar="IMAGES", help="Rescale every unit on a few of these images: no training.")
    ] = None,
    json: Json = False,
) -> None:
    """Convert TEACHER to a B-cos ViT, not aligned, and report what was copied, fused, folded, new, dropped and not read."""
    quiet_libraries()
    from aloe.data.places import check_new, check_output
    from aloe.data.sources import open_source
    from aloe.models.convert import bcosify as convert
    from aloe.models.saving import save_student
    from aloe.models.teachers import load_teacher
    from aloe.train.align.calibrate import calibrate_on

    check_new(output_dir)
    if calibrate is not None:
        check_output(calibrate, output_dir)
    images = None if calibrate is None else open_source(calibrate)  # before weights are fetched
    source = load_teacher(teacher)
    student, report = convert(source, stem, b, seed=seed, with_report=True)
    skipped = [] if images is None else calibrate_on(student, images, seed)
    if images is not None:
        student.config.teacher = {**student.config.teacher, "calibrated": True}
    save_student(student, output_dir)
    result = {k: {"tensors": n, "parameters": p} for k, n, p in report.rows()}
    rows = [(k, n, f"{p:>10}") for k, n, p in report.rows()] + [("not read", len(report.unread), f"{'-':>10}")]
    done = "Converted" if images is None else "Converted and calibrated"
    words = [table(rows, ("what", "tensors", "parameters")), f"{done} student, not aligned: {output_dir}"]
    words += [source.note] * bool(source.note)
    words += [f"Not readable, so not calibrated on: {name}" for name in skipped]
    facts = {} if images is None else {"calibrated": True, "unreadable": skipped}
    say(
        {"student": str(output_dir), **result, "unread": report.unread, "note": source.note, **facts},
        "\n".join(words),
        json,
    )
