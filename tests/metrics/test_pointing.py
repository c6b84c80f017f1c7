"""Maps against masks."""

from __future__ import annotations

import pytest
import torch

from aloe.core.errors import UserError
from aloe.metrics.pointing import inside_share, pointing_hits

MASK = torch.tensor([[1, 0, 0], [1, 1, 0]], dtype=torch.bool)


def test_inside_share_counts_positive_mass_only():
    maps = torch.tensor(
        [
            [[3.0, 1, -9], [-5, 0, 2]],
            [[-1.0, 0, 0], [0, -2, 0]],  # nothing positive
            [[-1.0, 4, 0], [-2, -1, 0]],
        ]
    )
    share = inside_share(maps, MASK.expand(3, -1, -1))
    assert share[0] == 0.5
    assert share[1].isnan()
    assert share[2] == 0


def test_uniform_maps_give_the_area_of_the_mask():
    assert inside_share(torch.full((1, 2, 3), 0.1), MASK[None]).item() == pytest.approx(0.5, abs=1e-12)


def test_hits_and_ties():
    maps = torch.tensor([[[0.0, 0, 0], [0, 5, 0]], [[0.0, 5, 0], [0, 5, 0]], [[-3.0, -2, -2], [-1, -4, -2]]])
    assert pointing_hits(maps, MASK.expand(3, -1, -1)).tolist() == [True, False, True]


@pytest.mark.parametrize("measure", [inside_share, pointing_hits])
@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (torch.ones(1, 2, 3), MASK[None].float(), "must be bool"),
        (torch.ones(2, 2, 3), MASK[None], "maps' shape"),
        (torch.full((1, 2, 3), torch.inf), MASK[None], "1 of 1 attribution maps hold values that are not finite"),
        (torch.ones(2, 2, 3), torch.stack((MASK, MASK & False)), "1 of 2 masks are empty"),
        (torch.ones(2, 3), MASK, "float \\(B, H, W\\)"),
        (torch.ones(1, 2, 3, dtype=torch.int64), MASK[None], "float \\(B, H, W\\)"),
    ],
)
def test_bad_input(measure, maps, masks, message):
    with pytest.raises(UserError, match=message):
        measure(maps, masks)
