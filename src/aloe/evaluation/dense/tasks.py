"""The dense tasks of `aloe evaluate`: depth, surface normals and multiview correspondence, as rows and pictures.

Data are named as `aloe.data.frames.named` says (`rgbd=PATH`, `nyuv2=PATH`, `rendered`, ...). A row is measured once; with it
a few predictions are kept, so that the pictures (the paper's Figure C5) show every model of a results folder whenever it was
measured.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aloe.core import processes
from aloe.core.errors import UserError
from aloe.core.names import meant
from aloe.core.progress import Bar
from aloe.data.frames.frame import FramePairs, FrameSplits
from aloe.data.frames.named import open_frames, open_pairs
from aloe.data.frames.pair_settings import CorrespondenceSettings, PairSettings
from aloe.evaluation.backbones import load_any, model_fingerprint
from aloe.evaluation.cache import PartFolder, read_part
from aloe.evaluation.dense.correspondence import correspondence
from aloe.evaluation.dense.features import choose_blocks
from aloe.evaluation.dense.pictures import draw_matches, draw_predictions, keep_predictions, plain
from aloe.evaluation.dense.probe import backbone_features, evaluate_probe, fit_probe
from aloe.evaluation.dense.samples import FeaturesOf
from aloe.evaluation.dense.settings import DenseSettings
from aloe.evaluation.results import ResultLog, Row, describe, row_key, versions
from aloe.models.backbone import Backbone
from aloe.models.unwrap import unwrapped

PROBES, DENSE = ("depth", "normals"), ("depth", "normals", "correspondence")
_METRICS = {"depth": "relative delta1", "normals": "delta 11.25", "correspondence": "recall@2cm"}
_NOT_READ = {
    "depth": ("uncertainty", "missing_normals"),
    "normals": ("loss", "bins"),
    "linear": ("hidden",),
    "dpt": ("kernel",),
}  # settings that a task or a head does not read, so that its rows do not name them
_VALUE_AT = 0.02  # metres


class DenseSet:
    """One data set of a run, opened for what its tasks need."""

    def __init__(self, spec: str, tasks: Sequence[str], options: dict[str, Any]) -> None:
        self.splits: FrameSplits | None = open_frames(spec) if set(tasks) & set(PROBES) else None
        if spec.partition("=")[0] != "rgbd":  # elsewhere nothing of the pairs is drawn: the seed is the probes' alone
            options = {key: value for key, value in options.items() if key != "seed"}
        self.pairs: FramePairs | None = open_pairs(spec, **options) if "correspondence" in tasks else None
        self.label = {task: plain(self.of(task).name) for task in tasks}  # in the names of pictures

    def of(self, task: str) -> Any:
        """The splits of a probe, or the pairs of correspondence."""
        return self.pairs if task == "correspondence" else self.splits

    @cached_property
    def _splits_states(self) -> dict[str, str]:
        assert self.splits is not None
        return {"train": self.splits.train.state()[:16], "test": self.splits.test.state()[:16]}

    @cached_property
    def _pairs_states(self) -> dict[str, str]:
        assert self.pairs is not None
        chosen = row_key({"pairs": self.pairs.pairs, "bins": self.pairs.bins})
        return {"frames": self.pairs.frames.state()[:16], "pairs": chosen}

    def states(self, task: str) -> dict[str, str]:
        """Fingerprints of what a task reads."""
        return self._pairs_states if task == "correspondence" else self._splits_states


def evaluate_dense(
    models: Sequence[str | Backbone],
    tasks: Sequence[str],
    data: Sequence[str],
    output_dir: Path | None,
    *,
    device: str = "cpu",
    cache: Path | None = None,
    progress: bool = False,
    **settings: Any,
) -> list[Row]:
    """Every dense task for every model on every data set; rows that `output_dir/results.jsonl` holds are not measured again.

    Args:
        models: names, or loaded models.
        settings: fields of `DenseSettings`, `CorrespondenceSettings` and `PairSettings`; `seed` is that of the probes and
            of the draw of pairs.

    Raises:
        UserError: anything in the arguments or the data that the user can mend, before any work where it can be known.
    """
    probe, match, options = _settings(tasks, settings)
    log = None if output_dir is None else ResultLog(output_dir)
    if not data or not models:
        raise UserError("Name at least one model and one data set: --data rgbd=PATH, nyuv2=PATH, rendered, ...")
    sets = processes.after_first(lambda: [DenseSet(str(spec), tasks, options) for spec in data])
    _tell_apart(sets, tasks)
    followed = [probe] * bool(set(tasks) & set(PROBES)) + [match] * ("correspondence" in tasks)
    read: dict[str, str] = {}
    for name in models:  # what cannot be used is said before any work; one model at a time is in memory
        model = _loaded(name)
        for chosen in followed:
            choose_blocks(model, chosen.blocks)
            model.side(chosen.resolution)
        read |= {f"model ({_name(name, model)})": model_fingerprint(model)} if processes.count() > 1 else {}
    if processes.count() > 1:
        read |= {f"{s.of(t).name} ({part})": state for s in sets for t in tasks for part, state in s.states(t).items()}
    processes.check_same(read)
    rows: list[Row] = []
    for name in models:
        model = _loaded(name).to(device).eval()
        for opened in sets:
            for task in tasks:
                facts = _facts(name, model, task, opened, probe, match, device)
                row = log.get(row_key(facts)) if log else None
                if row is None:
                    run = _Run(model, facts, device, cache, progress, output_dir)
                    row = (
                        run.match(opened.of(task), match, opened.label[task])
                        if task == "correspondence"
                        else run.probe(opened.of(task), probe)
                    )
                    if log:
                        log.add(row)
                rows.append(row)
    if log is not None and output_dir is not None and processes.is_first():
        for opened in sets:
            for task in set(tasks) & set(PROBES):
                path = output_dir / "dense" / f"{task}-{opened.label[task]}.png"
                draw_predictions(task, opened.of(task), _alike(log, task, opened, probe), probe, path)
    return rows


class _Run:
    """One measurement: a model, a task and a data set, to a row."""

    def __init__(
        self,
        model: Any,
        facts: dict[str, Any],
        device: str,
        cache: Path | None,
        progress: bool,
        output_dir: Path | None,
    ) -> None:
        self.model, self.facts, self.device, self.cache, self.output_dir = model, facts, device, cache, output_dir
        self.title = f"{facts['name']} {facts['task']}" if progress else None
        self.start = time.perf_counter()

    def probe(self, splits: FrameSplits, settings: DenseSettings) -> Row:
        """Fit and measure a depth or normals probe; its predictions of a few test frames are kept beside the rows."""
        features, side = backbone_features(self.model, settings, self.device)
        if self.cache is not None and not settings.augment:
            view = [
                self.facts["fingerprints"]["model"],
                settings.blocks,
                settings.cls,
                versions(),
                self.device.split(":")[0],
            ]
            features = _cached(features, self.cache / "dense", json.dumps(view, default=str))
        task: Any = self.facts["task"]
        fitted = fit_probe(
            features,
            splits.train,
            task,
            settings,
            side=side,
            max_depth=splits.max_depth,
            device=self.device,
            progress=self.title,
        )
        found = evaluate_probe(fitted, splits.test, self.title)
        details: dict[str, Any] = dict(found.metrics)
        if task == "depth":
            details = {
                kind: {name.removeprefix(f"{kind}_"): v for name, v in found.metrics.items() if name.startswith(kind)}
                for kind in ("relative", "absolute")
            }
        value = details["relative"]["delta1"] if task == "depth" else details["delta1"]
        details |= {"images": len(found.names), "side": side, "losses": list(fitted.losses[0])}
        details |= {"spread": found.spread} if settings.repeats > 1 else {}
        if fitted.held_out:
            errors = {f"{rate:g}": error for rate, error in fitted.held_out.items()}
            details |= {"learning_rate": fitted.learning_rate, "held_out_errors": errors}
        counts = {"train": len(splits.train) - len(fitted.left_out), "test": len(found.names)}
        left_out = [
            f"{len(names)} of {len(names) + counts[part]} {part} frames have no valid {task} and are left out"
            for part, names in (("train", fitted.left_out), ("test", found.left_out))
            if names
        ]
        leak = [f"{splits.shared} of the {len(splits.test)} test frames are training frames too"] * bool(splits.shared)
        if self.output_dir is not None and processes.is_first():
            keep_predictions(fitted, splits, self.output_dir / "dense" / row_key(self.facts))
        return self._row(100 * value, counts, details, splits.official, [*splits.notes, *leak, *left_out])

    def match(self, pairs: FramePairs, settings: CorrespondenceSettings, label: str) -> Row:
        """Match every pair; pictures of a few are written beside the rows."""
        settings = settings.over(pairs.defaults)
        with Bar(self.title, len(pairs.pairs)) as bar:
            found = correspondence(self.model, pairs, settings, bar.update)
        value = found.mean_of_bins(_VALUE_AT)
        if value is None:
            raise UserError(f"No pair of {pairs.name} turns by an angle inside the bins {pairs.bins}.")
        counts = {"pairs": len(found.pairs), "frames": len({i for pair in pairs.pairs for i in pair})}
        if self.output_dir is not None and processes.is_first():
            name = plain(f"correspondence-{label}-{self.facts['name']}-{row_key(self.facts)[:6]}")
            draw_matches(found, pairs, _VALUE_AT, self.output_dir / "dense" / f"{name}.png")
        official = pairs.official and settings == CorrespondenceSettings.of(**pairs.defaults)
        return self._row(value, counts, found.details(), official, pairs.notes)

    def _row(
        self, value: float, counts: dict[str, int], details: dict[str, Any], official: bool, notes: Sequence[str]
    ) -> Row:
        facts = self.facts
        return {
            "key": row_key(facts),
            **{key: facts[key] for key in ("task", "model", *describe(facts["model"], self.model), "data", "metric")},
            "value": value,
            "official": official,
            "notes": [note.rstrip(".") for note in notes],
            "counts": counts,
            "details": details,
            **{key: facts[key] for key in ("settings", "fingerprints", "versions", "device")},
            "seconds": round(time.perf_counter() - self.start, 1),
        }


def _facts(
    name: Any,
    model: Any,
    task: str,
    opened: DenseSet,
    probe: DenseSettings,
    match: CorrespondenceSettings,
    device: str,
) -> dict[str, Any]:
    """What determines a row, and the names under which it is shown."""
    if task == "correspondence":
        pairs: FramePairs = opened.of(task)
        settings = match.over(pairs.defaults).model_dump(mode="json") | pairs.options
    else:
        settings = _read_by(task, probe)
    label = _name(name, model)
    return {
        "task": task,
        "settings": settings,
        "fingerprints": {"model": model_fingerprint(model), **opened.states(task)},
        "versions": versions(),
        "device": device.split(":")[0],
        "model": label,
        **describe(label, model),
        "data": opened.of(task).name,
        "metric": _METRICS[task],
    }


def _read_by(task: str, probe: DenseSettings) -> dict[str, Any]:
    """The settings that a probe's rows name."""
    return probe.model_dump(mode="json", exclude={*_NOT_READ[task], *_NOT_READ[probe.head]})


def _settings(
    tasks: Sequence[str], values: dict[str, Any]
) -> tuple[DenseSettings, CorrespondenceSettings, dict[str, Any]]:
    """The settings of probes, of matching and of the choice of pairs; every one belongs to a task that is asked for."""
    bad = [t for t in tasks if t not in DENSE]
    if bad or not tasks:
        raise UserError(f"Dense tasks are measured by themselves, apart from {', '.join(bad)}: {', '.join(DENSE)}.")
    ours = {
        "probe": set(DenseSettings.model_fields) if set(tasks) & set(PROBES) else set(),
        "match": set(CorrespondenceSettings.model_fields) if "correspondence" in tasks else set(),
        "pairs": set(PairSettings.model_fields) if "correspondence" in tasks else set(),
    }
    known = set().union(*ours.values())
    for key in values:
        if key not in known:
            raise UserError(f"{key} is no setting of {', '.join(tasks)}{meant(key, sorted(known), 'settings')}")
    parts = {part: {k: v for k, v in values.items() if k in names} for part, names in ours.items()}
    options = PairSettings.of(**parts["pairs"]).model_dump(exclude_unset=True)
    return DenseSettings.of(**parts["probe"]), CorrespondenceSettings.of(**parts["match"]), options


def _tell_apart(sets: Sequence[DenseSet], tasks: Sequence[str]) -> None:
    """Give sets of one name different labels: 8 digits of the state of their test frames."""
    for task in tasks:
        names = [opened.of(task).name for opened in sets]
        for opened, name in zip(sets, names, strict=True):
            if names.count(name) > 1:
                state = opened.states(task)["frames" if task == "correspondence" else "test"]
                opened.label[task] = f"{plain(name)}-{state[:8]}"


def _alike(log: ResultLog, task: str, opened: DenseSet, probe: DenseSettings) -> list[Row]:
    """The rows of a results folder on these data with these settings, the last of every model."""
    wanted, found = (task, _read_by(task, probe), opened.states(task)), {}
    for row in log.rows.values():
        prints = dict(row.get("fingerprints", {}))
        model = prints.pop("model", None)
        if (row.get("task"), row.get("settings"), prints) == wanted:
            found[model] = row
    return list(found.values())


def _cached(features: FeaturesOf, folder: Path, view: str) -> FeaturesOf:
    """`features` that are kept on disk, a file for every image, under a hash of its pixels and of what made them."""

    def read(images: Tensor) -> list[Tensor]:
        parts = [PartFolder(folder / _hash(view, image)) for image in images]
        todo = [i for i, part in enumerate(parts) if not part.has(0)]
        if todo:
            made = features(images[todo])
            for place, i in enumerate(todo):
                maps = {str(k): m[place].to("cpu", torch.float32, copy=True).contiguous() for k, m in enumerate(made)}
                parts[i].write(0, maps, ())
        found = [read_part(part.path(0)) for part in parts]
        return [torch.stack([f[str(k)] for f in found]).to(images.device) for k in range(len(found[0]) - 1)]

    return read


def _hash(view: str, image: Tensor) -> str:
    digest = hashlib.sha256(f"{view} {tuple(image.shape)} ".encode())
    digest.update(image.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:24]


def _loaded(model: Any) -> Any:
    return unwrapped(model) if isinstance(model, nn.Module) else load_any(model)


def _name(name: Any, model: Any) -> str:
    if not isinstance(name, nn.Module):
        return str(name)
    return type(model).__name__ if model.interpretable else model.title
