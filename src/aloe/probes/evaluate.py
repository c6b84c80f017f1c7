"""Evaluation tasks behind `aloe evaluate`: one row per model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from aloe.alignment.compare import mean_cosines
from aloe.alignment.points import check_pair
from aloe.data.draws import ImageDataset, collate_images
from aloe.data.sources import ImageSource, open_images
from aloe.data.transforms import ResizeCenterCrop
from aloe.errors import UserError
from aloe.models.saving import load
from aloe.models.teachers import load_teacher
from aloe.probes.features import extract, load_any
from aloe.probes.knn import knn_predict


def knn_rows(
    models: Sequence[str], train: str, test: str, *, k: int, batch_size: int, device: str, progress: bool
) -> list[dict[str, Any]]:
    """k-NN accuracy (%) of each model, and of its classifier where it has one.

    Raises:
        UserError: unlabelled images, or class folders that differ between train and test.
    """
    sources = {"train": open_images(train), "test": open_images(test)}
    check_classes(sources["train"], sources["test"])
    classes, found = sources["train"].classes or [], sources["test"].classes or []
    in_train = torch.tensor([*map(classes.index, found), -1])  # -1, unlabelled, stays -1
    rows = []
    for name in models:
        model = load_any(name)
        features = {
            part: extract(
                model,
                source,
                batch_size=batch_size,
                device=device,
                progress=f"{Path(name).name} {part}" if progress else None,
            )
            for part, source in sources.items()
        }
        test_set = features["test"]
        labels = in_train[test_set.labels]
        predicted = knn_predict(features["train"].pooled, features["train"].labels, test_set.pooled, k)
        row: dict[str, Any] = {"model": name, "k": k, "knn": 100 * accuracy(predicted, labels)}
        row["classifier"] = "-"
        meant = None if test_set.logits is None else class_of_logit(model.config, test_set.logits.shape[1], classes)
        if test_set.logits is not None and meant is not None:
            row["classifier"] = 100 * accuracy(meant[test_set.logits.argmax(1)], labels)
        rows.append(row)
    return rows


def cosine_rows(
    models: Sequence[str], teacher_name: str, test: str, *, batch_size: int, device: str
) -> list[dict[str, Any]]:
    """Mean cosine between each student and the teacher, after every block and pooled."""
    teacher = load_teacher(teacher_name).to(device)
    source = open_images(test)
    rows = []
    for name in models:
        student: Any = load(name)
        check_pair(student.config, teacher, student.config.resolution)
        student.to(device)
        loader = torch.utils.data.DataLoader(
            ImageDataset(source, ResizeCenterCrop(student.config.resolution)),
            batch_size=batch_size,
            collate_fn=collate_images,
        )
        blocks = tuple(range(1, teacher.num_layers + 1))
        cosines = mean_cosines(student, teacher, loader, blocks, device)
        if not cosines:
            raise UserError("None of the images could be read.")
        rows.append({"model": name, **cosines})
    return rows


def accuracy(predicted: torch.Tensor, labels: torch.Tensor) -> float:
    return float((predicted == labels).double().mean())


def class_of_logit(config: Any, count: int, classes: Sequence[str]) -> torch.Tensor | None:
    """Which of the data's classes each of `count` logits stands for by its name in `id2label`, upper and lower case alike.

    (count,) int64, -1 for a class that the data lack; None when the classifier lacks one of the data's classes.
    """
    index = {name.lower(): i for i, name in enumerate(classes)}
    found = [index.get(str(config.id2label.get(i)).lower(), -1) for i in range(count)]
    return torch.tensor(found) if set(index.values()) <= set(found) else None


def check_classes(train: ImageSource, test: ImageSource) -> None:
    """Both labelled, with the same classes.

    Raises:
        UserError: otherwise, naming a class that only one of them has.
    """
    for part, source in (("training", train), ("test", test)):
        if source.classes is None:
            raise UserError(
                f"The {part} images are not in class folders (one folder per class), so they have no labels."
            )
    odd = sorted(set(train.classes or []) ^ set(test.classes or []))
    if odd:
        raise UserError(
            f"Training and test folders differ in their classes: {', '.join(odd[:5])} is in one of them only."
        )
