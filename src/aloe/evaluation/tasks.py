"""The recognition tasks: a model and labelled data in, one number out, with all that is needed to believe it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aloe.core import processes
from aloe.core.arrays import as_tensor
from aloe.core.errors import UserError
from aloe.core.settings import workers_here
from aloe.data.draws import ImageDataset, collate_images
from aloe.data.sources import left_out
from aloe.data.splits import Splits
from aloe.data.transforms import ResizeCenterCrop
from aloe.evaluation.backbones import model_fingerprint
from aloe.evaluation.features import FeatureSet, classify, extract
from aloe.evaluation.heads import Probe, attach, save_probe
from aloe.evaluation.knn import knn_predict
from aloe.evaluation.linear import ProbeSettings, fit_probe
from aloe.evaluation.results import row_key
from aloe.evaluation.settings import EvaluateSettings
from aloe.evaluation.templates import read_templates
from aloe.evaluation.zeroshot import class_embeddings, read_class_names, zeroshot_ranking
from aloe.models.fingerprint import fingerprint
from aloe.models.saving import save_student
from aloe.models.teachers import Teacher, load_teacher
from aloe.models.text import TextTower, load_text_tower
from aloe.train.align.compare import mean_cosines
from aloe.train.align.points import check_pair


@dataclass
class Case:
    """One model on one data set; features are extracted when first asked for and shared by the tasks."""

    name: str
    model: Any
    splits: Splits
    settings: EvaluateSettings
    device: str
    cache: Path | None
    progress: bool
    output_dir: Path | None = None
    models: tuple[str, ...] = ()
    _features: dict[tuple[str, str], FeatureSet] = field(default_factory=dict)

    def features(self, part: str, feature: str | None = None) -> FeatureSet:
        """Features of `train`, `validation` or `test`.

        Raises:
            UserError: a class is left without a readable image.
        """
        chosen = self.settings
        kind = feature or chosen.feature
        if (part, kind) not in self._features:
            source = getattr(self.splits, part)
            found = extract(
                self.model,
                source,
                feature=kind,
                resolution=chosen.resolution,
                batch_size=chosen.batch_size,
                device=self.device,
                precision=chosen.precision,
                workers=chosen.workers,
                cache=self.cache,
                progress=f"{Path(self.name).name} {self.splits.name} {part}" if self.progress else None,
            )
            if part != "validation" and source.classes is not None and source.labels is not None:
                needed = set(range(len(source.classes)) if part == "train" else source.labels.tolist())
                if absent := [source.classes[i] for i in sorted(needed - set(found.labels.tolist()))]:
                    word = "training" if part == "train" else part
                    raise UserError(f"Class {absent[0]!r} of {self.splits.name} has no readable {word} image.")
            self._features[part, kind] = found
        return self._features[part, kind]

    def unreadable(self, parts: Sequence[str]) -> tuple[str, ...]:
        """One clause for each of the parts from whose features images are missing, and for what the data leave out."""
        missing = {part: found.unreadable for (part, _), found in self._features.items() if part in parts}
        lost = [f"{len(n)} {part} images could not be read, first {n[0]}" for part, n in missing.items() if n]
        found = [line for part in parts for line in left_out(getattr(self.splits, part, None))]
        return tuple(dict.fromkeys([*lost, *found]))

    @property
    def classes(self) -> list[str]:
        return list(self.splits.test.classes or [])


@dataclass(frozen=True)
class Outcome:
    """What a task found: `value` in percent (a cosine as it is), the images that went into it, and the rest of the story."""

    value: float
    counts: dict[str, int]
    details: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """`run(case, facts)` measures; `settings(case)` is what of the settings the value depends on; `parts` of the data."""

    run: Callable[[Case, dict[str, Any]], Outcome]
    settings: Callable[[Case], dict[str, Any]]
    parts: tuple[str, ...]


def score(predicted: Tensor, labels: Tensor, metric: str) -> float:
    """Percent correct: `top-1` over images, or `mean per class`."""
    right = (as_tensor(predicted, "predictions") == as_tensor(labels, "labels")).double()
    if metric == "top-1":
        return 100 * float(right.mean())
    return 100 * float(torch.stack([right[labels == c].mean() for c in labels.unique()]).mean())


def class_of_logit(config: Any, count: int, classes: list[str]) -> Tensor | None:
    """Which of the data's classes each of `count` logits stands for by its name in `id2label`, upper and lower case alike.

    (count,) int64, -1 for a class that the data lack; None when the classifier lacks one of the data's classes. Classes that
    share a name (ImageNet has two cranes) are told apart by their order.
    """
    named: dict[str, list[int]] = {}
    for i, name in enumerate(classes):
        named.setdefault(name.lower(), []).append(i)
    queues = [named.get(str(config.id2label.get(i)).lower(), [-1]) for i in range(count)]
    found = [queue.pop(0) if len(queue) > 1 else queue[0] for queue in queues]
    return torch.tensor(found) if set(range(len(classes))) <= set(found) else None


def _knn(case: Case, facts: dict[str, Any]) -> Outcome:
    train, test, chosen = case.features("train"), case.features("test"), case.settings
    queries = test.tensor()

    def found(rows: Tensor) -> Any:  # (k, n), by every k
        if not len(rows):
            return rows.new_empty(len(chosen.k), 0)
        how: dict[str, Any] = {"metric": chosen.distance, "weights": chosen.votes, "device": case.device}
        by_k: Any = knn_predict(train, train.labels, queries[rows], list(chosen.k), **how)
        return torch.stack([by_k[k] for k in chosen.k])

    shares = torch.arange(len(queries)).tensor_split(processes.count())
    predicted = torch.cat(list(processes.shared(found, shares)), dim=1)
    by_k = {str(k): score(each, test.labels, case.splits.metric) for k, each in zip(chosen.k, predicted, strict=True)}
    counts = {"train": len(train), "test": len(test)}
    return Outcome(by_k[str(chosen.k[0])], counts, {"by_k": by_k})


def _linear(case: Case, facts: dict[str, Any]) -> Outcome:
    chosen = case.settings
    train, test = case.features("train"), case.features("test")
    validation = case.features("validation") if case.splits.validation is not None else None
    probe = fit_probe(
        train.rows(),
        train.labels,
        len(case.classes),
        ProbeSettings(
            head=_head(case),
            b=float(case.model.config.b) if case.model.interpretable else 2.0,
            loss=chosen.loss,
            learning_rates=chosen.learning_rates,
            epochs=chosen.epochs,
            weight_decay=chosen.weight_decay,
            seed=chosen.seed,
        ),
        validation=None if validation is None else (validation.rows(), validation.labels),
        device=case.device,
    )
    predicted = torch.cat([probe.predict(part) for part in test.chunks()])
    details = {
        "learning_rate": probe.learning_rate,
        "validation": {f"{lr:g}": 100 * value for lr, value in probe.validation.items()},
    }
    if case.output_dir is not None:
        plain = re.sub(r"[^\w.-]+", "-", f"{Path(case.name).name}-{Path(case.splits.name).name}")
        folder = case.output_dir / "probes" / f"{plain}-{row_key(facts)[:8]}"
        if processes.is_first():
            _save(case, probe, folder, facts["fingerprints"]["model"])
        details["probe"] = str(folder.relative_to(case.output_dir))
    counts = {"train": len(train), "test": len(test)} | ({"validation": len(validation)} if validation else {})
    return Outcome(score(predicted, test.labels, case.splits.metric), counts, details)


def _save(case: Case, probe: Probe, folder: Path, model: str) -> None:
    """A probe, and where it can be part of its student the two as one classifier; `model` is the student's fingerprint."""
    feature = case.settings.feature
    save_probe(
        probe,
        folder,
        classes=case.classes,
        backbone=str(Path(case.name).resolve()) if Path(case.name).exists() else case.name,
        feature=feature,
        loss=case.settings.loss,
        fingerprint=model,
    )
    if probe.kind == "bcos" and feature != "concat" and case.model.interpretable:
        save_student(attach(case.model, probe, case.classes, feature=feature), folder)


def _zeroshot(case: Case, facts: dict[str, Any]) -> Outcome:
    test = case.features("test", "pooled")
    embeddings = class_embeddings(_tower(_text_tower(case)), _class_names(case), case.settings.templates)
    best = zeroshot_ranking(test, embeddings)
    details = {"top5": 100 * float((best[:, :5] == test.labels[:, None]).any(1).double().mean())}
    return Outcome(score(best[:, 0], test.labels, case.splits.metric), {"test": len(test)}, details)


def _classifier(case: Case, facts: dict[str, Any]) -> Outcome:
    test = case.features("test", "pooled")
    logits = classify(case.model, test.tensor())
    assert logits is not None
    predicted = _meant(case, logits.shape[1])[logits.argmax(1)]
    return Outcome(score(predicted, test.labels, case.splits.metric), {"test": len(test)})


def _cosine(case: Case, facts: dict[str, Any]) -> Outcome:
    student, teacher = case.model, _teacher(_reference(case)).to(case.device)
    side = case.settings.resolution or student.config.resolution
    batches = [rows.tolist() for rows in torch.arange(len(case.splits.test)).split(case.settings.batch_size)]
    loader = torch.utils.data.DataLoader(
        ImageDataset(case.splits.test, ResizeCenterCrop(side)),
        batch_sampler=processes.dealt(batches),
        num_workers=workers_here(case.settings.workers),
        collate_fn=collate_images,
    )
    blocks = tuple(range(1, teacher.num_layers + 1))
    unread: list[list[str]] = []

    def watched() -> Iterator[Any]:
        for batch in loader:
            unread.append(batch["unreadable"])
            yield batch

    cosines = mean_cosines(student.to(case.device), teacher, watched(), blocks, case.device)
    lost = [name for names in processes.in_order(unread) for name in names]
    if not cosines:
        raise UserError("None of the images could be read.")
    if not all(map(isfinite, cosines.values())):
        raise UserError("Some features are not finite; the model's weights are broken.")
    notes = (f"{len(lost)} test images could not be read, first {lost[0]}",) if lost else ()
    return Outcome(cosines["pooled"], {"test": len(case.splits.test) - len(lost)}, cosines, notes)


def _head(case: Case) -> str:
    wanted = case.settings.head
    return wanted if wanted != "auto" else "bcos" if case.model.interpretable else "linear"


def _text_tower(case: Case) -> str:
    """The checkpoint with the text tower: the one given, the model itself, or its teacher, perhaps among the models."""
    if case.settings.text_tower:
        return case.settings.text_tower
    if not case.model.interpretable:
        return case.name
    teacher = case.model.config.teacher.get("name", "")
    found = next((m for m in case.models if Path(m).name == teacher), teacher)
    if "/" not in found and not Path(found).is_dir():
        raise UserError(
            f"The teacher of {case.name}, {found or 'which has no name'}, is not here, nor is its text tower; name a"
            " SigLIP checkpoint with --text-tower."
        )
    return found


@lru_cache(maxsize=1)
def _tower(name: str) -> TextTower:
    return load_text_tower(name)


def _class_names(case: Case) -> list[str]:
    return read_class_names(case.settings.class_names or case.classes, len(case.classes))


def _zeroshot_settings(case: Case) -> dict[str, Any]:
    name = _text_tower(case)
    return {
        **_pooled("templates")(case),
        "prompts": len(read_templates(case.settings.templates)),
        "text_tower": name,
        "texts": fingerprint(_tower(name), read_templates(case.settings.templates), _class_names(case)),
    }


@lru_cache(maxsize=1)
def _teacher(name: str) -> Teacher:
    return load_teacher(name)


def _reference(case: Case) -> str:
    if case.settings.reference is None:
        raise UserError("Task cosine needs the teacher to compare with: --reference TEACHER.")
    return case.settings.reference


def _knn_settings(case: Case) -> dict[str, Any]:
    images = len(case.splits.train) if case.splits.train is not None else 0
    if max(case.settings.k) > images:
        raise UserError(
            f"k is {max(case.settings.k)} but there are {images} training images; give a --k of at most {images}."
        )
    return _only("k", "distance", "votes")(case)


def _classifier_settings(case: Case) -> dict[str, Any]:
    classifier = getattr(case.model, "classifier", None)
    if classifier is None:
        raise UserError(f"{case.name} has no classifier; leave out the task classifier or fit one with linear.")
    _meant(case, len(next(classifier.parameters())))
    return _pooled()(case)


def _meant(case: Case, count: int) -> Tensor:
    """What `class_of_logit` says of a model's own classifier of `count` classes."""
    meant = class_of_logit(case.model.config, count, case.classes)
    if meant is None:
        raise UserError(f"The classifier of {case.name} does not know all classes of {case.splits.name} by name.")
    return meant


def _cosine_settings(case: Case) -> dict[str, Any]:
    if not case.model.interpretable:
        raise UserError(
            f"{case.name} is a teacher; the task cosine compares students with it: --reference {case.name}."
        )
    teacher = _teacher(_reference(case))
    check_pair(case.model.config, teacher, case.settings.resolution or case.model.config.resolution)
    return {**_pooled("reference")(case), "precision": "float32", "teacher": model_fingerprint(teacher)}


def _only(*names: str) -> Callable[[Case], dict[str, Any]]:
    return lambda case: {name: case.settings.model_dump(mode="json")[name] for name in (*_VIEW, *names)}


def _pooled(*names: str) -> Callable[[Case], dict[str, Any]]:
    """Of tasks that read the pooled output whatever `feature` says."""
    return lambda case: {**_only(*names)(case), "feature": "pooled"}


_VIEW = ("feature", "resolution", "precision")
_FIT = ("loss", "learning_rates", "epochs", "weight_decay", "seed")

TASKS = {
    "knn": Task(_knn, _knn_settings, ("train", "test")),
    "linear": Task(_linear, lambda case: {**_only(*_FIT)(case), "head": _head(case)}, ("train", "validation", "test")),
    "zeroshot": Task(_zeroshot, _zeroshot_settings, ("test",)),
    "classifier": Task(_classifier, _classifier_settings, ("test",)),
    "cosine": Task(_cosine, _cosine_settings, ("test",)),
}
