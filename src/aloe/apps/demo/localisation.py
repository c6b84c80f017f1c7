"""Is the evidence for a class where the class is? The demo's grid pointing game, by windows of the model's own size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aloe.attribution.methods import attribute, find_method
from aloe.metrics.gridpg import GridPG, grid_pointing
from aloe.metrics.grids import GridList, choose_grids, confident
from aloe.models.teachers import Teacher

GRIDS, SHARE, CELLS = 8, 0.5, 4
POST_HOC = ("attnlrp", "chefercam", "legrad")  # of a few passes each; Integrated Gradients and LIME need fifty and more


@dataclass(frozen=True)
class Localisation:
    """GridPG in percent with 95 % intervals: `own` of the student's W(x)x, `best` of the teacher's best method, which is
    `method` of those in `tried` (titles)."""

    own: float
    own_interval: tuple[float, float]
    method: str
    best: float
    best_interval: tuple[float, float]
    tried: list[str]
    grids: int
    chance: float

    def words(self) -> str:
        return (
            f"GridPG of {self.grids} grids: student's W(x)x {self.own:.1f} %, teacher's best post-hoc method "
            f"({self.method}) {self.best:.1f} %, chance {self.chance:.0f} %"
        )


def localise(
    student: Any, teacher: Teacher, images: Tensor, labels: Tensor, device: str = "cpu", seed: int = 0
) -> Localisation | None:
    """GridPG of the student's W(x)x and of the teacher's methods on the same grids of scenes that both are sure of.

    Args:
        images: (N, 3, S, S) in [0, 1], of the models' own size. labels: (N,), the classes of both.

    Returns:
        None where fewer than four classes have a scene that both classify correctly.
    """
    names = [str(student.config.id2label[i]) for i in range(int(labels.max()) + 1)]
    tables = [_probabilities(model.to(device), images, device) for model in (teacher, student)]
    eligible = confident(tables, labels, share=SHARE)
    if len(labels[eligible].unique()) < CELLS:
        return None
    grids = GridList(2, *choose_grids(eligible, labels, count=GRIDS, seed=seed, classes=names), {}, "scenes", "")

    def play(model: nn.Module, method: str) -> GridPG:
        maps: Callable[[Tensor, Tensor], Tensor] = lambda x, y: attribute(model, x, y, method).pixels()  # noqa: E731
        return grid_pointing(maps, lambda indices: images[list(indices)], grids, seed=seed)

    own = play(student, "inherent")
    games = {method: play(teacher, method) for method in POST_HOC}
    best = max(games, key=lambda method: games[method].score)
    return Localisation(
        *_percent(own),
        find_method(best).title,
        *_percent(games[best]),
        [find_method(method).title for method in POST_HOC],
        len(grids),
        100 * own.chance,
    )


def _percent(game: GridPG) -> tuple[float, tuple[float, float]]:
    low, high = game.interval
    return 100 * game.score, (100 * low, 100 * high)


@torch.no_grad()
def _probabilities(model: nn.Module, images: Tensor, device: str) -> Tensor:
    return torch.cat([model(part.to(device)).logits.softmax(1).cpu() for part in images.split(64)])
