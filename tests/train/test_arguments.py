"""Learning rates against the literal formulas, down to runs of a single step; devices and reporters that are refused."""

from __future__ import annotations

import math

import pytest
import torch

from aloe.core.errors import UserError
from aloe.train.align.settings import AlignSettings
from aloe.train.arguments import make_schedule, training_arguments


def rates(settings: AlignSettings, steps: int) -> list[float]:
    """The rate of every step, scheduler stepped after each as the trainer does."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=settings.learning_rate)
    schedule = make_schedule(optimizer, settings, steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def cosine_between(start, end, share):
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def warm_constant(step, warmup, constant, decay):
    if step < warmup:
        return step / warmup
    if step < warmup + constant:
        return 1.0
    return (1 + math.cos(math.pi * (step - warmup - constant) / decay)) / 2


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 101])
@pytest.mark.parametrize(("warmup", "decay"), [(0.1, 0.2), (0, 0), (0.5, 0.5), (1, 0)])
def test_warmup_constant_cosine(steps, warmup, decay):
    settings = AlignSettings(schedule="warmup-constant-cosine", warmup=warmup, decay=decay, learning_rate=0.5)
    rise = round(warmup * steps)
    fall = min(round(decay * steps), steps - rise)
    expected = [0.5 * warm_constant(i, rise, steps - rise - fall, fall) for i in range(steps)]
    assert rates(settings, steps) == pytest.approx(expected, abs=1e-9)


def test_the_paper_recipe_is_5k_135k_30k():
    settings = AlignSettings.resolve("paper")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=settings.learning_rate)
    factor = make_schedule(optimizer, settings, settings.steps).lr_lambdas[0]
    for step in (0, 1, 2500, 4999, 5000, 70_000, 139_999, 140_000, 155_000, 169_999):
        assert factor(step) == pytest.approx(warm_constant(step, 5000, 135_000, 30_000), abs=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 100])
def test_one_cycle_rises_and_falls_by_cosine(steps):
    top, start, end = 0.4, 0.4 / 25, 0.4 / 25 / 1e4
    share = min(max(0.1, 2 / (steps + 1)), 1.0)
    peak, last = share * (steps + 1) - 1, steps
    expected = [
        cosine_between(start, top, i / peak) if i <= peak else cosine_between(top, end, (i - peak) / (last - peak))
        for i in range(steps)
    ]
    settings = AlignSettings(schedule="one-cycle", warmup=0.1, learning_rate=top)
    assert rates(settings, steps) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("verb", ["align", "finetune"])
def test_one_of_several_gpus_is_chosen_from_outside(tmp_path, verb):
    with pytest.raises(UserError, match=f"CUDA_VISIBLE_DEVICES=3 aloe {verb}"):
        training_arguments(AlignSettings(), tmp_path, "cuda:3", evaluates=False, verb=verb)


def test_a_reporter_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="report_to telegraph is not installed"):
        training_arguments(AlignSettings(report_to=["telegraph"]), tmp_path, "cpu", evaluates=False, verb="align")
