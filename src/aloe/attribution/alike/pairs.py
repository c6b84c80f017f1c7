"""The cosine of two images as a table: what every part of a contributes together with every part of b.

With F_i(a) = W(a) applied to part i of a alone, f(a) is the sum of F_i(a) and r(a), so

    cos(a, b) |f(a)| |f(b)| = sum_ij F_i(a).F_j(b) + sum_i F_i(a).r(b) + sum_j r(a).F_j(b) + r(a).r(b).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aloe.attribution.alike.operator import Operator
from aloe.attribution.alike.regions import patch_cells
from aloe.core.bounds import counted

Grid = tuple[int, int]


@dataclass
class Pairs:
    """Contributions to one cosine, which is the sum of all four: table, with_constants_b, with_constants_a, constants.

    Shapes: `table` (N_a, N_b), patches row by row; `with_constants_b` (N_a,), patches of a with b's constants;
    `with_constants_a` (N_b,), a's constants with patches of b; `constants` (), those of both; `grids`, rows and columns of
    patches of a and of b. Of tokens, the prefix tokens (CLS, registers) are the constants.
    """

    table: Tensor
    with_constants_b: Tensor
    with_constants_a: Tensor
    constants: Tensor
    grids: tuple[Grid, Grid]

    @property
    def residual(self) -> Tensor:
        """What the constants of either image contribute, ()."""
        return self.with_constants_b.sum() + self.with_constants_a.sum() + self.constants

    @property
    def cosine(self) -> Tensor:
        """The sum of all, ()."""
        return self.table.sum() + self.residual

    def strongest(self, count: int = 12) -> list[tuple[int, int, float]]:
        """The pairs that contribute most: number in a, number in b, contribution; the largest first, all if there are fewer.

        Raises:
            UserError: count is below 1.
        """
        values, places = self.table.flatten().topk(min(counted(count, "count"), self.table.numel()))
        rows, columns = places // self.table.shape[1], places % self.table.shape[1]
        return list(zip(rows.tolist(), columns.tolist(), values.tolist(), strict=True))


def patch_pairs(a: Operator, b: Operator, scale: Tensor, config: Any) -> Pairs:
    """Pairs of patches of pixels, from the operators of two images; `scale` is |f(a)| |f(b)|."""
    grids = [_grid(side.inputs.shape[-2:], config.patch_size) for side in (a, b)]
    parts = [side.parts(patch_cells(*grid, config.patch_size)) for side, grid in zip((a, b), grids, strict=True)]
    return _table(parts[0], a.residual, parts[1], b.residual, scale, grids)


def token_pairs(a: Operator, b: Operator, scale: Tensor, config: Any, sizes: Sequence[Sequence[int]]) -> Pairs:
    """Pairs of patch tokens after a block, from operators that begin there; `sizes` are the images' heights and widths."""
    grids = [_grid(size, config.patch_size) for size in sizes]
    prefix = config.num_prefix_tokens
    parts = [side.parts(torch.arange(len(side.inputs))) for side in (a, b)]
    constants = [part[:prefix].sum(0) for part in parts]
    return _table(parts[0][prefix:], constants[0], parts[1][prefix:], constants[1], scale, grids)


def _table(f_a: Tensor, r_a: Tensor, f_b: Tensor, r_b: Tensor, scale: Tensor, grids: Sequence[Grid]) -> Pairs:
    f_a, r_a = f_a / scale, r_a / scale
    return Pairs(f_a @ f_b.T, f_a @ r_b, f_b @ r_a, r_a @ r_b, (grids[0], grids[1]))


def _grid(size: Sequence[int], patch: int) -> Grid:
    return size[0] // patch, size[1] // patch
