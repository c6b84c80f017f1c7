"""A model and a process left exactly as they were by every method: after success, mistakes, exceptions and interrupts."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from test_methods import EXPLAINED, TINY, maps_of, model_of
from torch import nn

from aloe.attribution.methods import METHODS
from aloe.bcos.dynamic import freezes_products, is_explaining
from aloe.core.errors import UserError
from aloe.models.convert import bcosify
from conftest import build_teacher

HOOKS = [name for name in vars(nn.Module()) if "hooks" in name]


def state_of(model):
    """Everything about a model and the process that an explanation could disturb."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    modules = dict(model.named_modules())
    configs = {n: m.config for n, m in modules.items() if hasattr(m, "config")}
    return {
        "tensors": {
            n: (id(t), t.requires_grad, t.grad, t.detach().contiguous().numpy().tobytes()) for n, t in tensors.items()
        },
        "order": list(model.state_dict()),
        "modes": {n: m.training for n, m in modules.items()},
        "hooks": {n: [dict(getattr(m, h)) for h in HOOKS] for n, m in modules.items()},
        "global hooks": {n: dict(v) for n, v in vars(nn.modules.module).items() if n.startswith("_global_") and v},
        "attributes": {n: sorted(vars(m)) for n, m in modules.items()},
        "attention": {n: getattr(c, "_attn_implementation", None) for n, c in configs.items()},
        "configs": {n: (id(c), c.to_dict()) for n, c in configs.items()},
        "torch random": torch.get_rng_state().numpy().tobytes(),
        "numpy random": repr(np.random.get_state()),
        "random": random.getstate(),
        "function modes": list(torch.overrides._get_current_function_mode_stack()),
        "explaining": (is_explaining(), freezes_products()),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
    }


class StopError(Exception):
    pass


def raising(error, on_call, backward=False):
    calls = 0

    def fail(*_):
        raise error

    def hook(_module, _inputs, output):
        nonlocal calls
        calls += 1
        if calls < on_call:
            return
        if not backward:
            raise error
        first = output[0] if isinstance(output, tuple) else output
        if first.requires_grad:
            first.register_hook(fail)

    return hook


FAILURES = {
    "none": None,
    "wrong target": None,
    "in a block": (StopError(), 1),
    "interrupted in a block": (KeyboardInterrupt(), 1),
    "in the second pass": (KeyboardInterrupt(), 2),
    "on the way back": (StopError(), 1, True),
}
FEW = [("vit-classifier", "teacher"), ("siglip2", "teacher"), ("dinov3-swiglu", "student"), ("siglip", "student")]


def can_fail(family, kind, method, failure):
    if failure == "in the second pass":
        return method in TINY
    no_way_back = ("lime", "rollout", "random", *(["legrad"] if family.startswith("siglip") else []))
    return failure != "on the way back" or method not in no_way_back


LEFT = [(*f, m, failure) for f in FEW for k, m in EXPLAINED if k == f[1] for failure in FAILURES]


@pytest.mark.parametrize(("family", "kind", "method", "failure"), [case for case in LEFT if can_fail(*case)])
def test_the_model_is_left_as_it_was(family, kind, method, failure, images):
    if method in TINY:
        pytest.importorskip("sklearn.linear_model")  # whose first import draws from Python's own generator
    teacher = build_teacher(family)
    model = teacher if kind == "teacher" else bcosify(teacher).eval()
    blocks = teacher.blocks if kind == "teacher" else model.base_model.layers
    for config in {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values():
        config._attn_implementation = "eager"
    blocks[0].train()
    next(blocks[2].parameters()).requires_grad_(kind == "teacher")
    handle = blocks[1].register_forward_hook(raising(*FAILURES[failure])) if FAILURES[failure] else None
    before = state_of(model)
    if failure == "none":
        maps_of(model, images, None, method)
    elif failure == "wrong target":
        with pytest.raises(UserError):
            maps_of(model, images, [0, 1, 99], method)
    else:
        with pytest.raises((StopError, KeyboardInterrupt)):
            maps_of(model, images, None, method)
    after = state_of(model)
    assert [k for k in before if before[k] != after[k]] == []
    assert handle is None or handle.id in blocks[1]._forward_hooks


def test_dropout_of_a_model_in_training_plays_no_part(images):
    teacher = build_teacher("vit-classifier")
    expected = {m: maps_of(teacher, images, 1, m).maps for m in ("attnlrp", "legrad", "chefercam", "inputxgrad")}
    for module in teacher.model.modules():
        module.training = True
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    for method, maps in expected.items():
        assert torch.equal(maps_of(teacher, images, 1, method).maps, maps)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "inherent"])
def test_a_teacher_s_trainable_parameters_do_not_matter(method, images):
    """A parameter that asks for a gradient is still a constant of the rules, not a second path of a product."""
    for family in ("dinov2-swiglu", "dinov3", "siglip2"):
        thawed = build_teacher(family)
        thawed.requires_grad_(True)
        expected = maps_of(model_of(family, "teacher"), images, None, method)
        torch.testing.assert_close(maps_of(thawed, images, None, method).maps, expected.maps)
