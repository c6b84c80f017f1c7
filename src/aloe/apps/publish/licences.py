"""Which licence a student carries: that of its teacher where it is known (`licences.yaml`), else the one that is named."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from typing import Any

import yaml

from aloe.core.errors import UserError


@dataclass(frozen=True)
class Licence:
    """`id` is what the hub calls it, or for a `custom` one the name beside the hub's `other`; `same`: derivatives of a model
    under it carry it too."""

    id: str
    link: str | None = None
    custom: bool = False
    same: bool = False

    @property
    def front_matter(self) -> dict[str, str]:
        """The fields `license`, and of a custom one `license_name` and `license_link`, of a card."""
        if not self.custom:
            return {"license": self.id}
        return {"license": "other", "license_name": self.id, **({"license_link": self.link} if self.link else {})}


def licence_of(*hub_ids: str) -> Licence | None:
    """The licence of the first of these models for which it is known."""
    patterns = _table()["teachers"]
    licences = (licence for name in hub_ids for pattern, licence in patterns.items() if fnmatchcase(name, pattern))
    first = next(licences, None)
    return None if first is None else named(first)


def choose_licence(given: str | None, inherited: Licence | None, origin: str) -> Licence:
    """The student's licence: the `given` one, else the one `inherited` from the model it was made from, `origin`.

    Raises:
        UserError: neither is there, the given one is a misspelling, or the inherited one asks for itself.
    """
    if given is None:
        if inherited is None:
            raise UserError(
                f"The licence of {origin} is not known here; name the one that the student is to carry with"
                " --licence, or the teacher's hub id with --base-model."
            )
        return inherited
    licence = named(given)
    if inherited is not None and inherited.same and licence.id != inherited.id:
        raise UserError(
            f"{origin} is under {inherited.id}, which asks that what is made from it carries the same licence; leave out"
            f" --licence {given}."
        )
    return licence


def named(name: str) -> Licence:
    """A licence by its name; one that the hub does not list is `custom`.

    Raises:
        UserError: nothing that could be a licence's name, or nearly one that is known.
    """
    table = _table()
    key = name.strip().lower().replace(" ", "-")
    if key in table["licences"]:
        return Licence(key, **table["licences"][key])
    names = [*table["licences"], *table["others"]]
    if key in names:
        return Licence(key)
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.75)
    if near or key == "other" or not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", key):
        meant = (
            f"did you mean {near[0]}?"
            if near
            else "give an identifier of the hub such as apache-2.0, or a name of your own."
        )
        raise UserError(f"There is no licence {name!r}: {meant}")
    return Licence(key, custom=True)


@cache
def _table() -> dict[str, Any]:
    return yaml.safe_load(resources.files("aloe.apps.publish").joinpath("licences.yaml").read_text(encoding="utf-8"))
