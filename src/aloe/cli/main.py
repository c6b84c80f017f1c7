"""The `aloe` command: collects the verbs and turns a user's mistake into one sentence and exit code 2."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from itertools import pairwise
from typing import Annotated, Any, NoReturn

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
    neighbours,
    publish,
    report,
    study,
    sweep,
    teachers,
)
from aloe.cli import app as explorer
from aloe.cli.verb import Verb
from aloe.core import processes, survival
from aloe.core.errors import UserError
from aloe.core.files import expanded
from aloe.core.printable import shown_line
from aloe.core.typed import whole_number

app = typer.Typer(
    name="aloe",
    help="Turn a foundation Vision Transformer into one that explains itself, without labels.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        from aloe import __version__

        typer.echo(f"aloe {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and end.")
    ] = False,
) -> None:
    """What is said before a verb."""


VERBS: dict[Any, str] = {
    demo.demo: "Convert, align and compare on scenes made here.",
    align.align: "Align a B-cos student to a teacher, without labels.",
    finetune.finetune: "Fine-tune a teacher or student on labels.",
    explain.explain: "Write a student's own explanations of images.",
    attribute.attribute: "Write the maps of attribution methods, side by side.",
    neighbours.neighbours: "Write an image's nearest images, and why they are near.",
    ground.ground: "Write which pixels a LLaVA model's words come from.",
    evaluate.evaluate: "Evaluate teachers and students on data sets.",
    report.report: "Write the paper's tables and figures from results.",
    sweep.sweep: "Align once for each point of a grid, and evaluate.",
    explorer.app: "Open a page to explore explanations.",
    export.export: "Write a student as one ONNX or torch.export graph.",
    publish.publish: "Write a student with its model card, and push it.",
    bcosify.bcosify: "Convert a teacher to a B-cos ViT, not aligned.",
    convert_checkpoint.convert_checkpoint: "Translate one of the authors' checkpoints.",
    teachers.teachers: "List the paper's teachers, students and the zoo.",
    bench.bench: "Measure how fast an alignment runs here.",
    doctor.doctor: "Print versions, devices and what is missing.",
}
for verb, words in VERBS.items():
    app.command(verb.__name__.replace("_", "-"), cls=Verb, short_help=words)(verb)
app.add_typer(study.app, name="study")


def main() -> None:
    """Entry point of `aloe` and `python -m aloe`."""
    for stream in (sys.stdout, sys.stderr):  # file names may hold bytes that are no text
        with suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        _run()
    except UserError as error:
        _fail(str(error), alike=isinstance(error, processes.OnEveryProcess))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            place = error.filename or "while writing"
            _fail(f"The disk is full ({place}): free some space and run the same command again.")
        if error.filename is None:
            _end_with(error)
        _fail(f"{error.filename} cannot be read or written: {error.strerror or type(error).__name__}.")
    except SystemExit as stop:
        if stop.code == 130:  # how typer reports Ctrl-C
            words = survival.last_words(f"Interrupted; {_going_on()}.", alike=True)
            if words is not None:
                typer.echo(words, err=True)
        raise
    except Exception as error:
        _end_with(error)
    finally:
        survival.stopping()


def _run() -> None:
    """The command; one of several processes that has done its part waits for the others."""
    several = _started_processes() > 1
    try:
        sys.exit(app(standalone_mode=not several))
    except SystemExit as stop:
        if not stop.code:
            processes.leave()
        raise
    except Exception as error:
        if several and hasattr(error, "format_message"):  # of click: all processes have the same words
            raise processes.OnEveryProcess(error.format_message()) from None
        raise


def _end_with(error: Exception) -> NoReturn:
    """A mistake of ours keeps its traceback; of several processes that of the first that stops is seen."""
    if survival.stopped_by(error):
        raise error
    sys.exit(1)


def _started_processes() -> int:
    """How many processes torchrun started; raises UserError for numbers that are none: libraries trust them."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        value = os.environ.get(name, "0")
        number = whole_number(value)
        if number is None or number < 0:
            raise UserError(f"The environment's {name} is {value!r}, which is no count; unset it, or use torchrun.")
    return int(os.environ.get("WORLD_SIZE", "1"))


def _going_on() -> str:
    """What to do after Ctrl-C: what is kept is gone on from, every other command begins again."""
    from aloe.train.checkpoints import checkpoints

    words = sys.argv[1:]
    folders = [b for a, b in pairwise(words) if a in ("-o", "--output-dir")]
    folders += [w.partition("=")[2] for w in words if w.startswith("--output-dir=")]
    if words[:1] and words[0] in ("align", "finetune", "sweep") and folders:
        home = expanded(folders[-1])
        if words[0] == "sweep":
            return "run the same command again; finished runs are kept"
        if checkpoints(home):
            return "run the same command again to go on from the last checkpoint"
        return "there is no checkpoint yet, so the same command begins again"
    if words[:1] == ["evaluate"]:
        return "run the same command again; rows that were measured are kept"
    if words[:1] in (["explain"], ["neighbours"]):
        return "run the same command again; pictures that were made are kept"
    return "run the same command again to begin anew"


def _fail(message: str, alike: bool = False) -> NoReturn:
    """Ends with one sentence, which one of several processes says: `alike` where all of them have met it."""
    words = survival.last_words(message, alike)
    if words is not None:
        typer.echo(f"aloe: {shown_line(words)}", err=True)
    sys.exit(2)
