"""Directions made of several images: a k-NN vote, and what some images have in common that others have not.

Every vote of a neighbour n for a query q is cos(q, n), which is linear in f(q) / |f(q)|. So the votes of one class less those
of another are one direction, and one exact map.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from aloe.attribution.alike.similarity import pooled
from aloe.attribution.inherent import Explanation, explain
from aloe.bcos.units import NORM_FLOOR
from aloe.core.errors import UserError


@dataclass(frozen=True)
class Vote:
    """How k neighbours vote, each with its cosine: `sums` by class, the largest first; `direction` (D,) of the winner's
    neighbours less the runner-up's, whose product with f(q) / |f(q)| is the winner's sum less the runner-up's."""

    sums: dict[int, float]
    direction: Tensor

    @property
    def winner(self) -> int:
        return next(iter(self.sums))

    @property
    def second(self) -> int | None:
        """None where all neighbours are of one class."""
        return next((label for label in self.sums if label != self.winner), None)


def vote(query: Tensor, neighbours: Tensor, labels: Tensor) -> Vote:
    """The vote of k neighbours (k, D) of classes (k,) on a query (D,); of equal sums the lower class comes first."""
    units = F.normalize(neighbours, dim=-1, eps=NORM_FLOOR)
    cosines = units @ F.normalize(query, dim=-1, eps=NORM_FLOOR)
    totals = {int(label): float(cosines[labels == label].sum()) for label in labels.unique()}
    sums = dict(sorted(totals.items(), key=lambda item: (-item[1], item[0])))
    order = list(sums)
    direction = units[labels == order[0]].sum(0)
    if len(order) > 1:
        direction = direction - units[labels == order[1]].sum(0)
    return Vote(sums, direction)


def concept(toward: Tensor, against: Tensor | None = None) -> Tensor:
    """The direction (D,), of length 1, of the mean feature of some images (M, D), less that of others.

    Raises:
        UserError: the two means are equal.
    """
    mean = toward.mean(0) if against is None else toward.mean(0) - against.mean(0)
    if not float(mean.norm()) > NORM_FLOOR:
        raise UserError(
            "The two sets of images have the same mean feature: there is no direction from one to the other."
        )
    return F.normalize(mean, dim=-1, eps=NORM_FLOOR)


def along(student: nn.Module, images: Tensor, direction: Tensor, *, batch_size: int = 32) -> Explanation:
    """Explain d.f(x) / |f(x)|, the part of each image's unit feature along a direction (D,) or (B, D).

    Args:
        images: (B, 3, H, W), on the student's device and in its dtype.
    """
    features = pooled(student, images, batch_size)
    lengths = features.norm(dim=-1, keepdim=True).clamp_min(NORM_FLOOR)
    return explain(student, images, direction.to(features) / lengths, batch_size=batch_size)
