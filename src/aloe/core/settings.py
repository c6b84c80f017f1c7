"""Settings that are checked when built, every mistake told in one sentence: the base of what commands are asked for."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aloe.core import processes
from aloe.core.bounds import MAX_BATCH, MAX_COUNT, MAX_SEED, MAX_SIDE
from aloe.core.errors import UserError
from aloe.core.names import nearest
from aloe.core.typed import odd_number

if TYPE_CHECKING:
    from typing_extensions import Self

OF_VERBS = (
    *("teacher", "student", "model", "models", "images", "output_dir", "recipe", "config", "device", "progress"),
    *("tasks", "task", "data", "cache", "validation"),
)
"""Arguments of functions that take settings as well."""

Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
BatchSize = Annotated[int, Field(ge=1, le=MAX_BATCH, description="images per pass")]
Limit = Annotated[int | None, Field(ge=1, le=MAX_COUNT, description="at most this many images")]
Resolution = Annotated[int | None, Field(ge=1, le=MAX_SIDE, description="pixels; default: the model's native size")]

_NUMBERS = (int, float, int | None, float | None)


class Checked(BaseModel):
    """Frozen fields; unknown ones, infinities and NaN are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _numbers_in_decimal_digits(cls, values: Any) -> Any:
        """Refuse 1_0 and other digits than Western where a number is wanted, which Python and pydantic would read."""
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            words = field is None or field.annotation in (str, str | None, Path, Path | None)
            if isinstance(value, bool) and field is not None and field.annotation in _NUMBERS:
                raise ValueError(f"{name}: must be a number, not {str(value).lower()}")
            if isinstance(value, str) and odd_number(value) and not words:
                raise ValueError(f"{name}: {value} is no number in decimal digits")
        return values

    @classmethod
    def of(cls, /, **values: Any) -> Self:
        """The settings with these values.

        Raises:
            UserError: listing every mistake.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UserError(mistakes(error, cls.model_fields)) from None


def mistakes(error: ValidationError, known: Collection[str]) -> str:
    """Every mistake in settings in one sentence; an unknown key names the nearest known one."""
    parts: dict[str, str] = {}
    for item in error.errors():
        name = str(item["loc"][0]) if item["loc"] else ""  # none: several fields together
        if item["type"] == "extra_forbidden":
            near = nearest(name, known)
            words = f"{name}: unknown" + (f", did you mean {near}?" if near else "")
        else:
            problem = item["msg"].removeprefix("Value error, ")
            words = f"{problem[0].lower()}{problem[1:]}"
            words = f"{name}: {words} (got {_short(item['input'])})" if name else words
        parts.setdefault(name or words, words)
    return "Wrong settings: " + "; ".join(parts.values()) + "."


def merged(flags: Mapping[str, Any], pairs: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """The values of flags that were given (not None) and of `--set key=value`.

    Raises:
        UserError: a key that is an argument, has no value, or has a flag that was given as well.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    for key, value in pairs.items():
        if key in OF_VERBS and key not in known:
            raise UserError(f"--set takes settings; {key} is an argument or an option of its own.")
        if value is None:
            raise UserError(f"--set {key}= has no value; leave it out for the default.")
        if key in given:
            raise UserError(f"{key} is given twice, by --{key.replace('_', '-')} and by --set; leave one out.")
    return {**given, **pairs}


def workers_here(wanted: int) -> int:
    """So many processes that read images, but no more than this machine has cores, which several processes of a command
    share; said where that is fewer."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if processes.count() > 1 else 1
    most = max(1, cores // beside)
    if wanted > most:
        of_each = "" if beside == 1 else f" by each of the {beside} processes here"
        _say_once(
            f"{wanted} workers are asked for; {most} are started{of_each}, one for each core that may be used here."
        )
    return min(wanted, most)


@cache
def _say_once(words: str) -> None:
    from aloe.core.progress import say

    if os.environ.get("RANK", "0") == "0":
        say(words)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
