"""What may leave this machine: names without the paths around them, and identifiers the hub takes."""

from __future__ import annotations

import re

from aloe.core.errors import UserError

_SCHEME = re.compile(r"(hf:|wds:)(.*)", re.DOTALL)
_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[\w.-]+", re.ASCII)
_SEPARATOR = re.compile(r"[/\\]")
_ABSOLUTE = re.compile(r"(?<![\w/\\:.])(?:~|[A-Za-z]:|\\\\)?[/\\][^\s,;'\"]*[/\\](?=[^\s,;'\"])|(?<![\w/\\])file:\S*/")


def is_hub_id(name: str) -> bool:
    """Whether a name has the form `owner/name`."""
    return bool(_HUB_ID.fullmatch(name))


def public_name(name: str) -> str:
    """A model's or data set's name as others may read it: hub ids, registered names, `scenes:` and web addresses as they are,
    of a path its last part (`ARCHIVE::INNER` keeps what is inside)."""
    scheme = _SCHEME.fullmatch(name)
    if scheme:
        return scheme[1] + public_name(scheme[2])
    if name.startswith(("scenes:", "https://", "http://")) or is_hub_id(re.split("[@#]", name)[0]):
        return name
    outer, inside, inner = name.partition("::")
    parts = [part for part in _SEPARATOR.split(outer) if part]
    return (parts[-1] if parts else "") + inside + inner


def without_paths(words: str) -> str:
    """Free text in which every absolute path is cut to its last part."""
    return _ABSOLUTE.sub("", words)


def public_words(words: str) -> str:
    """What a publisher says in words of their own: as it is, but for paths."""
    return public_name(words) if words.startswith(("/", "~", "\\")) or words[1:3] == ":\\" else without_paths(words)


def check_repo_id(repo_id: str) -> None:
    """Raises UserError for anything but `owner/name` in the letters that the hub allows."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
        valid = repo_id.count("/") == 1
    except HFValidationError:
        valid = False
    if not valid:
        raise UserError(
            f"{repo_id!r} is no repository of the hub: give OWNER/NAME, of letters, digits, '-', '_' and '.', such as"
            " my-name/vit-base-aloe."
        )
