"""Heads: their shapes, the linear one and the DPT-style one written out, first weights from the seed alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from aloe.core.errors import UserError
from aloe.evaluation.dense.heads import DPTHead, LinearHead, Standardized


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def maps(widths, height=3, width=5, count=2):
    return [torch.randn(count, w, height, width, generator=draws(w)) for w in widths]


def enlarged(x, factor):
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=True)


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_linear_head_is_a_convolution_of_the_enlarged_maps(kernel):
    """Also where it is computed the other way round."""
    head = LinearHead([6, 4], 7, draws(), kernel)
    x = maps([6, 4])
    found = head(x)
    conv = head.convolution
    expected = F.conv2d(enlarged(torch.cat(x, dim=1), 4), conv.weight, conv.bias, padding=kernel // 2)
    assert found.shape == (2, 7, 12, 20)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert [tuple(p.shape) for p in head.parameters()] == [(7, 10, kernel, kernel), (7,)]


def test_a_linear_head_interpolates_between_corners():
    """Aligned corners: the corners of the enlarged map are the corner tokens."""
    head = LinearHead([1], 1, draws())
    with torch.no_grad():
        head.convolution.weight.fill_(1)
        head.convolution.bias.zero_()
    x = torch.arange(4.0).view(1, 1, 2, 2)
    (out,) = head([x])[0]
    assert [out[0, 0], out[0, -1], out[-1, 0], out[-1, -1]] == [0, 1, 2, 3]
    torch.testing.assert_close(out[0], torch.linspace(0, 1, 8))


def test_the_dpt_head_written_out():
    widths = [6, 4, 5, 3]
    head = DPTHead(widths, 7, draws(), hidden=8)
    x = maps(widths, 2, 3)

    def conv(layer, y):
        return F.conv2d(y, layer.weight, layer.bias, padding=layer.weight.shape[-1] // 2)

    def unit(u, y):
        return y + torch.relu(conv(u.second, torch.relu(conv(u.first, y))))

    a, b, c, d = (enlarged(conv(p, m), 2) for p, m in zip(head.projections, x, strict=True))
    y = unit(head.refinements[3], d)
    y = unit(head.refinements[2], y + unit(head.skips[2], c))
    y = unit(head.refinements[1], y + unit(head.skips[1], b))
    y = unit(head.refinements[0], y + unit(head.skips[0], a))
    y = enlarged(conv(head.last, torch.relu(conv(head.before, enlarged(y, 4)))), 2)
    found = head(x)
    assert found.shape == (2, 7, 32, 48)
    torch.testing.assert_close(found, y)


@pytest.mark.parametrize(("build", "widths"), [(LinearHead, [6, 4]), (DPTHead, [6, 4, 5, 3])])
def test_every_weight_and_every_map_takes_part(build, widths):
    head = build(widths, 2, draws(), 3) if build is LinearHead else build(widths, 2, draws(), 8)
    x = [m.requires_grad_() for m in maps(widths)]
    head(x).square().sum().backward()
    assert all(m.grad.abs().sum() > 0 for m in [*x, *head.parameters()])


@pytest.mark.parametrize("build", [LinearHead, DPTHead])
def test_first_weights_come_from_the_seed_alone(build):
    """And as torch draws them: the same ranges."""
    widths = [6, 4, 5, 3]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a, b, c = build(widths, 2, draws(0)), build(widths, 2, draws(0)), build(widths, 2, draws(1))
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"
    for p, q, r in zip(a.parameters(), b.parameters(), c.parameters(), strict=True):
        assert torch.equal(p, q)
        assert not torch.equal(p, r)
    for layer in (m for m in a.modules() if isinstance(m, torch.nn.Conv2d)):
        bound = layer.weight[0].numel() ** -0.5
        assert layer.weight.abs().max() <= bound
        assert layer.weight.abs().max() > 0.5 * bound
        assert layer.bias.abs().max() <= bound


def test_a_standardized_linear_head_is_a_linear_head():
    """With the constants folded into its weights and bias."""
    head, x = LinearHead([6, 4], 7, draws()), maps([6, 4])
    means, deviations = [torch.randn(6), torch.randn(4)], [torch.rand(6) + 0.5, torch.rand(4) + 0.5]
    found = Standardized(head, means, deviations)(x)
    folded = LinearHead([6, 4], 7, draws())
    with torch.no_grad():
        weight = head.convolution.weight[:, :, 0, 0] / torch.cat(deviations)
        folded.convolution.weight.copy_(weight[:, :, None, None])
        folded.convolution.bias.copy_(head.convolution.bias - weight @ torch.cat(means))
    torch.testing.assert_close(found, folded(x), rtol=1e-4, atol=1e-5)


def test_dpt_wants_four_blocks():
    with pytest.raises(UserError, match="reads four blocks, not 1"):
        DPTHead([6], 2, draws())
