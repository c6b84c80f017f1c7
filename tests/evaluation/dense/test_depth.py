"""Depth: bins, losses and metrics against literal twins and by hand; what is not valid never counts."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from aloe.core.errors import UserError
from aloe.data.frames.frame import Frame
from aloe.evaluation.dense.depth import LOSSES, METRICS, DepthTask, average_of_bins, depth_loss, depth_metrics

NAN, INF = float("nan"), float("inf")


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def scene(count=2, height=17, width=19, seed=0):
    """Predictions and truths in metres, (B, H, W) float64, and where truths are valid (three quarters of the pixels)."""
    p, t = (0.5 + 8 * torch.rand(2, count, height, width, generator=draws(seed), dtype=torch.float64)).unbind()
    return p, t, torch.rand(count, height, width, generator=draws(seed + 1)) < 0.75


def spoiled(p, t, valid, seed=5):
    """The same valid pixels, garbage in all others."""
    garbage = torch.tensor([NAN, INF, -INF, -3.0, 0.0, 1e30], dtype=p.dtype)
    pick = torch.randint(len(garbage), p.shape, generator=draws(seed))
    return torch.where(valid, p, garbage[pick]), torch.where(valid, t, garbage[(pick + 1) % 6])


def literal_loss(p, t, valid, kind):
    """Pixel by pixel."""
    g = {}
    inverse = []
    for n, y, x in valid.nonzero().tolist():
        g[n, y, x] = math.log(p[n, y, x] + 1e-3) - math.log(t[n, y, x] + 1e-3)
        inverse.append(abs(1 / p[n, y, x].item() - 1 / t[n, y, x].item()))
    values = list(g.values())
    mean = sum(values) / len(values)
    pixels = math.sqrt(sum(v * v for v in values) / len(values) - 0.85 * mean**2)
    if kind == "inverse-l1":
        pixels = sum(inverse) / len(inverse)
    count, height, width = valid.shape
    gradient = 0.0
    for stride in (1, 2, 4, 6):
        rows, columns = range(0, height, stride), range(0, width, stride)
        kept = [(n, y, x) for n in range(count) for y in rows for x in columns if (n, y, x) in g]
        steps = [(n, y, x, y + 2 * stride, x) for n, y, x in kept] + [(n, y, x, y, x + 2 * stride) for n, y, x in kept]
        differences = [abs(g[n, y, x] - g[n, v, u]) for n, y, x, v, u in steps if (n, v, u) in g]
        gradient += sum(differences) / max(1, len(kept))
    return 10 * pixels + 0.5 * gradient


def literal_metrics(p, t, valid):
    """One image, with the two least-squares equations solved by a library."""
    p, t = p[valid].tolist(), t[valid].tolist()
    system = torch.tensor([[v, 1.0] for v in p], dtype=torch.float64)
    scale, shift = torch.linalg.lstsq(system, torch.tensor(t, dtype=torch.float64)[:, None]).solution[:, 0].tolist()
    found = []
    for values in ([scale * v + shift for v in p], p):
        for power in (1, 2, 3):
            ratios = [max(b / max(a, 1e-9), a / max(b, 1e-9)) for a, b in zip(values, t, strict=True)]
            found.append(sum(r < 1.25**power for r in ratios) / len(t))
        found.append(math.sqrt(sum((a - b) ** 2 for a, b in zip(values, t, strict=True)) / len(t)))
    return dict(zip(METRICS, found, strict=True))


def test_bins_are_averaged_with_relu_and_a_floor():
    outputs = torch.randn(2, 256, 3, 4, generator=draws(), dtype=torch.float64)
    expected = torch.zeros(2, 3, 4, dtype=torch.float64)
    for n in range(2):
        for y in range(3):
            for x in range(4):
                weights = [max(0.0, v) + 0.1 for v in outputs[n, :, y, x].tolist()]
                depths = [0.001 + k * (10 - 0.001) / 255 for k in range(256)]
                expected[n, y, x] = sum(w * d for w, d in zip(weights, depths, strict=True)) / sum(weights)
    torch.testing.assert_close(average_of_bins(outputs, 10.0), expected, rtol=1e-12, atol=1e-12)


def test_a_single_large_output_chooses_its_bin():
    outputs = torch.full((1, 5, 1, 1), -3.0)
    assert average_of_bins(outputs, 4.0).item() == pytest.approx((0.001 + 4) / 2)
    outputs[0, 4] = 1e9
    assert average_of_bins(outputs, 4.0).item() == pytest.approx(4.0)


@pytest.mark.parametrize("kind", LOSSES)
def test_losses_equal_their_literal_twins(kind):
    p, t, valid = scene()
    assert depth_loss(p, t, valid, kind).item() == pytest.approx(literal_loss(p, t, valid, kind), rel=1e-12)


@pytest.mark.parametrize("kind", LOSSES)
def test_what_is_not_valid_never_counts(kind):
    p, t, valid = scene()
    q, u = spoiled(p, t, valid)
    p.requires_grad_()
    q.requires_grad_()
    clean, dirty = depth_loss(p, t, valid, kind), depth_loss(q, u, valid, kind)
    clean.backward()
    dirty.backward()
    assert dirty == clean
    assert torch.equal(p.grad, q.grad), "nor has it a gradient"
    assert q.grad[~valid].abs().max() == 0
    assert q.grad[valid].abs().min() > 0
    assert depth_metrics(q[0].detach(), u[0], valid[0]) == depth_metrics(p[0].detach(), t[0], valid[0])


@pytest.mark.parametrize("kind", LOSSES)
def test_a_perfect_prediction_has_a_finite_gradient(kind):
    _, t, valid = scene()
    p = t.clone().requires_grad_()
    loss = depth_loss(p, t, valid, kind)
    loss.backward()
    assert loss.item() < 1e-4
    assert p.grad.isfinite().all()


def test_the_default_loss_forgives_most_of_a_common_factor():
    """Of a factor c the root keeps sqrt(0.15) log c, and the gradient term nothing."""
    _, t, valid = scene()
    t = t * 1e4  # so that the added 0.001 is nothing
    loss = depth_loss(3 * t, t, valid).item()
    assert loss == pytest.approx(10 * math.sqrt(0.15) * math.log(3), rel=1e-4)


@pytest.mark.parametrize("kind", LOSSES)
def test_descending_a_loss_finds_the_truth(kind):
    _, t, valid = scene(count=1)
    p = torch.full_like(t, 3.0).requires_grad_()
    optimizer = torch.optim.Adam([p], 0.1)
    start = depth_loss(p, t, valid, kind).item()
    for _ in range(120):
        optimizer.zero_grad()
        loss = depth_loss(p, t, valid, kind)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.4 * start


def test_metrics_equal_their_literal_twin():
    for seed in range(5):
        p, t, valid = scene(count=1, seed=seed)
        found, expected = depth_metrics(p[0], t[0], valid[0]), literal_metrics(p[0], t[0], valid[0])
        assert list(found) == list(METRICS)
        assert found == pytest.approx(expected, rel=1e-9)


def test_a_perfect_prediction():
    _, t, valid = scene(count=1)
    found = depth_metrics(t[0].float(), t[0].float(), valid[0])
    assert [found[name] for name in METRICS] == pytest.approx([1, 1, 1, 0, 1, 1, 1, 0], abs=1e-9)


def test_relative_metrics_know_no_scale_and_shift():
    p, t, valid = scene(count=1)
    before, after = depth_metrics(p[0], t[0], valid[0]), depth_metrics(7 * p[0] + 2, t[0], valid[0])
    for name in METRICS:
        if name.startswith("relative"):
            assert after[name] == pytest.approx(before[name], rel=1e-9)
        else:
            assert after[name] != before[name]
    exact = depth_metrics(0.2 * t[0] + 3, t[0], valid[0])
    assert exact["relative_delta1"] == 1
    assert exact["relative_rmse"] == pytest.approx(0, abs=1e-9)


def test_by_hand():
    """Ratios 1, 1.2, 1.25 (not under 1.25), 2 and a negative prediction; an error of 0, 0.4, 0.5, 2 and 5 m."""
    t = torch.tensor([[1.0, 2.0, 2.0, 2.0, 4.0]], dtype=torch.float64)
    p = torch.tensor([[1.0, 2.4, 2.5, 4.0, -1.0]], dtype=torch.float64)
    found = depth_metrics(p, t, torch.ones(1, 5, dtype=torch.bool))
    assert [found[f"absolute_delta{k}"] for k in (1, 2, 3)] == pytest.approx([2 / 5, 3 / 5, 3 / 5])
    assert found["absolute_rmse"] == pytest.approx(math.sqrt((0.16 + 0.25 + 4 + 25) / 5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_prediction_is_not_fitted(dtype):
    """No scale and shift are defined: relative is absolute."""
    _, t, valid = scene(count=1)
    found = depth_metrics(torch.full_like(t[0], 3.3, dtype=dtype), t[0], valid[0])
    assert [found[name] for name in METRICS[:4]] == [found[name] for name in METRICS[4:]]
    assert found["absolute_rmse"] == pytest.approx((t[0][valid[0]] - 3.3).square().mean().sqrt().item(), rel=1e-6)


def test_the_task_reads_a_frame():
    depth = torch.tensor([[1.0, 0.0, NAN], [INF, -1.0, 11.0], [10.0, 0.5, 2.0]])
    truth, valid = DepthTask(10.0).target(Frame(torch.zeros(3, 3, 3), depth))
    assert valid.tolist() == [[True, False, False], [False, False, False], [True, True, True]]
    assert torch.equal(truth[0][valid], torch.tensor([1.0, 10.0, 0.5, 2.0]))
    assert truth.shape == (1, 3, 3)


def test_the_task_resizes_metres_with_aligned_corners():
    outputs = torch.randn(2, 256, 3, 4, generator=draws())
    found = DepthTask(10.0).prediction(outputs, (7, 9))
    expected = F.interpolate(average_of_bins(outputs, 10.0)[:, None], (7, 9), mode="bilinear", align_corners=True)
    torch.testing.assert_close(found, expected)
    assert found.shape == (2, 1, 7, 9)
    torch.testing.assert_close(found[:, 0, 0, -1], average_of_bins(outputs, 10.0)[:, 0, -1])


def test_mistakes():
    with pytest.raises(UserError, match="Frame a has no depth"):
        DepthTask(10.0).target(Frame(torch.zeros(3, 2, 2), name="a"))
    with pytest.raises(UserError, match=r"Frame b has no valid depth \(above 0 and at most 10 m\)"):
        DepthTask(10.0).target(Frame(torch.zeros(3, 2, 2), torch.full((2, 2), 12.0), name="b"))
    nothing = torch.zeros(1, 2, 2, dtype=torch.bool)
    with pytest.raises(UserError, match="No pixel of the batch"):
        depth_loss(torch.ones(1, 2, 2), torch.ones(1, 2, 2), nothing)
    with pytest.raises(UserError, match="No pixel of the image"):
        depth_metrics(torch.ones(2, 2), torch.ones(2, 2), nothing[0])
    with pytest.raises(UserError, match="no loss 'l2'"):
        depth_loss(torch.ones(1, 2, 2), torch.ones(1, 2, 2), ~nothing, "l2")
