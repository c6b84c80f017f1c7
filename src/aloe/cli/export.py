"""`aloe export MODEL -o FILE`: a student's forward pass or explanation as ONNX or `torch.export`, checked after writing;
`--to web -o FOLDER`: a page that explains images in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aloe.cli.choices import one_of
from aloe.cli.common import Json, quiet_libraries, say, table
from aloe.core.bounds import MAX_COUNT, MAX_SIDE
from aloe.core.errors import UserError


def export(
    model: Annotated[str, typer.Argument(help="Folder or hub id of a student.", autocompletion=one_of("zoo"))],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file, FILE.onnx or FILE.pt2; with --to web the folder.")
    ],
    to: Annotated[str, typer.Option(help="file, or web: a folder with a page for any static server.")] = "file",
    what: Annotated[str, typer.Option(help="forward or explanation.")] = "forward",
    format: Annotated[str | None, typer.Option(help="onnx or torch; default: by the file's suffix.")] = None,
    resolution: Annotated[
        int | None, typer.Option(min=1, max=MAX_SIDE, help="Pixels; default: the model's own resolution.")
    ] = None,
    target: Annotated[
        str, typer.Option(help="What an explanation explains: own (prediction), or an input: class, direction.")
    ] = "own",
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise, and measure what changes; for web where it is faithful.")
    ] = False,
    images: Annotated[
        str | None, typer.Option(help="Photos that --int8 is measured on: folder, glob or archive; default: noise.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, max=MAX_COUNT, help="At most this many of them; default: 64.")
    ] = None,
    opset: Annotated[
        int | None, typer.Option(min=1, max=MAX_COUNT, help="ONNX opset, 18 to 23; default: torch's.")
    ] = None,
    runtime: Annotated[
        Path | None, typer.Option(help="web: folder of the npm package onnxruntime-web; default: through npm.")
    ] = None,
    texts: Annotated[Path | None, typer.Option(help="web: file of texts that a SigLIP student is asked about.")] = None,
    text_tower: Annotated[str | None, typer.Option(help="web: SigLIP checkpoint; default: the teacher.")] = None,
    only_int8: Annotated[
        bool, typer.Option("--only-int8", help="web: leave the float32 weights out where int8 is faithful.")
    ] = False,
    webgpu: Annotated[bool, typer.Option("--webgpu", help="web: add the runtime for graphics processors.")] = False,
    cdn: Annotated[
        bool, typer.Option("--cdn", help="web: the page fetches the WebAssembly from jsDelivr, by its digest.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    json: Json = False,
) -> None:
    """Write MODEL as one graph, or as a page, for images of one size, and report how far it is from PyTorch."""
    quiet_libraries()
    page: dict[str, Any] = {"runtime": runtime, "texts": texts, "text_tower": text_tower}
    page |= {"only_int8": only_int8, "webgpu": webgpu, "cdn": cdn}
    graph: dict[str, Any] = {"what": what, "format": format, "target": target, "opset": opset}
    if to not in ("file", "web"):
        raise UserError(f"--to must be file or web, got {to!r}.")
    others, usual = (graph, ("forward", "own")) if to == "web" else (page, ())
    if foreign := next((name for name, given in others.items() if given and given not in usual), None):
        option = f"--{foreign.replace('_', '-')}"
        raise UserError(f"{option} is {'not ' * (to == 'web')}for --to web; leave it out.")
    both: dict[str, Any] = {
        "resolution": resolution,
        "int8": int8,
        "images": images,
        "limit": limit,
        "overwrite": overwrite,
    }
    if to == "web":
        _page(model, output, json, **both, **page)
    else:
        _file(model, output, json, **both, **graph)


def _file(
    model: str,
    output: Path,
    json: bool,
    resolution: int | None,
    int8: bool,
    images: str | None,
    limit: int | None,
    overwrite: bool,
    **graph: Any,
) -> None:
    from aloe.apps.export.int8 import check_limit, read_images
    from aloe.apps.export.run import check_destination, check_request, export_student
    from aloe.models.saving import load
    from aloe.models.stages import standing

    check_request(output, int8=int8, **graph)
    check_destination(output, overwrite)
    if images and not int8:
        raise UserError("--images belongs to --int8; give it as well.")
    check_limit(images, limit)
    student = load(model)
    side = resolution or student.config.resolution
    done = export_student(
        student,
        output,
        image_size=side,
        int8=int8,
        images=read_images(images, side, limit) if images else None,
        overwrite=overwrite,
        **graph,
    )
    words = [
        f"{model}: {standing(student.config.teacher)}",
        f"{done.what} of {model} at {done.image_size} x {done.image_size} pixels: {output}, {done.bytes / 2**20:.1f} MiB",
        _differences(done.differences),
    ]
    if done.completeness is not None:
        words.append(f"completeness error of the graph itself: {done.completeness:.1e}")
    if done.int8:
        words += ["(of the float32 graph that was quantised)", done.int8.words()]
    say(done.row(), "\n".join(words), json)


def _page(model: str, output: Path, json: bool, **options: Any) -> None:
    from aloe.apps.export.web.student import export_page

    done = export_page(model, output, **options)
    loads = ", ".join(f"{size / 1e6:.1f} MB with {name} weights" for name, size in done.loads.items())
    words = [
        f"page of {model} at {done.image_size} x {done.image_size} pixels: {output}, {sum(done.files.values()) / 1e6:.1f} MB"
        f" in {len(done.files)} files; a visitor loads {loads}",
        _differences(done.differences),
        f"completeness error of the graph itself: {done.completeness:.1e}",
        *([f"int8 weights {done.int8.words()}"] if done.int8 and done.int8.faithful else []),
        *done.notes,
        f"To see it: python -m http.server --directory {output}, then http://localhost:8000",
    ]
    say(done.row(), "\n".join(words), json)


def _differences(found: dict[str, float]) -> str:
    rows = [(name, f"{value:.1e}") for name, value in found.items()]
    return table(rows, ("output", "largest difference from PyTorch, relative"))
