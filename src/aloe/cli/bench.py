"""`aloe bench`: images per second, use of the machine and memory of an alignment here, part by part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aloe.cli.common import Device, Json, quiet_libraries, say, table
from aloe.cli.flags import settings_flags
from aloe.core.bounds import MAX_COUNT
from aloe.core.devices import choose_device


@settings_flags(
    "aloe.train.align.settings:AlignSettings",
    *("batch_size", "resolution", "precision", "compile_teacher", "workers"),
    rest="Any other setting of aloe align, as key=value.",
    defaults=False,
    notes={"batch_size": "default: 8", "precision": "default: float32, on CUDA also bf16", "workers": "default: 0"},
)
def bench(
    teacher: Annotated[str | None, typer.Argument(help="Teacher to measure; default: random ones of --sizes.")] = None,
    images: Annotated[list[str] | None, typer.Argument(help="Images to load; default: generated photographs.")] = None,
    sizes: Annotated[str | None, typer.Option(help="Of Ti, S, B, L, so400m, H, with commas; default: Ti,S.")] = None,
    *,
    steps: Annotated[
        int, typer.Option(min=1, max=MAX_COUNT, help="Times that each part is measured; medians are shown.")
    ] = 5,
    settings: dict[str, Any],
    output_dir: Annotated[Path | None, typer.Option("--output-dir", "-o", help="Folder to add rows to.")] = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Measure alignment steps: data loading, teacher, student, the full step; with the code that `aloe align` runs."""
    quiet_libraries()
    from aloe.apps.bench.report import bench_all, lines
    from aloe.core.typed import words

    where = choose_device(device)
    usual = ["float32", "bf16"] if where.startswith("cuda") else ["float32"]
    rows = bench_all(
        teacher,
        images or [],
        [] if sizes is None else words(sizes, "--sizes"),
        [settings.pop("precision")] if "precision" in settings else usual,
        rounds=steps,
        device=where,
        output_dir=output_dir,
        progress=not json,
        settings={"batch_size": 8, "workers": 0, **settings},
    )
    header, cells, notes = lines(rows)
    result: dict[str, Any] = {"rows": rows, **({"results": str(output_dir)} if output_dir else {})}
    say(result, "\n".join([table(cells, header), *notes]), json)
