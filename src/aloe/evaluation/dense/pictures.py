"""Pictures of the dense tasks beside their rows: predictions of a few frames by every model, and matched pairs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aloe.data.frames.frame import FramePairs, FrameSplits, NoTruth
from aloe.draw.dense import depth_row, normal_row
from aloe.draw.gallery import save_png, stack
from aloe.draw.matches import evenly, match_picture
from aloe.evaluation.cache import PartFolder, read_part
from aloe.evaluation.dense.correspondence import Correspondence
from aloe.evaluation.dense.depth import DepthTask
from aloe.evaluation.dense.probe import DenseProbe, dense_task
from aloe.evaluation.dense.settings import DenseSettings
from aloe.evaluation.results import Row

PICTURES = 4  # frames, or pairs, that are drawn


def keep_predictions(probe: DenseProbe, splits: FrameSplits, folder: Path) -> None:
    """Write the predictions of a few test frames, by which later runs draw this model beside theirs."""
    predictions = {str(i): probe.predict(splits.test[i])[1].half() for i in evenly(len(splits.test), PICTURES)}
    PartFolder(folder).write(0, predictions, ())


def draw_predictions(task: str, splits: FrameSplits, rows: Sequence[Row], settings: DenseSettings, path: Path) -> None:
    """The same frames by every model of these rows, under one another; their predictions lie in `<path's folder>/<key>`."""
    if not rows:
        return
    kept = {_caption(row, rows): read_part(PartFolder(path.parent / row["key"]).path(0)) for row in rows}
    goal = dense_task("depth" if task == "depth" else "normals", settings, splits.max_depth)
    drawn = []
    for i in evenly(len(splits.test), PICTURES):
        seen = splits.test[i].cropped_square()
        seen = seen if settings.target_side is None else seen.resized(settings.target_side)
        try:
            truth, valid = goal.target(seen)
        except NoTruth:
            continue
        predictions = {name: part[str(i)].float() for name, part in kept.items()}
        make: Any = depth_row if isinstance(goal, DepthTask) else normal_row
        drawn.append(make(seen.image, truth[0] if isinstance(goal, DepthTask) else truth, valid, predictions))
    if drawn:
        save_png(stack(drawn), path)


def draw_matches(found: Correspondence, pairs: FramePairs, within: float, path: Path) -> None:
    """A few pairs with their matches, each with its share of matches `within` so many metres."""
    drawn = []
    for k in evenly(len(found.pairs), PICTURES):
        matched = found.pairs[k]
        first, second = (pairs.frames[i] for i in matched.pair)
        share = f"{matched.recall(within):.0f} % of {len(matched)} matches within {100 * within:g} cm"
        words = f"{matched.angle:.0f} degrees, {share}"
        drawn.append(match_picture(first.image, second.image, matched.pixels, matched.errors, caption=words))
    save_png(stack(drawn), path)


def plain(text: str) -> str:
    """`text` as a part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-")


def _caption(row: Row, rows: Sequence[Row]) -> str:
    """The stage; with the model's name where two models have it."""
    alone = sum(r["stage"] == row["stage"] for r in rows) == 1
    return row["stage"] if alone else f"{row['stage']} {row['name']}"
