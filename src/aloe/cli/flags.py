"""Options of a verb made from its settings: each flag has the name, the type and the words of the field that it sets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from pkgutil import resolve_name
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from aloe.cli.choices import CHOICES, one_of, some_of
from aloe.cli.common import parse_settings
from aloe.core.typed import whole_numbers, words

ALSO = {
    "learning_rate": "--lr",
    "reference": "--teacher",
    "methods": "--method",
    "data": "-d",
    "compile_teacher": "--compile",
}
"""Second names of flags."""

_SIGNS = {"ge": "{}<=", "gt": "{}<", "le": "<={}", "lt": "<{}"}

Verb = Callable[..., None]
Arguments = dict[str, Any]
Options = tuple[list[inspect.Parameter], Callable[[Arguments], Arguments]]
"""Options as parameters, and how the values that were typed for them, which are taken out of all, become settings."""


def settings_flags(
    kind: str,
    *names: str,
    known: Callable[[], Any] | None = None,
    rest: str = "Any other setting, as key=value.",
    defaults: bool = True,
    notes: Mapping[str, str] | None = None,
) -> Callable[[Verb], Verb]:
    """Give a verb, in place of its parameter `settings`, a flag for each of these fields of `kind`, and `--set key=value`.

    The verb gets the settings that were given, by name.

    Args:
        kind: of settings, as `module:Class`, so that it is imported when a command line is read and not before.
        known: what else `--set` knows; default: the fields of `kind`.
        rest: the help of `--set`.
        defaults: whether the help tells the fields' defaults, which those of a training's recipe go before.
        notes: what the help of some flags says besides, by field.
    """

    def options() -> Options:
        settings = resolve_name(kind)
        flags = {name: _Flag(settings, name) for name in names}
        parameters = [flag.parameter(defaults, (notes or {}).get(name)) for name, flag in flags.items()]
        parameters.append(_keyword("set_", list[str], typer.Option("--set", help=rest)))

        def values(arguments: Arguments) -> Arguments:
            from aloe.core.settings import merged

            given, pairs = _given(flags, arguments), parse_settings(arguments.pop("set_") or [])
            return merged(given, pairs, settings.model_fields if known is None else known())

        return parameters, values

    return lambda verb: _Verb(verb, "settings", options)


def plan_flags(kind: str, *names: str) -> Callable[[Verb], Verb]:
    """Give a verb, in place of its parameter `plan`, a flag for each of these fields of `kind`, by default for every one;
    it gets those given."""

    def options() -> Options:
        settings = resolve_name(kind)
        flags = {name: _Flag(settings, name) for name in names or settings.model_fields}
        parameters = [flag.parameter() for flag in flags.values()]
        return parameters, lambda arguments: _given(flags, arguments)

    return lambda verb: _Verb(verb, "plan", options)


def _given(flags: dict[str, _Flag], arguments: Arguments) -> Arguments:
    """The values of flags that were typed, taken out of a verb's arguments."""
    typed = {name: arguments.pop(name) for name in flags}
    return {name: flags[name].read(value) for name, value in typed.items() if value not in (None, [])}


class _Verb:
    """A verb with options in place of a parameter, whose value is made of theirs; they are made when they are asked for."""

    def __init__(self, verb: Verb, place: str, options: Callable[[], Options]) -> None:
        self.__name__, self.__doc__, self.__module__ = verb.__name__, verb.__doc__, verb.__module__
        self.verb, self.place, self.options = verb, place, options

    @cached_property
    def made(self) -> Options:
        return self.options()

    def __getattr__(self, name: str) -> Any:
        """What typer reads of a function: its parameters and their types."""
        if name == "__signature__":
            parameters: list[inspect.Parameter] = []
            for one in inspect.signature(self.verb, eval_str=True).parameters.values():
                keyword = one.replace(kind=inspect.Parameter.KEYWORD_ONLY)
                parameters += self.made[0] if one.name == self.place else [keyword]
            return inspect.Signature(parameters)
        if name == "__annotations__":
            return {one.name: one.annotation for one in self.__signature__.parameters.values()}
        raise AttributeError(name)

    def __call__(self, **arguments: Any) -> None:
        value = self.made[1](arguments)
        self.verb(**arguments, **{self.place: value})


class _Flag:
    """The flag of a field."""

    def __init__(self, kind: Any, name: str) -> None:
        self.name, self.field, self.option = name, kind.model_fields[name], f"--{name.replace('_', '-')}"
        self.words = self.field.description or ""
        annotation: Any = self.field.annotation
        union = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
        types = [_plain(t) for t in union]
        self.values = [str(v) for t in types if get_origin(t) is Literal for v in get_args(t)]
        self.inside = [_plain(get_args(t)[0]) for t in types if get_origin(t) in (list, tuple)]  # of a list's values
        self.repeats = self.inside == [str] and name not in CHOICES  # the option, once for each word
        self.typed: Any = (
            list[str]
            if self.repeats
            else next((t for t in (bool, int, float, Path) if t in types and not self.inside), str)
        )

    def parameter(self, shows_default: bool = True, note: str | None = None) -> inspect.Parameter:
        """The flag as a parameter of the verb."""
        offers = (some_of if self.inside else one_of)(self.name, self.values)
        text = "; ".join([*self._help(shows_default), *([note] if note else [])])
        if text.split()[0].strip(",") not in (*self.values, self.field.default):
            text = f"{text[0].upper()}{text[1:]}"
        second = [ALSO[self.name]] if self.name in ALSO else []
        complete = offers if self.values or self.name in CHOICES else None
        option = typer.Option(self.option, *second, help=f"{text}.{self._range()}", autocompletion=complete)
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
        if shows_default and "default:" not in self.words and default is not False and default not in (None, (), ""):
            yield f"default: {','.join(map(str, default)) if isinstance(default, tuple) else default}"

    def _range(self) -> str:
        """A number's bounds, in words alone: click would refuse one number, the settings tell every mistake."""
        if self.typed not in (int, float):
            return ""
        inside = [info for kind in get_args(self.field.annotation) for info in get_args(kind)[1:]]  # of Count | None
        bounds = [*self.field.metadata, *(bound for info in inside for bound in info.metadata)]
        limits = {name: getattr(bound, name) for bound in bounds for name in _SIGNS if hasattr(bound, name)}
        low, high = (
            "".join(_SIGNS[n].format(limits[n]) for n in names if n in limits) for names in (("ge", "gt"), ("le", "lt"))
        )
        return f"  [{low}x{high}]" if limits else ""

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
