"""Several sizes and precisions one after the other, as rows that are kept and as the lines of a table."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aloe.apps.bench.measure import measure
from aloe.apps.bench.sizes import SIZES, check_sizes, generated_photos, random_teacher
from aloe.core.errors import UserError
from aloe.core.names import chosen as chosen_name
from aloe.core.progress import say
from aloe.data.sources import open_source
from aloe.evaluation.results import ResultLog, Row, row_key, versions
from aloe.models.teachers import load_teacher
from aloe.train.align.settings import AlignSettings

BENCH_NAME = "bench.jsonl"
DEFAULT_SIZES = ("Ti", "S")
PARTS = {
    "data": "data",
    "teacher": "teacher",
    "student_forward": "student fwd",
    "student_step": "student step",
    "full_step": "full step",
}


def bench_all(
    teacher: str | None,
    images: Sequence[str],
    sizes: Sequence[str],
    precisions: Sequence[str],
    *,
    rounds: int,
    device: str,
    settings: Mapping[str, Any],
    output_dir: Path | None = None,
    progress: bool = False,
) -> list[Row]:
    """A row for every teacher and precision; each is on the disk, in `bench.jsonl`, before the next one starts.

    Args:
        teacher: hub id or folder; None: random ones of `sizes` (default Ti and S). images: what to load; none: generated.
        settings: of the alignment, over the recipe `short`.

    Raises:
        UserError: sizes beside a teacher, and whatever an alignment refuses.
    """
    if teacher is not None and sizes:
        raise UserError("Give a teacher or --sizes, not both.")
    checked = [AlignSettings.resolve(overrides={**settings, "precision": p}) for p in precisions]
    sizes = [chosen_name(size, SIZES) or size for size in sizes]
    names = [teacher] if teacher is not None else list(dict.fromkeys(sizes or DEFAULT_SIZES))
    check_sizes([] if teacher is not None else names)
    log = None if output_dir is None else ResultLog(output_dir, BENCH_NAME)
    source: Any = generated_photos() if not images else open_source(images[0] if len(images) == 1 else list(images))
    rows = []
    for name in names:
        for case in checked:
            if progress and _first_process():
                say(f"Measuring {name}, {case.precision} ...")
            model = random_teacher(name, case.resolution or 224) if teacher is None else load_teacher(name)
            row = asdict(measure(model, source, case, rounds=rounds, device=device))
            del model
            gc.collect()  # trainers are cycles; the next size needs the memory
            facts = {k: row[k] for k in ("name", "device", "precision", "compiled", "resolution", "batch_size")}
            facts |= {"processes": row["processes"], "threads": row["threads"], "versions": versions("accelerate")}
            rows.append({"key": row_key(facts), **row, "versions": facts["versions"]})
            if log is not None and _first_process():
                log.add(rows[-1])
    return rows


def lines(rows: Sequence[Row]) -> tuple[tuple[str, ...], list[tuple[Any, ...]], list[str]]:
    """Header, cells and closing sentences of a table of rows."""
    batches = any(row["largest_batch"] is not None for row in rows)
    header = ("teacher", "precision", "px", "batch", *(f"{PARTS[p]}/s" for p in PARTS), "use", "GFLOP/image", "MiB")
    cells = []
    for row in rows:
        rates = [_short(row["images_per_second"][part]) for part in PARTS]
        use = f"{row['utilisation']['full_step']:.0%}"
        work = f"{row['flops_per_image']['full_step'] / 1e9:.1f}"
        how = row["precision"] + (", teacher compiled" if row["compiled"] else "")
        setup = (row["name"], how, row["resolution"], row["batch_size"])
        most = (row["largest_batch"],) if batches else ()
        cells.append((*setup, *rates, use, work, row["memory"] >> 20, *most))
    first = rows[0]
    peaks = ", ".join(
        f"{row['name']} {row['precision']} {row['matmul_flops_per_second'] / 1e9:.0f} GFLOP/s" for row in rows
    )
    notes = [
        f"Images per second on {first['device']}, {first['processes']} process(es) of {first['threads']} thread(s);"
        f" medians of {first['steps']}.",
        f"use: share of the full step in the rate of a matrix product measured in turns with it ({peaks}).",
        "MiB: tensors at the worst moment of a step, one process.",
    ]
    return (*header, *(("largest batch",) if batches else ())), cells, notes


def _first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _short(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 10 else f"{rate:.2f}"
