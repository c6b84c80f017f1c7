"""Equality with the public `bcos` package, whose layers normalise their weights; its other modules are not imported.

`bcos` depends on torchvision, which its layers do not use: install it with `pip install --no-deps bcos`.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import pytest
import torch

from aloe.bcos.functional import bcos_conv2d, bcos_linear

FOUND = importlib.util.find_spec("bcos")
pytestmark = pytest.mark.skipif(FOUND is None, reason="needs the package bcos (pip install --no-deps bcos)")


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def package(monkeypatch):
    """The package's two layer files, loaded without running the package's `__init__` (which needs torchvision)."""
    root = Path(FOUND.submodule_search_locations[0])
    parents = {"bcos": root, "bcos.modules": root / "modules"}
    for name, folder in parents.items():
        parent = types.ModuleType(name)
        parent.__path__ = [str(folder)]
        monkeypatch.setitem(sys.modules, name, parent)
    common = types.ModuleType("bcos.modules.common")
    common.DetachableModule = type("DetachableModule", (torch.nn.Module,), {"detach": False})
    monkeypatch.setitem(sys.modules, common.__name__, common)
    for name in ("bcoslinear", "bcosconv2d"):
        spec = importlib.util.spec_from_file_location(f"bcos.modules.{name}", root / "modules" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        setattr(common, name, module)
    return common


def compare(theirs, ours, x, detach):
    theirs.detach = detach
    x = x.requires_grad_()
    expected, got = theirs(x), ours(x)
    seed = rand(*expected.shape, seed=5)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)  # theirs adds 1e-6 under the root of patch norms
    (want,), (have,) = (torch.autograd.grad(y, x, seed) for y in (expected, got))
    assert want.norm() > 0.1
    torch.testing.assert_close(have, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("detach", [False, True])
def test_linear(package, detach):
    theirs = package.bcoslinear.BcosLinear(9, 5, b=2, max_out=1).double()
    weight = theirs.linear.weight.detach()
    weight.copy_(rand(*weight.shape, seed=1))
    weight /= weight.norm(dim=1, keepdim=True)
    compare(theirs, lambda x: bcos_linear(x, weight, 2.0, detach=detach), rand(4, 9), detach)


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 1), (2, 0)])
def test_convolution(package, stride, padding, detach):
    theirs = package.bcosconv2d.BcosConv2d(3, 5, 3, stride=stride, padding=padding, b=2, max_out=1).double()
    weight = theirs.linear.weight.detach()
    weight.copy_(rand(*weight.shape, seed=1))
    weight /= weight.flatten(1).norm(dim=1)[:, None, None, None]
    compare(
        theirs,
        lambda x: bcos_conv2d(x, weight, 2.0, stride=stride, padding=padding, detach=detach),
        rand(2, 3, 8, 9),
        detach,
    )
