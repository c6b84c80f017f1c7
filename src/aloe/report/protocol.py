"""What makes a row the paper's protocol: the defaults of `aloe evaluate`, which a main table shows before other settings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isfinite, isqrt
from typing import Any

from aloe.core.errors import UserError
from aloe.data.frames.pair_settings import PROTOCOLS, CorrespondenceSettings
from aloe.evaluation.dense.settings import DenseSettings
from aloe.evaluation.settings import EvaluateSettings
from aloe.report.rows import Result

_DEFAULTS = EvaluateSettings.of().model_dump(mode="json")
_FIXED = {
    "knn": ("feature", "resolution", "k", "distance", "votes"),
    "linear": ("feature", "resolution", "head", "loss", "learning_rates", "epochs", "weight_decay"),
    "zeroshot": ("resolution",),
}
_PAPER: dict[str, dict[str, Any]] = {
    "gridpg": {"n": 2, "protocol": "windows"},
    "deletion": {"block": 16, "fill": "zero", "fractions": "paper", "among": "any"},
}
# What rows of explanations must share to be compared, besides their images; models may differ in the size of their own input.
_ALIKE = (
    *("protocol", "n", "grids", "smooth", "mode", "fill", "block", "fractions", "among"),
    *("resolution", "threshold", "share", "images", "seed"),
)
_OF_THE_MODEL = ("model", "head", "probe", "classifier", "backbone")
EXPLANATIONS = ("gridpg", "deletion", "inside", "clarity")
DENSE = {"b4": "depth", "b5": "normals", "correspondence": "correspondence"}  # tasks by their table
TEMPLATES = {"single": "single prompt", "openclip": "80 templates"}
GRIDS = {  # GridPG's protocols in words, the paper's first; scores of two of them do not compare
    "windows": "windows of the model's own size",
    "whole": "whole grids in one pass",
    "resized": "grids resized to the model's own size",
}
NOT_OFFICIAL, NOT_PROTOCOL = "†", "‡"


def settings_of(result: Result) -> dict[str, Any]:
    """The row's settings with one number of neighbours: the one that its value is for; of explanations also what their
    details say of how they were measured."""
    settings = dict(result.settings)
    for name in ("mode", "fill", "block") if result.task == "deletion" else ():
        if name in result.details:
            settings.setdefault(name, result.details[name])
    if result.task == "deletion":  # what was, before there was a choice
        settings = {"fractions": "fine", "among": "confident", **settings}
    if result.task == "gridpg":
        settings["protocol"] = grid_protocol(result)
        settings.pop("grid_input", None)
        if not settings.get("smooth"):
            settings.pop("smooth", None)
    cells = result.details.get("per_cell")
    if result.task == "gridpg" and isinstance(cells, list):
        settings.setdefault("n", isqrt(len(cells)))
    if isinstance(settings.get("k"), list) and settings["k"]:
        settings["k"] = settings["k"][0]
    return settings


def grid_protocol(result: Result) -> str:
    """The protocol of a GridPG row. Those of earlier versions have none: their grids were explained whole, or resized, as
    `grid_input` said."""
    named = result.settings.get("protocol")
    if isinstance(named, str):
        return named
    first = result.settings.get("grid_input") or result.details.get("grid_input")
    return "resized" if first == "resized" else "whole"


def protocols_of(results: Sequence[Result]) -> list[str]:
    """GridPG's protocols that there are rows of, the paper's first."""
    protocols = {grid_protocol(row) for row in results if row.task == "gridpg"}
    return sorted(protocols, key=lambda name: ([*GRIDS, name].index(name), name))


def one_protocol(results: Sequence[Result]) -> str:
    """GridPG's protocol of all rows, empty without rows of GridPG.

    Raises:
        UserError: the rows mix protocols.
    """
    if len(protocols := protocols_of(results)) > 1:
        words = " and ".join(f"{name} ({GRIDS.get(name, 'unknown')})" for name in protocols)
        raise UserError(f"GridPG by {words} do not stand in one table; make one for each protocol.")
    return next(iter(protocols), "")


def at_protocol_k(result: Result) -> Result:
    """A k-NN row that has the protocol's k among others, with that k's value."""
    k = _DEFAULTS["k"][0]
    value = accuracy_by_k(result).get(k)
    if value is None or settings_of(result).get("k") == k:
        return result
    return result.model_copy(update={"value": value, "settings": {**result.settings, "k": k}})


def accuracy_by_k(result: Result) -> dict[int, float]:
    """k to accuracy in percent, from the details of a k-NN row."""
    by_k = result.details.get("by_k") if result.task == "knn" else None
    pairs = by_k.items() if isinstance(by_k, dict) else ()
    numbers = {int(k): float(v) for k, v in pairs if k.isdecimal() and isinstance(v, int | float) and isfinite(v)}
    return dict(sorted(numbers.items()))


def deviations(result: Result) -> dict[str, Any]:
    """The settings in which a row leaves the protocol."""
    expected = {name: _DEFAULTS[name] for name in _FIXED.get(result.task, ())}
    expected |= {"k": _DEFAULTS["k"][0]} if "k" in expected else {}
    expected |= {"head": "bcos" if result.interpretable else "linear"} if "head" in expected else {}
    expected |= _PAPER.get(result.task, {}) | _dense_defaults(result)
    settings = settings_of(result)
    return {name: settings[name] for name, value in expected.items() if settings.get(name, value) != value}


def split_mark(result: Result) -> str:
    """The mark of a number on another split than the official one."""
    return NOT_OFFICIAL * (not result.official)


def marks(result: Result) -> str:
    """Which footnotes a row's number has."""
    return split_mark(result) + NOT_PROTOCOL * bool(deviations(result))


def shared_settings(result: Result) -> dict[str, Any]:
    """What a row must share with another to stand beside it, without fingerprints: of dense prediction all settings."""
    settings = settings_of(result)
    names = settings if result.task in DENSE.values() else _ALIKE
    return {name: settings[name] for name in names if settings.get(name) is not None}


def measured_alike(result: Result) -> str:
    """Equal for rows of explanations or of dense prediction that may be compared: settings and images, so the same stored
    list of grids or pairs."""
    return json.dumps([shared_settings(result), _images(result)], sort_keys=True)


def differences(result: Result, chosen: Result | None) -> str:
    """In words, how a row differs from the one in the main table (or, without one, from the protocol)."""
    if chosen is None:
        changes = deviations(result) | {k: v for k, v in settings_of(result).items() if k == "templates"}
        return in_words(changes) or "as the protocol"
    ours, theirs = settings_of(result), settings_of(chosen)
    skipped = ("method",) if ours.get("method") == theirs.get("method") else ("method", "options")
    changes = {name: value for name, value in ours.items() if name not in skipped and theirs.get(name, value) != value}
    if result.task in (*EXPLANATIONS, *DENSE.values()):
        theirs_too = _images(chosen)
        changes |= {name: value for name, value in _images(result).items() if theirs_too.get(name) != value}
    for name in ("metric", "counts", "versions", "device"):
        if getattr(result, name) != getattr(chosen, name):
            changes[name] = getattr(result, name)
    return in_words(changes) or "measured before"


def _dense_defaults(result: Result) -> dict[str, Any]:
    """All settings of dense prediction by default, without those of the model's input and of the draw."""
    if result.task not in DENSE.values():
        return {}
    matching = result.task == "correspondence"
    defaults = CorrespondenceSettings.of(**PROTOCOLS.get(result.data, {})) if matching else DenseSettings.of()
    return defaults.model_dump(mode="json", exclude={"seed", "resolution"})


def _images(result: Result) -> dict[str, Any]:
    """Fingerprints of the images (or pairs), of explanations without those that a classifier was trained on."""
    skipped = (*_OF_THE_MODEL, "train") if result.task in EXPLANATIONS else _OF_THE_MODEL
    return {name: value for name, value in result.fingerprints.items() if name not in skipped}


def in_words(settings: dict[str, Any]) -> str:
    """`k = 5, distance = euclidean`."""
    return ", ".join(f"{name} = {_word(value)}" for name, value in settings.items())


def _word(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} {_word(v)}" for key, v in value.items())
    if isinstance(value, list):
        return " ".join(map(_word, value)) if len(value) <= 8 else f"{len(value)} values"
    return f"{value:g}" if isinstance(value, float) else str(value)
