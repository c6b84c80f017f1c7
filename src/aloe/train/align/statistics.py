"""The teacher's mean and deviation per dimension, at every alignment point, for objectives on standardised features.

Raw features share a large mean: their cosine is mostly that, while probes and neighbours read what is left of it. Every
prefix token (CLS, registers) has its own statistics, all patches share theirs, and so does the pooled output.
Source of the idea: PHI-S (arXiv 2410.01680), Theia, UNIC, which standardise the teachers they distil.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from aloe.models.backbone import Features
from aloe.models.configuration import BcosViTConfig
from aloe.models.teachers import Teacher
from aloe.train.align.points import POOLED, match_tokens, point_name, shared_prefix

COUNT = 512  # images that they are measured on
FLOOR = 0.01  # of a point's typical deviation: dimensions that hardly move are not blown up


class Statistics(nn.Module):
    """Mean and deviation of the teacher at every point, as buffers: they are part of a checkpoint.

    `points` maps a point's name to its number of rows: prefix tokens and one row for the patches, or 1 (pooled). A point's
    two buffers are (rows, D).
    """

    def __init__(self, points: dict[str, int], width: int) -> None:
        super().__init__()
        for name, rows in points.items():
            self.register_buffer(f"{name}_mean", torch.zeros(rows, width))
            self.register_buffer(f"{name}_deviation", torch.ones(rows, width))

    @classmethod
    def of(cls, config: BcosViTConfig, source: Teacher, blocks: Sequence[int]) -> Statistics:
        """Not measured yet."""
        rows = shared_prefix(config, source) + 1
        return cls({**{point_name(k): rows for k in blocks}, POOLED: 1}, source.width)

    def mean(self, name: str) -> Tensor:
        """(rows, D) of a point."""
        return self.get_buffer(f"{name}_mean")

    def deviation(self, name: str) -> Tensor:
        """(rows, D) of a point."""
        return self.get_buffer(f"{name}_deviation")

    def standardise(self, name: str, features: Tensor) -> Tensor:
        """(features - mean) / deviation in float32; (B, N, D), or (B, D) of the pooled output."""
        mean, deviation = self.mean(name), self.deviation(name)
        if features.ndim == 3:  # the last row is that of all patches
            row = torch.arange(features.shape[1], device=features.device).clamp_max(len(mean) - 1)
            mean, deviation = mean[row], deviation[row]
        return (features.float() - mean) / deviation

    @torch.no_grad()
    def measure(
        self, teach: Callable[[Tensor], Features], images: Tensor, config: BcosViTConfig, source: Teacher, batch: int
    ) -> None:
        """Set all buffers from images (B, 3, H, W) in [0, 1], `batch` at a time, in float64."""
        sums: dict[str, list[Any]] = {}
        device = self.mean(POOLED).device
        for part in images.split(batch):
            outputs = teach(part.to(device))
            features = {POOLED: outputs.pooled}
            for k, state in outputs.states.items():
                features[point_name(k)] = match_tokens(state, state, config, source)[1]
            for name, value in features.items():
                rows = _by_row(value.double(), len(self.mean(name)))
                total = sums.setdefault(name, [[0, 0.0, 0.0] for _ in rows])
                for kept, row in zip(total, rows, strict=True):
                    kept[0] += len(row)
                    kept[1] = kept[1] + row.sum(0)
                    kept[2] = kept[2] + row.square().sum(0)
        for name, total in sums.items():
            mean = torch.stack([first / count for count, first, _ in total])
            square = torch.stack([second / count for count, _, second in total])
            deviation = (square - mean.square()).clamp_min(0).sqrt()
            typical = deviation.square().mean(-1, keepdim=True).sqrt()
            typical = torch.where(typical > 0, typical, torch.ones_like(typical))  # all images alike
            self.mean(name).copy_(mean)
            self.deviation(name).copy_(torch.maximum(deviation, FLOOR * typical))


def _by_row(features: Tensor, rows: int) -> list[Tensor]:
    """(B, N, D) to one (n, D) per row of statistics: each prefix token, then all patches; (B, D) to itself."""
    if features.ndim == 2:
        return [features]
    return [*features[:, : rows - 1].unbind(1), features[:, rows - 1 :].flatten(0, 1)]
