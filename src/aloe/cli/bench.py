"""`aloe bench`: images per second, use of the machine and memory of an alignment here, part by part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aloe.cli.common import Device, Json, parse_settings, quiet_libraries, say, table
from aloe.core.bounds import MAX_BATCH, MAX_COUNT, MAX_SIDE, MAX_WORKERS
from aloe.core.devices import choose_device


def bench(
    teacher: Annotated[str | None, typer.Argument(help="Teacher to measure; default: random ones of --sizes.")] = None,
    images: Annotated[list[str] | None, typer.Argument(help="Images to load; default: generated photographs.")] = None,
    sizes: Annotated[str | None, typer.Option(help="Of Ti, S, B, L, so400m, H, with commas; default: Ti,S.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=MAX_BATCH, help="Images per step and process.")] = 8,
    steps: Annotated[
        int, typer.Option(min=1, max=MAX_COUNT, help="Times that each part is measured; medians are shown.")
    ] = 5,
    resolution: Annotated[
        int | None, typer.Option(min=1, max=MAX_SIDE, help="Student pixels; default: the teacher's own tokens.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="float32, bf16 or fp16; default: float32, on CUDA also bf16.")
    ] = None,
    compile_teacher: Annotated[bool, typer.Option("--compile", help="Compile the teacher's blocks.")] = False,
    workers: Annotated[int, typer.Option(min=0, max=MAX_WORKERS, help="Processes that decode images.")] = 0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting of aloe align, as key=value.")
    ] = None,
    output_dir: Annotated[Path | None, typer.Option("--output-dir", "-o", help="Folder to add rows to.")] = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Measure alignment steps: data loading, teacher, student, the full step; with the code that `aloe align` runs."""
    quiet_libraries()
    from aloe.apps.bench.report import bench_all, lines
    from aloe.core.settings import merged
    from aloe.core.typed import words
    from aloe.train.align.settings import AlignSettings

    where = choose_device(device)
    rows = bench_all(
        teacher,
        images or [],
        [] if sizes is None else words(sizes, "--sizes"),
        [precision] if precision else ["float32", "bf16"] if where.startswith("cuda") else ["float32"],
        rounds=steps,
        device=where,
        output_dir=output_dir,
        progress=not json,
        settings=merged(
            {
                "batch_size": batch_size,
                "resolution": resolution,
                "compile_teacher": compile_teacher or None,
                "workers": workers,
            },
            parse_settings(set_ or []),
            AlignSettings.model_fields,
        ),
    )
    header, cells, notes = lines(rows)
    result: dict[str, Any] = {"rows": rows, **({"results": str(output_dir)} if output_dir else {})}
    say(result, "\n".join([table(cells, header), *notes]), json)
