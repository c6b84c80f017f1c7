"""From images and models to a study: for every image the class that the model predicts, and what each method shows for it.

As in the paper, W(x)x is the student's and the post-hoc methods explain the teacher; both must predict the same class, which
is what participants are told. All maps are drawn alike (`pictures`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aloe.apps.study.pictures import image_png, map_png
from aloe.apps.study.settings import RANDOM, StudySettings
from aloe.apps.study.store import Material, create_study
from aloe.attribution.methods import attribute, check_options, find_method, unsupported
from aloe.core.bounds import MAX_STUDIED
from aloe.core.errors import UserError
from aloe.data.decode import UnreadableImage
from aloe.data.sources import left_out, open_images
from aloe.data.transforms import ResizeCenterCrop, to_tensor
from aloe.evaluation.backbones import model_fingerprint
from aloe.models.backbone import Backbone
from aloe.models.teachers import resize

INHERENT = "inherent"


@dataclass
class Built:
    """The images of a study with their classes, and a sentence for what was left out."""

    images: list[tuple[str, str]]
    notes: list[str] = field(default_factory=list)


def build_study(
    path: Path,
    images: str | Path | Sequence[str | Path],
    student: Backbone | None,
    teacher: Backbone | None,
    settings: StudySettings,
    *,
    options: Mapping[str, dict[str, Any]] | None = None,
    limit: int | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Built:
    """Write a study's file.

    Args:
        student, teacher: with classifiers; without a teacher the student is explained by every method, without a student
            W(x)x cannot be among the methods.
        options: of methods, by key.
        limit: images of the study at most; the first that can be read and whose prediction both models share.
        progress: told how many images are done, of how many.

    Raises:
        UserError: a model without classes or that a method cannot explain, models of other classes, no image for which both
            predict the same, a file that is there already, too many images.
    """
    if path.exists():  # said before the work; `create_study` looks again
        raise UserError(f"{path} is there already, perhaps with answers; give another --db, or move it away.")
    source = open_images(images)
    goal = min(limit or len(source), len(source))
    if goal > MAX_STUDIED:
        raise UserError(f"{goal} images are more than the {MAX_STUDIED} that a study may have; give --limit.")
    models = _models(student, teacher, settings, options or {})
    distinct = list({id(m): m.to(device) for m in models.values()}.values())
    side = max(model.side() for model in distinct)
    crop, built, differing = ResizeCenterCrop(side), Built([]), 0
    material: list[Material] = []
    unreadable: list[str] = []
    for index in range(len(source)):
        if len(material) == goal:
            break
        name = source.name(index)
        try:
            pixels = to_tensor(crop(source.load(index)))
        except UnreadableImage as error:
            unreadable.append(str(error))
            continue
        predicted = [_predicted(model, pixels, device) for model in distinct]
        if len(set(predicted)) > 1:
            differing += 1
            continue
        maps = {key: map_png(_map(m, pixels, predicted[0], key, options or {}, device)) for key, m in models.items()}
        material.append(Material(name, predicted[0][0], image_png(pixels), maps))
        if progress is not None:
            progress(len(material), goal)
    built.notes += [f"{len(unreadable)} images could not be read: {'; '.join(unreadable[:3])}"] * bool(unreadable)
    built.notes += [f"{differing} images for which student and teacher predict different classes were left out"] * bool(
        differing
    )
    built.notes += left_out(source)
    if not material:
        raise UserError(f"No image is left for the study. {'; '.join(built.notes)}.")
    about = {key: {"model": model_fingerprint(m), "options": (options or {}).get(key, {})} for key, m in models.items()}
    create_study(path, settings, material, json.dumps(about))
    built.images = [(each.name, each.title) for each in material]
    return built


def _models(
    student: Backbone | None, teacher: Backbone | None, settings: StudySettings, options: Mapping[str, dict[str, Any]]
) -> dict[str, Backbone]:
    """The model that each method explains, noise for the attention checks among them."""
    models: dict[str, Backbone] = {}
    for key in dict.fromkeys((*settings.methods, RANDOM)):
        method = find_method(key)
        check_options(method, options.get(key, {}))
        model = student if key == INHERENT or teacher is None else teacher
        if model is None:
            raise UserError(
                f"{method.title} is a student's own explanation: give --student, or leave it out of --methods."
            )
        if getattr(model, "classifier", None) is None:
            raise UserError(
                "A study shows predicted classes, and the model has no classifier; give a fine-tuned model or a linear"
                " probe's folder (aloe evaluate linear), student and teacher alike."
            )
        if reason := unsupported(model, key):
            raise UserError(f"{method.title}: {reason}.")
        models[key] = model
    if unknown := [key for key in options if key not in models]:
        raise UserError(f"Options are given for {unknown[0]}, which is not among the study's methods.")
    first, *others = (list(_names(model).values()) for model in {id(m): m for m in models.values()}.values())
    if any(set(names) != set(first) for names in others):
        raise UserError("Student and teacher have different classes; give models with the same ones.")
    return models


def _predicted(model: Any, pixels: Tensor, device: str) -> tuple[str, int]:
    """The name of the predicted class, and which of the classes of that name it is (ImageNet has two cranes)."""
    with torch.no_grad():
        logits = model(resize(pixels[None], model.side()).to(device)).logits
    names, index = list(_names(model).values()), int(logits.argmax())
    return names[index], names[:index].count(names[index])


def _map(
    model: Any, pixels: Tensor, predicted: tuple[str, int], key: str, options: Mapping[str, Any], device: str
) -> Tensor:
    """(H, W): what a method shows for the class that was predicted, at the pixels of the picture."""
    own = resize(pixels[None], model.side()).to(device)
    index = [i for i, name in _names(model).items() if name == predicted[0]][predicted[1]]
    maps = attribute(model, own, index, key, **options.get(key, {})).pixels()
    size = (pixels.shape[-2], pixels.shape[-1])
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[0, 0].cpu()


def _names(model: Any) -> dict[int, str]:
    names, count = model.config.id2label, len(next(model.classifier.parameters()))
    return {i: str(names.get(i, i)) for i in range(count)}
