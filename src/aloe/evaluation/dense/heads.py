"""Heads on frozen dense features (Probe3D, El Banani et al. 2024): one convolution, or a DPT-style decoder.

Both read the maps (B, D_i, h, w) of the chosen blocks and give (B, C, rh, rw), r = 4 and 16. First weights are drawn from an
explicit generator, as torch's convolutions draw theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aloe.core.errors import UserError


class LinearHead(nn.Module):
    """The maps side by side, bilinear x4 (aligned corners), one convolution (B, sum D_i, h, w) -> (B, C, 4h, 4w).

    A 1 x 1 convolution commutes with the interpolation, whose weights sum to 1, and is done before it: a 16th of the
    products.
    """

    scale = 4

    def __init__(self, widths: Sequence[int], outputs: int, generator: torch.Generator, kernel: int = 1) -> None:
        super().__init__()
        self.convolution = _convolution(sum(widths), outputs, kernel)
        _reset(self, generator)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = torch.cat(list(maps), dim=1)
        if self.convolution.kernel_size == (1, 1):
            return _enlarged(self.convolution(x), self.scale)
        return self.convolution(_enlarged(x, self.scale))


class DPTHead(nn.Module):
    """Four blocks, fused from the deepest to the shallowest (Ranftl et al. 2021, in Probe3D's form): (B, C, 16h, 16w).

    Every map is projected to `hidden` channels and enlarged x2; a fusion adds the next map through a residual unit and
    refines the sum by another; then x4, two 3 x 3 convolutions, x2.

    Raises:
        UserError: not exactly four blocks.
    """

    scale = 16

    def __init__(self, widths: Sequence[int], outputs: int, generator: torch.Generator, hidden: int = 512) -> None:
        super().__init__()
        if len(widths) != 4:
            raise UserError(f"The dpt head reads four blocks, not {len(widths)}; give blocks 'four' or four numbers.")
        self.projections = nn.ModuleList(_convolution(width, hidden, 1) for width in widths)
        self.skips = nn.ModuleList(_ResidualUnit(hidden) for _ in widths[1:])
        self.refinements = nn.ModuleList(_ResidualUnit(hidden) for _ in widths)
        self.before, self.last = _convolution(hidden, hidden, 3), _convolution(hidden, outputs, 3)
        _reset(self, generator)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        levels = [_enlarged(project(x), 2) for project, x in zip(self.projections, maps, strict=True)]
        x = self.refinements[-1](levels[-1])
        for k in (2, 1, 0):
            x = self.refinements[k](x + self.skips[k](levels[k]))
        x = self.last(F.relu(self.before(_enlarged(x, 4))))
        return _enlarged(x, 2)


class Standardized(nn.Module):
    """A head on maps of which every channel is brought to mean 0 and deviation 1 by constants, (D_i,) for map i.

    A 1 x 1 convolution could absorb them, so that a linear head stays one; what changes is how fast it is trained: raw
    streams differ a hundredfold in size between backbones, and Adam's steps do not.
    """

    def __init__(self, head: nn.Module, means: Sequence[Tensor], deviations: Sequence[Tensor]) -> None:
        super().__init__()
        self.head = head
        for k, (mean, deviation) in enumerate(zip(means, deviations, strict=True)):
            self.register_buffer(f"mean{k}", mean[:, None, None])
            self.register_buffer(f"deviation{k}", deviation[:, None, None])

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.head([(x - getattr(self, f"mean{k}")) / getattr(self, f"deviation{k}") for k, x in enumerate(maps)])


class _ResidualUnit(nn.Module):
    """x plus two 3 x 3 convolutions of it, a ReLU after each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = _convolution(width, width, 3), _convolution(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.relu(self.second(F.relu(self.first(x))))


def _enlarged(x: Tensor, factor: int) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=True)


def _convolution(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """Without weights as yet, so that no global random number is drawn."""
    return nn.utils.skip_init(nn.Conv2d, inputs, outputs, kernel, padding=kernel // 2)  # type: ignore[return-value]


def _reset(module: nn.Module, generator: torch.Generator) -> None:
    for convolution in module.modules():
        if isinstance(convolution, nn.Conv2d) and convolution.bias is not None:
            nn.init.kaiming_uniform_(convolution.weight, a=sqrt(5), generator=generator)
            bound = 1 / sqrt(convolution.weight[0].numel())
            nn.init.uniform_(convolution.bias, -bound, bound, generator=generator)
