"""Nearest neighbours by cosine with the ratio test (Probe3D, docs/dense.md), in parts that bound the memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_DISTANCE = 1e-9
ENTRIES = 2**24  # similarities held at a time, 64 MiB


@dataclass(frozen=True, eq=False)
class Matches:
    """Kept matches, the best score first: M positions in the points of view 0 and of view 1, and their scores (float64)."""

    first: Tensor
    second: Tensor
    scores: Tensor


def match(first: Tensor, second: Tensor, num_corr: int = 1000, *, entries: int = ENTRIES) -> Matches:
    """The best matches of P points of view 0 among Q >= 2 points of view 1 by cosine, ranked by the ratio test.

    Neighbours are found in float32 and measured in float64; of equal ones the earlier counts as nearer, and of equal scores
    the earlier point of view 0 comes first. d = 1 - cos is at least 1e-9.

    Args:
        first, second: features (P, D) and (Q, D).
        entries: similarities held at a time; no result depends on it.
    """
    ours, theirs = F.normalize(first.float(), dim=1), F.normalize(second.float(), dim=1)
    nearest, scores = [], []
    for part in ours.split(max(1, entries // len(theirs))):
        similarity = part @ theirs.T
        best = similarity.argmax(dim=1, keepdim=True)
        other = similarity.scatter_(1, best, -torch.inf).argmax(dim=1, keepdim=True)
        two = torch.cat((best, other), dim=1).sort(dim=1).values
        cosines = (F.normalize(part.double(), dim=1)[:, None] * F.normalize(theirs[two].double(), dim=2)).sum(2)
        distances, order = (1 - cosines).clamp_min(SMALLEST_DISTANCE).sort(dim=1, stable=True)
        nearest.append(two.gather(1, order[:, :1])[:, 0].cpu())
        scores.append((1 - distances[:, 0] / distances[:, 1]).cpu())
    ranked, order = torch.cat(scores).sort(descending=True, stable=True)
    kept = order[:num_corr]
    return Matches(kept, torch.cat(nearest)[kept], ranked[:num_corr])


def nearest_distances(points: Tensor, others: Tensor, *, entries: int = ENTRIES) -> Tensor:
    """(M,) distances from each of the points (3, M) to the closest of the others (3, Q)."""
    parts = points.T.split(max(1, entries // others.shape[1]))
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cat([torch.cdist(part, others.T, compute_mode=exact).amin(dim=1) for part in parts])
