"""How the words of a command line are read, the same for every verb: paths, numbers and options that another verb has."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from aloe.cli.choices import filled
from aloe.core.errors import UserError
from aloe.core.files import expanded
from aloe.core.typed import odd_number, whole_number


class Verb(TyperCommand):
    """A command whose numbers are finite, whose words are not empty and whose paths may begin with `~`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As click does it, then checked.

        Raises:
            UserError: an empty word, or a number that is not finite; naming the option.
        """
        for before, word in zip(["", *args], args, strict=False):
            if not word.strip() or (word.startswith("--") and word.endswith("=")):
                name = word.rstrip("=") if word.strip() else before if before.startswith("-") else "an argument"
                raise UserError(f"{name} is empty; give a value or leave it out.")
        typed = list(args)  # click takes words out of the list
        try:
            rest = super().parse_args(ctx, args)
        except Exception as error:
            option = getattr(error, "option_name", None)
            if type(error).__name__ == "NoSuchOption" and (verbs := _verbs_with(ctx, option, self.name)):
                raise UserError(f"{ctx.info_name} has no option {option}; {verbs}.") from None
            raise
        parsed = self.make_parser(ctx).parse_args(args=typed)[0]
        for parameter in self.params:
            value = ctx.params.get(parameter.name)
            _check_digits(parsed.get(str(parameter.name)), value, _shown(parameter))
            ctx.params[parameter.name] = _read(value, _shown(parameter))
        return rest

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """As click does it, with the values that an option can have."""
        known: Any
        for known in self.params:
            if getattr(known, "help", None):
                known.help = filled(known.help)
        super().format_help(ctx, formatter)


def _check_digits(word: Any, value: Any, name: str) -> None:
    """Raises UserError for a number that Python reads and the rule of `core.typed` does not: 1_0, or other digits."""
    if not isinstance(word, str) or isinstance(value, bool) or not isinstance(value, int | float):
        return
    if odd_number(word) or (isinstance(value, int) and whole_number(word) != value):
        raise UserError(f"{name} takes a number in decimal digits, got {word!r}.")


def _read(value: Any, name: str) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_read(v, name) for v in value)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} must be a finite number, got {value}.")
    if isinstance(value, Path):
        return expanded(value)
    return value


def _shown(parameter: Any) -> str:
    options = [o for o in parameter.opts if o.startswith("--")]
    return options[0] if options else str(parameter.name)


def _verbs_with(ctx: Any, option: str | None, own: str | None) -> str:
    commands: dict[str, Any] = getattr(ctx.find_root().command, "commands", {})
    verbs = [name for name, c in commands.items() if name != own and any(option in p.opts for p in c.params)]
    return f"aloe {', '.join(verbs)} {'has' if len(verbs) == 1 else 'have'} one" if verbs else ""
