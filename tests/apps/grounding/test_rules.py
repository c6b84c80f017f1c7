"""The rules that text towers add to `LrpRules`: roots, soft caps, matrix products, causal and shared attention."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from aloe.attribution.attnlrp import LrpRules


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_an_rms_norm_passes_relevance_on_as_it_is():
    x, scale, seed = randn(3, 8).requires_grad_(), randn(8, seed=1), randn(3, 8, seed=2)
    with LrpRules():
        y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + scale)
        (gradient,) = torch.autograd.grad(y, x, seed)
    torch.testing.assert_close((x * gradient).detach(), (y * seed).detach())


def test_a_soft_cap_passes_relevance_on_as_it_is_also_at_zero():
    x, seed = torch.cat((3 * randn(5), torch.zeros(1).double())).requires_grad_(), randn(6, seed=1)
    with LrpRules():
        y = 2 * torch.tanh(x / 2)
        (gradient,) = torch.autograd.grad(y, x, seed)
    torch.testing.assert_close(y.detach(), 2 * (x / 2).detach().tanh())
    torch.testing.assert_close((x * gradient).detach(), (y * seed).detach())
    assert gradient[-1] == seed[-1]


@pytest.mark.parametrize("variant", ["full", "cp"])
def test_a_product_of_two_paths(variant):
    """Half to each; in cp all of it to the second, which in attention is the values'."""
    a, b, seed = randn(2, 3, 4).requires_grad_(), randn(2, 4, 5, seed=1).requires_grad_(), randn(2, 3, 5, seed=2)
    for multiply in (torch.matmul, torch.bmm, lambda x, y: x @ y):
        with LrpRules(variant):
            y = multiply(a, b)
            of_a, of_b = torch.autograd.grad(y, (a, b), seed, allow_unused=True)
        share = 0.5 if variant == "full" else 1.0
        torch.testing.assert_close(of_b, share * a.detach().transpose(1, 2) @ seed)
        assert (of_a is None) == (variant == "cp")
        with LrpRules(variant):
            (whole,) = torch.autograd.grad(multiply(a, b.detach()), a, seed)
        torch.testing.assert_close(whole, seed @ b.detach().transpose(1, 2))


def test_causal_and_shared_attention_is_pytorch_s():
    q, k, v = randn(2, 4, 6, 8), randn(2, 2, 6, 8, seed=1), randn(2, 2, 6, 8, seed=2)
    for options in ({"is_causal": True}, {"is_causal": False}):
        expected = F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **options)
        with LrpRules():
            found = F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **options)
        torch.testing.assert_close(found, expected)


def test_narrow_layers_compute_and_propagate_widely():
    x, weight, bias = randn(3, 8).float().requires_grad_(), randn(5, 8, seed=1).bfloat16(), randn(5, seed=2).bfloat16()
    with LrpRules():
        y = F.linear(x, weight, bias)
        (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
    torch.testing.assert_close(y, F.linear(x, weight.float(), bias.float()))
    torch.testing.assert_close(gradient, weight.float().sum(0).expand(3, 8))
    image, kernel = randn(1, 3, 8, 8).float(), randn(4, 3, 2, 2, seed=3).bfloat16()
    with LrpRules():
        torch.testing.assert_close(F.conv2d(image, kernel, stride=2), F.conv2d(image, kernel.float(), stride=2))
