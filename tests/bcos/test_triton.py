"""The Triton kernels of the unit: on a GPU where there is one, and through Triton's interpreter where Triton is installed.

The interpreter must be chosen before Triton is imported, so those tests run in a process of their own.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from aloe.bcos import functional, units

CASES = [
    (b, detach, weight_norm, shape)
    for shape in ((4, 7, 9), (2, 40, 1100))
    for b in (1.5, 2)
    for detach in (False, True)
    for weight_norm in (False, True)
]


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def literal(x, weight, b, weight_norm, detach):
    product = x @ weight.T
    cosine = product / x.norm(dim=-1, keepdim=True)
    gate = (cosine / weight.norm(dim=-1) if weight_norm else cosine).abs() ** (b - 1)
    return product * (gate.detach() if detach else gate)


def compare(device, dtype, tolerance, cases=CASES):
    """The unit on a device against its definition in float64: values, both gradients, zero rows, expanded gradients."""
    for b, detach, weight_norm, (tokens, inputs, outputs) in cases:
        x, weight = rand(tokens, inputs).to(dtype).double(), rand(outputs, inputs, seed=1).to(dtype).double()
        for grad in (rand(tokens, outputs, seed=9), rand(1, 1, seed=9).expand(tokens, outputs)):
            results = []
            for run, kind in ((literal, (torch.float64, "cpu")), (fused, (dtype, device))):
                inner = [t.to(*reversed(kind), copy=True).requires_grad_() for t in (x, weight)]
                y = run(*inner, b, weight_norm, detach)
                results.append((y, *torch.autograd.grad(y, inner, grad.to(y))))
            for want, got in zip(*results, strict=True):
                assert got.dtype == dtype
                assert (got.cpu().double() - want).norm() <= tolerance * want.norm()
        x[1] = 0
        y = fused(x.to(device, dtype).requires_grad_(), weight.to(device, dtype), b, weight_norm, detach)
        assert not y[1].any()
        assert y.isfinite().all()


def fused(x, weight, b, weight_norm, detach):
    return functional.bcos_linear(x, weight, b, detach=detach, weight_norm=weight_norm)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.03)])
def test_kernels_on_cuda_equal_the_definition(dtype, tolerance):
    x = torch.empty(2, 4, device="cuda", dtype=dtype)
    assert units._kernels(x, x) is not None
    compare("cuda", dtype, tolerance)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs the package triton")
def test_kernels_in_the_interpreter_equal_the_definition():
    code = (
        "import sys, torch; from aloe.bcos import triton, units; import test_triton;"
        "units._kernels = lambda x, weight: triton if triton.takes(x, weight) else None;"
        "test_triton.compare('cpu', torch.float32, 1e-5);"
        "test_triton.compare('cpu', torch.bfloat16, 0.03, test_triton.CASES[-4:])"
    )
    paths = [os.path.dirname(__file__), *sys.path]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=300)


def test_without_cuda_the_kernels_are_not_looked_for():
    assert units._kernels(torch.empty(2, 3), torch.empty(4, 3)) is None
    assert "aloe.bcos.triton" not in sys.modules
