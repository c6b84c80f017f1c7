"""`aloe explain --like` and `--toward`: pictures of why images are like others, and a record of the numbers behind them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from aloe.attribution.alike.regions import Box, centre_view, check_region, parsed_region, shares
from aloe.attribution.alike.similarity import pooled, similarity
from aloe.attribution.alike.votes import along, concept
from aloe.attribution.inherent import check_student
from aloe.attribution.made import Made, Written, open_limited, owner_of
from aloe.attribution.records import Row, image_hashes
from aloe.core.errors import UserError
from aloe.core.printable import shown
from aloe.data.sources import left_out
from aloe.draw.alike import line_pictures, pair_pictures, pairs_picture, region_picture
from aloe.evaluation.alike.shelf import Shelf, shelve

RECORD_NAME = "alike.json"


def explain_like(
    student: Any,
    images: Any,
    like: Any,
    output_dir: Path,
    *,
    regions: Sequence[str] = (),
    pairs: int = 0,
    resolution: int | None = None,
    limit: int | None = None,
    batch_size: int = 16,
    device: str = "cpu",
    cache: Path | None = None,
    progress: bool = True,
    name: str = "",
) -> Written:
    """Write `<stem>_alike.png` for every image: why it is like another, the nearest of those that `like` names.

    Args:
        student: a B-cos student. images, like: files, folders, archives and whatever else `aloe.data.sources` reads.
        regions: `x,y,w,h` in pixels of the one image that `like` names: `<stem>_regions.png` shows what is like each.
        pairs: lines of `<stem>_pairs.png`, between the patches that contribute most; 0: no such picture.
        cache: folder of cached features; default: none are kept.

    Raises:
        UserError: no student, no images, regions of several images or outside, or a folder that cannot be written to.
    """
    student = check_student(student).to(device)
    boxes = [parsed_region(text) for text in regions]
    source, side = open_limited(images, limit, batch_size), student.side(resolution)
    owner = owner_of(student, name, source, output_dir / RECORD_NAME, "alike", images, like)
    shelf = _shelf(student, like, side, batch_size, device, cache, progress)
    view = None
    if boxes:
        if len(shelf) != 1:
            raise UserError(f"--region is of one image, but --like names {len(shelf)}; give one file.")
        view = _view(boxes, shelf, side)
    done = Written(left_out=[*left_out(source), *shelf.left_out])
    kinds = ("alike", *["regions"] * bool(boxes), *["pairs"] * bool(pairs))
    settings = {"like": shelf.source.state(), "regions": list(regions), "pairs": pairs, "side": side}
    folder = Made.of(output_dir / RECORD_NAME, "alike", owner, source, kinds, settings, student)

    def explained(pixels: Tensor, rows: list[Row], numbers: list[int]) -> Iterator[Row]:
        names = [row["file"] for row in rows]
        nearest = shelf.nearest(pooled(student, pixels, batch_size), 1)[:, 0]
        others = shelf.pixels(list(nearest)).to(pixels)
        likeness = similarity(student, pixels, others, batch_size=batch_size)
        titles = [(image, shelf.name(int(i))) for image, i in zip(names, nearest, strict=True)]
        hashes = image_hashes(others)
        for i, picture in enumerate(pair_pictures(pixels, others, likeness.a, likeness.b, titles)):
            row: Row = {**rows[i], "like": titles[i][1], "like_image": hashes[i]}
            sheets = {"alike": picture}
            row |= {"cosine": float(likeness.cosine[i]), "residual": float(likeness.a.residual[i])}
            row["residual_like"] = float(likeness.b.residual[i])
            if view is not None:
                parts = likeness.masked(shares(boxes, side, side, view), i)
                where = seen(boxes, view, side)
                sheets["regions"] = region_picture(others[i], where, pixels[i], parts.in_a, titles[i][1])
                row["regions"] = [
                    {"region": text, "value": float(v), "residual": float(r)}
                    for text, v, r in zip(regions, parts.value, parts.in_a.residual, strict=True)
                ]
            if pairs:
                table = likeness.pairs(index=i)
                words = f"cosine {float(table.cosine):.4f}: patches {float(table.table.sum()):.4f}, constants"
                words += f" {float(table.residual):.4f}"
                strongest = table.strongest(pairs)
                sheets["pairs"] = pairs_picture(pixels[i], others[i], strongest, table.grids, caption=words)
                row["pairs"] = strongest
            yield folder.save(numbers[i], sheets, row)

    title = "explaining" if progress else None
    return folder.over(source, explained, done, side=side, batch_size=batch_size, device=device, title=title)


def explain_toward(
    student: Any,
    images: Any,
    toward: Any,
    output_dir: Path,
    *,
    against: Any = None,
    resolution: int | None = None,
    limit: int | None = None,
    batch_size: int = 16,
    device: str = "cpu",
    cache: Path | None = None,
    progress: bool = True,
    name: str = "",
) -> Written:
    """Write `<stem>_toward.png` for every image: what in it points from the mean feature of `against` to that of `toward`.

    The explained value is the cosine of the image's feature and that direction; arguments as in `explain_like`.

    Raises:
        UserError: no student, no images, two sets of one mean, or a folder that cannot be written to.
    """
    student = check_student(student).to(device)
    source, side = open_limited(images, limit, batch_size), student.side(resolution)
    sets = [spec for spec in (toward, against) if spec is not None]
    owner = owner_of(student, name, source, output_dir / RECORD_NAME, "alike", images, *sets)
    shelves = [_shelf(student, spec, side, batch_size, device, cache, progress) for spec in sets]
    direction = concept(*(shelf.vectors for shelf in shelves))
    done = Written(left_out=[*left_out(source), *(line for shelf in shelves for line in shelf.left_out)])
    words = f"toward {_named(toward)}" + (f" against {_named(against)}" if against is not None else "")
    asked = {key: spec_of(images) for key, images in (("toward", toward), ("against", against)) if images is not None}

    settings = {**asked, "sets": [shelf.source.state() for shelf in shelves], "side": side}
    folder = Made.of(output_dir / RECORD_NAME, "alike", owner, source, ("toward",), settings, student)

    def explained(pixels: Tensor, rows: list[Row], numbers: list[int]) -> Iterator[Row]:
        explanation = along(student, pixels, direction, batch_size=batch_size)
        for i, picture in enumerate(line_pictures(pixels, explanation, [row["file"] for row in rows], words)):
            values = {"value": float(explanation.logit[i]), "residual": float(explanation.residual[i])}
            yield folder.save(numbers[i], {"toward": picture}, {**rows[i], **asked, **values})

    title = "explaining" if progress else None
    return folder.over(source, explained, done, side=side, batch_size=batch_size, device=device, title=title)


def _shelf(
    student: Any, images: Any, side: int, batch_size: int, device: str, cache: Path | None, progress: bool
) -> Shelf:
    title = "features" if progress else None
    settings: dict[str, Any] = {"batch_size": batch_size, "device": device, "cache": cache, "progress": title}
    return shelve(student, images, resolution=side, **settings)


def _view(boxes: Sequence[Box], shelf: Shelf, side: int) -> Box:
    """What the student sees of the one image of a shelf; its regions are checked.

    Raises:
        UserError: one lies outside the image, or wholly in what is cropped away.
    """
    width, height = shelf.size(0)
    view = centre_view((width, height), side)
    for box, share in zip(
        boxes, shares([check_region(b, height, width, shelf.name(0)) for b in boxes], side, side, view), strict=True
    ):
        if not share.any():
            words = ",".join(f"{value:g}" for value in box)
            raise UserError(
                f"The region {words} lies outside the central square of {shelf.name(0)} that the student sees, which is"
                f" {','.join(f'{value:.0f}' for value in view)} (x,y,w,h)."
            )
    return view


def seen(boxes: Sequence[Box], view: Box, side: int) -> list[Box]:
    """Boxes of a file in pixels of what the student sees of it, cut at its edges."""
    left, top, wide, high = view
    visible = []
    for x, y, w, h in boxes:
        corners = [(x - left) * side / wide, (y - top) * side / high, (x + w - left) * side / wide]
        x0, y0, x1, y1 = (min(max(c, 0.0), float(side)) for c in (*corners, (y + h - top) * side / high))
        visible.append((x0, y0, x1 - x0, y1 - y0))
    return visible


def spec_of(images: Any) -> str | list[str]:
    """What names a set of images, as it was given."""
    return shown(str(images)) if isinstance(images, str | Path) else [shown(str(one)) for one in images]


def _named(images: Any) -> str:
    return shown(Path(str(images if isinstance(images, str | Path) else images[0])).name)
