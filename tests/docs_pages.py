"""The pages of the documentation as their readers use them: the shell commands and the Python blocks, in order."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from places import ROOT

PAGES = ("README.md", *sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").rglob("*.md")))
SHELL = ("", "sh", "bash", "shell", "console")


@dataclass(frozen=True)
class Block:
    """What stands between two fences."""

    page: str
    line: int
    language: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page that are shell, Python, or text (which may hold commands for other machines)."""
    text = (ROOT / page).read_text()
    found = re.finditer(r"^```[ \t]*(\w*)[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    every = [Block(page, text.count("\n", 0, m.start()) + 2, m[1], m[2]) for m in found]
    return [b for b in every if b.language in (*SHELL, "python", "text")]


def commands(block: Block) -> Iterator[list[str]]:
    """Its commands, word by word: lines continued by a backslash joined, comments gone, cut at `&&`."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while "&&" in words:
            at = words.index("&&")
            yield words[:at]
            words = words[at + 1 :]
        if words:
            yield words


def mentions(page: str) -> Iterator[list[str]]:
    """The words of every command of `aloe` that stands in a sentence or a table, `like this`."""
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    for span in re.findall(r"`(aloe [a-z][^`]*)`", text):
        yield span.replace("\\|", "|").split()


def extras() -> set[str]:
    """The names of the optional dependencies."""
    section = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]
    return set(re.findall(r"^(\w+) = ", section, re.MULTILINE))
