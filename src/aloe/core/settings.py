"""Settings that are checked when built, every mistake told in one sentence: the base of what evaluations take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from aloe.core.errors import UserError

if TYPE_CHECKING:
    from typing_extensions import Self


class Checked(BaseModel):
    """Frozen fields; unknown ones, infinities and NaN are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def of(cls, /, **values: Any) -> Self:
        """The settings with these values.

        Raises:
            UserError: listing every mistake.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            parts: dict[Any, str] = {}
            for e in error.errors():
                problem = e["msg"].removeprefix("Value error, ")
                words = f"{problem[0].lower()}{problem[1:]}"
                name = e["loc"][0] if e["loc"] else ""  # none: several fields together
                parts.setdefault(name, f"{name}: {words} (got {e['input']!r})" if name else words)
            raise UserError("Wrong settings: " + "; ".join(parts.values()) + ".") from None
