"""What `aloe export` is asked for: one graph in a file, or a page for the browser."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from aloe.core.bounds import MAX_COUNT, MAX_SIDE
from aloe.core.errors import UserError
from aloe.core.settings import Checked

OF_GRAPH = {"what", "format", "target", "opset"}
"""Fields of a graph in a file alone; `OF_PAGE`: of a page alone."""
OF_PAGE = {"runtime", "texts", "text_tower", "only_int8", "webgpu", "cdn"}


class ExportSettings(Checked):
    """An export."""

    to: str = Field("file", description="file, or web: a folder with a page for any static server")
    what: str = Field("forward", description="forward or explanation")
    format: str | None = Field(None, description="kind of file, onnx or torch; default: by its suffix")
    resolution: int | None = Field(None, ge=1, le=MAX_SIDE, description="pixels; default: the model's own resolution")
    target: str = Field(
        "own", description="what an explanation explains: own (prediction), or an input: class, direction"
    )
    int8: bool = Field(False, description="quantise, and measure what changes; for web where it is faithful")
    images: str | None = Field(
        None, description="photos that --int8 is measured on: folder, glob or archive; default: noise"
    )
    limit: int | None = Field(None, ge=1, le=MAX_COUNT, description="at most this many of them; default: 64")
    opset: int | None = Field(None, ge=1, le=MAX_COUNT, description="ONNX opset, 18 to 23; default: torch's")
    runtime: Path | None = Field(
        None, description="with --to web: folder of the npm package onnxruntime-web; default: through npm"
    )
    texts: Path | None = Field(None, description="with --to web: file of texts that a SigLIP student is asked about")
    text_tower: str | None = Field(None, description="with --to web: SigLIP checkpoint; default: the teacher")
    only_int8: bool = Field(False, description="with --to web: leave the float32 weights out where int8 is faithful")
    webgpu: bool = Field(False, description="with --to web: add the runtime for graphics processors")
    cdn: bool = Field(False, description="with --to web: the page fetches the WebAssembly from jsDelivr, by its digest")
    overwrite: bool = Field(False, description="replace what is there")

    def check(self) -> None:
        """Raises UserError for what is neither, and for what is of the other of the two."""
        if self.to not in ("file", "web"):
            raise UserError(f"--to must be file or web, got {self.to!r}.")
        others = OF_GRAPH if self.to == "web" else OF_PAGE
        for name, field in type(self).model_fields.items():
            if name in others and getattr(self, name) != field.default:
                option = f"--{name.replace('_', '-')}"
                raise UserError(f"{option} is {'not ' * (self.to == 'web')}for --to web; leave it out.")
