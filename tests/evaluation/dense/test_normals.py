"""Normals: the loss and metrics against literal twins and by hand; what is not valid never counts."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from aloe.core.errors import UserError
from aloe.data.frames.frame import Frame
from aloe.evaluation.dense.normals import METRICS, NormalsTask, normals_loss, normals_metrics

NAN, INF = float("nan"), float("inf")


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def scene(channels=4, seed=0):
    """Predictions (2, C, 6, 7), unit truths (2, 3, 6, 7), float64, and where they are valid."""
    p = torch.randn(2, channels, 6, 7, generator=draws(seed), dtype=torch.float64)
    t = F.normalize(torch.randn(2, 3, 6, 7, generator=draws(seed + 1), dtype=torch.float64), dim=1)
    return p, t, torch.rand(2, 6, 7, generator=draws(seed + 2)) < 0.75


def spoiled(p, t, valid):
    garbage = torch.tensor([NAN, INF, -INF, 0.0, 1e30], dtype=p.dtype)
    pick = torch.randint(5, p[:, :1].shape, generator=draws(9))
    inside = valid[:, None]
    return torch.where(inside, p, garbage[pick]), torch.where(inside, t, garbage[(pick + 1) % 5])


def angle(p, t):
    """Radians between two lists of three."""
    product = sum(a * b for a, b in zip(p, t, strict=True))
    lengths = math.sqrt(sum(a * a for a in p)) * math.sqrt(sum(b * b for b in t))
    return product / lengths if lengths else 0.0


def literal_loss(p, t, valid):
    total = 0.0
    places = valid.nonzero().tolist()
    for n, y, x in places:
        theta = math.acos(min(max(angle(p[n, :3, y, x].tolist(), t[n, :, y, x].tolist()), -1 + 1e-4), 1 - 1e-4))
        if p.shape[1] == 3:
            total += theta
            continue
        raw = p[n, 3, y, x].item()
        kappa = (raw if raw > 0 else math.exp(raw) - 1) + 1.01
        total += math.log(1 + math.exp(-math.pi * kappa)) - math.log(kappa**2 + 1) + kappa * theta
    return total / len(places)


@pytest.mark.parametrize("channels", [3, 4])
def test_the_loss_equals_its_literal_twin(channels):
    p, t, valid = scene(channels)
    assert normals_loss(p, t, valid).item() == pytest.approx(literal_loss(p, t, valid), rel=1e-12)


@pytest.mark.parametrize("channels", [3, 4])
def test_what_is_not_valid_never_counts(channels):
    p, t, valid = scene(channels)
    q, u = spoiled(p, t, valid)
    p.requires_grad_()
    q.requires_grad_()
    clean, dirty = normals_loss(p, t, valid), normals_loss(q, u, valid)
    clean.backward()
    dirty.backward()
    assert dirty == clean
    assert torch.equal(p.grad, q.grad)
    assert q.grad.permute(0, 2, 3, 1)[~valid].abs().max() == 0
    assert q.grad.permute(0, 2, 3, 1)[valid].abs().sum(1).min() > 0
    assert normals_metrics(q[0].detach(), u[0], valid[0]) == normals_metrics(p[0].detach(), t[0], valid[0])


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("sign", [1, -1])
def test_right_and_opposite_predictions_have_finite_gradients(channels, sign):
    _, t, valid = scene()
    p = torch.cat([sign * t, torch.zeros_like(t[:, :1])], dim=1)[:, :channels].requires_grad_()
    normals_loss(p, t, valid).backward()
    assert p.grad.isfinite().all()


@pytest.mark.parametrize("channels", [3, 4])
def test_descending_the_loss_finds_the_truth(channels):
    p, t, valid = scene(channels)
    p.requires_grad_()
    optimizer = torch.optim.Adam([p], 0.05)
    for _ in range(200):
        optimizer.zero_grad()
        normals_loss(p, t, valid).backward()
        optimizer.step()
    assert normals_metrics(p[0].detach(), t[0], valid[0])["delta1"] == 1


def test_metrics_equal_their_literal_twin():
    p, t, valid = scene()
    for n in range(2):
        degrees = [
            math.degrees(math.acos(angle(p[n, :3, y, x].tolist(), t[n, :, y, x].tolist())))
            for y, x in valid[n].nonzero().tolist()
        ]
        expected = [sum(d < limit for d in degrees) / len(degrees) for limit in (11.25, 22.5, 30)]
        expected.append(math.sqrt(sum(d * d for d in degrees) / len(degrees)))
        found = normals_metrics(p[n], t[n], valid[n])
        assert list(found) == list(METRICS)
        assert list(found.values()) == pytest.approx(expected, rel=1e-9)


def test_by_hand():
    """Turned by 5, 15, 25 and 60 degrees and of other lengths; a zero prediction is 90 degrees wrong."""
    turns = [5, 15, 25, 60]
    columns = [[3 * math.sin(math.radians(a)), 0, 3 * math.cos(math.radians(a))] for a in turns] + [[0, 0, 0]]
    p = torch.tensor(columns, dtype=torch.float64).T[:, None]
    t = torch.tensor([0.0, 0, 1], dtype=torch.float64)[:, None, None].expand(3, 1, 5)
    found = normals_metrics(p, t, torch.ones(1, 5, dtype=torch.bool))
    assert [found[f"delta{k}"] for k in (1, 2, 3)] == pytest.approx([1 / 5, 2 / 5, 3 / 5])
    assert found["rmse"] == pytest.approx(math.sqrt(sum(a * a for a in [*turns, 90]) / 5))


def test_a_perfect_prediction_at_any_length():
    _, t, valid = scene()
    found = normals_metrics(4.2 * t[0].float(), t[0].float(), valid[0])
    assert list(found.values()) == pytest.approx([1, 1, 1, 0], abs=0.01)


def frame(**changes):
    normals = torch.zeros(3, 2, 3)
    normals[2] = -1
    normals[:, 0, 0] = 0
    normals[0, 0, 1] = NAN
    depth = torch.tensor([[1.0, 1.0, 1.0], [0.0, 11.0, 2.0]])
    values = {"depth": depth, "normals": normals, "name": "a"} | changes
    return Frame(torch.zeros(3, 2, 3), **values)


def test_the_task_reads_a_frame():
    truth, valid = NormalsTask(10.0).target(frame())
    assert valid.tolist() == [[False, False, True], [False, False, True]]
    assert torch.equal(truth[:, valid], torch.tensor([[0.0, 0, -1]] * 2).T)
    _, everywhere = NormalsTask(10.0).target(frame(depth=None))
    assert everywhere.tolist() == [[False, False, True], [True, True, True]]


def test_missing_normals_may_count_as_errors():
    """Probe3D asks for depth only; a zero normal is 90 degrees from any."""
    task = NormalsTask(10.0, missing="error")
    truth, valid = task.target(frame())
    assert valid.tolist() == [[True, True, True], [False, False, True]]
    right = torch.zeros(3, 2, 3)
    right[2] = -1
    found = task.metrics(right, truth, valid)
    assert found["delta1"] == pytest.approx(2 / 4)
    assert found["rmse"] == pytest.approx(math.sqrt(2 / 4 * 90**2))
    with pytest.raises(UserError, match="no depth, which says where"):
        task.target(frame(depth=None))


def test_the_task_resizes_bicubically_with_aligned_corners():
    outputs = torch.randn(2, 4, 3, 4, generator=draws())
    found = NormalsTask(10.0).prediction(outputs, (7, 9))
    torch.testing.assert_close(found, F.interpolate(outputs, (7, 9), mode="bicubic", align_corners=True))
    torch.testing.assert_close(found[..., -1, 0], outputs[..., -1, 0])
    assert NormalsTask(10.0).outputs == 4
    assert NormalsTask(10.0, uncertainty=False).outputs == 3


def test_mistakes():
    with pytest.raises(UserError, match="Frame a has no normals"):
        NormalsTask(10.0).target(frame(normals=None))
    with pytest.raises(UserError, match="Frame a has no valid normals"):
        NormalsTask(10.0).target(frame(depth=torch.zeros(2, 3)))
    nothing = torch.zeros(1, 2, 3, dtype=torch.bool)
    with pytest.raises(UserError, match="No pixel of the batch"):
        normals_loss(torch.ones(1, 4, 2, 3), torch.ones(1, 3, 2, 3), nothing)
    with pytest.raises(UserError, match="No pixel of the image"):
        normals_metrics(torch.ones(4, 2, 3), torch.ones(3, 2, 3), nothing[0])
