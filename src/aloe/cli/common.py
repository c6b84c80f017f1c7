"""Options and output that several verbs share."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from aloe.cli.choices import one_of
from aloe.core.names import first_few
from aloe.core.printable import shown_line, shown_text

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of words.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps ...; default: the best there is.")]
Cache = Annotated[Path | None, typer.Option(help="Where features are kept; default: ~/.cache/aloe.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Keep no features.")]
Student = Annotated[str, typer.Argument(help="Folder or hub id of an aligned student.", autocompletion=one_of("zoo"))]
OutputDir = Annotated[Path, typer.Option("--output-dir", "-o", help="Folder to write to.")]


def quiet_libraries() -> None:
    """Silence the loading bars and advice of the libraries below; errors still come through."""
    import warnings

    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    from aloe.core.progress import announce_steps

    announce_steps()
    hub_logging.set_verbosity_error()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """`key=value` words, values read as YAML.

    Raises:
        UserError: a word without `=`, a key that comes twice, or a value that is no YAML.
    """
    from aloe.core.errors import UserError
    from aloe.core.files import parse_yaml

    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set takes key=value, got {pair!r}.")
        if key.strip() in values:
            raise UserError(f"--set {key.strip()} is given twice; leave one out.")
        try:
            values[key.strip()] = parse_yaml(value)
        except ValueError as error:
            raise UserError(f"--set takes key=value with a YAML value, got {pair[:80]!r}.") from error
    return values


def split_options(pairs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Settings, and a method's own: `method.option: value` as options by method.

    Raises:
        UserError: a name with an empty half.
    """
    from aloe.core.errors import UserError

    settings: dict[str, Any] = {}
    options: dict[str, dict[str, Any]] = {}
    for key, value in pairs.items():
        method, dot, name = key.partition(".")
        if dot and not (method and name):
            raise UserError(f"--set takes method.option=value, such as intgrad.steps=100, got {key!r}.")
        if dot:
            options.setdefault(method, {})[name] = value
        else:
            settings[key] = value
    return settings, options


def method_options(pairs: list[str]) -> dict[str, dict[str, Any]]:
    """Options by method from `method.option=value` words, where nothing else can be set.

    Raises:
        UserError: anything else.
    """
    from aloe.core.errors import UserError

    settings, options = split_options(parse_settings(pairs))
    if settings:
        raise UserError(f"--set takes method.option=value, such as intgrad.steps=100, got {next(iter(settings))!r}.")
    return options


def say(result: dict[str, Any], words: str, as_json: bool) -> None:
    """Print the result once, also when several processes run the same command."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo(json.dumps(result) if as_json else shown_text(words))


def cache_folder(cache: Path | None, no_cache: bool) -> Path | None:
    """Where features are kept; None for nowhere.

    Raises:
        UserError: a folder and none are asked for at once.
    """
    from aloe.core.errors import UserError
    from aloe.evaluation.cache import default_cache

    if cache is not None and no_cache:
        raise UserError("Give --cache FOLDER or --no-cache, not both.")
    return None if no_cache else cache or default_cache()


def replaced_words(names: list[str]) -> list[str]:
    """One line on pictures that stood in the folder and showed something else; none where there are none."""
    some = first_few(names, 3)
    return [f"{len(names)} pictures of other images, or for another target, were replaced: {some}"] * bool(names)


def table(rows: list[tuple[Any, ...]], header: tuple[str, ...]) -> str:
    """Plain columns; numbers to the right."""
    text = [tuple(f"{c:.4f}" if isinstance(c, float) else shown_line(str(c)) for c in row) for row in rows]
    widths = [max(len(r[i]) for r in [header, *text]) for i in range(len(header))]
    numeric = [all(isinstance(row[i], int | float) for row in rows) for i in range(len(header))]

    def line(cells: tuple[str, ...]) -> str:
        parts = (c.rjust(w) if n else c.ljust(w) for c, w, n in zip(cells, widths, numeric, strict=True))
        return "  ".join(parts).rstrip()

    return "\n".join([line(header), line(tuple("-" * w for w in widths)), *map(line, text)])
