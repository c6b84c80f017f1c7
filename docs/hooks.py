"""Fills the page of the command line with every verb's own help when the site is built."""

from __future__ import annotations

from typing import Any

PLACE = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    return markdown.replace(PLACE, "\n".join(_verbs())) if PLACE in markdown else markdown


def _verbs() -> list[str]:
    from typer.main import get_command

    from aloe.cli.main import app

    lines = []
    top = get_command(app)
    for name, command in top.commands.items():
        inner = getattr(command, "commands", None)
        for words, verb in [((name,), command)] if inner is None else [((name, n), c) for n, c in inner.items()]:
            shown = " ".join(("aloe", *words))
            context = verb.make_context(shown, [], resilient_parsing=True, terminal_width=80, max_content_width=80)
            lines += [f"## {shown}", "", "```text", verb.get_help(context), "```", ""]
    return lines
