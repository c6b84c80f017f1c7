"""Calibration: units answer as loudly as their linear response; cosines, directions and completeness stay."""

from __future__ import annotations

import copy

import pytest
import torch

from aloe.attribution.inherent import explain
from aloe.bcos.layers import BcosConv2d, BcosLinear
from aloe.models.convert import bcosify
from aloe.models.embeddings import BcosPatchEmbedding
from aloe.train.align.calibrate import calibrate
from conftest import build_teacher

UNITS = BcosLinear | BcosConv2d | BcosPatchEmbedding


def loudness(student, images):
    """rms of the output and of the linear response of every unit of the backbone."""
    found = {}

    def hook(name):
        def record(module, inputs, output):
            b, module.b = module.b, 1.0
            linear = module.forward(*inputs)
            module.b = b
            found[name] = output.square().mean().sqrt().item(), linear.square().mean().sqrt().item()

        return record

    backbone = student.base_model
    hooks = [m.register_forward_hook(hook(n)) for n, m in backbone.named_modules() if isinstance(m, UNITS)]
    with torch.no_grad():
        backbone(images)
    for h in hooks:
        h.remove()
    return found


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_outputs_are_as_loud_as_the_linear_responses_were(family, stem, images):
    """A unit's factor is rms(o) / rms(y) on its input; afterwards rms(y) is the rms that o had before the factor."""
    student = bcosify(build_teacher(family), stem)
    factors = calibrate(student, images)
    found = loudness(student, images)
    assert set(factors) == set(found)
    for name, (output, linear) in found.items():
        assert output == pytest.approx(linear / factors[name], rel=1e-4), name
        assert factors[name] > 1, name


def test_each_weight_is_scaled_by_its_factor_and_nothing_else_changes(images):
    student = bcosify(build_teacher("vit-classifier"))
    before = copy.deepcopy(student.state_dict())
    factors = calibrate(student, images)
    assert all(module.b == 2 for module in student.modules() if isinstance(module, UNITS))
    for name, tensor in student.state_dict().items():
        factor = factors.get(name.removeprefix("vit.").removesuffix(".weight"), 1.0)
        assert torch.allclose(tensor, before[name] * factor, rtol=1e-6), name
        assert (factor == 1.0) == torch.equal(tensor, before[name]), name
    assert torch.equal(student.classifier.weight, before["classifier.weight"])


def test_a_scaled_unit_keeps_its_cosines_and_the_direction_of_its_explanation(images):
    unit = BcosLinear(12, 5)
    x = torch.randn(4, 12)
    before = unit(x)
    with torch.no_grad():
        unit.weight.mul_(7.5)
    assert torch.allclose(unit(x), 7.5 * before, rtol=1e-5)


def test_explanations_stay_complete_and_training_mode_stays(images):
    student = bcosify(build_teacher("vit-classifier")).train()
    calibrate(student, images)
    assert student.training
    assert explain(student.eval(), images).completeness_error().max() < 1e-5
