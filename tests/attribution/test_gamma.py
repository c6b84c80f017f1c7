"""The gamma rule against a loop over every output and input, written from its equation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from aloe.attribution.attnlrp import CONV_GAMMA, GAMMA, LrpRules
from aloe.attribution.gamma import gamma_conv2d, gamma_linear
from aloe.attribution.methods import attribute
from conftest import FAMILIES, build_teacher


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plus(v, gamma):
    return v + gamma * max(v, 0.0)


def minus(v, gamma):
    return v + gamma * min(v, 0.0)


def share_of_one_output(x, w, b, gamma, relevance):
    """Relevance of every input of one unit y = sum w x + b, in plain numbers."""
    y = sum(a * c for a, c in zip(x, w, strict=True)) + b
    if y == 0:
        return [0.0] * len(x)
    same, other = (plus, minus) if y > 0 else (minus, plus)
    parts = [max(a, 0.0) * same(c, gamma) + min(a, 0.0) * other(c, gamma) for a, c in zip(x, w, strict=True)]
    total = sum(parts) + same(b, gamma)
    return [p / total * relevance for p in parts]


def loop_linear(x, w, b, gamma, relevance):
    found = torch.zeros_like(x)
    for n in range(len(x)):
        for j in range(len(w)):
            bias = 0.0 if b is None else float(b[j])
            shares = share_of_one_output(x[n].tolist(), w[j].tolist(), bias, gamma, float(relevance[n, j]))
            found[n] += torch.tensor(shares, dtype=x.dtype)
    return found


def loop_conv(x, w, b, gamma, relevance, stride, padding):
    """The same over every position of a convolution, on the padded input."""
    wide = F.pad(x, (padding,) * 4)
    found, size = torch.zeros_like(wide), w.shape[-1]
    for n in range(len(x)):
        for r in range(relevance.shape[2]):
            for c in range(relevance.shape[3]):
                window = (n, slice(None), slice(r * stride, r * stride + size), slice(c * stride, c * stride + size))
                part = loop_linear(
                    wide[window].reshape(1, -1), w.flatten(1), b, gamma, relevance[n, :, r, c][None]
                )  # fmt: skip
                found[window] += part.view(wide[window].shape)
    return found[:, :, padding : padding + x.shape[2], padding : padding + x.shape[3]]


@pytest.mark.parametrize("gamma", [0.05, 0.25, 100.0])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_equals_the_loop(gamma, bias):
    x, w, b = randn(4, 6).requires_grad_(), randn(5, 6, seed=1), randn(5, seed=2) if bias else None
    with torch.no_grad():
        x[0, 2] = 0
    seed = randn(4, 5, seed=3)
    y = gamma_linear(x, w, b, gamma)
    assert torch.equal(y, F.linear(x, w, b))
    assert (y > 0).any(), "vacuous: one sign of y"
    assert (y < 0).any(), "vacuous: one sign of y"
    (gradient,) = torch.autograd.grad(y, x, seed)
    found, expected = (x * gradient).detach(), loop_linear(x.detach(), w, b, gamma, (y * seed).detach())
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    if not bias:
        torch.testing.assert_close(found.sum(1), (y * seed).sum(1).detach())
    else:
        assert (found.sum(1) - (y * seed).sum(1)).abs().min() > 1e-6, "vacuous: the bias takes nothing"


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1), (3, 0)])
@pytest.mark.parametrize("bias", [True, False])
def test_convolution_equals_the_loop(bias, stride, padding):
    """Also where the stride leaves rows over, which get nothing."""
    x, w, b = randn(2, 2, 8, 7).requires_grad_(), randn(3, 2, 3, 3, seed=1), randn(3, seed=2) if bias else None
    y = gamma_conv2d(x, w, b, 0.25, stride, padding)
    torch.testing.assert_close(y, F.conv2d(x, w, b, stride, padding))
    seed = randn(*y.shape, seed=3)
    (gradient,) = torch.autograd.grad(y, x, seed)
    found = (x * gradient).detach()
    expected = loop_conv(x.detach(), w, b, 0.25, (y * seed).detach(), stride, padding)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    if not bias:
        torch.testing.assert_close(found.sum((1, 2, 3)), (y * seed).sum((1, 2, 3)).detach())


def test_gamma_0_is_the_plain_gradient():
    x, w, b = randn(4, 6).requires_grad_(), randn(5, 6, seed=1), randn(5, seed=2)
    image, kernel = randn(2, 2, 6, 6).requires_grad_(), randn(3, 2, 3, 3, seed=1)
    seed, map_seed = randn(4, 5, seed=3), randn(2, 3, 4, 4, seed=3)
    for rule, plain, given, grad in (
        (gamma_linear(x, w, b, 0.0), F.linear(x, w, b), x, seed),
        (gamma_conv2d(image, kernel, None, 0.0), F.conv2d(image, kernel), image, map_seed),
        (LrpRules("full").linear(x, w, b), F.linear(x, w, b), x, seed),
    ):
        expected = torch.autograd.grad(plain, given, grad)[0]
        torch.testing.assert_close(torch.autograd.grad(rule, given, grad)[0], expected)


def test_silent_units_and_inputs_give_no_infinities():
    x, w = torch.zeros(3, 4).requires_grad_(), torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(gamma_linear(x, w, None, 0.25).sum(), x)
    assert torch.equal(gradient, torch.zeros(3, 4))
    x = torch.tensor([[1.0, 1.0]]).requires_grad_()  # the two contributions cancel: there is nothing to pass on
    (gradient,) = torch.autograd.grad(gamma_linear(x, torch.tensor([[1.0, -1.0]]), None, 0.25).sum(), x)
    assert torch.equal(gradient, torch.zeros(1, 2))


@pytest.mark.parametrize("family", FAMILIES)
def test_it_reaches_every_family(family, images):
    """Both gammas change the map; the values and, without biases, the sum over a linear stem stay."""
    teacher = build_teacher(family)
    plain = attribute(teacher, images, None, "attnlrp", gamma=0.0, conv_gamma=0.0)
    for gamma, conv_gamma, variant in ((0.05, 0.0, "full"), (0.0, 0.25, "full"), (0.05, 0.25, "cp")):
        options = {"gamma": gamma, "conv_gamma": conv_gamma, "variant": variant}
        found = attribute(teacher, images, None, "attnlrp", **options)
        torch.testing.assert_close(found.value, plain.value, rtol=1e-5, atol=1e-5)
        assert found.maps.isfinite().all()
        linear_stem = family == "siglip2" and gamma == 0  # whose patch embedding is no convolution
        assert torch.equal(found.maps, plain.maps) == linear_stem
        alone = torch.cat([attribute(teacher, i, None, "attnlrp", **options).maps for i in images])
        assert (alone - found.maps).norm() < 1e-3 * found.maps.norm()
        with torch.autocast("cpu", torch.bfloat16):
            assert attribute(teacher, images, None, "attnlrp", **options).maps.isfinite().all()


def test_teachers_take_it_by_default(images):
    teacher = build_teacher("vit")
    named = attribute(teacher, images, None, "attnlrp", gamma=GAMMA, conv_gamma=CONV_GAMMA).maps
    assert torch.equal(attribute(teacher, images, None, "attnlrp").maps, named)
