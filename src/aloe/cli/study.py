"""`aloe study`: a human preference study from images to Table B7: build, serve, invite, export, fit, simulate, power."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from aloe.cli.choices import one_of
from aloe.cli.common import Device, Json, parse_settings, quiet_libraries, say, split_options, table
from aloe.cli.flags import settings_flags
from aloe.cli.verb import Verb
from aloe.core.bounds import MAX_COUNT, MAX_HELD, MAX_SEED, MAX_STUDIED
from aloe.core.devices import choose_device

app = typer.Typer(help="Ask people which explanation helps them more.", no_args_is_help=True)

SECRET = "ALOE_STUDY_SECRET"
Db = Annotated[Path, typer.Option("--db", help="The study's file.")]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED)]


@app.command(cls=Verb, short_help="Draw all maps of all images into one file.")
@settings_flags(
    "aloe.apps.study.settings:StudySettings",
    *("methods", "trials", "practice", "ties", "title", "contact", "seed"),
    rest="Other settings (repeats=6, random=2, ...) or a method's (intgrad.steps=100).",
)
def build(
    images: Annotated[list[str], typer.Argument(help="Files, folders, globs or archives.")],
    *,
    student: Annotated[
        str | None,
        typer.Option(help="Aligned student with a classifier: shows its W(x)x.", autocompletion=one_of("zoo")),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="What the post-hoc methods explain; default: the student as well.")
    ] = None,
    db: Db = Path("study.sqlite"),
    settings: dict[str, Any],
    limit: Annotated[int | None, typer.Option(min=1, max=MAX_STUDIED, help="At most this many images.")] = None,
    consent: Annotated[Path | None, typer.Option(help="Text file shown before the start instead of ours.")] = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Draw every method's map of every image into one file that `aloe study serve` needs nothing besides."""
    quiet_libraries()
    from aloe.apps.study.build import build_study
    from aloe.apps.study.settings import StudySettings
    from aloe.core.errors import UserError
    from aloe.core.files import read_words
    from aloe.evaluation.backbones import load_any

    values, options = split_options(settings)
    if consent is not None:
        values["consent"] = read_words(consent).strip()
    if student is None and teacher is None:
        raise UserError("Give a model to explain: --student, --teacher, or both.")
    chosen = StudySettings.of(**values)
    done = build_study(
        db,
        images[0] if len(images) == 1 else images,
        load_any(student) if student else None,
        load_any(teacher) if teacher else None,
        chosen,
        options=options,
        limit=limit,
        device=choose_device(device),
        progress=None if json else _counter,
    )
    words = [f"{note}." for note in done.notes]
    words.append(f"{len(done.images)} images, {chosen.shown} trials per participant in {db}")
    words.append(f"Start it with: aloe study serve --db {db}")
    say({"db": str(db), "images": done.images, "notes": done.notes, "trials": chosen.shown}, "\n".join(words), json)


@app.command(cls=Verb, short_help="Show a study to participants.")
def serve(
    db: Db = Path("study.sqlite"),
    host: Annotated[str, typer.Option(help="Address to listen at; default: this machine only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8000,
    invited_only: Annotated[
        bool, typer.Option("--invited-only", help="Sessions only by links of `aloe study invite`.")
    ] = False,
) -> None:
    """Show a study to participants; the admin page's password is $ALOE_STUDY_SECRET, or one made up and printed."""
    from aloe.apps.study.serving import serve_study

    given = os.environ.get(SECRET)
    secret = given or secrets.token_urlsafe(24)

    def ready(url: str) -> None:
        typer.echo(f"The study is at {url}/ and its progress at {url}/admin; stop with Ctrl-C.")
        if host not in ("127.0.0.1", "localhost", "::1"):
            typer.echo("Others can reach it, and read links and password on the way: put a proxy with HTTPS before it.")
        if not given:
            typer.echo(f"Admin password (any user name): {secret}")
        sys.stdout.flush()

    serve_study(db, secret, host=host, port=port, invited_only=invited_only, ready=ready)


@app.command(cls=Verb, short_help="Print personal links, one session each.")
def invite(
    count: Annotated[int, typer.Argument(min=1, max=MAX_HELD, help="How many links.")],
    db: Db = Path("study.sqlite"),
    url: Annotated[str, typer.Option(help="Where the study is served.")] = "http://127.0.0.1:8000",
    json: Json = False,
) -> None:
    """Print personal links, one session each. They are stored nowhere: keep what is printed."""
    from contextlib import closing

    from aloe.apps.study.store import Store

    with closing(Store(db)) as store:
        links = [f"{url.rstrip('/')}/s/{token}" for token in store.invite(count)]
    say({"links": links}, "\n".join(links), json)


@app.command(cls=Verb, short_help="Write the answers to a CSV or JSON lines file.")
def export(
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, .csv or .jsonl.")],
    db: Db = Path("study.sqlite"),
    json: Json = False,
) -> None:
    """Write the answers to a file, without links and codes; also while the study is served."""
    from aloe.apps.study.answers import stored_answers

    _write(output, lambda: stored_answers(db), "answers", json)


@app.command(cls=Verb, short_help="Fit scores to answers; write tables and plots.")
def fit(
    answers: Annotated[list[Path], typer.Argument(help="A study's file, or exports of it (.csv, .jsonl).")],
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Folder to write to.")] = Path("study-fit"),
    ties: Annotated[str, typer.Option(help="half: a tie is half a win for both; drop: it does not count.")] = "half",
    rule: Annotated[
        list[str] | None,
        typer.Option(help="What participants may do, such as noise=0.5, seconds=2, finished=false; docs/study.md."),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, max=MAX_HELD, help="Of the bootstrap over participants.")] = 1000,
    paper: Annotated[bool, typer.Option(help="The paper's own numbers beside ours.")] = True,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Leave out by the rules, fit Bradley-Terry scores, and write Table B7, win rates, agreement and plots."""
    from aloe.apps.study.analysis import analyse, write_analysis
    from aloe.apps.study.answers import read_studies
    from aloe.apps.study.exclusions import Rules
    from aloe.core.errors import UserError

    if ties not in ("half", "drop"):
        raise UserError(f"--ties is half or drop, not {ties}.")
    rules = Rules.of(**parse_settings(rule or []))
    read, notes = read_studies(answers)
    analysis = analyse(read, rules, ties=ties, samples=samples, seed=seed, notes=notes)  # type: ignore[arg-type]
    files = write_analysis(analysis, output_dir, paper)
    words = "\n".join(
        [*(t.to_markdown() for t in analysis.tables(paper)[:2]), *analysis.words, f"{len(files)} files in {output_dir}"]
    )
    encoding = sys.stdout.encoding or "utf-8"  # that of a terminal may lack the arrows, whose place a ? then takes
    words = words.encode(encoding, "replace").decode(encoding)
    say({**analysis.summary(), "output": str(output_dir), "files": files}, words, json)


@app.command(cls=Verb, short_help="Write the answers of people of known preferences.")
def simulate(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write, .csv or .jsonl, for `aloe study fit`.")
    ],
    scores: Annotated[str, typer.Option(help="Such as inherent=0.97,intgrad=0.41.")],
    participants: Annotated[int, typer.Option(min=1, max=MAX_HELD)] = 41,
    images: Annotated[int, typer.Option(min=1, max=MAX_HELD, help="Images of the study.")] = 24,
    trials: Annotated[int, typer.Option(min=1, max=MAX_HELD)] = 50,
    ties: Annotated[float, typer.Option(min=0, max=MAX_COUNT, help="Differences below this are called ties.")] = 0.0,
    spread: Annotated[
        float, typer.Option(min=0, max=MAX_COUNT, help="How scores differ from person to person (SD).")
    ] = 0.5,
    careless: Annotated[float, typer.Option(min=0, max=1, help="Share of people who press any key.")] = 0.0,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Rehearse a study: write the answers that people of known preferences would give."""
    from aloe.apps.study.settings import StudySettings
    from aloe.apps.study.simulate import Preferences
    from aloe.apps.study.simulate import simulate as draw
    from aloe.core.typed import named_numbers

    of = named_numbers(scores, "--scores", "inherent=0.97,intgrad=0.41")
    settings = StudySettings.of(methods=tuple(of), trials=trials, ties=ties > 0, seed=seed, repeats=min(4, trials // 2))
    people = Preferences(of, spread, tie=ties, careless=careless)
    _write(output, lambda: draw(settings, images, participants, people, seed), "simulated answers", json)


@app.command(cls=Verb, short_help="Say how many participants find a difference.")
def power(
    difference: Annotated[float, typer.Option(help="Of two methods' scores; 0.56 is a win rate of 63.6 %.")],
    trials: Annotated[str, typer.Option(help="Trials per participant that count, with commas.")] = "25,50,100",
    participants: Annotated[
        int | None, typer.Option(min=2, max=MAX_HELD, help="The power with so many; default: how many are needed.")
    ] = None,
    goal: Annotated[float, typer.Option(help="Probability of finding the difference.")] = 0.8,
    methods: Annotated[int, typer.Option(min=2, max=MAX_HELD, help="Methods of the study.")] = 6,
    spread: Annotated[
        float, typer.Option(min=0, max=MAX_COUNT, help="How scores differ from person to person (SD).")
    ] = 0.5,
    simulations: Annotated[int, typer.Option(min=1, max=MAX_HELD)] = 200,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """How many participants and trials find a difference: simulated studies, fitted like real ones."""
    from dataclasses import asdict

    from aloe.apps.study.power import participants_needed
    from aloe.apps.study.power import power as power_of
    from aloe.core.typed import whole_numbers

    options: dict[str, Any] = {"methods": methods, "spread": spread, "simulations": simulations, "seed": seed}
    counts = whole_numbers(trials, "--trials", "25,50,100", 1)
    rows, words = [], []
    for count in counts:
        estimate = (
            participants_needed(difference, count, goal=goal, **options)
            if participants is None
            else power_of(difference, participants, count, **options)
        )
        rows.append({"trials": count} if estimate is None else asdict(estimate))
        cells = ("too many", "", "") if estimate is None else (estimate.participants, estimate.power, estimate.error)
        words.append((count, *cells))
    head = ("trials", "participants", "power", "standard error")
    say({"difference": difference, "rows": rows}, table(words, head), json)


def _write(output: Path, answers: Callable[[], Any], what: str, as_json: bool) -> None:
    """Make answers, write them in the form that the file's ending names, and say so."""
    from aloe.apps.study.answers import FORMATS
    from aloe.core.errors import UserError
    from aloe.core.files import write_whole

    form = FORMATS.get(output.suffix.removeprefix("."))
    if form is None:
        raise UserError(f"{output.name} ends in neither .csv nor .jsonl.")
    made = answers()
    write_whole(output, form(made))
    say({"output": str(output), "answers": len(made)}, f"{len(made)} {what} in {output}", as_json)


def _counter(done: int, total: int) -> None:
    if sys.stderr.isatty():
        typer.echo(f"\r{done} of {total} images", err=True, nl=done == total)
