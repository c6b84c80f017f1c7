"""Probes of depth and normals: a small problem is learnt, the same bits again, the schedule, what is seen, mistakes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from aloe.core.errors import UserError
from aloe.data.frames.frame import Frame
from aloe.evaluation.dense.depth import METRICS, depth_loss, depth_metrics
from aloe.evaluation.dense.heads import LinearHead
from aloe.evaluation.dense.probe import backbone_features, dense_task, evaluate_probe, fit_probe, rate_factor
from aloe.evaluation.dense.samples import viewed
from aloe.evaluation.dense.settings import DenseSettings
from conftest import build_teacher

SIDE = 16
QUICK = DenseSettings.of(epochs=12, batch_size=4, learning_rate=3e-2, bins=16)


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


class Frames:
    """Frames whose depth is read off their picture's brightness and whose normals lean with its colours; higher than wide."""

    name = "synthetic"

    def __init__(self, count=12, seed=0, height=20, **changes):
        self.count, self.seed, self.height, self.changes, self.read = count, seed, height, changes, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index >= self.count:
            raise IndexError
        self.read.append(index)
        coarse = torch.rand(1, 3, 4, 4, generator=draws(1000 * self.seed + index))
        image = F.interpolate(coarse, (self.height, 16), mode="bilinear", align_corners=True)[0]
        normals = F.normalize(torch.stack([image[0] - 0.5, image[1] - 0.5, -0.3 - image[2]]), dim=0)
        values = {"depth": 1 + 3 * image.mean(0), "normals": normals, "name": f"frame {index}"}
        return Frame(image, **values | self.changes)

    def state(self):
        return f"{self.count} {self.seed}"


def features_of(images):
    """Two maps of 4 x 4 tokens: mean colours of the patches, and a constant besides."""
    assert images.shape[1:] == (3, SIDE, SIDE)
    colours = F.avg_pool2d(images, SIDE // 4)
    return [colours, torch.cat([colours[:, :1].square(), torch.ones_like(colours[:, :1])], dim=1)]


def fitted(task="depth", settings=QUICK, train=None, **given):
    return fit_probe(
        features_of, Frames() if train is None else train, task, settings, **{"side": SIDE, "max_depth": 5.0, **given}
    )


@pytest.mark.parametrize("task", ["depth", "normals"])
def test_training_lowers_the_error(task):
    trained = fitted(task, QUICK.model_copy(update={"epochs": 40}))
    first = fitted(task, DenseSettings.of(epochs=1, learning_rate=1e-9, bins=16))
    test = Frames(seed=1)
    after, before = evaluate_probe(trained, test).metrics, evaluate_probe(first, test).metrics
    error = "absolute_rmse" if task == "depth" else "rmse"
    assert after[error] < 0.5 * before[error]
    assert trained.losses[0][-1] < trained.losses[0][0]
    assert len(trained.losses[0]) == 40


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("task", ["depth", "normals"])
def test_the_same_numbers_give_the_same_bits(task, augment):
    settings = DenseSettings.of(**{**QUICK.model_dump(), "epochs": 2, "augment": augment})
    torch.manual_seed(1)
    a = fitted(task, settings)
    torch.manual_seed(2)
    b = fitted(task, settings)
    c = fitted(task, settings.model_copy(update={"seed": 1}))
    assert a.losses == b.losses != c.losses
    for p, q, r in zip(*(x.heads[0].parameters() for x in (a, b, c)), strict=True):
        assert torch.equal(p, q)
        assert not torch.equal(p, r)
    assert evaluate_probe(a, Frames(seed=1)) == evaluate_probe(b, Frames(seed=1))


def test_equals_a_literal_training():
    """The head, AdamW, the schedule and the order written out; frames cut to 16 x 16 in the middle."""
    found = fitted()
    generator = draws(QUICK.seed)
    head = LinearHead([3, 2], 16, generator)
    optimizer = torch.optim.AdamW(head.parameters(), 3e-2)
    images = torch.stack([frame.image[:, 2:18] for frame in Frames()])
    truth = torch.stack([frame.depth[2:18] for frame in Frames()])
    step, steps, task = 0, 12 * 3, dense_task("depth", QUICK, 5.0)
    for _ in range(12):
        for rows in torch.randperm(12, generator=generator).split(4):
            warm = 0.15 * steps
            factor = (
                0.01 + 0.99 * step / warm
                if step < warm
                else 0.99 * math.cos(math.pi / 2 * (step - warm) / (steps - warm)) + 0.01
            )
            for group in optimizer.param_groups:
                group["lr"] = 3e-2 * factor
            prediction = task.prediction(head(features_of(images[rows])), (16, 16))[:, 0]
            optimizer.zero_grad()
            depth_loss(prediction, truth[rows], truth[rows] > 0).backward()
            optimizer.step()
            step += 1
    for p, q in zip(found.heads[0].parameters(), head.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_the_schedule():
    factors = [rate_factor(step, 1000, 0.15) for step in range(1000)]
    assert factors[0] == pytest.approx(0.01)
    assert factors[75] == pytest.approx(0.01 + 0.99 / 2)
    assert factors[150] == pytest.approx(1)
    assert factors[575] == pytest.approx(0.99 * math.cos(math.pi / 4) + 0.01)
    assert rate_factor(1000, 1000, 0.15) == pytest.approx(0.01)
    assert max(factors) == factors[150]
    assert rate_factor(0, 10, 0.0) == pytest.approx(1)


def test_frames_are_read_once_unless_they_are_augmented():
    source = Frames()
    fitted(settings=DenseSettings.of(epochs=3, bins=4), train=source)
    assert source.read == list(range(12))
    source = Frames()
    fitted(settings=DenseSettings.of(epochs=3, bins=4, augment=True), train=source)
    assert len(source.read) == 12 + 1 + 3 * 12, "once for the truth, one for the widths, then in every epoch"


@pytest.mark.parametrize("augment", [False, True])
def test_what_is_not_valid_never_counts(augment):
    """Garbage where there is no depth changes neither the head nor a metric."""

    class Holes(Frames):
        garbage = 0.0

        def __getitem__(self, index):
            frame = super().__getitem__(index)
            frame.depth[4:9, 3:11] = self.garbage
            return frame

    settings = DenseSettings.of(**{**QUICK.model_dump(), "epochs": 3, "augment": augment})
    clean = fitted(settings=settings, train=Holes())
    reference = evaluate_probe(clean, Holes(seed=1))
    for garbage in (math.nan, math.inf, -1.0, 6.0):
        source, test = Holes(), Holes(seed=1)
        source.garbage = test.garbage = garbage
        dirty = fitted(settings=settings, train=source)
        assert dirty.losses == clean.losses
        assert evaluate_probe(dirty, test) == reference


def test_results_are_means_over_frames():
    trained = fitted(settings=DenseSettings.of(epochs=2, bins=8, batch_size=5))
    test = Frames(count=7, seed=1)
    result = evaluate_probe(trained, test)
    assert result.names == tuple(f"frame {i}" for i in range(7))
    assert tuple(result.metrics) == tuple(result.per_image) == METRICS
    for n, frame in enumerate(test):
        seen, depth = trained.predict(frame)
        assert depth.shape == seen.depth.shape == (16, 16)
        expected = depth_metrics(depth, frame.depth[2:18], torch.ones(16, 16, dtype=torch.bool))
        for name in METRICS:
            assert result.per_image[name][n] == pytest.approx(expected[name], rel=1e-6)
    for name in METRICS:
        assert result.metrics[name] == pytest.approx(sum(result.per_image[name]) / 7)


def test_predicted_normals_have_length_one():
    trained = fitted("normals", DenseSettings.of(epochs=2))
    seen, normals = trained.predict(Frames()[0])
    assert normals.shape == seen.normals.shape == (3, 16, 16)
    torch.testing.assert_close(normals.norm(dim=0), torch.ones(16, 16))


def test_the_truth_may_be_made_smaller_but_not_the_image():
    settings = DenseSettings.of(epochs=1, bins=4, target_side=8)
    trained = fitted(settings=settings)
    seen, depth = trained.predict(Frames()[0])
    assert seen.depth.shape == depth.shape == (8, 8)
    view = viewed(Frames()[0].cropped_square(), SIDE, settings)
    assert torch.equal(view.image, Frames()[0].image[:, 2:18])
    assert evaluate_probe(trained, Frames(seed=1)).metrics["absolute_rmse"] > 0


def test_sizes_may_differ_in_the_test_but_not_in_a_batch():
    class Sizes(Frames):
        def __getitem__(self, index):
            self.height = 16 if index % 2 else 12
            return super().__getitem__(index)

    with pytest.raises(UserError, match="squares of 12 x 12 and 16 x 16 pixels; give target_side"):
        fitted(train=Sizes())
    trained = fitted(train=Sizes(), settings=DenseSettings.of(epochs=1, bins=4, target_side=12))
    assert len(evaluate_probe(fitted(settings=DenseSettings.of(epochs=1, bins=4)), Sizes()).names) == 12
    assert trained.predict(Sizes()[1])[1].shape == (12, 12)


def test_an_augmented_part_without_ground_truth_is_not_taken():
    class Corner(Frames):
        def __getitem__(self, index):
            frame = super().__getitem__(index)
            depth = torch.zeros_like(frame.depth)
            depth[2, 0] = 1.0  # the first pixel of the square: most parts lack it
            return Frame(frame.image, depth, name=frame.name)

    settings = DenseSettings.of(epochs=2, bins=4, augment=True, batch_size=1)
    assert all(map(math.isfinite, fitted(train=Corner(), settings=settings).losses[0]))


@pytest.mark.parametrize("augment", [False, True])
def test_standardized_training_knows_no_units(augment):
    """Channels a thousand times larger, and far from 0, give the same probe; without it they do not."""

    def moved(images):
        return [1000 * x + 300 if k == 0 else 1e-3 * x for k, x in enumerate(features_of(images))]

    settings = DenseSettings.of(**{**QUICK.model_dump(), "epochs": 2, "augment": augment, "standardize": True})
    for chosen, alike in ((settings, True), (settings.model_copy(update={"standardize": False}), False)):
        a, b = (
            evaluate_probe(fit_probe(f, Frames(), "depth", chosen, side=SIDE, max_depth=5.0), Frames(seed=1))
            for f in (features_of, moved)
        )
        assert (a.metrics == pytest.approx(b.metrics, rel=1e-2)) == alike


def test_standardized_maps_have_mean_0_and_deviation_1():
    """Also a channel that never varies has a finite value, 0."""
    seen = []
    trained = fitted(settings=DenseSettings.of(epochs=1, bins=4, standardize=True))
    trained.heads[0].head.register_forward_pre_hook(lambda _, given: seen.append(torch.cat(given[0], dim=1)))
    for frame in Frames():
        trained.predict(frame)
    tokens = torch.cat(seen).transpose(0, 1).flatten(1)
    torch.testing.assert_close(tokens.mean(1), torch.zeros(5), rtol=0, atol=1e-5)
    torch.testing.assert_close(tokens.std(1, correction=0), torch.tensor([1.0, 1, 1, 1, 0]), rtol=1e-4, atol=1e-5)


class Gaps(Frames):
    """Frames of which some have no depth and no normals at all."""

    gaps = (0, 5)

    def __getitem__(self, index):
        frame = super().__getitem__(index)
        if index in self.gaps:
            frame.depth.zero_()
            frame.normals.zero_()
        return frame


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("task", ["depth", "normals"])
def test_frames_without_truth_are_left_out_and_named(task, augment):
    """The same head and numbers as without these frames; a set of nothing else is a mistake."""

    class Others(Frames):
        """The frames of `Gaps` that have a truth."""

        def __getitem__(self, index):
            if index >= 10:
                raise IndexError
            return super().__getitem__([i for i in range(12) if i not in Gaps.gaps][index])

    settings = DenseSettings.of(**{**QUICK.model_dump(), "epochs": 2, "augment": augment})
    gaps, whole = (
        fitted(task, settings, train=Gaps()),
        fitted(task, settings, train=type("", (Others,), {"__len__": lambda s: 10})()),
    )
    assert gaps.left_out == ("frame 0", "frame 5")
    assert whole.left_out == ()
    assert gaps.losses == whole.losses
    found = evaluate_probe(gaps, Gaps())
    assert found.left_out == ("frame 0", "frame 5")
    assert len(found.names) == 10
    everywhere = evaluate_probe(gaps, Frames())
    kept = {
        n: v
        for n, v in zip(
            everywhere.names, everywhere.per_image["rmse" if task == "normals" else METRICS[-1]], strict=True
        )
    }
    assert found.per_image["rmse" if task == "normals" else METRICS[-1]] == pytest.approx(
        [kept[n] for n in found.names]
    )
    nothing = Gaps()
    nothing.gaps = range(12)
    with pytest.raises(UserError, match=rf"None of the 12 test frames can be used\. Frame frame 0 has no valid {task}"):
        evaluate_probe(gaps, nothing)
    with pytest.raises(UserError, match=r"None of the 12 training frames can be used\. Frame frame 0 has no valid"):
        fitted(task, settings, train=nothing)


def test_the_learning_rate_is_chosen_on_held_out_frames():
    """By the error on the last frames of the training set, written out; the head is then trained on all of them."""
    rates = (1e-6, 3e-2, 1e6)
    settings = QUICK.model_copy(update={"learning_rate": rates, "held_out": 0.25})
    found = fitted(settings=settings)
    assert found.learning_rate == 3e-2
    assert tuple(found.held_out) == rates
    alone = fitted()
    for p, q in zip(found.heads[0].parameters(), alone.heads[0].parameters(), strict=True):
        assert torch.equal(p, q)
    assert alone.held_out == {}

    class Last(Frames):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return super().__getitem__(9 + index)

    part = fitted(train=Frames(9), settings=QUICK.model_copy(update={"learning_rate": 1e-6}))
    expected = evaluate_probe(part, Last(12)).metrics["absolute_rmse"]
    assert found.held_out[1e-6] == pytest.approx(expected, rel=1e-6)
    with pytest.raises(UserError, match="One training frame is too few to choose"):
        fitted(settings=settings, train=Frames(1))


def test_repeats_are_heads_of_several_seeds():
    one = [fitted(settings=QUICK.model_copy(update={"seed": seed})) for seed in (3, 4)]
    both = fitted(settings=QUICK.model_copy(update={"seed": 3, "repeats": 2}))
    assert both.losses == (one[0].losses[0], one[1].losses[0])
    found, single = evaluate_probe(both, Frames(seed=1)), [evaluate_probe(p, Frames(seed=1)) for p in one]
    for name in METRICS:
        values = [s.metrics[name] for s in single]
        assert found.metrics[name] == pytest.approx(sum(values) / 2, rel=1e-6)
        assert found.spread[name] == pytest.approx(abs(values[0] - values[1]) / math.sqrt(2), rel=1e-4)
    assert torch.equal(both.predict(Frames()[0])[1], one[0].predict(Frames()[0])[1])


def test_a_models_features(images):
    teacher = build_teacher("dinov2")
    found, side = backbone_features(teacher, DenseSettings.of(blocks=[1, 3], cls=True))
    assert side == 32
    maps = found(images)
    assert [tuple(x.shape) for x in maps] == [(3, 96, 4, 4)] * 2
    assert not any(x.requires_grad for x in maps)
    with pytest.raises(UserError, match="not a whole number of 8-pixel patches"):
        backbone_features(teacher, DenseSettings.of(resolution=36))
    with pytest.raises(UserError, match="Block 4 does not exist"):
        backbone_features(teacher, DenseSettings.of(blocks=4))
    probe = fit_probe(found, Frames(4, height=16), "depth", DenseSettings.of(epochs=1, bins=4), side=side, max_depth=5)
    assert tuple(probe.heads[0].convolution.weight.shape) == (4, 192, 1, 1)


def test_a_dpt_head():
    settings = DenseSettings.of(head="dpt", hidden=4, epochs=1, bins=4)
    probe = fit_probe(lambda images: 2 * features_of(images), Frames(4), "depth", settings, side=SIDE, max_depth=5.0)
    assert probe.predict(Frames()[0])[1].shape == (16, 16)
    with pytest.raises(UserError, match="reads four blocks, not 2"):
        fitted(settings=settings)


def test_mistakes():
    with pytest.raises(UserError, match="no training frames"):
        fitted(train=Frames(0))
    with pytest.raises(UserError, match="no test frames"):
        evaluate_probe(fitted(settings=DenseSettings.of(epochs=1, bins=4)), Frames(0))
    with pytest.raises(UserError, match="Frame frame 0 has no valid depth"):
        fitted(train=Frames(), max_depth=0.5)
    with pytest.raises(UserError, match="Frame frame 0 has no normals"):
        fitted("normals", train=Frames(normals=None))
    with pytest.raises(UserError, match="no dense probe for 'flow'"):
        fitted("flow")
    with pytest.raises(UserError, match="diverged"):
        fit_probe(lambda x: [torch.full((len(x), 2, 4, 4), math.nan)], Frames(), "depth", side=SIDE, max_depth=5.0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"kernel": 2}, r"kernel: must be odd \(got 2\)"),
        ({"blocks": "all"}, "blocks: "),
        ({"blocks": []}, "blocks: needs at least one "),
        ({"blocks": [0]}, "blocks: "),
        ({"epochs": 0}, "epochs: "),
        ({"learning_rate": -1}, "learning_rate: "),
        ({"learning_rate": []}, "learning_rate: needs at least one"),
        ({"learning_rate": [1e-3, 0]}, "learning_rate: "),
        ({"held_out": 1}, "held_out: "),
        ({"repeats": 0}, "repeats: "),
        ({"warmup": 1}, "warmup: "),
        ({"loss": "l2"}, "loss: "),
        ({"speed": 3}, "speed: "),
        ({"bins": 1, "batch_size": 0}, "bins: .*; batch_size: "),
    ],
)
def test_wrong_settings_are_named(wrong, words):
    with pytest.raises(UserError, match=words):
        DenseSettings.of(**wrong)


def test_the_defaults_are_the_protocols():
    s = DenseSettings.of()
    assert (s.learning_rate, s.epochs, s.batch_size, s.weight_decay, s.bins) == (5e-4, 10, 8, 0.01, 256)
    assert s.warmup * s.epochs == 1.5
    assert (s.head, s.kernel, s.loss, s.uncertainty, s.augment) == ("linear", 1, "probe3d", True, False)
    assert DenseSettings.of(blocks=[3, 4]).blocks == (3, 4)
