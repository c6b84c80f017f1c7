"""`aloe export MODEL -o FILE`: a student's forward pass or explanation as ONNX or `torch.export`, checked after writing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aloe.cli.choices import one_of
from aloe.cli.common import Json, quiet_libraries, say, table
from aloe.core.bounds import MAX_COUNT, MAX_SIDE


def export(
    model: Annotated[str, typer.Argument(help="Folder or hub id of a student.", autocompletion=one_of("zoo"))],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file: FILE.onnx or FILE.pt2.")],
    what: Annotated[str, typer.Option(help="forward or explanation.")] = "forward",
    format: Annotated[str | None, typer.Option(help="onnx or torch; default: by the file's suffix.")] = None,
    resolution: Annotated[
        int | None, typer.Option(min=1, max=MAX_SIDE, help="Pixels; default: the model's own resolution.")
    ] = None,
    target: Annotated[
        str, typer.Option(help="What an explanation explains: own (prediction), or an input: class, direction.")
    ] = "own",
    int8: Annotated[bool, typer.Option("--int8", help="Quantise the forward graph, and measure what changes.")] = False,
    images: Annotated[
        str | None, typer.Option(help="Photos that --int8 is measured on: folder, glob or archive; default: noise.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="At most this many of them.")] = 64,
    opset: Annotated[
        int | None, typer.Option(min=1, max=MAX_COUNT, help="ONNX opset, 18 to 23; default: torch's.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it exists.")] = False,
    json: Json = False,
) -> None:
    """Write MODEL as one graph for images of one size, any number at a time, and report how far it is from PyTorch."""
    quiet_libraries()
    from aloe.apps.export.int8 import read_images
    from aloe.apps.export.run import check_destination, check_request, export_student
    from aloe.core.errors import UserError
    from aloe.models.saving import load
    from aloe.models.stages import standing

    check_request(output, what, format, target, int8, opset)
    check_destination(output, overwrite)
    if images and not int8:
        raise UserError("--images belongs to --int8; give it as well.")
    student = load(model)
    side = resolution or student.config.resolution
    done = export_student(
        student,
        output,
        what=what,
        format=format,
        image_size=side,
        target=target,
        opset=opset,
        int8=int8,
        images=read_images(images, side, limit) if images else None,
        overwrite=overwrite,
    )
    rows = [(name, f"{value:.1e}") for name, value in done.differences.items()]
    words = [
        f"{model}: {standing(student.config.teacher)}",
        f"{done.what} of {model} at {done.image_size} x {done.image_size} pixels: {output}, {done.bytes / 2**20:.1f} MiB",
        table(rows, ("output", "largest difference from PyTorch, relative")),
    ]
    if done.completeness is not None:
        words.append(f"completeness error of the graph itself: {done.completeness:.1e}")
    if done.int8:
        words += ["(of the float32 graph that was quantised)", done.int8.words()]
    say(done.row(), "\n".join(words), json)
