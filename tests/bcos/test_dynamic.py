"""Explanation mode: nesting, restoring, threads, and outputs that do not change."""

from __future__ import annotations

import threading

import pytest
import torch

from aloe.bcos import layers
from aloe.bcos.dynamic import explanation_mode, is_explaining
from aloe.models.modeling import eager_attention


def sdpa(_module, q, k, v, scaling):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scaling).transpose(1, 2), None


def eager(module, q, k, v, scaling):
    return eager_attention(module, q, k, v, None, scaling)


class With(torch.nn.Module):
    """A layer with its other arguments given."""

    def __init__(self, layer, *arguments):
        super().__init__()
        self.layer, self.arguments = layer, arguments

    def forward(self, x):
        out = self.layer(x, *self.arguments)
        return out[0] if isinstance(out, tuple) else out


def rope():
    angles = torch.linspace(0, 3, 16).view(4, 4)
    return angles.cos(), angles.sin()


TOKENS, IMAGE = (2, 5, 8), (2, 3, 6, 7)
LAYERS = {
    "linear": (lambda: layers.BcosLinear(8, 6), TOKENS),
    "linear-b1": (lambda: layers.BcosLinear(8, 6, b=1), TOKENS),
    "conv": (lambda: layers.BcosConv2d(3, 4, 3, stride=2, padding=1), IMAGE),
    "layer-norm": (lambda: layers.LayerNorm(8), TOKENS),
    "scale-norm": (lambda: layers.ScaleNorm2d(3), IMAGE),
    "layer-scale": (lambda: layers.LayerScale(8, 0.3), TOKENS),
    "mlp": (lambda: layers.BcosMLP(8, 16, "gelu", 2.0), TOKENS),
    "swiglu": (lambda: layers.BcosSwiGLU(8, 16, "silu", 2.0), TOKENS),
    "attention-sdpa": (lambda: With(layers.BcosAttention(8, 2, 2.0), sdpa, rope()), TOKENS),
    "attention-eager": (lambda: With(layers.BcosAttention(8, 2, 2.0), eager, rope()), TOKENS),
    "pooling-sdpa": (lambda: With(layers.BcosAttentionPooling(8, 2, 16, "gelu", 1e-6, 2.0), sdpa), TOKENS),
    "pooling-eager": (lambda: With(layers.BcosAttentionPooling(8, 2, 16, "gelu", 1e-6, 2.0), eager), TOKENS),
    **{
        activation: (lambda activation=activation: layers.GatedActivation(activation), TOKENS)
        for activation in layers.F.ACTIVATIONS
    },
}
STATIC = {"linear-b1", "layer-scale", "relu"}  # already linear as they stand: their gradient does not change


def build(name):
    make, shape = LAYERS[name]
    generator = torch.Generator().manual_seed(3)
    layer = make()
    for parameter in layer.parameters():
        parameter.data.normal_(generator=generator)
    return layer.double(), torch.randn(shape, generator=generator).double().requires_grad_()


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_do_not_change_and_gradients_do(name):
    layer, x = build(name)
    normal = layer(x)
    with explanation_mode():
        frozen = layer(x)
    torch.testing.assert_close(frozen, normal, rtol=1e-12, atol=1e-12)
    seed = torch.linspace(-1, 1, normal.numel()).double().view_as(normal)
    (plain,), (explained,) = (torch.autograd.grad(y, x, seed) for y in (normal, frozen))
    changed = (plain - explained).norm() > 0.01 * plain.norm()
    assert changed == (name not in STATIC)


@pytest.mark.parametrize("name", LAYERS)
def test_a_frozen_layer_is_its_own_gradient_times_its_input(name):
    """Every layer without a constant satisfies W(x) x = f(x); the probe of the pooling enters only its frozen part."""
    layer, x = build(name)
    with explanation_mode():
        w_of_x = torch.autograd.functional.jacobian(layer, x[:1].detach())
        y = layer(x[:1].detach())
    product = (w_of_x.flatten(y.ndim) @ x[:1].flatten()).view_as(y)
    assert y.norm() > 0.1
    torch.testing.assert_close(product, y, rtol=1e-8, atol=1e-6 * float(y.norm().detach()))


def test_it_nests():
    assert not is_explaining()
    with explanation_mode():
        with explanation_mode(False):
            assert not is_explaining()
            with explanation_mode():
                assert is_explaining()
            assert not is_explaining()
        assert is_explaining()
        with explanation_mode():
            pass
        assert is_explaining()
    assert not is_explaining()


def test_it_is_restored_by_an_exception():
    with explanation_mode(), pytest.raises(RuntimeError, match="inside"), explanation_mode(False):
        raise RuntimeError("inside")
    assert not is_explaining()
    with pytest.raises(RuntimeError, match="inside"), explanation_mode():
        raise RuntimeError("inside")
    assert not is_explaining()


def test_it_belongs_to_one_thread():
    seen = []
    with explanation_mode():
        thread = threading.Thread(target=lambda: seen.append(is_explaining()))
        thread.start()
        thread.join()
        assert is_explaining()
    assert seen == [False]
