"""The `aloe` command: collects the verbs and turns a user's mistake into one sentence and exit code 2."""

from __future__ import annotations

import errno
import sys
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
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
from aloe.cli.verb import Verb
from aloe.core.errors import UserError
from aloe.core.printable import shown_line

app = typer.Typer(
    name="aloe",
    help="Turn a foundation Vision Transformer into one that explains itself, without labels.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo", cls=Verb)(demo.demo)
app.command("align", cls=Verb)(align.align)
app.command("finetune", cls=Verb)(finetune.finetune)
app.command("explain", cls=Verb)(explain.explain)
app.command("attribute", cls=Verb)(attribute.attribute)
app.command("ground", cls=Verb)(ground.ground)
app.command("evaluate", cls=Verb)(evaluate.evaluate)
app.command("report", cls=Verb)(report.report)
app.command("sweep", cls=Verb)(sweep.sweep)
app.command("app", cls=Verb)(explorer.app)
app.command("export", cls=Verb)(export.export)
app.command("publish", cls=Verb)(publish.publish)
app.command("bcosify", cls=Verb)(bcosify.bcosify)
app.command("convert-checkpoint", cls=Verb)(convert_checkpoint.convert_checkpoint)
app.command("teachers", cls=Verb)(teachers.teachers)
app.command("bench", cls=Verb)(bench.bench)
app.command("doctor", cls=Verb)(doctor.doctor)
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
            typer.echo(f"Interrupted; {_going_on()}.", err=True)
        raise


def _going_on() -> str:
    """What to do after Ctrl-C: a training with a checkpoint goes on from it, every other command begins again."""
    from aloe.train.checkpoints import checkpoints

    words = sys.argv[1:]
    folders = [b for a, b in pairwise(words) if a in ("-o", "--output-dir")]
    folders += [w.partition("=")[2] for w in words if w.startswith("--output-dir=")]
    if words[:1] and words[0] in ("align", "finetune", "sweep") and folders:
        home = Path(folders[-1]).expanduser()
        if words[0] == "sweep":
            return "run the same command again; finished runs are kept"
        if checkpoints(home):
            return "run the same command again to go on from the last checkpoint"
        return "there is no checkpoint yet, so the same command begins again"
    if words[:1] == ["evaluate"]:
        return "run the same command again; rows that were measured are kept"
    return "run the same command again to begin anew"


def _fail(message: str) -> NoReturn:
    typer.echo(f"aloe: {shown_line(message)}", err=True)
    sys.exit(2)
