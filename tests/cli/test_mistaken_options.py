"""Mistaken options, made from the command line's own parameters: a new flag is covered without a new line here."""

from __future__ import annotations

import inspect
from typing import Any, get_args, get_type_hints

import pytest
from typer.main import get_command

from aloe.apps.export.settings import ExportSettings
from aloe.apps.grounding.settings import GroundSettings
from aloe.apps.study.settings import StudySettings
from aloe.apps.sweep.plan import SweepPlan
from aloe.attribution.settings import AttributeSettings, ExplainSettings, NeighboursSettings
from aloe.cli import main
from aloe.core.errors import UserError
from aloe.data.frames.pair_settings import CorrespondenceSettings, PairSettings
from aloe.evaluation.dense.settings import DenseSettings
from aloe.evaluation.reads import KNOWN
from aloe.evaluation.settings import EvaluateSettings
from aloe.evaluation.tasks import TASKS
from aloe.train.align.settings import AlignSettings
from aloe.train.finetune.settings import FinetuneSettings

SETTINGS = (
    *(
        AlignSettings,
        FinetuneSettings,
        EvaluateSettings,
        DenseSettings,
        CorrespondenceSettings,
        PairSettings,
        StudySettings,
        SweepPlan,
        ExplainSettings,
        AttributeSettings,
        NeighboursSettings,
        ExportSettings,
        GroundSettings,
    ),
)
WRONG = {
    int: ["", " ", "x", "nan", "inf", "1.5", "1_0", "\u0663", "\u00b2", "0x10", "1e3", "1e400", "1 2", "1,5", "--1"],
    float: ["", " ", "x", "nan", "inf", "-inf", "1e400", "1_0", "\u0663", "0x10", "1 2", "0,5"],
}
TWENTY = "9" * 20
NO_SETTINGS = {"tasks", "models", "data", "train", "test", "output_dir", "set_", "cache", "no_cache", "device", "json"}


def verbs(command: Any = None, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every verb of the command line by its words."""
    command = command or get_command(main.app)
    inner = getattr(command, "commands", None)
    if inner is None:
        return {path: command}
    return {words: verb for name, below in inner.items() for words, verb in verbs(below, (*path, name)).items()}


def numbers(command: Any) -> dict[str, tuple[str, type]]:
    """(flag, int or float) of the options of a verb that take one number, by parameter."""
    hints = get_type_hints(inspect.unwrap(command.callback))
    flags = {p.name: next((o for o in p.opts if o.startswith("--")), None) for p in command.params}
    kinds = {
        name: next((k for k in (int, float) if k is hint or k in get_args(hint)), None) for name, hint in hints.items()
    }
    return {name: (flag, kinds[name]) for name, flag in flags.items() if flag and kinds.get(name)}


VERBS = verbs()
NUMBERS = [(words, flag, kind) for words, verb in VERBS.items() for flag, kind in numbers(verb).values()]
CASES = [(words, flag, value) for words, flag, kind in NUMBERS for value in WRONG[kind]]
FLAGS = [p for p in VERBS[("evaluate",)].params if p.name not in {*NO_SETTINGS, "help"}]
BESIDE = [(task, flag) for flag in FLAGS for task in TASKS if flag.name not in TASKS[task].reads]


def parse(words: tuple[str, ...], *more: str) -> None:
    """Read a verb's words as the command line does, without running it."""
    VERBS[words].make_context(" ".join(words), [*arguments(VERBS[words]), *more])


def refused(words: tuple[str, ...], *more: str) -> bool:
    """Whether the words of a verb are refused, by a `UserError` or in click's own words."""
    try:
        parse(words, *more)
    except Exception as error:
        if not isinstance(error, UserError) and type(error).__name__ != "BadParameter":
            raise
        return True
    return False


def arguments(command: Any) -> list[str]:
    """A word for everything that the verb asks for."""
    found = []
    for parameter in command.params:
        option = next((o for o in getattr(parameter, "opts", []) if o.startswith("-")), None)
        if parameter.required:
            found += ["x"] if option is None else [option, "1" if parameter.name in numbers(command) else "x"]
    return found


def test_the_tables_hold_every_verb_and_flag():
    assert {words[0] for words in VERBS} >= {
        "align",
        "finetune",
        "explain",
        "evaluate",
        "bench",
        "study",
        "publish",
        "app",
    }
    assert len(CASES) > 400
    assert len(BESIDE) > 100
    assert {flag.name for flag in FLAGS} <= KNOWN


@pytest.mark.parametrize(("words", "flag", "value"), CASES, ids=str)
def test_a_number_that_is_none_names_its_option(words, flag, value):
    with pytest.raises(Exception, match=r".") as told:
        parse(words, flag, value)
    error = told.value
    assert isinstance(error, UserError) or type(error).__name__ in ("BadParameter", "NoSuchOption", "UsageError")
    shown = f"{error} {getattr(getattr(error, 'param', None), 'opts', '')}"
    assert flag in shown


@pytest.mark.parametrize(("words", "flag", "kind"), [case for case in NUMBERS if case[2] is int], ids=str)
def test_twenty_digits_are_bounded_by_the_option_or_by_its_setting(words, flag, kind):
    name = flag.removeprefix("--").replace("-", "_")
    bounded = [model for model in SETTINGS if name in model.model_fields]
    for value in (TWENTY, f"-{TWENTY}"):
        if refused(words, flag, value):
            continue
        assert bounded, f"{flag} of aloe {' '.join(words)} takes {value}"
        for model in bounded:
            with pytest.raises(UserError, match=name):
                model.of(**{name: int(value)})


def valid(flag: Any) -> str:
    kind = next((k for n, (_, k) in numbers(VERBS[("evaluate",)]).items() if n == flag.name), str)
    return {int: "2", float: "0.5"}.get(kind, "1" if flag.name == "k" else "x")


@pytest.mark.parametrize(("task", "flag"), BESIDE, ids=lambda v: getattr(v, "name", v))
def test_a_flag_beside_a_task_that_does_not_read_it(aloe, task, flag):
    option = next(o for o in flag.opts if o.startswith("--"))
    code, out, err = aloe("evaluate", task, "/nope", "--data", "/nope", "--device", "cpu", option, valid(flag))
    assert (code, out) == (2, "")
    assert err.startswith(f"aloe: {flag.name} is not read by {task}, but by ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_an_option_that_no_verb_has_is_a_short_sentence(aloe, words):
    code, out, err = aloe(*words, *arguments(VERBS[words]), "--nonsense", "1")
    assert (code, out) == (2, "")
    assert "--nonsense" in err
    assert "Traceback" not in err
    assert err.count("\n") <= 5


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_an_empty_word_is_named(aloe, words):
    code, out, err = aloe(*words, *arguments(VERBS[words]), " ")
    assert (code, out) == (2, "")
    assert "is empty" in err
    assert err.count("\n") == 1
