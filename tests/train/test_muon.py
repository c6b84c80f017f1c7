"""Muon against its equations, step by step in float64, and torch's AdamW for everything that is no matrix of a block."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from aloe.models.convert import bcosify
from aloe.train.align.settings import AlignSettings
from aloe.train.muon import MATRICES, Muon, muon_of, orthogonal
from conftest import build_teacher


def twin(matrix: np.ndarray) -> np.ndarray:
    """The iteration on the singular values: X <- a X + b (X X') X + c (X X')^2 X keeps U and V."""
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    s = s / (np.sqrt((s**2).sum()) + 1e-7)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (u * s) @ v


def steps_of_twin(w, gradients, rate, decay):
    momentum = np.zeros_like(w)
    for g in gradients:
        momentum = 0.95 * momentum + 0.05 * g
        update = twin(0.05 * g + 0.95 * momentum)
        w = w - rate * decay * w - rate * 0.2 * math.sqrt(max(w.shape)) * update
    return w


@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (7, 3), (1, 5)], ids=str)
def test_three_steps_are_those_of_the_equations(shape):
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=shape), rng.normal(size=(3, *shape))
    p = nn.Parameter(torch.tensor(start))
    optimizer = Muon([{"params": [p], MATRICES: True, "weight_decay": 0.1}], lr=0.02)
    for g in gradients:
        p.grad = torch.tensor(g)
        optimizer.step()
        assert torch.equal(p.grad, torch.tensor(g))  # left as it was
    wanted = steps_of_twin(start, gradients, 0.02, 0.1)
    assert np.abs(wanted - start).max() > 1e-3
    np.testing.assert_allclose(p.detach(), wanted, rtol=1e-9, atol=1e-12)


def test_an_update_is_nearly_orthogonal_and_as_large_as_one_of_adamw():
    x = orthogonal(torch.randn(64, 256, generator=torch.Generator().manual_seed(0)))
    values = torch.linalg.svdvals(x)
    assert 0.6 < values.min() <= values.max() < 1.3
    size = 0.2 * math.sqrt(256) * x.square().mean().sqrt()
    assert 0.15 < size < 0.25
    assert orthogonal(torch.zeros(3, 5)).abs().max() == 0


def test_it_is_torch_s_own_but_for_bfloat16():
    p = nn.Parameter(torch.randn(24, 40, generator=torch.Generator().manual_seed(1)))
    q = copy.deepcopy(p)
    ours = Muon([{"params": [p], MATRICES: True}], lr=0.1)
    theirs = torch.optim.Muon([q], lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    start = p.detach().clone()
    p.grad = q.grad = torch.randn(24, 40, generator=torch.Generator().manual_seed(2))
    ours.step()
    theirs.step()
    moved = (q - start).norm()
    assert (p - q).norm() < 0.03 * moved


def test_matrices_of_blocks_are_muon_s_and_the_rest_is_adamw_s():
    """After two steps every other parameter is what AdamW makes of it, bit for bit; what is frozen does not move."""
    student = bcosify(build_teacher("vit-classifier"), "conv")
    student.classifier.requires_grad_(False)
    ours, theirs = (nn.ModuleDict({"student": copy.deepcopy(student)}) for _ in range(2))
    ours.student, theirs.student = ours["student"], theirs["student"]
    settings = AlignSettings(optimizer="muon", learning_rate=1e-2, weight_decay=0.1)
    decaying = [name for name, p in ours.named_parameters() if p.ndim > 1]
    optimizer = muon_of(ours, settings, decaying)
    names = {id(p): name for name, p in ours.named_parameters()}
    muons = {names[id(p)] for group in optimizer.param_groups if group[MATRICES] for p in group["params"]}
    assert muons == {name for name, p in ours.named_parameters() if ".layers." in name and p.ndim == 2}
    assert len(muons) == 4 * len(student.base_model.layers)
    free = [(n, p) for n, p in theirs.named_parameters() if p.requires_grad]
    groups = [([p for n, p in free if (n in decaying) is d], 0.1 if d else 0.0) for d in (True, False)]
    plain = torch.optim.AdamW([{"params": found, "weight_decay": decay} for found, decay in groups], lr=1e-2)
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            if p.requires_grad:
                p.grad = q.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
        plain.step()
    start = dict(nn.ModuleDict({"student": student}).named_parameters())
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q) is (name not in muons), name
        assert torch.equal(p, start[name]) is name.endswith("classifier.weight"), name


def test_a_closure_is_refused():
    with pytest.raises(ValueError, match="takes no closure"):
        Muon([{"params": [nn.Parameter(torch.zeros(2, 2))]}], 0.1).step(lambda: 0.0)
