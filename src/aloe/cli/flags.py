"""Options of a verb made from its settings: each flag has the name, the type and the words of the field that it sets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from aloe.cli.choices import CHOICES, one_of, some_of
from aloe.cli.common import parse_settings
from aloe.core.settings import Checked, merged
from aloe.core.typed import whole_numbers, words

ALSO = {"learning_rate": "--lr", "reference": "--teacher", "methods": "--method", "data": "-d"}
"""Second names of flags."""

Verb = Callable[..., None]


def settings_flags(
    kind: type[Checked],
    *names: str,
    known: Callable[[], Any] | None = None,
    rest: str = "Any other setting, as key=value.",
    defaults: bool = True,
    note: str = "",
) -> Callable[[Verb], Verb]:
    """Give a verb, in place of its parameter `settings`, a flag for each of these fields of `kind`, and `--set key=value`.

    The verb gets the settings that were given, by name.

    Args:
        known: what else `--set` knows; default: the fields of `kind`.
        rest: the help of `--set`.
        defaults: whether the help tells the fields' defaults, which those of a training's recipe go before.
        note: what the help of the first flag says besides.
    """
    flags = {name: _Flag(kind, name) for name in names}
    options = [flag.parameter(defaults, "" if i else note) for i, flag in enumerate(flags.values())]
    options.append(_keyword("set_", list[str], typer.Option("--set", help=rest)))

    def settings(arguments: dict[str, Any]) -> dict[str, Any]:
        fields: Any = kind.model_fields if known is None else known()
        given = _given(flags, arguments)
        return merged(given, parse_settings(arguments.pop("set_") or []), fields)

    return lambda verb: _with_options(verb, "settings", options, settings)


def plan_flags(kind: type[Checked], *names: str) -> Callable[[Verb], Verb]:
    """Give a verb, in place of its parameter `plan`, a flag for each of these fields of `kind`; it gets those given."""
    flags = {name: _Flag(kind, name) for name in names}
    options = [flag.parameter(True, "") for flag in flags.values()]
    return lambda verb: _with_options(verb, "plan", options, lambda arguments: _given(flags, arguments))


def _given(flags: dict[str, _Flag], arguments: dict[str, Any]) -> dict[str, Any]:
    """The values of flags that were typed, taken out of a verb's arguments."""
    typed = {name: arguments.pop(name) for name in flags}
    return {name: flags[name].read(value) for name, value in typed.items() if value not in (None, [])}


def _with_options(
    verb: Verb, place: str, options: list[inspect.Parameter], values: Callable[[dict[str, Any]], dict[str, Any]]
) -> Verb:
    """The verb with options in place of a parameter, whose value is made of theirs."""
    parameters: list[inspect.Parameter] = []
    for one in inspect.signature(verb, eval_str=True).parameters.values():
        parameters += options if one.name == place else [one.replace(kind=inspect.Parameter.KEYWORD_ONLY)]

    def command(**arguments: Any) -> None:
        value = values(arguments)
        verb(**arguments, **{place: value})

    command.__name__, command.__doc__, command.__module__ = verb.__name__, verb.__doc__, verb.__module__
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


class _Flag:
    """The flag of a field."""

    def __init__(self, kind: type[Checked], name: str) -> None:
        self.name, self.field, self.option = name, kind.model_fields[name], f"--{name.replace('_', '-')}"
        self.words = self.field.description or ""
        annotation: Any = self.field.annotation
        union = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
        types = [_plain(t) for t in union]
        self.values = [str(v) for t in types if get_origin(t) is Literal for v in get_args(t)]
        self.inside = [_plain(get_args(t)[0]) for t in types if get_origin(t) in (list, tuple)]  # of a list's values
        self.repeats = self.inside == [str] and name not in CHOICES  # the option, once for each word
        self.typed: Any = (
            list[str] if self.repeats else next((t for t in (bool, int, float, Path) if t in types and not self.inside), str)
        )

    def parameter(self, shows_default: bool, note: str) -> inspect.Parameter:
        """The flag as a parameter of the verb."""
        complete = (some_of if self.inside else one_of)(self.name) if self.name in CHOICES else None
        text = "; ".join([*self._help(shows_default), *([note] if note else [])])
        if text.split()[0].strip(",") not in (*self.values, self.field.default):
            text = f"{text[0].upper()}{text[1:]}"
        second = [ALSO[self.name]] if self.name in ALSO else []
        option = typer.Option(self.option, *second, help=f"{text}.", autocompletion=complete)
        return _keyword(self.name, self.typed, option)

    def _help(self, shows_default: bool) -> Iterator[str]:
        """The field's description, what it can be and its default, as far as the description does not say so."""
        if self.words:
            yield self.words
        if self.inside and self.name in CHOICES:
            yield f"with commas, of {{{self.name}}}"
        elif not all(value in self.words for value in self.values):
            yield f"one of {', '.join(self.values)}"
        default = self.field.default
        if shows_default and "default:" not in self.words and default not in (None, (), False):
            yield f"default: {','.join(map(str, default)) if isinstance(default, tuple) else default}"

    def read(self, value: Any) -> Any:
        """What was typed as the field's value."""
        if self.repeats:
            return value
        if not self.inside or (self.values and value.strip().isalpha()):  # by name, which the settings know
            return value.strip() if self.inside else value
        if self.inside == [str]:
            return words(value, self.option)
        example = f"{self.values[0]}, {self.values[-1]} or 4,8,12" if self.values else "1,5,20"
        return whole_numbers(value, self.option, example, 0 if self.field.default == (0,) else 1)


def _keyword(name: str, kind: Any, option: Any) -> inspect.Parameter:
    annotation = Annotated[kind | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _plain(kind: Any) -> Any:
    """A type without its bounds."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind
