"""`aloe neighbours`: the nearest images of a folder, why they are near, and with class folders the k-NN vote explained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from aloe.attribution.alike.similarity import pooled, similarity
from aloe.attribution.alike.votes import along, vote
from aloe.attribution.inherent import check_student
from aloe.attribution.made import Made, Written, open_limited, owner_of
from aloe.attribution.records import Row, image_hashes
from aloe.core.bounds import counted
from aloe.core.errors import UserError
from aloe.data.sources import left_out
from aloe.draw.alike import line_pictures, neighbour_lines
from aloe.draw.gallery import stack
from aloe.evaluation.alike.files import spec_of
from aloe.evaluation.alike.shelf import Shelf, file_of, shelve

RECORD_NAME = "neighbours.json"


def find_neighbours(
    student: Any,
    shelf: Any,
    images: Any,
    output_dir: Path,
    *,
    k: int = 5,
    resolution: int | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    device: str = "cpu",
    cache: Path | None = None,
    progress: bool = True,
    name: str = "",
) -> Written:
    """Write `<stem>_neighbours.png` for every image: a line for each of its k nearest, with the map of either image.

    Where the folder has classes, a line on top explains the vote: the sum of the cosines of the winning class's neighbours
    less that of the second class's, which is one direction. An image is no neighbour of itself. Run again with the same
    student, settings and images, pictures that are there are not made again.

    Args:
        student: a B-cos student. shelf: what to choose neighbours from: folder, archive, data set or shards.
        images: the queries. cache: folder of cached features; default: none are kept.

    Raises:
        UserError: no student, no images, fewer than k to choose from, or a folder that cannot be written to.
    """
    student, k = check_student(student).to(device), counted(k, "k")
    source = open_limited(images, limit, batch_size)
    owner = owner_of(student, name, source, output_dir / RECORD_NAME, "alike", images, shelf)
    settings: dict[str, Any] = {"batch_size": batch_size, "device": device, "cache": cache}
    bank = shelve(student, shelf, resolution=resolution, progress="features" if progress else None, **settings)
    if k > len(bank):
        raise UserError(f"{k} neighbours were asked for, but there are {len(bank)} images to choose from.")
    done = Written(left_out=[*left_out(source), *bank.left_out])
    asked = {"k": k, "side": bank.side, "shelf": bank.source.state(), "queries": spec_of(images)}
    folder = Made.of(output_dir / RECORD_NAME, "alike", owner, source, ("neighbours",), asked, student)

    def explained(pixels: Tensor, rows: list[Row], numbers: list[int]) -> Iterator[Row]:
        for image, row, i in zip(pixels, rows, numbers, strict=True):
            more, picture = _explained(student, bank, image[None], row["file"], file_of(source, i), k)
            yield folder.save(i, {"neighbours": picture}, {**row, **more})

    title = "neighbours" if progress else None
    return folder.over(source, explained, done, side=bank.side, batch_size=batch_size, device=device, title=title)


def _explained(student: Any, shelf: Shelf, image: Tensor, name: str, file: Path | None, k: int) -> tuple[Row, Any]:
    """The numbers and the picture of one query (1, 3, H, W)."""
    numbers = others(shelf, pooled(student, image)[0], k, file)
    pixels = shelf.pixels(numbers).to(image)
    likeness = similarity(student, image, pixels)
    titles = [shelf.name(i) for i in numbers]
    lines = list(neighbour_lines(likeness.images_a, pixels, likeness.a, likeness.b, name, titles))
    near: list[Row] = [
        {"file": title, "image": seen, "cosine": float(c), "residual": float(a), "residual_neighbour": float(b)}
        for title, seen, c, a, b in zip(
            titles, image_hashes(pixels), likeness.cosine, likeness.a.residual, likeness.b.residual, strict=True
        )
    ]
    row: Row = {"neighbours": near}
    if shelf.classes is not None:
        labels = shelf.features.labels[numbers]
        for one, label in zip(near, labels.tolist(), strict=True):
            one["class"] = shelf.classes[label]
        votes, words = _vote(student, shelf.classes, image, likeness.features_a[0], likeness.features_b, labels)
        row["vote"] = {key: value for key, value in votes.items() if key != "explanation"}
        lines = [*line_pictures(image, votes["explanation"], [name], words), *lines]
    return row, stack(lines)


def others(shelf: Shelf, feature: Tensor, k: int, file: Path | None = None) -> list[int]:
    """Numbers of the k nearest images that are not the query's own file."""
    more = min(k + 1, len(shelf)) if file is not None else k
    near = [i for i in shelf.nearest(feature[None], more)[0].tolist() if file is None or shelf.file(i) != file]
    if len(near) < k:
        raise UserError(f"{k} neighbours were asked for, but there are {len(near)} images besides the query.")
    return near[:k]


def _vote(
    student: Any, classes: list[str], image: Tensor, query: Tensor, neighbours: Tensor, labels: Tensor
) -> tuple[Row, str]:
    ballot = vote(query, neighbours, labels.to(query.device))
    explanation = along(student, image, ballot.direction)
    second = None if ballot.second is None else classes[ballot.second]
    row: Row = {
        "class": classes[ballot.winner],
        "second": second,
        "sums": {classes[label]: value for label, value in ballot.sums.items()},
        "value": float(explanation.logit[0]),
        "residual": float(explanation.residual[0]),
        "explanation": explanation,
    }
    return row, f"votes: {row['class']}" + ("" if second is None else f" less {second}")
