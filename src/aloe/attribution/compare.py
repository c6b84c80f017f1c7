"""Several attribution methods on several models over the same images, side by side: one picture per image and a gallery."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aloe.attribution.inherent import explain
from aloe.attribution.methods import Method, attribute, check_options, find_method, find_methods, unsupported
from aloe.attribution.presets import preset_options
from aloe.attribution.records import check_owner, free_name, image_bytes, names_of_images, with_earlier
from aloe.attribution.targets import class_index
from aloe.core.errors import UserError
from aloe.core.files import whole, write_json
from aloe.core.printable import shown as printable
from aloe.data.batches import over_batches
from aloe.data.places import check_output
from aloe.data.sources import left_out, open_images
from aloe.data.subset import SubsetImages
from aloe.draw.attributions import Column, comparison_gallery, comparison_row, save_gallery
from aloe.draw.figures import load_matplotlib
from aloe.draw.gallery import save_png
from aloe.models.backbone import Backbone
from aloe.models.fingerprint import fingerprint
from aloe.models.teachers import resize
from aloe.models.unwrap import unwrapped

GALLERY_ROWS = 20
RECORD_NAME = "attributions.json"


@dataclass
class Compared:
    """What was written: one row per image, the cost of every model and method, and what was left out and why."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    costs: list[dict[str, Any]] = field(default_factory=list)
    galleries: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class _Entry:
    """One column in the making: a model, a method, and what it gave so far."""

    model: Backbone
    group: str
    method: Method
    pictures: list[np.ndarray] = field(default_factory=list)
    cost: dict[str, float] = field(default_factory=dict)
    images: int = 0
    peak: int | None = None

    def costs(self) -> dict[str, Any]:
        """Passes and seconds per image, and the peak of memory."""
        mean = {name: total / self.images for name, total in self.cost.items()}
        return {"model": self.group, "method": self.method.key, **mean, "peak_bytes": self.peak}


def attribute_files(
    models: Mapping[str, Backbone],
    images: str | Path | Sequence[str | Path],
    output_dir: Path,
    *,
    methods: Sequence[str] = ("all",),
    options: Mapping[str, dict[str, Any]] | None = None,
    preset: str = "best",
    target: str | None = None,
    resolution: int | None = None,
    limit: int | None = None,
    device: str = "cpu",
    save_maps: bool = False,
    memory: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Compared:
    """Write `<stem>_attributions.png` for every image and `gallery.png` and `gallery.pdf` of the first twenty.

    Args:
        models: teachers and students by the name that heads their columns.
        methods: keys of `METHODS`, or `all`; a model that cannot support one is left out of it, with the reason.
        options: of methods, by key. preset: where they are not given, `best` or `paper` (`aloe.attribution.presets`).
        target: a class; default: for every image the class that the first model with a classifier predicts. Models without
            a classifier explain the direction of their own features.
        resolution: pixels; default: each model's own.
        save_maps: write the maps at their own granularity as `maps/<stem>.safetensors` as well.
        memory: measure the peak of memory of the first image as well.
        progress: told what runs, and how many of all images are done with it.

    Raises:
        UserError: nothing to explain or to write to, an unknown method, preset or class, or a model that does not know the
            class.
    """
    asked = find_methods(methods)
    options = _options(asked, options or {}, preset)
    models = {name: unwrapped(model) for name, model in models.items()}
    load_matplotlib()  # said before any work, where it is missing
    source = open_images(images)
    taken = names_of_images(source, output_dir)
    check_output(images, output_dir)
    about = {"models": {printable(name): fingerprint(model) for name, model in models.items()}}
    earlier = check_owner(output_dir, RECORD_NAME, "attributions", about, taken)
    if limit is not None:
        source = SubsetImages(source, np.arange(min(limit, len(source))))
    done = Compared()
    entries = _entries(models, asked, done)
    shown: list[np.ndarray] = []
    unreadable: list[str] = []

    def shown_by_all(pixels: Tensor, numbers: list[int]) -> list[dict[str, Any]]:
        names = [source.name(i) for i in numbers]
        classes = _classes(models, pixels, target, resolution, device)
        maps = [_explained(e, pixels, classes, options, resolution, device, memory) for e in entries]
        if progress is not None:
            progress("images", len(done.rows) + len(names), len(source))
        pictures = image_bytes(pixels)
        for i, name in enumerate(names):
            columns = [Column(e.method.title, [e.pictures[len(e.pictures) - len(names) + i]], e.group) for e in entries]
            path = output_dir / free_name(name, taken, "attributions")
            if not done.rows:  # from here on the folder is of these models
                output_dir.mkdir(parents=True, exist_ok=True)
                write_json(output_dir / RECORD_NAME, {**about, "attributions": earlier})
            save_png(comparison_row(pictures[i], columns), path)
            done.rows.append({"file": name, "picture": str(path), "class": classes[i][1] if classes else ""})
            if save_maps:
                _save_maps(output_dir / "maps" / f"{path.stem}.safetensors", entries, [m[i] for m in maps])
        shown.extend(pictures[: GALLERY_ROWS - len(shown)])
        for e in entries:
            del e.pictures[GALLERY_ROWS:]
        return done.rows[-len(names) :]

    over_batches(shown_by_all, source, max(m.side(resolution) for m in models.values()), 16, unreadable)
    if unreadable:
        done.notes.append(f"{len(unreadable)} images could not be read: {'; '.join(unreadable[:3])}")
    done.notes += left_out(source)
    done.galleries = _galleries(shown, entries, [row["class"] for row in done.rows[:GALLERY_ROWS]], output_dir)
    record = {**about, "attributions": with_earlier(done.rows, earlier), "notes": done.notes}
    write_json(output_dir / RECORD_NAME, record)
    done.costs = [entry.costs() for entry in entries]
    return done


def _options(methods: Sequence[Method], given: Mapping[str, dict[str, Any]], preset: str) -> dict[str, dict[str, Any]]:
    """Every method's options, by key."""
    for key, values in given.items():
        check_options(find_method(key), values)
        if find_method(key) not in methods:
            raise UserError(f"{key}.{next(iter(values), '')} is of a method that is not asked for; leave it out.")
    return {method.key: preset_options(preset, method.key, given.get(method.key)) for method in methods}


def _galleries(
    shown: Sequence[np.ndarray], entries: Sequence[_Entry], titles: Sequence[str], output_dir: Path
) -> list[str]:
    """The files of the first images with all methods."""
    columns = [Column(e.method.title, e.pictures, e.group) for e in entries]
    figure = comparison_gallery(shown, columns, titles if any(titles) else ())
    paths = [output_dir / f"gallery.{kind}" for kind in ("png", "pdf")]
    for path in paths:
        save_gallery(figure, path)
    return list(map(str, paths))


def _entries(models: Mapping[str, Backbone], methods: Sequence[Method], done: Compared) -> list[_Entry]:
    entries = []
    for name, model in models.items():
        for method in methods:
            reason = unsupported(model, method.key)
            if reason is None:
                entries.append(_Entry(model, name, method))
            else:
                done.notes.append(f"{method.title} was left out: {reason}")
    if not entries:
        raise UserError(f"Nothing to show. {'; '.join(done.notes)}.")
    return entries


def _explained(
    entry: _Entry,
    images: Tensor,
    classes: list[tuple[int, str]],
    options: Mapping[str, dict[str, Any]],
    resolution: int | None,
    device: str,
    memory: bool,
) -> Tensor:
    model, own_options = entry.model.to(device), options.get(entry.method.key, {})
    own = resize(images, model.side(resolution)).to(device)
    target: Any = _indices(model, classes) if _has_classifier(model) else None
    if memory and entry.peak is None:
        first = None if target is None else target[:1]
        entry.peak = attribute(model, own[:1], first, entry.method.key, memory=True, **own_options).cost.peak_bytes
    attribution = attribute(model, own, target, entry.method.key, **own_options)
    if entry.method.key == "inherent":
        entry.pictures += list(explain(model, own, target).to_rgba().cpu().numpy())
    else:
        entry.pictures += list(attribution.pixels().cpu().numpy())
    for name in ("forward", "backward", "seconds"):
        entry.cost[name] = entry.cost.get(name, 0.0) + getattr(attribution.cost, name) * len(images)
    entry.images += len(images)
    return attribution.maps.cpu()


def _classes(
    models: Mapping[str, Backbone], images: Tensor, target: str | None, resolution: int | None, device: str
) -> list[tuple[int, str]]:
    """Index and name of the class that is explained for each image; none where no model has a classifier."""
    judge: Any = next((m for m in models.values() if _has_classifier(m)), None)
    if judge is None:
        if target is not None:
            raise UserError("None of the models has a classifier, so there is no class to explain; leave out --target.")
        return []
    names = judge.config.id2label
    if target is not None:
        index = class_index(target, judge.config, len(next(judge.classifier.parameters())))
        return [(index, str(names[index]))] * len(images)
    judge.to(device)
    with torch.no_grad():
        logits = judge(resize(images, judge.side(resolution)).to(device)).logits
    return [(i, str(names.get(i, i))) for i in logits.argmax(-1).tolist()]


def _indices(model: Any, classes: list[tuple[int, str]]) -> Tensor:
    """By name, but by number where the model has the name there: two classes may share one."""
    count, names = len(next(model.classifier.parameters())), model.config.id2label
    try:
        indices = [i if names.get(i) == name else class_index(name, model.config, count) for i, name in classes]
    except UserError as error:
        raise UserError(
            f"The models do not know the same classes, and what is explained is what the first one predicts: {error} Give"
            " --target, or models of the same classes."
        ) from error
    return torch.tensor(indices)


def _has_classifier(model: Backbone) -> bool:
    return getattr(model, "classifier", None) is not None


def _save_maps(path: Path, entries: Sequence[_Entry], maps: Sequence[Tensor]) -> None:
    from safetensors.torch import save_file

    named = {f"{e.group}/{e.method.key}": m.contiguous() for e, m in zip(entries, maps, strict=True)}
    with whole(path) as aside:
        save_file(named, aside)
