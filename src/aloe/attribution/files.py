"""Explain the images of a source and write one PNG for each: input | colour explanation | signed map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aloe.attribution.inherent import Explanation, explain
from aloe.data.decode import is_image_name
from aloe.data.draws import ImageDataset, collate_images
from aloe.data.sources import open_images
from aloe.data.subset import SubsetImages
from aloe.data.transforms import ResizeCenterCrop
from aloe.errors import UserError
from aloe.models.saving import load
from aloe.viz.explanations import over_white, signed_map
from aloe.viz.gallery import row, save_png


@dataclass
class Explained:
    """What was written: one row per image (file, picture, prediction, logit, residual), and what could not be read."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def explain_files(
    model: str | Path,
    images: str | Path | Sequence[str | Path],
    output_dir: Path,
    *,
    target: str | None = None,
    resolution: int | None = None,
    limit: int | None = None,
    batch_size: int = 16,
    device: str = "cpu",
    progress: bool = True,
) -> Explained:
    """Write a picture for every image of a source; pictures that exist are written anew.

    Raises:
        UserError: no student there, no images, none of them readable, an unknown target, a folder that cannot be written.
    """
    student: Any = load(model)
    student.to(device)
    source = open_images(images)
    if limit is not None:
        source = SubsetImages(source, np.arange(min(limit, len(source))))
    side = resolution or student.config.resolution
    if side % student.config.patch_size:
        raise UserError(f"--resolution {side} is not a whole number of {student.config.patch_size}-pixel patches.")
    if output_dir.exists() and not output_dir.is_dir():
        raise UserError(f"{output_dir} is a file; give a folder as --output-dir.")
    if any(output_dir.resolve() == folder for folder in _folders(images)):
        raise UserError(
            f"{output_dir} holds the images, which the pictures could overwrite; give another --output-dir."
        )
    dataset = ImageDataset(source, ResizeCenterCrop(side))
    loader = torch.utils.data.DataLoader(dataset, batch_size=batch_size, collate_fn=collate_images)
    done, written = Explained(), set[Path]()
    for batch in _watched(loader, progress):
        done.unreadable += batch["unreadable"]
        if not len(batch["pixel_values"]):
            continue
        pixels = batch["pixel_values"].to(device)
        explanation = explain(student, pixels, target, batch_size=batch_size)
        names = [source.name(int(i)) for i in batch["index"]]
        for name, picture, values in zip(
            names, pictures(pixels, explanation), rows(explanation, student.config), strict=True
        ):
            path = _free_path(output_dir, name, written)
            save_png(picture, path)
            done.rows.append({"file": name, "picture": str(path), **values})
    if not done.rows:
        raise UserError(f"None of the {len(source)} images could be read: {'; '.join(done.unreadable[:3])}.")
    return done


def pictures(images: Tensor, explanation: Explanation, captions: Sequence[str] | None = None) -> Iterator[Any]:
    """One row picture per image: the input, the colour explanation over white, the signed contributions."""
    inputs = (images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    colours = over_white(explanation.to_rgba()).cpu().numpy()
    signed = signed_map(explanation.contributions).cpu().numpy()
    titles = captions or [f"logit {v:.2f}" for v in explanation.logit.tolist()]
    for image, colour, sign, title in zip(inputs, colours, signed, titles, strict=True):
        yield row([image, colour, sign], [title, "W(x), colour explanation", "contributions, red adds"])


def rows(explanation: Explanation, config: Any) -> list[dict[str, Any]]:
    """The numbers behind each picture."""
    found = []
    for i in range(len(explanation)):
        values: dict[str, Any] = {}
        if explanation.prediction is not None:
            index = int(explanation.prediction[i])
            values["prediction"] = config.id2label.get(index, str(index))
        values["logit"] = float(explanation.logit[i])
        values["residual"] = float(explanation.residual[i])
        found.append(values)
    return found


def _folders(images: str | Path | Sequence[str | Path]) -> list[Path]:
    """The folders that were named, and those of the files that were."""
    paths = [Path(p).expanduser().resolve() for p in ([images] if isinstance(images, str | Path) else images)]
    return [p if p.is_dir() else p.parent for p in paths if p.is_dir() or is_image_name(p.name) or "*" in p.name]


def _free_path(folder: Path, name: str, written: set[Path]) -> Path:
    """Where the picture of an image goes; `a.jpg` beside `a.png` keeps its extension, so that neither is lost."""
    flat = name.replace("/", "_")
    path = folder / f"{Path(flat).stem}.png"
    copy = 1
    while path in written:
        path = folder / (f"{flat}.png" if copy == 1 else f"{flat}.{copy}.png")
        copy += 1
    written.add(path)
    return path


def _watched(loader: Any, progress: bool) -> Any:
    if not progress:
        return loader
    from rich.console import Console
    from rich.progress import track

    return track(loader, description="explaining", console=Console(stderr=True))
