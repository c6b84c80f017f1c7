"""Explanations of many tokens never hold a tokens x tokens matrix, by the bytes of the tensors that are alive at once."""

from __future__ import annotations

import pytest
import torch

from aloe.attribution.inherent import explain
from aloe.attribution.memory import peak_memory
from aloe.models.configuration import BcosViTConfig
from aloe.models.modeling import BcosViTModel

SIDE, HEADS = 34, 8
MATRIX = HEADS * (SIDE * SIDE) ** 2 * 4  # bytes of one layer's attention weights, patch tokens alone


def student(attention, **options):
    config = BcosViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        intermediate_size=64,
        image_size=2 * SIDE,
        patch_size=2,
        attn_implementation=attention,
        **options,
    )
    torch.manual_seed(0)
    return BcosViTModel(config).eval()


def explained(model):
    image = torch.rand(1, 3, 2 * SIDE, 2 * SIDE, generator=torch.Generator().manual_seed(0))
    with peak_memory(torch.device("cpu")) as peak:
        found = explain(model, image)
    return found, peak.bytes


@pytest.mark.parametrize(
    "options",
    [{}, {"position_embedding": "rope"}, {"pooling": "attention", "use_cls_token": False}],
    ids=["plain", "rope", "pooling"],
)
def test_fused_attention_is_explained_without_its_matrix(options):
    model = student("sdpa", **options)
    found, peak = explained(model)
    assert peak < MATRIX / 2
    model.set_attn_implementation("eager")
    eager, with_matrix = explained(model)
    assert with_matrix > MATRIX  # so the count sees it where it is
    torch.testing.assert_close(found.weights, eager.weights, rtol=1e-3, atol=1e-7)
    assert found.completeness_error().max() < 1e-5
