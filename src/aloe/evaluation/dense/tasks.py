"""The tasks of `aloe evaluate` on frames: depth, surface normals and multiview correspondence, with pictures.

Data are named as `aloe.data.frames.named` says (`rgbd=PATH`, `nyuv2=PATH`, `rendered`, ...). With a row a few predictions are
kept, so that the pictures (the paper's Figure C5) show every model of a results folder whenever it was measured.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aloe.core import processes
from aloe.core.errors import UserError
from aloe.core.progress import Bar
from aloe.data.frames.frame import FramePairs, FrameSplits
from aloe.data.frames.named import open_frames, open_pairs
from aloe.data.frames.pair_settings import CorrespondenceSettings, PairSettings
from aloe.data.states import as_before, earlier_states
from aloe.evaluation.cache import PartFolder, read_part
from aloe.evaluation.dense.correspondence import correspondence
from aloe.evaluation.dense.features import choose_blocks
from aloe.evaluation.dense.pictures import draw_matches, draw_predictions, keep_predictions, plain
from aloe.evaluation.dense.probe import backbone_features, evaluate_probe, fit_probe
from aloe.evaluation.dense.samples import FeaturesOf
from aloe.evaluation.dense.settings import DenseSettings
from aloe.evaluation.results import ResultLog, Row, row_key, versions
from aloe.evaluation.task import Case, Outcome, Task

PROBES, DENSE = ("depth", "normals"), ("depth", "normals", "correspondence")
_NOT_READ = {
    "depth": ("uncertainty", "missing_normals"),
    "normals": ("loss", "bins"),
    "linear": ("hidden",),
    "dpt": ("kernel",),
}  # settings that a task or a head does not read, so that its rows do not name them
_VALUE_AT = 0.02  # metres


class FrameSettings:
    """The settings of probes, of matching and of the choice of pairs.

    Raises:
        UserError: a task on images beside these, or a value that cannot be.
    """

    def __init__(self, tasks: Sequence[str], values: dict[str, Any]) -> None:
        bad = [t for t in tasks if t not in DENSE]
        if bad:
            raise UserError(f"Dense tasks are measured by themselves, apart from {', '.join(bad)}: {', '.join(DENSE)}.")
        kinds: Any = (DenseSettings, CorrespondenceSettings, PairSettings)
        self.probe, self.match, pairs = (
            kind.of(**{name: value for name, value in values.items() if name in kind.model_fields}) for kind in kinds
        )
        self.tasks = tasks
        self.pairs = pairs.model_dump(exclude_unset=True)


class DenseSet:
    """One data set of a run, opened for what its tasks need."""

    def __init__(self, spec: str, tasks: Sequence[str], options: dict[str, Any]) -> None:
        self.splits: FrameSplits | None = open_frames(spec) if set(tasks) & set(PROBES) else None
        if spec.partition("=")[0] != "rgbd":  # elsewhere nothing of the pairs is drawn: the seed is the probes' alone
            options = {key: value for key, value in options.items() if key != "seed"}
        self.pairs: FramePairs | None = open_pairs(spec, **options) if "correspondence" in tasks else None
        self.label = {task: plain(self.of(OF_FRAMES[task].parts).name) for task in tasks}  # in the names of pictures
        self._states: dict[bool, dict[str, str]] = {}

    def of(self, parts: Sequence[str]) -> Any:
        """The splits of a probe, or the pairs of correspondence."""
        return self.pairs if "pairs" in parts else self.splits

    @property
    def states(self) -> dict[str, str]:
        """Fingerprints of all parts; within `earlier_states` those that they had once."""
        if (before := as_before()) not in self._states:
            self._states[before] = self._prints()
        return self._states[before]

    def _prints(self) -> dict[str, str]:
        prints: dict[str, str] = {}
        if (splits := self.splits) is not None:
            prints |= {"train": splits.train.state()[:16], "test": splits.test.state()[:16]}
        if (pairs := self.pairs) is not None:
            pairs_key = row_key({"pairs": pairs.pairs, "bins": pairs.bins})
            prints |= {"frames": pairs.frames.state()[:16], "pairs": pairs_key}
        return prints


@dataclass(kw_only=True)
class FrameCase(Case):
    """One model on one data set of frames."""

    frames: DenseSet
    settings: FrameSettings

    def data(self, parts: Sequence[str]) -> str:
        return str(self.frames.of(parts).name)

    def state(self, part: str) -> str | None:
        return self.frames.states[part]

    def check(self, name: str, task: Task) -> None:
        settings = self.settings.match if "pairs" in task.parts else self.settings.probe
        choose_blocks(self.model, settings.blocks)
        self.model.side(settings.resolution)

    def standing(self, parts: Sequence[str], outcome: Outcome) -> tuple[bool, list[str]]:
        data = self.frames.of(parts)
        return data.official, [*(note.rstrip(".") for note in data.notes), *outcome.notes]


def _probe(case: FrameCase, facts: dict[str, Any]) -> Outcome:
    """Fit and measure a depth or normals probe; its predictions of a few test frames are kept beside the rows."""
    splits, settings, task = case.frames.of(("train", "test")), case.settings.probe, facts["task"]
    title = _title(case, facts)
    shared = processes.of_first(lambda: splits.shared)
    leak = [f"{shared} of the {len(splits.test)} test frames are training frames too"] * bool(shared)
    features, side = backbone_features(case.model.to(case.device).eval(), settings, case.device)
    if case.cache is not None and not settings.augment:
        of_model = (facts["fingerprints"]["model"], settings.blocks, settings.cls)
        view = [*of_model, versions(), case.device.split(":")[0]]
        features = _cached(features, case.cache / "dense", json.dumps(view, default=str))
    how: dict[str, Any] = {"side": side, "max_depth": splits.max_depth, "device": case.device, "progress": title}
    fitted = fit_probe(features, splits.train, task, settings, **how)
    measured = evaluate_probe(fitted, splits.test, title)
    details: dict[str, Any] = dict(measured.metrics)
    if task == "depth":
        details = {
            kind: {name.removeprefix(f"{kind}_"): v for name, v in measured.metrics.items() if name.startswith(kind)}
            for kind in ("relative", "absolute")
        }
    value = details["relative"]["delta1"] if task == "depth" else details["delta1"]
    details |= {"images": len(measured.names), "side": side, "losses": list(fitted.losses[0])}
    details |= {"spread": measured.spread} if settings.repeats > 1 else {}
    if fitted.held_out:
        errors = {f"{rate:g}": error for rate, error in fitted.held_out.items()}
        details |= {"learning_rate": fitted.learning_rate, "held_out_errors": errors}
    counts = {"train": len(splits.train) - len(fitted.left_out), "test": len(measured.names)}
    left_out = [
        f"{len(names)} of {len(names) + counts[part]} {part} frames have no valid {task} and are left out"
        for part, names in (("train", fitted.left_out), ("test", measured.left_out))
        if names
    ]
    if case.output_dir is not None and processes.is_first():
        keep_predictions(fitted, splits, case.output_dir / "dense" / row_key(facts))
    return Outcome(100 * value, counts, details, (*leak, *left_out))


def _match(case: FrameCase, facts: dict[str, Any]) -> Outcome:
    """Match every pair; pictures of a few are written beside the rows."""
    pairs: FramePairs = case.frames.of(("frames", "pairs"))
    settings = case.settings.match.over(pairs.defaults)
    with Bar(_title(case, facts), len(pairs.pairs)) as bar:
        matched = correspondence(case.model.to(case.device).eval(), pairs, settings, bar.update)
    value = matched.mean_of_bins(_VALUE_AT)
    if value is None:
        raise UserError(f"No pair of {pairs.name} turns by an angle inside the bins {pairs.bins}.")
    counts = {"pairs": len(matched.pairs), "frames": len({i for pair in pairs.pairs for i in pair})}
    if case.output_dir is not None and processes.is_first():
        name = plain(f"correspondence-{case.frames.label['correspondence']}-{facts['name']}-{row_key(facts)[:6]}")
        draw_matches(matched, pairs, _VALUE_AT, case.output_dir / "dense" / f"{name}.png")
    official = settings == CorrespondenceSettings.of(**pairs.defaults)
    return Outcome(value, counts, matched.details(), official=official)


def _title(case: FrameCase, facts: dict[str, Any]) -> str | None:
    return f"{facts['name']} {facts['task']}" if case.progress else None


def _match_settings(case: FrameCase) -> dict[str, Any]:
    pairs: FramePairs = case.frames.of(("frames", "pairs"))
    return case.settings.match.over(pairs.defaults).model_dump(mode="json") | pairs.options


def _read_by(task: str, probe: DenseSettings) -> dict[str, Any]:
    """The settings that a probe's rows name."""
    return probe.model_dump(mode="json", exclude={*_NOT_READ[task], *_NOT_READ[probe.head]})


def _task_of_probe(name: str, metric: str) -> Task:
    reads = tuple(field for field in DenseSettings.model_fields if field not in _NOT_READ[name])
    return Task(_probe, lambda case: _read_by(name, case.settings.probe), ("train", "test"), metric, reads, "frames")


OF_FRAMES = {
    "depth": _task_of_probe("depth", "relative delta1"),
    "normals": _task_of_probe("normals", "delta 11.25"),
    "correspondence": Task(
        _match,
        _match_settings,
        ("frames", "pairs"),
        "recall@2cm",
        (*CorrespondenceSettings.model_fields, *PairSettings.model_fields),
        "frames",
    ),
}
"""The tasks on frames by name."""


def tell_apart(sets: Sequence[DenseSet], tasks: Sequence[str]) -> None:
    """Give sets of one name different labels: 8 digits of the state of their test frames."""
    for task in tasks:
        parts = OF_FRAMES[task].parts
        names = [opened.of(parts).name for opened in sets]
        for opened, name in zip(sets, names, strict=True):
            if names.count(name) > 1:
                state = opened.states["frames" if task == "correspondence" else "test"]
                opened.label[task] = f"{plain(name)}-{state[:8]}"


def draw_probes(sets: Sequence[DenseSet], settings: FrameSettings, log: ResultLog) -> None:
    """A picture for every probe on every data set, of all models of the results folder, beside the rows."""
    for opened in sets:
        for task in set(settings.tasks) & set(PROBES):
            path = log.path.parent / "dense" / f"{task}-{opened.label[task]}.png"
            rows = _alike(log, task, opened, settings.probe)
            draw_predictions(task, opened.of(OF_FRAMES[task].parts), rows, settings.probe, path)


def _alike(log: ResultLog, task: str, opened: DenseSet, probe: DenseSettings) -> list[Row]:
    """The rows of a results folder on these data with these settings that have predictions, the last of every model."""
    folder, settings, latest = log.path.parent / "dense", _read_by(task, probe), {}

    def states() -> dict[str, str]:
        return {part: opened.states[part] for part in OF_FRAMES[task].parts}

    with earlier_states():
        own_states = [states()]
    own_states.append(states())
    for row in log.rows.values():
        prints = dict(row.get("fingerprints", {}))
        model = prints.pop("model", None)
        alike = (row.get("task"), row.get("settings")) == (task, settings) and prints in own_states
        if alike and PartFolder(folder / row["key"]).has(0):
            latest[model] = row
    return list(latest.values())


def _cached(features: FeaturesOf, folder: Path, view: str) -> FeaturesOf:
    """`features` that are kept on disk, a file for every image, under a hash of its pixels and of what made them."""

    def read(images: Tensor) -> list[Tensor]:
        parts = [PartFolder(folder / _hash(view, image)) for image in images]
        todo = [i for i, part in enumerate(parts) if not part.has(0)]
        if todo:
            blocks = features(images[todo])
            for place, i in enumerate(todo):
                maps = {str(k): m[place].to("cpu", torch.float32, copy=True).contiguous() for k, m in enumerate(blocks)}
                parts[i].write(0, maps, ())
        kept = [read_part(part.path(0)) for part in parts]
        return [torch.stack([f[str(k)] for f in kept]).to(images.device) for k in range(len(kept[0]) - 1)]

    return read


def _hash(view: str, image: Tensor) -> str:
    digest = hashlib.sha256(f"{view} {tuple(image.shape)} ".encode())
    digest.update(image.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:24]
