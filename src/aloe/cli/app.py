"""`aloe app [MODEL ...]`: the explanation explorer, a web page on this machine."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from aloe.cli.common import Device, method_options, quiet_libraries
from aloe.core.bounds import MAX_COUNT
from aloe.core.devices import choose_device
from aloe.core.printable import shown_line


def app(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Teachers, students or saved probes; default: zoo:photos-aloe, or what aloe demo made."),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(help="Images to pick from: files, folders or archives; default: three photographs."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="At most this many images to pick from.")] = 40,
    text_tower: Annotated[
        str | None, typer.Option(help="Folder or hub id of the text tower; default: a SigLIP teacher's own.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A method's option, such as intgrad.steps=20.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; others than this let the network in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 7860,
    device: Device = None,
) -> None:
    """Open a page to explore explanations: images, classes, texts, post-hoc maps, and what deleting a region does."""
    quiet_libraries()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    from aloe.apps.explorer.explorer import Explorer, load_models
    from aloe.apps.explorer.server import is_loopback, listen, serve
    from aloe.core.errors import UserError

    try:
        from aloe.apps.explorer.page import build_app
    except ModuleNotFoundError as error:
        if error.name not in ("gradio", "fastapi"):
            raise
        raise UserError('The explorer needs gradio: pip install "aloe-vit[app]".') from error
    listening = listen(host, port)  # said before any work, where it cannot be
    entries, towers = load_models(models or [], text_tower)
    explorer = Explorer(entries, towers=towers, options=method_options(set_ or []), device=choose_device(device))
    explorer.warm_up()
    local = is_loopback(host)
    page = build_app(explorer, images[0] if images and len(images) == 1 else images, limit=limit, local=local)
    typer.echo("\n".join(shown_line(f"{title}: {words}") for title, words in explorer.standings().items()))
    if not local:
        typer.echo(f"Anybody who reaches {host} can use this page; it has no password.", err=True)
    serve(page, listening, ready=lambda url: typer.echo(f"Open {url} (Ctrl-C ends it)"))
