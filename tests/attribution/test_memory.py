"""Peak memory against sums done by hand."""

from __future__ import annotations

import torch

from aloe.attribution.memory import peak_memory
from aloe.attribution.methods import attribute
from conftest import build_teacher

CPU = torch.device("cpu")
MEGA = 250_000  # float32 numbers in a megabyte


def test_live_tensors_are_counted_and_freed():
    before = torch.zeros(MEGA)
    with peak_memory(CPU) as peak:
        a = before * 2  # 1 MB
        b = a + 1  # 2 MB
        del a
        c = b.view(2, -1)[0]  # a view costs nothing
        b.add_(1)  # in place neither
        d = b * 2  # 2 MB
        del b, c, d
        torch.zeros(MEGA // 2)
    assert peak.bytes == 2_000_000


def test_the_graph_of_a_backward_pass_counts():
    x = torch.ones(MEGA, requires_grad=True)
    with peak_memory(CPU) as kept:
        y = (x * 2).square().square().sum()  # keeps x * 2 and its square, and makes the fourth power
    with peak_memory(CPU) as light, torch.no_grad():
        (x * 2).square().square().sum()
    assert float(y.detach()) == MEGA * 16
    assert kept.bytes > light.bytes >= 2_000_000


def test_methods_report_it_on_request(images):
    teacher = build_teacher("vit-classifier")
    assert attribute(teacher, images, method="legrad").cost.peak_bytes is None
    one, three = (attribute(teacher, images[:n], method="attnlrp", memory=True).cost.peak_bytes for n in (1, 3))
    assert 2 * one < three < 3.5 * one
