"""`torchrun -m aloe evaluate`: when one process ends, all do, one sentence says why, and the same command goes on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from aloe.models.convert import bcosify
from aloe.models.saving import save_student
from conftest import build_teacher
from pictures import picture
from places import TESTS
from several import torchrun

pytestmark = pytest.mark.slow

# The command with a fate: once rank 1 has made its first part of the features, it ends as it is told to.
FATED = """
import os, signal, sys, time
from aloe.cli.main import main
from aloe.evaluation import features
from aloe.evaluation.cache import PartFolder
features.PART_IMAGES = 2
fate, write = os.environ.pop("FATE", ""), PartFolder.write

def written(self, *rest):
    write(self, *rest)
    if os.environ["RANK"] != "1" or not fate:
        return
    if fate == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fate == "torchrun":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    if fate == "term":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    if fate == "error":
        raise ZeroDivisionError("one by none")

PartFolder.write = written
main()
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    for part in ("train", "test"):
        for i in range(12 if part == "train" else 5):
            (home / part / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
            Image.blend(picture(i), Image.new("RGB", (40, 40), ("red", "blue")[i % 2]), 0.9).save(
                home / part / "ab"[i % 2] / f"{i}.png"
            )
    save_student(bcosify(build_teacher("vit")), home / "student")
    (home / "fated.py").write_text(FATED)
    return home


def words(home: Path, cache: str, train: str = "train") -> list[str]:
    """Of the command, without `aloe`."""
    data = ["--train", str(home / train), "--test", str(home / "test"), "-o", str(home / f"out-{cache}")]
    return [
        "evaluate",
        "knn",
        str(home / "student"),
        *data,
        "--cache",
        str(home / cache),
        "--k",
        "3",
        "--device",
        "cpu",
    ]


def started(home: Path, fate: str) -> tuple[int, str]:
    """(exit code, everything that was said) where torchrun starts the command's interpreters, as a user does."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    source = str(Path(TESTS).parent / "src")
    done = subprocess.run(
        [*command, str(home / "fated.py"), *words(home, fate)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "FATE": fate, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stderr


def forked(home: Path, fate: str, *more: str, cache: str, train: str = "train") -> tuple[int | None, str]:
    """The same where the command's processes are forked."""

    def job() -> None:
        os.environ["FATE"] = fate
        exec(FATED, {})

    return torchrun(*words(home, cache, train), *more, job=job, limit=120)


def sentences(said: str) -> list[str]:
    """Those of aloe."""
    return [line for line in said.splitlines() if line.startswith("aloe: ")]


GOES_ON = "every process ends; the same command goes on from what is kept."


@pytest.mark.parametrize(
    ("fate", "cause"),
    [
        ("kill", "rank 1 died without a word, as by kill -9 or for lack of memory"),
        ("term", "rank 1 of 2 processes was asked to end (SIGTERM)"),
        ("error", "rank 1 of 2 processes stopped (ZeroDivisionError: one by none)"),
        ("torchrun", "what started the processes (torchrun) ended"),
    ],
)
def test_all_end_with_one_and_the_command_goes_on(home, fate, cause):
    code, said = started(home, fate) if fate in ("kill", "torchrun") else forked(home, fate, cache=fate)
    assert code
    assert sentences(said) == [f"aloe: {cause}: {GOES_ON}"], said
    assert "terminate called" not in said
    assert not (home / f"out-{fate}" / "results.jsonl").exists()
    assert list((home / fate).rglob("part-*.safetensors"))

    if fate == "kill":
        code, said = forked(home, "", cache=fate)
        assert (code, sentences(said)) == (0, []), said
        (row,) = (json.loads(line) for line in (home / f"out-{fate}" / "results.jsonl").read_text().splitlines())
        assert row["counts"] == {"train": 12, "test": 5}


@pytest.mark.parametrize(
    ("more", "train", "sentence"),
    [
        (("--nonsense", "1"), "train", r"aloe: No such option: --nonsense.*"),
        (("--device", "cpu9x"), "train", r"aloe: (rank \d of 2 processes: )?There is no device 'cpu9x' here; .*"),
        ((), "elsewhere", r"aloe: (rank \d of 2 processes: )?.*elsewhere.*"),
    ],
)
def test_a_mistake_that_all_make_is_said_once(home, more, train, sentence):
    code, said = forked(home, "", *more, cache="mistaken", train=train)
    assert code
    (told,) = sentences(said)
    assert re.fullmatch(sentence, told)
    assert "Usage:" not in said
