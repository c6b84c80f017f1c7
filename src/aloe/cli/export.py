"""`aloe export MODEL -o FILE`: a student's forward pass or explanation as ONNX or `torch.export`, checked after writing;
`--to web -o FOLDER`: a page that explains images in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aloe.cli.choices import one_of
from aloe.cli.common import Json, quiet_libraries, say, table
from aloe.cli.flags import plan_flags

if TYPE_CHECKING:
    from aloe.apps.export.settings import ExportSettings


@plan_flags("aloe.apps.export.settings:ExportSettings")
def export(
    model: Annotated[str, typer.Argument(help="Folder or hub id of a student.", autocompletion=one_of("zoo"))],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file, FILE.onnx or FILE.pt2; with --to web the folder.")
    ],
    *,
    plan: dict[str, Any],
    json: Json = False,
) -> None:
    """Write MODEL as one graph, or as a page, for images of one size, and report how far it is from PyTorch."""
    quiet_libraries()
    from aloe.apps.export.settings import ExportSettings

    asked = ExportSettings.of(**plan)
    asked.check()
    (_page if asked.to == "web" else _file)(model, output, asked, json)


def _file(model: str, output: Path, asked: ExportSettings, json: bool) -> None:
    from aloe.apps.export.int8 import check_measured, read_images
    from aloe.apps.export.run import check_destination, check_request, export_student
    from aloe.apps.export.settings import OF_GRAPH
    from aloe.models.saving import load
    from aloe.models.stages import standing

    graph = asked.model_dump(include={*OF_GRAPH, "int8"})
    check_request(output, **graph)
    check_destination(output, asked.overwrite)
    check_measured(asked.int8, asked.images, asked.limit)
    student = load(model)
    side = asked.resolution or student.config.resolution
    images = read_images(asked.images, side, asked.limit) if asked.images else None
    done = export_student(student, output, image_size=side, images=images, overwrite=asked.overwrite, **graph)
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


def _page(model: str, output: Path, asked: ExportSettings, json: bool) -> None:
    from aloe.apps.export.settings import OF_GRAPH
    from aloe.apps.export.web.student import export_page

    done = export_page(model, output, **asked.model_dump(exclude={"to", *OF_GRAPH}))
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


def _differences(differences: dict[str, float]) -> str:
    rows = [(name, f"{value:.1e}") for name, value in differences.items()]
    return table(rows, ("output", "largest difference from PyTorch, relative"))
