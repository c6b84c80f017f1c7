"""Every command of the documentation runs as it is printed, in a sandbox where what it names exists (`docs_sandbox.py`).

What makes a command long is cut by options appended to it (the last value of an option wins) and by fewer rendered scenes.
What cannot run here is checked all the same: the options of `aloe` by its own parser, targets of make, scripts, extras.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.main import get_command

import aloe as package
from aloe.apps.grounding.ground import ground
from aloe.cli.main import app
from aloe.evaluation.tasks import TASKS
from aloe.models.saving import load
from docs_pages import PAGES, ROOT, Block, blocks, commands, extras, mentions
from docs_sandbox import BESIDE, NAMES, REPLACED, SHORT, Furniture

ANSWER = "a man with a surfboard"  # what the pages' vision-language model says

# Appended to a verb's words, in general or where a word (or a part of it, between commas) or a page follows: less work.
CUTS = {
    "align": "--steps 1 --batch-size 2 --workers 0 --precision float32 --set holdout=2",
    "align multires": "--set resolutions=[32,48]",
    "align stem_steps=300": "--set stem_steps=2",
    "attribute": "--limit 1 --set intgrad.steps=2 --set lime.samples=8 --set lime.segments=2",
    "demo": "--steps 1",
    "evaluate linear": "--set epochs=1",
    "evaluate gridpg": "--grids 1 --images 1 --set 'options={intgrad: {steps: 2}, lime: {samples: 8}}'",
    "evaluate gridpg docs/results.md": "--methods inherent,legrad --block 32",
    "evaluate deletion docs/results.md": "--images 1 --methods inherent,legrad",
    "evaluate correspondence": "--set scale=0.1 --resolution 56",
    "evaluate depth": "--set epochs=1 --set target_side=48 --resolution 56",
    "evaluate normals": "--set epochs=1 --set target_side=48 --resolution 56",
    "explain": "--limit 2",
    "sweep": "--steps 1 --batch-size 2 --set workers=0 --train-images 40 --test-images 10",
    "finetune": "--steps 1 --batch-size 2 --workers 0 --set holdout=2",
    "ground": f"--answer '{ANSWER}'",
    "study build": "--limit 3 --set intgrad.steps=2 --set lime.samples=8 --set lime.segments=2",
    "study fit": "--samples 20 --rule seconds=0 --rule one_side=1 --rule noise=1",
    "study power": "--simulations 4 --goal 0.5",
}
LESS = {  # within words: how many scenes are drawn, shares of 120 images, how often a sweep is run
    r"^scenes:\d+": "scenes:24",
    r"^rendered:[\d,]+": "rendered:4,3",
    r"^fraction=.*": "fraction=0.2,1",
    r"^0,1(,\d)*$": "0",
}

# Commands of `aloe` that are parsed and not run, and why; Python of these pages is compiled.
NOT_RUN = {
    r": aloe export ": "each graph takes a minute to trace, translate and check; tests/export does so",
    r": aloe publish .* --space": "the same graph; tests/apps/publish does so",
    r"^docs/index.md: aloe demo": "the tutorial's first command",
    r"^docs/results.md: aloe evaluate .*(rgbd=|rendered:400,40@|scene-aligned-2500)": "docs/dense.md has the same tasks",
    r"^docs/results.md: aloe attribute ": "docs/attribution.md has the same methods",
    r"^docs/results.md: aloe evaluate gridpg,deletion ": "the same",
}
ONLY_COMPILED = {"docs/export.md": "the same graphs"}


@cache
def top() -> Any:
    """The command line with all of its verbs."""
    return get_command(app)


@pytest.fixture(scope="session")
def furniture(tmp_path_factory) -> Furniture:
    return Furniture(tmp_path_factory.mktemp("furniture"))


@pytest.fixture
def sandbox(furniture, aloe, monkeypatch, tmp_path) -> Sandbox:
    monkeypatch.setenv("ALOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("aloe.apps.demo.TRAIN_SCENES", 130)
    monkeypatch.setattr("aloe.apps.demo.TEST_SCENES", 20)
    monkeypatch.setattr("aloe.apps.demo.localisation.GRIDS", 1)
    monkeypatch.setattr("aloe.apps.explorer.server.listen", lambda *_: None)
    monkeypatch.setattr("aloe.apps.explorer.server.serve", lambda *_, **__: None)
    monkeypatch.setattr("aloe.apps.study.serving.serve_study", take_part)
    monkeypatch.setattr("aloe.apps.grounding.ground.ground", partial(ground, answer=ANSWER))
    monkeypatch.setattr(package, "align", partial(package.align, **SHORT, progress=False), raising=False)
    return Sandbox(furniture, aloe)


class Sandbox:
    """A folder in which the blocks of one page run one after the other."""

    def __init__(self, furniture: Furniture, aloe: Callable[..., tuple[int, str, str]]) -> None:
        self.furniture, self.aloe = furniture, aloe
        self.laid: set[str] = set()
        self.names: dict[str, object] = {}

    def shell(self, block: Block) -> None:
        for words in commands(block):
            tool = words[0]
            assert tool in TOOLS, f"{block.where}: nothing here tests {tool!r}"
            TOOLS[tool](self, words, block)

    def python(self, block: Block) -> None:
        for name in (*BESIDE.get(block.page, ()), *re.findall(r"[\w./-]+", block.text)):
            self.lay(name, block.page)
        if not self.names:
            self.names = start(self.furniture)
        code = compile("\n" * (block.line - 1) + block.text, block.page, "exec")
        if block.page not in ONLY_COMPILED:
            exec(code, self.names)

    def run(self, words: list[str], block: Block) -> None:
        """One command of `aloe`, with what it names laid out before it."""
        verb = parse(words, block)
        line = " ".join(words)
        if any(re.search(pattern, f"{block.page}: {line}") for pattern in NOT_RUN):
            return
        made = {b for a, b in pairwise(words) if a in ("-o", "--output-dir", "--output")}
        for name in made & self.laid:
            shutil.rmtree(name)  # stood in for what this command makes
            self.laid.discard(name)
        for word in (*BESIDE.get(block.page, ()), *words[1:]):
            if word not in made:
                self.lay(word, block.page)
        about = {block.page, *words, *(part for word in words for part in word.split(","))}
        fits = [k for k in CUTS if k == verb or (k.startswith(f"{verb} ") and {*k.split()[1:]} <= about)]
        cut = [word for key in fits for word in shlex.split(CUTS[key])]
        code, out, err = self.aloe(*map(less, shortened(words[1:], cut)))
        assert code == 0, f"{block.where}: {line}\n{out}\n{err}"
        for name in made & REPLACED.get(block.page, set()):
            shutil.rmtree(name)
            self.lay(name, block.page)

    def lay(self, word: str, page: str) -> None:
        """Put there what a word of a command names: `cifar10=FILE::inside`, `NAME/`."""
        name = word.rpartition("=")[2].split("::")[0].rstrip("/")
        if name == "food101" and word == name:
            name = "ethz/food101"
        kind = NAMES.get(page, {}).get(name) or NAMES[""].get(name)
        if kind and not Path(name).exists():
            self.furniture.lay(kind, Path(name))
            self.laid.add(name)


def shortened(words: list[str], cut: list[str]) -> list[str]:
    """The words with those of `cut` in place of their own: a setting stands once, and only where a task reads it."""
    every = {setting(a, b): (a, b) for a, b in zip(cut[::2], cut[1::2], strict=True)}
    pairs = [pair for key, pair in every.items() if is_read(key, words)]
    keys = {setting(a, b) for a, b in pairs}
    kept, skip = [], False
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if skip:
            skip = False
        elif word.startswith("--") and setting(word, following) in keys:
            skip = True
        else:
            kept.append(word)
    return [*kept, *(part for pair in pairs for part in pair)]


def setting(option: str, value: str) -> str:
    """What an option sets: steps of `--steps 1` and of `--set steps=1`."""
    repeated = option in ("--set", "--rule", "--vary", "--evaluate")
    return value.partition("=")[0] if repeated else option.removeprefix("--").replace("-", "_")


def is_read(key: str, words: list[str]) -> bool:
    """Whether a task of `evaluate`, or a method of `attribute`, that the words name has the setting."""
    if words[0] == "evaluate":
        return any(key in TASKS[task].reads for task in words[1].split(","))
    method, dot, _ = key.partition(".")
    named = words[words.index("--methods") + 1].split(",") if "--methods" in words else [method]
    return not dot or method in named


def less(word: str) -> str:
    for pattern, short in LESS.items():
        word = re.sub(pattern, short, word)
    return word


def parse(words: list[str], block: Block) -> str:
    """The verb of a command, once the command line's own parser has taken all of its words."""
    command, name, rest = top(), "aloe", words[1:]
    verb: list[str] = []
    while hasattr(command, "commands"):
        assert rest, f"{block.where}: {' '.join(words)} names no verb"
        assert rest[0] in command.commands or rest[0].startswith("-"), f"{block.where}: there is no verb {rest[0]!r}"
        if rest[0].startswith("-"):
            return ""
        command, name, rest = command.commands[rest[0]], rest[0], rest[1:]
        verb.append(name)
    command.make_context(name, rest)  # raises where it does not understand
    return " ".join(verb)


def elsewhere(block: Block) -> None:
    """Commands for clusters and GPUs, whatever starts them, are parsed; lines with [brackets] show a command's shape."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if (found := re.search(r"(?:^|\s)(aloe [a-z].*)", line)) and "[" not in line:
            parse(shlex.split(found[1], comments=True), block)


def take_part(db: Path, secret: str, **_: object) -> None:
    """Instead of serving a study for days: three people answer all of it at once."""
    from apps.study.studies import answer, serving, start

    with serving(db) as client:
        for _person in range(3):
            path = start(client)
            while answer(client, path).status_code == 303:
                if "/trial" not in client.get(path, follow_redirects=False).headers.get("location", ""):
                    break


def start(furniture: Furniture) -> dict[str, object]:
    """What the Python of the pages takes for granted."""
    photo = Image.open(furniture.get("photo")).convert("RGB")
    pixels = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))  # a multiple of every patch
    model = load(furniture.get("student:vit"))
    return {"aloe": package, "photo": photo, "image": photo, "images": pixels, "model": model, "student": model} | {
        "targets": [0]
    }


def _script(_: Sandbox, words: list[str], block: Block) -> None:
    """`python PATH ...`: the file is there and knows every option. `python -m aloe` is `aloe`."""
    if words[1] == "-m":
        assert words[2] == "aloe", f"{block.where}: nothing here tests python -m {words[2]}"
        parse(words[2:], block)
        return
    file = ROOT / words[1]
    assert file.is_file(), f"{block.where}: there is no {words[1]}"
    unknown = [w for w in words[2:] if w.startswith("--") and f'"{w}"' not in file.read_text()]
    assert not unknown, f"{block.where}: {words[1]} has no {unknown}"


def _make(_: Sandbox, words: list[str], block: Block) -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), f"{block.where}: make has no {words[1]}"


def _pip(_: Sandbox, words: list[str], block: Block) -> None:
    """The extras that it names exist."""
    for named in re.findall(r"(?:aloe|aloe-vit|\.)\[([\w,]+)\]", " ".join(words)):
        assert set(named.split(",")) <= extras(), f"{block.where}: no such extra in {named}"


TOOLS: dict[str, Callable[[Sandbox, list[str], Block], None]] = {
    "aloe": Sandbox.run,
    "git": lambda *_: None,
    "make": _make,
    "pip": _pip,
    "python": _script,
}


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)])
def test_commands_run_as_they_are_printed(page, sandbox):
    ways = {"python": sandbox.python, "text": elsewhere}
    for block in blocks(page):
        ways.get(block.language, sandbox.shell)(block)


@pytest.mark.parametrize("page", PAGES)
def test_options_in_sentences_exist(page):
    for words in mentions(page):
        command, rest = top(), words[1:]
        while hasattr(command, "commands") and rest and rest[0] in command.commands:
            command, rest = command.commands[rest[0]], rest[1:]
        assert command is not top() or rest[0].startswith("-"), f"{page}: no verb in {' '.join(words)!r}"
        known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
        used = {w.split("=")[0] for w in rest if re.fullmatch(r"--?[a-z][\w-]*(=.*)?", w)}
        assert used <= known, f"{page}: {' '.join(words)!r} has options that do not exist: {sorted(used - known)}"
