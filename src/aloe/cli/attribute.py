"""`aloe attribute IMAGES --model ...`: attribution methods side by side, on teachers and students."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aloe.cli.choices import one_of
from aloe.cli.common import Device, Json, OutputDir, method_options, quiet_libraries, say, table
from aloe.cli.flags import plan_flags
from aloe.core.devices import choose_device
from aloe.core.progress import Bar


@plan_flags("aloe.attribution.settings:AttributeSettings")
def attribute(
    images: Annotated[list[str], typer.Argument(help="Files, folders, globs or archives.")],
    model: Annotated[
        list[str],
        typer.Option(
            "--model", "-m", help="Teacher, student or saved probe; may be repeated.", autocompletion=one_of("zoo")
        ),
    ],
    output_dir: OutputDir,
    *,
    plan: dict[str, Any],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A method's option, such as intgrad.steps=100.")
    ] = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Write, for every image, what each method shows on each MODEL, and a gallery of the first twenty."""
    quiet_libraries()
    from aloe.attribution.compare import attribute_files
    from aloe.attribution.settings import AttributeSettings
    from aloe.evaluation.backbones import load_any
    from aloe.evaluation.results import describe
    from aloe.models.stages import standing, title_of

    asked, options = AttributeSettings.of(**plan), method_options(set_ or [])
    loaded: dict[str, Any] = {}
    for name in model:
        loaded_model = load_any(name)
        stage = describe(name, loaded_model)["stage"]
        title = title_of(stage) if len(model) > 1 else Path(name).name
        titles = (title, f"{title} {Path(name).name}", f"{title} {name}")
        loaded[next((t for t in titles if t not in loaded), titles[-1])] = loaded_model
    with Bar(None if json else "explaining") as bar:
        done = attribute_files(
            loaded,
            images[0] if len(images) == 1 else images,
            output_dir,
            **asked.model_dump(exclude={"maps"}),
            save_maps=asked.maps,
            options=options,
            device=choose_device(device),
            progress=lambda _, count, total: bar.update(count, total),
        )
    header = ("model", "method", "forward", "backward", "s/image", *(["MiB"] if asked.memory else []))
    words = [f"{t}: {standing(m.config.teacher)}" for t, m in loaded.items() if m.interpretable]
    words += [table([_line(c) for c in done.costs], header)]
    words += [f"{note}." for note in done.notes]
    words.append(f"{len(done.rows)} pictures and gallery.png, gallery.pdf in {output_dir}")
    say(
        {"pictures": done.rows, "costs": done.costs, "galleries": done.galleries, "notes": done.notes},
        "\n".join(words),
        json,
    )


def _line(cost: dict[str, Any]) -> tuple[Any, ...]:
    peak = [] if cost["peak_bytes"] is None else [round(cost["peak_bytes"] / 2**20, 1)]
    return cost["model"], cost["method"], round(cost["forward"], 1), round(cost["backward"], 1), cost["seconds"], *peak
