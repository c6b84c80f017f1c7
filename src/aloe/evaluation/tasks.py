"""The tasks of `aloe evaluate` by name; here those of recognition: a model and labelled images in, one number out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aloe.core import processes
from aloe.core.errors import UserError
from aloe.core.settings import workers_here
from aloe.data.draws import ImageDataset, collate_images
from aloe.data.transforms import ResizeCenterCrop
from aloe.evaluation.backbones import model_fingerprint
from aloe.evaluation.case import ImageCase, class_of_logit, score
from aloe.evaluation.dense.tasks import OF_FRAMES
from aloe.evaluation.explained_tasks import OF_MAPS
from aloe.evaluation.features import classify
from aloe.evaluation.heads import Probe, attach, save_probe
from aloe.evaluation.knn import knn_predict
from aloe.evaluation.linear import ProbeSettings, fit_probe
from aloe.evaluation.results import row_key
from aloe.evaluation.task import VIEW, Outcome, Task
from aloe.evaluation.templates import read_templates
from aloe.evaluation.zeroshot import class_embeddings, read_class_names, zeroshot_ranking
from aloe.models.fingerprint import fingerprint
from aloe.models.saving import save_student
from aloe.models.teachers import Teacher, load_teacher
from aloe.models.text import TextTower, load_text_tower
from aloe.train.align.compare import mean_cosines
from aloe.train.align.points import check_pair

__all__ = ["TASKS", "Outcome", "Task", "class_of_logit", "score"]


def _knn(case: ImageCase, facts: dict[str, Any]) -> Outcome:
    train, test, settings = case.features("train"), case.features("test"), case.settings
    queries = test.tensor()

    def predict(rows: Tensor) -> Any:  # (k, n), by every k
        if not len(rows):
            return rows.new_empty(len(settings.k), 0)
        how: dict[str, Any] = {"metric": settings.distance, "weights": settings.votes, "device": case.device}
        by_k: Any = knn_predict(train, train.labels, queries[rows], list(settings.k), **how)
        return torch.stack([by_k[k] for k in settings.k])

    shares = torch.arange(len(queries)).tensor_split(processes.count())
    predicted = torch.cat(list(processes.shared(predict, shares)), dim=1)
    by_k = {str(k): score(each, test.labels, case.splits.metric) for k, each in zip(settings.k, predicted, strict=True)}
    counts = {"train": len(train), "test": len(test)}
    return Outcome(by_k[str(settings.k[0])], counts, {"by_k": by_k})


def _linear(case: ImageCase, facts: dict[str, Any]) -> Outcome:
    settings = case.settings
    train, test = case.features("train"), case.features("test")
    validation = case.features("validation") if case.splits.validation is not None else None
    probe = fit_probe(
        train.rows(),
        train.labels,
        len(case.classes),
        ProbeSettings(
            head=_head(case),
            b=float(case.model.config.b) if case.model.interpretable else 2.0,
            **settings.model_dump(include=set(_FIT)),
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


def _save(case: ImageCase, probe: Probe, folder: Path, model: str) -> None:
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


def _zeroshot(case: ImageCase, facts: dict[str, Any]) -> Outcome:
    test = case.features("test", "pooled")
    embeddings = class_embeddings(_tower(_text_tower(case)), _class_names(case), case.settings.templates)
    best = zeroshot_ranking(test, embeddings)
    details = {"top5": 100 * float((best[:, :5] == test.labels[:, None]).any(1).double().mean())}
    return Outcome(score(best[:, 0], test.labels, case.splits.metric), {"test": len(test)}, details)


def _classifier(case: ImageCase, facts: dict[str, Any]) -> Outcome:
    test = case.features("test", "pooled")
    logits = classify(case.model, test.tensor())
    assert logits is not None
    predicted = _meant(case, logits.shape[1])[logits.argmax(1)]
    return Outcome(score(predicted, test.labels, case.splits.metric), {"test": len(test)})


def _cosine(case: ImageCase, facts: dict[str, Any]) -> Outcome:
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


def _head(case: ImageCase) -> str:
    head = case.settings.head
    return head if head != "auto" else "bcos" if case.model.interpretable else "linear"


def _text_tower(case: ImageCase) -> str:
    """The checkpoint with the text tower: the one given, the model itself, or its teacher, perhaps among the models."""
    if case.settings.text_tower:
        return case.settings.text_tower
    if not case.model.interpretable:
        return case.name
    teacher = case.model.config.teacher.get("name", "")
    name = next((m for m in case.models if Path(m).name == teacher), teacher)
    if "/" not in name and not Path(name).is_dir():
        raise UserError(
            f"The teacher of {case.name}, {name or 'which has no name'}, is not here, nor is its text tower; name a"
            " SigLIP checkpoint with --text-tower."
        )
    return name


@lru_cache(maxsize=1)
def _tower(name: str) -> TextTower:
    return load_text_tower(name)


def _class_names(case: ImageCase) -> list[str]:
    return read_class_names(case.settings.class_names or case.classes, len(case.classes))


def _zeroshot_settings(case: ImageCase) -> dict[str, Any]:
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


def _reference(case: ImageCase) -> str:
    if case.settings.reference is None:
        raise UserError("Task cosine needs the teacher to compare with: --reference TEACHER.")
    return case.settings.reference


def _knn_settings(case: ImageCase) -> dict[str, Any]:
    images = len(case.splits.train) if case.splits.train is not None else 0
    if max(case.settings.k) > images:
        raise UserError(
            f"k is {max(case.settings.k)} but there are {images} training images; give a --k of at most {images}."
        )
    return _only("k", "distance", "votes")(case)


def _classifier_settings(case: ImageCase) -> dict[str, Any]:
    classifier = getattr(case.model, "classifier", None)
    if classifier is None:
        raise UserError(f"{case.name} has no classifier; leave out the task classifier or fit one with linear.")
    _meant(case, len(next(classifier.parameters())))
    return _pooled()(case)


def _meant(case: ImageCase, count: int) -> Tensor:
    """What `class_of_logit` says of a model's own classifier of `count` classes."""
    meant = class_of_logit(case.model.config, count, case.classes)
    if meant is None:
        raise UserError(f"The classifier of {case.name} does not know all classes of {case.splits.name} by name.")
    return meant


def _cosine_settings(case: ImageCase) -> dict[str, Any]:
    if not case.model.interpretable:
        raise UserError(
            f"{case.name} is a teacher; the task cosine compares students with it: --reference {case.name}."
        )
    teacher = _teacher(_reference(case))
    check_pair(case.model.config, teacher, case.settings.resolution or case.model.config.resolution)
    settings = {name: value for name, value in _pooled("reference")(case).items() if name != "compile"}
    return {**settings, "precision": "float32", "teacher": model_fingerprint(teacher)}


def _only(*names: str) -> Callable[[ImageCase], dict[str, Any]]:
    def settings(case: ImageCase) -> dict[str, Any]:
        all_settings = case.settings.model_dump(mode="json")
        compiled = {"compile": True} if case.settings.compile else {}  # it came after rows had been measured
        return {**{name: all_settings[name] for name in (*_SEEN, *names)}, **compiled}

    return settings


def _pooled(*names: str) -> Callable[[ImageCase], dict[str, Any]]:
    """Of tasks that read the pooled output whatever `feature` says."""
    return lambda case: {**_only(*names)(case), "feature": "pooled"}


_SEEN = ("feature", "resolution", "precision")  # which, with the weights, make the features
_EXTRACTED = (*VIEW, "compile")
_FIT = ("loss", "learning_rates", "epochs", "weight_decay", "seed")

TASKS: dict[str, Task] = {
    "knn": Task(_knn, _knn_settings, ("train", "test"), reads=(*_EXTRACTED, "feature", "k", "distance", "votes")),
    "linear": Task(
        _linear,
        lambda case: {**_only(*_FIT)(case), "head": _head(case)},
        ("train", "validation", "test"),
        reads=(*_EXTRACTED, "feature", "head", *_FIT),
    ),
    "zeroshot": Task(
        _zeroshot, _zeroshot_settings, ("test",), reads=(*_EXTRACTED, "templates", "text_tower", "class_names")
    ),
    "classifier": Task(_classifier, _classifier_settings, ("test",), reads=_EXTRACTED),
    "cosine": Task(
        _cosine,
        _cosine_settings,
        ("test",),
        "cosine",
        reads=("resolution", "batch_size", "workers", "reference"),
        labelled=False,
    ),
    **OF_MAPS,
    **OF_FRAMES,
}
"""Every task by its name; what is added here is a task from then on."""
