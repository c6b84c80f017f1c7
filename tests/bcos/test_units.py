"""The B-cos unit in tiles: the same numbers whatever the tiles, and what it keeps for the backward pass."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from aloe.bcos import functional, units


def rand(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def literal(x, weight, b, weight_norm, detach):
    """The cosine from its definition, gradients from autograd."""
    product = x @ weight.T
    cosine = product / x.norm(dim=-1, keepdim=True)
    cosine = cosine / weight.norm(dim=-1) if weight_norm else cosine
    gate = cosine.abs() ** (b - 1)
    return product * (gate.detach() if detach else gate)


def value_and_gradients(function, x, weight):
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = function(x, weight)
    return y, *torch.autograd.grad(y, (x, weight), rand(*y.shape, seed=9).to(y))


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(units, "TILE", 24)
    monkeypatch.setattr(units, "TILE_ROWS", (2, 5))
    monkeypatch.setattr(units, "TILE_COLUMNS", 4)


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("weight_norm", [False, True])
@pytest.mark.parametrize("b", [1.5, 2, 3])
# (tokens, inputs, outputs): more outputs, fewer outputs, and many tokens, each with a last tile that is not full
@pytest.mark.parametrize("shape", [(13, 7, 11), (13, 9, 5), (61, 7, 9), (61, 9, 7)])
def test_tiles_equal_the_definition(small_tiles, shape, b, weight_norm, detach):
    tokens, inputs, outputs = shape
    x, weight = rand(tokens, inputs), rand(outputs, inputs, seed=1)
    assert units._tile(x, weight) != (0, 0)
    run = lambda x, w: functional.bcos_linear(x, w, b, detach=detach, weight_norm=weight_norm)  # noqa: E731
    expected = value_and_gradients(lambda x, w: literal(x, w, b, weight_norm, detach), x, weight)
    for got, want in zip(value_and_gradients(run, x, weight), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    for got, want in zip(value_and_gradients(run, x.float(), weight.float()), expected, strict=True):
        assert (got - want).norm() <= 1e-5 * want.norm()
    for got, want in zip(value_and_gradients(run, x.bfloat16(), weight.bfloat16()), expected, strict=True):
        assert got.dtype == torch.bfloat16
        assert (got - want).norm() <= 0.03 * want.norm()


def test_tiles_take_batches_gaps_and_expanded_gradients(small_tiles):
    x, weight = rand(14, 3, 7).transpose(0, 1)[:, ::2], rand(9, 7, seed=1)
    assert not x.is_contiguous()
    got = value_and_gradients(lambda x, w: functional.bcos_linear(x, w), x, weight)
    want = value_and_gradients(lambda x, w: literal(x, w, 2, True, False), x, weight)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-10, atol=1e-10)
    x, other = x.detach().requires_grad_(), x.detach().requires_grad_()
    functional.bcos_linear(x, weight).sum().backward()  # a gradient without memory of its own
    literal(other, weight, 2, True, False).sum().backward()
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-10, atol=1e-10)


def test_tiles_of_frozen_weights_or_inputs(small_tiles):
    x, weight = rand(13, 7), rand(11, 7, seed=1)
    both = value_and_gradients(lambda x, w: functional.bcos_linear(x, w), x, weight)
    for i, (a, w) in enumerate(((x.clone().requires_grad_(), weight), (x, weight.clone().requires_grad_()))):
        y = functional.bcos_linear(a, w)
        (found,) = torch.autograd.grad(y, (a, w)[i], rand(*y.shape, seed=9))
        torch.testing.assert_close(found, both[1 + i], rtol=1e-12, atol=1e-12)


def test_gradcheck_of_tiles(small_tiles):
    inputs = rand(7, 4).requires_grad_(), rand(5, 4, seed=1).requires_grad_()
    assert units._tile(*inputs) != (0, 0)
    assert torch.autograd.gradcheck(lambda x, w: functional.bcos_linear(x, w, 2.5), inputs)


def test_large_layers_run_in_tiles_and_small_or_traced_ones_whole():
    weight = torch.empty(1536, 384)
    rows, columns = units._tile(torch.empty(4, 4096, 384), weight)
    assert rows * columns <= units.TILE
    assert columns == 1536
    assert units._tile(torch.empty(2, 196, 384), weight) == (0, 0)
    assert units._tile(torch.empty(4, 4096, 384, device="meta"), weight) == (0, 0)


def kept(function, x, weight):
    """Bytes of the storages that autograd keeps besides the weight."""
    found = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = function(x, weight)
    found.pop(weight.untyped_storage().data_ptr(), None)
    del y
    return sum(found.values())


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize(("width", "outputs"), [(96, 384), (384, 96)])
def test_the_unit_keeps_one_output_more_than_a_linear_layer(width, outputs, detach):
    x = rand(1024, width, dtype=torch.float32).requires_grad_()
    weight = rand(outputs, width, dtype=torch.float32, seed=1).requires_grad_()
    plain = kept(F.linear, x, weight)
    assert plain == 4 * 1024 * width
    ours = kept(lambda x, w: functional.bcos_linear(x, w, detach=detach), x, weight)
    assert ours <= 1.1 * plain + 4 * 1024 * outputs


def test_the_convolution_keeps_one_output_more_than_a_plain_one():
    x = rand(2, 16, 24, 24, dtype=torch.float32).requires_grad_()
    weight = rand(32, 16, 3, 3, dtype=torch.float32, seed=1).requires_grad_()
    plain = kept(lambda x, w: F.conv2d(x, w, padding=1), x, weight)
    assert plain == 4 * x.numel()
    ours = kept(lambda x, w: functional.bcos_conv2d(x, w, padding=1), x, weight)
    assert ours <= 1.1 * plain + 4 * 2 * 32 * 24 * 24
