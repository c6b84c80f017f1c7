"""The `aloe` command: collects the verbs and turns a user's mistake into one sentence and exit code 2."""

from __future__ import annotations

import errno
import sys
from contextlib import suppress
from typing import NoReturn

import typer

from aloe.cli import (
    align,
    attribute,
    bcosify,
    bench,
    convert_checkpoint,
    demo,
    doctor,
    evaluate,
    explain,
    export,
    finetune,
    ground,
    publish,
    report,
    study,
    sweep,
    teachers,
)
from aloe.cli import (
    app as explorer,
)
from aloe.core.errors import UserError

app = typer.Typer(
    name="aloe",
    help="Turn a foundation Vision Transformer into one that explains itself, without labels.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo")(demo.demo)
app.command("align")(align.align)
app.command("finetune")(finetune.finetune)
app.command("explain")(explain.explain)
app.command("attribute")(attribute.attribute)
app.command("ground")(ground.ground)
app.command("evaluate")(evaluate.evaluate)
app.command("report")(report.report)
app.command("sweep")(sweep.sweep)
app.command("app")(explorer.app)
app.command("export")(export.export)
app.command("publish")(publish.publish)
app.command("bcosify")(bcosify.bcosify)
app.command("convert-checkpoint")(convert_checkpoint.convert_checkpoint)
app.command("teachers")(teachers.teachers)
app.command("bench")(bench.bench)
app.command("doctor")(doctor.doctor)
app.add_typer(study.app, name="study")


def main() -> None:
    """Entry point of `aloe` and `python -m aloe`."""
    for stream in (sys.stdout, sys.stderr):  # file names may hold bytes that are no text
        with suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        app()
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            place = error.filename or "while writing"
            _fail(f"The disk is full ({place}): free some space and run the same command again.")
        if error.filename is None:
            raise
        _fail(f"{error.filename} cannot be read or written: {error.strerror or type(error).__name__}.")
    except SystemExit as stop:
        if stop.code == 130:  # how typer reports Ctrl-C
            typer.echo("Interrupted; run the same command again to go on from the last checkpoint.", err=True)
        raise


def _fail(message: str) -> NoReturn:
    typer.echo(f"aloe: {message}", err=True)
    sys.exit(2)
