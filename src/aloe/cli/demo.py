"""`aloe demo`: the whole story on images the package renders itself; no network, no data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aloe.cli.common import Device, Json, quiet_libraries, say
from aloe.core.bounds import MAX_COUNT
from aloe.core.devices import choose_device


def demo(
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Folder to write to.")] = Path("demo-out"),
    steps: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="Alignment steps.")] = 240,
    device: Device = None,
    json: Json = False,
) -> None:
    """Convert and align the embedded teacher, compare, and write a page with the table and the pictures."""
    quiet_libraries()
    from aloe.apps.demo import run_demo

    result = run_demo(output_dir, steps=steps, device=choose_device(device), progress=not json)
    say(result.summary(), result.words(), json)
