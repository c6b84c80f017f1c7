"""The measured numbers of a card: the result rows of exactly this student, its teacher's beside them, and their commands."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aloe.apps.publish.names import public_name, without_paths
from aloe.core.errors import UserError
from aloe.data.benchmarks import BENCHMARKS
from aloe.draw.tables import Block, Cell, Row, Table, printable
from aloe.evaluation.settings import EvaluateSettings
from aloe.report.explained import variant_of
from aloe.report.methods import INHERENT, look, rank
from aloe.report.protocol import EXPLANATIONS, in_words, settings_of
from aloe.report.rows import Result

TITLES = {
    "knn": "k-NN on frozen features",
    "linear": "linear probe on frozen features",
    "zeroshot": "zero-shot",
    "classifier": "its own classifier",
    "cosine": "cosine to the teacher",
    "gridpg": "GridPG (higher is better)",
    "deletion": "pixel deletion (lower is better)",
    "insertion": "pixel insertion (higher is better)",
    "inside": "attribution inside the object (higher is better)",
    "clarity": "speckle of the map (lower is better)",
}
_OF_NAMES = ("text_tower", "reference", "templates", "class_names", "grids_file")  # settings that may be paths
# Names that rows give to settings of `aloe evaluate`, and what stands in rows but cannot be set.
_CALLED = {"n": "grid_size", "count": "grids", "threshold": "confidence"}
_FOUND = ("grids", "images", "texts", "teacher", "prompts", "method", "options")
_HUB_TASKS = {"zeroshot": "zero-shot-image-classification", "cosine": "image-feature-extraction"}
_METRICS = {"top-1": "accuracy", "mean per class": "accuracy"}


@dataclass(frozen=True)
class Numbers:
    """`tables` for people, `commands` that measure their numbers again, `evaluations` for the front matter (the arguments
    of `huggingface_hub.EvalResult`)."""

    tables: list[Table]
    commands: list[str]
    evaluations: list[dict[str, Any]]


def collect_numbers(rows: Sequence[Result], model: str, teacher: str, repo_id: str) -> Numbers:
    """Those of the rows that were measured on the model with this fingerprint; `teacher` as rows name it.

    Raises:
        UserError: there are rows, but none of this model.
    """
    ours = {_identity(row) + variant_of(row): row for row in rows if row.fingerprints.get("model") == model}
    if rows and not ours:
        raise UserError(
            f"None of the {len(rows)} result rows is of this student (weights and configuration {model}): they are of other"
            " models, or of this one under another version of ALOE; evaluate it again, or leave out --results."
        )
    ordered = sorted(ours.values(), key=lambda row: row.task in EXPLANATIONS)
    beside = {
        _identity(row) + variant_of(row): row
        for row in rows
        if row.stage == "teacher" and teacher and row.teacher == teacher
    }
    pairs = [(row, beside.get(_identity(row) + variant_of(row))) for row in ordered]
    recognition = [pair for pair in pairs if pair[0].task not in EXPLANATIONS]
    explained = sorted(
        (pair for pair in pairs if pair[0].task in EXPLANATIONS),
        key=lambda pair: (_title(pair[0]), pair[0].data, rank(str(pair[0].details.get("method")))),
    )
    tables = [_table("recognition", recognition)] if recognition else []
    tables += [_table("explanations", explained)] if explained else []
    shown = [row for row in ordered if row.details.get("method", INHERENT) == INHERENT]
    return Numbers(tables, _commands([row for row, _ in pairs], repo_id), [_evaluation(row) for row in shown])


def _identity(row: Result) -> str:
    """Equal for rows of two models that measure the same thing on the same images."""
    settings = {k: v for k, v in settings_of(row).items() if k not in ("head", "text_tower", "options", "preset")}
    images = {k: v for k, v in row.fingerprints.items() if k in ("train", "validation", "test")}
    return json.dumps([row.task, row.data, row.metric, settings, images], sort_keys=True)


def _table(name: str, pairs: Sequence[tuple[Result, Result | None]]) -> Table:
    explains = name == "explanations"
    lines, notes = [], []
    for row, teacher in pairs:
        data = _data(row)
        mark = "" if row.official else "†"
        labels = (
            _title(row),
            data,
            *([look(variant_of(row)).title] if explains else []),
            _settings(row),
        )
        lines.append(Row(labels, (_cell(row, mark), _cell(teacher) if teacher else Cell())))
        words = "; ".join(without_paths(note).rstrip(".") for note in row.notes) or "no official split"
        notes += [] if row.official and not row.notes else [f"{mark} {data}: {words}.".strip()]
    unit = (
        "In percent; a cosine as it is." if not explains else "In percent, with the 95 % interval where there is one."
    )
    headers = ("Explanations", "Data", "Method", "Settings") if explains else ("Task", "Data", "Settings")
    images = " Images were chosen among those that every model of that evaluation classifies well." * explains
    columns = ("This student", "Its teacher")
    return Table(name, unit + images, headers, columns, (Block("", tuple(lines)),), tuple(dict.fromkeys(notes)))


def _title(row: Result) -> str:
    inserted = row.task == "deletion" and settings_of(row).get("mode") == "insertion"
    title = TITLES["insertion" if inserted else row.task] if row.task in TITLES else row.task
    return f"{title}, {row.metric}" if row.metric in _METRICS else title


def _data(row: Result) -> str:
    name = BENCHMARKS[row.data].title if row.data in BENCHMARKS else public_name(row.data)
    return f"{name}, {row.counts['test']} images" if "test" in row.counts else name


def _cell(row: Result, mark: str = "") -> Cell:
    interval = row.details.get("interval") or row.details.get("area_most_interval")
    pair = isinstance(interval, list) and len(interval) == 2 and all(isinstance(x, int | float) for x in interval)
    words = f" [{interval[0]:.2f}, {interval[1]:.2f}]" if pair and interval else ""
    return Cell(row.value, decimals=4 if row.metric == "cosine" else 2, note=words + mark)


def _settings(row: Result) -> str:
    """Those that determine the number, without hashes and names of files' folders."""
    usual = {"precision": "float32"}
    settings = {k: v for k, v in settings_of(row).items() if k not in _FOUND and v is not None and usual.get(k) != v}
    options = {k: v for k, v in (row.settings.get("options") or {}).items()}
    named = {k: public_name(v) if k in _OF_NAMES and isinstance(v, str) else v for k, v in (settings | options).items()}
    return in_words(named)


def _commands(rows: Sequence[Result], repo_id: str) -> list[str]:
    """One for every data set and settings; tasks and methods that share them in one."""
    groups: dict[tuple[str, str, str], tuple[list[str], list[str]]] = {}
    for row in rows:
        kind = row.task if row.task in EXPLANATIONS else ""  # those of recognition with the same words share a command
        tasks, methods = groups.setdefault((kind, _where(row), _flags(row)), ([], []))
        tasks += [row.task] if row.task not in tasks else []
        method = row.details.get("method")
        methods += [str(method)] if method and method not in methods else []
    return [
        f"aloe evaluate {','.join(tasks)} {repo_id} {data}"
        + f" --methods {','.join(sorted(methods, key=rank))}" * bool(methods)
        + flags
        for (_, data, flags), (tasks, methods) in groups.items()
    ]


def _where(row: Result) -> str:
    """The option that names the data; rows do not keep the name of training images that were given apart."""
    name = shlex.quote(printable(public_name(row.data)))
    if row.data in BENCHMARKS or ("train" in row.fingerprints and not row.data.startswith("scenes:")):
        return f"--data {name}"
    return "--train TRAINING_IMAGES " * ("train" in row.fingerprints) + f"--test {name}"


def _flags(row: Result) -> str:
    """` --set name=value` for everything that is not the default of `aloe evaluate`."""
    defaults = EvaluateSettings.of().model_dump(mode="json")
    settings = settings_of(row) if row.task in EXPLANATIONS else row.settings  # with what rows of before do not say
    flags = {_CALLED.get(k, k): v for k, v in settings.items() if k not in _FOUND}
    if "first" in settings:
        flags["first_grids"] = {str(row.details.get("method")): settings["first"]}
    if row.task in ("deletion", "inside", "clarity") and isinstance(row.details.get("images"), int):
        flags["images"] = row.details["images"]
    if row.settings.get("options"):
        flags["options"] = {str(row.details.get("method")): row.settings["options"]}
    if flags.get("head") == ("bcos" if row.interpretable else "linear"):
        flags["head"] = "auto"
    flags = {k: public_name(v) if k in _OF_NAMES and isinstance(v, str) else v for k, v in flags.items()}
    changed = {k: v for k, v in flags.items() if k in defaults and v is not None and v != defaults[k]}
    return "".join(f" --set {shlex.quote(printable(f'{k}={_yaml(v)}'))}" for k, v in changed.items())


def _yaml(value: Any) -> str:
    return (
        value
        if isinstance(value, str)
        else json.dumps(value, separators=(",", ":") if isinstance(value, list) else None)
    )


def _evaluation(row: Result) -> dict[str, Any]:
    benchmark, public = BENCHMARKS.get(row.data), public_name(row.data)
    own = re.sub(r"[^A-Za-z0-9._/-]+", "-", public.removeprefix("hf:").split("@")[0]).strip("-").lower()
    return {
        "task_type": _HUB_TASKS.get(row.task, "image-classification"),
        "dataset_type": benchmark.hub if benchmark else own or "custom",
        "dataset_name": _data(row) + ("" if row.official else " (not the official split)"),
        "dataset_split": "test",
        "metric_type": _METRICS.get(row.metric, row.metric.lower()),
        "metric_name": f"{_title(row)} ({_settings(row)})",
        "metric_value": round(row.value, 4),
    }
