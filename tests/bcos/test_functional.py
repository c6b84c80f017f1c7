"""B-cos units against literal twins in float64, their hand-written backward, and their behaviour at the edges."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from aloe.bcos import functional as units

EXPONENTS = [1, 1.25, 1.5, 2, 2.5, 3]
# (height, width, kernel, stride, padding): overlapping, strided, padded, and strided with rows and columns left over
CONVOLUTIONS = [(5, 6, 3, 1, 0), (6, 6, 3, 2, 1), (7, 8, 3, 2, 0), (8, 6, 3, 2, 1), (9, 11, 4, 4, 0), (6, 7, 2, 3, 1)]


def rand(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def twin_linear(x, weight, b, weight_norm=True, eps=0.0):
    """One output at a time: |cos(x, w)|^(b-1) (w . x); without ||w|| in the gate on request, eps under the root of ||x||."""
    rows = []
    for vector in x:
        units_of_row = []
        for w in weight:
            product = (w * vector).sum()
            cosine = product / ((vector * vector).sum() + eps).sqrt()
            if weight_norm:
                cosine = cosine / (w * w).sum().sqrt()
            units_of_row.append(cosine.abs() ** (b - 1) * product)
        rows.append(torch.stack(units_of_row))
    return torch.stack(rows)


def twin_conv(x, weight, b, stride, padding, **options):
    """The linear twin over every patch of the zero-padded image."""
    k = weight.shape[-1]
    padded = torch.zeros(*x.shape[:2], x.shape[2] + 2 * padding, x.shape[3] + 2 * padding, dtype=x.dtype)
    padded[:, :, padding : padding + x.shape[2], padding : padding + x.shape[3]] = x
    rows, columns = ((n - k) // stride + 1 for n in padded.shape[2:])
    flat = weight.reshape(len(weight), -1)
    patches = [
        padded[:, :, i * stride : i * stride + k, j * stride : j * stride + k].reshape(len(x), -1)
        for i in range(rows)
        for j in range(columns)
    ]
    out = [twin_linear(patch, flat, b, **options) for patch in patches]
    return torch.stack(out, -1).reshape(len(x), len(weight), rows, columns)


def value_and_gradients(function, x, weight):
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = function(x, weight)
    return y, *torch.autograd.grad(y, (x, weight), rand(*y.shape, seed=9).to(y))


def assert_equal_to_twin(function, twin, x, weight):
    expected = value_and_gradients(twin, x, weight)
    for got, want in zip(value_and_gradients(function, x, weight), expected, strict=True):
        assert want.norm() > 0.1
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    for got, want in zip(value_and_gradients(function, x.float(), weight.float()), expected, strict=True):
        assert got.dtype == torch.float32
        assert (got - want).norm() <= 1e-5 * want.norm()


@pytest.mark.parametrize("b", EXPONENTS)
def test_linear_equals_its_twin(b):
    x, weight = rand(6, 7).float().double(), rand(5, 7, seed=1).float().double()
    assert_equal_to_twin(lambda x, w: units.bcos_linear(x, w, b), lambda x, w: twin_linear(x, w, b), x, weight)
    stacked = units.bcos_linear(x.view(2, 3, 7), weight, b)
    torch.testing.assert_close(stacked.flatten(0, 1), twin_linear(x, weight, b))


@pytest.mark.parametrize("b", [1.25, 2, 3])
def test_the_unnormalized_unit_equals_its_twin(b):
    """The gate |w . x / ||x|| |^(b-1), also in explanation mode, and the convolution with an eps under its patch norm."""
    x, weight = rand(6, 7).float().double(), rand(5, 7, seed=1).float().double()
    unit = lambda x, w, detach=False: units.bcos_linear(x, w, b, detach=detach, weight_norm=False)  # noqa: E731
    assert_equal_to_twin(unit, lambda x, w: twin_linear(x, w, b, weight_norm=False), x, weight)
    w_of_x = torch.autograd.functional.jacobian(lambda v: unit(v[None], weight, True)[0], x[0])
    torch.testing.assert_close(w_of_x @ x[0], twin_linear(x[:1], weight, b, weight_norm=False)[0])
    assert (units.bcos_linear(x, weight, b) - unit(x, weight)).norm() > 0.1

    x, weight = rand(2, 3, 6, 7).float().double(), rand(4, 3, 3, 3, seed=1).float().double()
    for weight_norm in (True, False):
        options = {"weight_norm": weight_norm}
        assert_equal_to_twin(
            lambda x, w: units.bcos_conv2d(x, w, b, stride=2, padding=1, norm_eps=0.5, **options),  # noqa: B023
            lambda x, w: twin_conv(x, w, b, 2, 1, eps=0.5, **options),  # noqa: B023
            x,
            weight,
        )
    zero = units.bcos_conv2d(torch.zeros_like(x), weight, b, norm_eps=1e-6, weight_norm=False)
    assert not zero.any()


@pytest.mark.parametrize("shape", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("b", [1, 1.25, 2, 3])
def test_conv_equals_its_twin(b, shape):
    height, width, k, stride, padding = shape
    x, weight = rand(2, 3, height, width).float().double(), rand(4, 3, k, k, seed=1).float().double()
    assert_equal_to_twin(
        lambda x, w: units.bcos_conv2d(x, w, b, stride=stride, padding=padding),
        lambda x, w: twin_conv(x, w, b, stride, padding),
        x,
        weight,
    )


@pytest.mark.parametrize("b", EXPONENTS)
def test_gradcheck(b):
    inputs = rand(3, 4).requires_grad_(), rand(5, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: units.bcos_linear(x, w, b), inputs)
    inputs = rand(1, 2, 5, 6).requires_grad_(), rand(2, 2, 3, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: units.bcos_conv2d(x, w, b, stride=2, padding=1), inputs)


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("b", [1.25, 2, 3])
def test_zero_inputs_and_zero_weight_rows_give_zero(b, dtype, detach):
    x, weight = rand(3, 4).to(dtype), rand(5, 4, seed=1).to(dtype)
    x[1], weight[2] = 0, 0
    y, dx, dw = value_and_gradients(lambda x, w: units.bcos_linear(x, w, b, detach=detach), x, weight)
    assert not y[1].any()
    assert not y[:, 2].any()
    assert not dx[1].any()
    assert not dw[2].any()
    assert all(t.isfinite().all() and t.any() for t in (y, dx, dw))

    x, weight = rand(2, 3, 6, 6).to(dtype), rand(4, 3, 3, 3, seed=1).to(dtype)
    x[1], weight[2] = 0, 0
    y, dx, dw = value_and_gradients(lambda x, w: units.bcos_conv2d(x, w, b, padding=1, detach=detach), x, weight)
    assert not y[1].any()
    assert not y[:, 2].any()
    assert not dx[1].any()
    assert not dw[2].any()
    assert all(t.isfinite().all() and t.any() for t in (y, dx, dw))


@pytest.mark.parametrize("b", EXPONENTS)
def test_explanation_mode_reads_off_w_of_x(b):
    """Row j of W(x) is gate_j times row j of the weight, and W(x) x = f(x)."""
    x, weight = rand(7), rand(5, 7, seed=1)
    w_of_x = torch.autograd.functional.jacobian(lambda v: units.bcos_linear(v[None], weight, b, detach=True)[0], x)
    for j, w in enumerate(weight):
        gate = ((w @ x).abs() / math.sqrt((x @ x) * (w @ w))) ** (b - 1)
        torch.testing.assert_close(w_of_x[j], gate * w, rtol=1e-12, atol=0)
    torch.testing.assert_close(w_of_x @ x, twin_linear(x[None], weight, b)[0], rtol=1e-12, atol=1e-12)
    trained = torch.autograd.functional.jacobian(lambda v: units.bcos_linear(v[None], weight, b)[0], x)
    assert b == 1 or (trained - w_of_x).norm() > 0.1 * w_of_x.norm()


@pytest.mark.parametrize("stride", [1, 2])
def test_explanation_mode_of_the_convolution(stride):
    x, weight = rand(1, 2, 5, 6), rand(3, 2, 3, 3, seed=1)

    def run(image):
        return units.bcos_conv2d(image, weight, 2.0, stride=stride, padding=1, detach=True)

    w_of_x = torch.autograd.functional.jacobian(run, x)
    product = F.conv2d(x, weight, stride=stride, padding=1)
    patches = F.unfold(x, 3, stride=stride, padding=1).norm(dim=1).view(1, 1, *product.shape[2:])
    gate = product.abs() / patches / weight.flatten(1).norm(dim=1)[:, None, None]
    plain = torch.autograd.functional.jacobian(lambda i: F.conv2d(i, weight, stride=stride, padding=1), x)
    torch.testing.assert_close(w_of_x, gate[..., None, None, None, None] * plain)
    torch.testing.assert_close((w_of_x * x).sum((4, 5, 6, 7)), twin_conv(x, weight, 2.0, stride, 1))


def test_explanation_mode_leaves_the_weight_gradient_of_a_constant_gate():
    x, weight, grad = rand(4, 7), rand(5, 7, seed=1), rand(4, 5, seed=9)
    _, _, dw = value_and_gradients(lambda x, w: units.bcos_linear(x, w, 2.0, detach=True), x, weight)
    gate = F.cosine_similarity(x[:, None], weight[None], dim=-1).abs()
    torch.testing.assert_close(dw, (grad * gate).T @ x)


@pytest.mark.parametrize("b", [1, 1.5, 2])
def test_bfloat16_is_close_to_float32(b):
    x, weight = rand(8, 64).float(), rand(32, 64, seed=1).float()
    low = units.bcos_linear(x.bfloat16(), weight.bfloat16(), b)
    assert low.dtype == torch.bfloat16
    full = units.bcos_linear(x.bfloat16().float(), weight.bfloat16().float(), b)
    assert (low.float() - full).norm() < 0.01 * full.norm()


@pytest.mark.parametrize("b", [1, 2])
def test_autocast_runs_forward_and_backward(b):
    cases = [
        (lambda x, w: units.bcos_linear(x, w, b), rand(8, 64).float(), rand(32, 64, seed=1).float()),
        (
            lambda x, w: units.bcos_conv2d(x, w, b, padding=1),
            rand(2, 3, 8, 8).float(),
            rand(4, 3, 3, 3, seed=1).float(),
        ),
    ]
    for function, x, weight in cases:
        expected = value_and_gradients(function, x, weight)
        with torch.autocast("cpu", torch.bfloat16):
            got = value_and_gradients(function, x, weight)
        assert [t.dtype for t in got] == [torch.bfloat16, torch.float32, torch.float32]
        for low, full in zip(got, expected, strict=True):
            assert (low.float() - full).norm() < 0.02 * full.norm()


@pytest.mark.parametrize("b", [0.99, 0, -1, math.nan])
def test_an_exponent_below_one_is_refused(b):
    with pytest.raises(ValueError, match="exponent must be at least 1"):
        units.bcos_linear(rand(2, 3), rand(4, 3), b)
    with pytest.raises(ValueError, match="exponent must be at least 1"):
        units.bcos_conv2d(rand(1, 2, 4, 4), rand(3, 2, 3, 3), b)


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_double_backward_raises_rather_than_being_wrong(kind):
    x = rand(1, 2, 4, 4).requires_grad_()
    y = units.bcos_linear(x, rand(3, 4)) if kind == "linear" else units.bcos_conv2d(x, rand(3, 2, 3, 3))
    (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


class CountProducts(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.products = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in {"mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "convolution", "mkldnn_convolution"}:
            self.products.append((name, tuple(args[1].shape)))
        return function(*args, **(kwargs or {}))


def test_one_matrix_product_per_unit():
    with CountProducts() as count:
        units.bcos_linear(rand(2, 5, 8), rand(6, 8, seed=1), 2.0)
    assert [name for name, _ in count.products] == ["mm"]
    with CountProducts() as count:
        units.bcos_conv2d(rand(2, 3, 8, 8), rand(6, 3, 3, 3, seed=1), 2.0, padding=1)
    # the second one sums x^2 over boxes: a single channel
    assert [shape for _, shape in count.products] == [(6, 3, 3, 3), (1, 1, 3, 3)]


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
def test_compiled_units_equal_eager():
    def both(x, conv, weight):
        tokens = units.bcos_conv2d(x, conv, 2.0, stride=2, padding=1).flatten(2).transpose(1, 2)
        return units.bcos_linear(tokens, weight, 1.5)

    leaves = [rand(2, 3, 7, 8), rand(4, 3, 3, 3, seed=1), rand(5, 4, seed=2)]
    here = {"compile_threads": 1}  # and not in as many processes as there are cores, which would import torch first
    compiled = torch.compile(both, fullgraph=True, options=here)
    results = []
    for function in (both, compiled):
        inputs = [t.float().requires_grad_() for t in leaves]
        y = function(*inputs)
        results.append((y, *torch.autograd.grad(y.square().sum(), inputs)))
    for got, want in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def frozen_jacobian_times_input(function, x):
    """(J x, J) of a function whose dynamic factors are constants, J over the flattened input."""
    jacobian = torch.autograd.functional.jacobian(function, x).reshape(x.numel(), x.numel())
    return (jacobian @ x.flatten()).view_as(x), jacobian


@pytest.mark.parametrize("detach", [False, True])
def test_layer_norm_equals_its_twin(detach):
    x, weight, eps = rand(2, 6) + 0.5, rand(6, seed=1), 1e-2
    expected = torch.stack([(v - v.mean()) / ((v - v.mean()).pow(2).mean() + eps).sqrt() * weight for v in x])
    torch.testing.assert_close(units.layer_norm(x, weight, eps, detach=detach), expected)
    times_x, jacobian = frozen_jacobian_times_input(lambda v: units.layer_norm(v, weight, eps, detach=detach), x)
    if detach:
        centring = torch.eye(6, dtype=x.dtype) - 1 / 6
        block = weight[:, None] * centring / (x[1].var(unbiased=False) + eps).sqrt()
        torch.testing.assert_close(jacobian[6:, 6:], block)
        torch.testing.assert_close(times_x, expected)
    else:
        assert (times_x - expected).norm() > 0.1 * expected.norm()


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("detach", [False, True])
def test_scale_norm_equals_its_twin(detach, centred):
    x, weight, eps = rand(2, 3, 2, 2) + 0.5, rand(3, seed=1), 1e-2
    expected = torch.empty_like(x)
    for n, image in enumerate(x):
        middle = float(image.mean()) if centred else 0.0
        for c in range(3):
            power = sum((float(v) - middle) ** 2 for v in image.flatten()) / 12
            expected[n, c] = image[c] / (power + eps) ** 0.5 * weight[c]
    run = lambda v: units.scale_norm(v, weight, eps, centred=centred, detach=detach)  # noqa: E731
    torch.testing.assert_close(run(x), expected)
    times_x, jacobian = frozen_jacobian_times_input(run, x)
    if detach:
        torch.testing.assert_close(jacobian, torch.diag((expected / x).flatten()))
    else:
        assert (times_x - expected).norm() > 0.1 * expected.norm()


GATES = {
    "gelu": lambda v: 0.5 * (1 + math.erf(v / math.sqrt(2))),
    "gelu_pytorch_tanh": lambda v: 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))),
    "quick_gelu": lambda v: 1 / (1 + math.exp(-1.702 * v)),
    "silu": lambda v: 1 / (1 + math.exp(-v)),
    "relu": lambda v: float(v > 0),
}


@pytest.mark.parametrize("activation", units.ACTIVATIONS)
def test_gated_activation_equals_its_twin(activation):
    x = torch.tensor([-4.0, -1.5, -0.3, 0.0, 0.4, 1.0, 3.0], dtype=torch.float64)
    gates = torch.tensor([GATES[activation](float(v)) for v in x], dtype=torch.float64)
    for detach in (False, True):
        torch.testing.assert_close(units.gated_activation(x, activation, detach=detach), x * gates)
    frozen = torch.autograd.functional.jacobian(lambda v: units.gated_activation(v, activation, detach=True), x)
    torch.testing.assert_close(frozen, torch.diag(gates))
    training = torch.autograd.functional.jacobian(lambda v: units.gated_activation(v, activation), x)
    step = 1e-6
    slope = [
        (GATES[activation](v + step) * (v + step) - GATES[activation](v - step) * (v - step)) / (2 * step) for v in x
    ]
    at_zero = x == 0  # ReLU has no slope there
    torch.testing.assert_close(training.diag()[~at_zero], torch.tensor(slope).double()[~at_zero], rtol=1e-7, atol=1e-8)


def test_encode_appends_the_complement():
    image = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    six = units.encode(image)
    assert six.shape == (2, 6, 4, 5)
    for c in range(3):
        assert torch.equal(six[:, c], image[:, c])
        assert torch.equal(six[:, c + 3], 1 - image[:, c])
    assert torch.equal(units.encode(image[0]), six[0])
    for wrong in (image[:, :1], six, image[0, 0]):
        with pytest.raises(ValueError, match="encode expects"):
            units.encode(wrong)
