"""Linear probes: the stacked grid, a literal twin, exact folding, scikit-learn's accuracy, the choice of a rate, mistakes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from aloe.bcos.layers import BcosLinear
from aloe.bcos.losses import LOSSES
from aloe.core.errors import UserError
from aloe.evaluation import linear
from aloe.evaluation.heads import Probe
from aloe.evaluation.linear import HEADS, ProbeSettings, fit_probe

QUICK = ProbeSettings(epochs=5, batch_size=64, learning_rates=(1e-2, 3e-3))


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def problem(count=400, width=12, classes=4, seed=0, dtype=torch.float64):
    """Gaussian classes whose features have a common offset and very different spreads."""
    generator = draws(seed)
    centres = torch.randn(classes, width, generator=draws(99), dtype=dtype)
    labels = torch.arange(count) % classes
    features = centres[labels] + torch.randn(count, width, generator=generator, dtype=dtype)
    return features * torch.logspace(-1, 1, width, dtype=dtype) + 3, labels


def training(features, labels, settings=QUICK):
    return linear._Training(features, labels, 4, settings, torch.device("cpu"), None)


def rms(features):
    return features.square().mean().sqrt()


def same(a: Probe, b: Probe, **tolerance) -> None:
    torch.testing.assert_close(a.weight, b.weight, **tolerance)
    assert (a.bias is None) == (b.bias is None)
    if a.bias is not None:
        torch.testing.assert_close(a.bias, b.bias, **tolerance)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("head", HEADS)
def test_the_grid_is_trained_as_each_rate_alone(head, loss):
    features, labels = problem()
    settings = replace(QUICK, head=head, loss=loss, refit=False)
    together = fit_probe(features, labels, 4, settings)
    assert set(together.validation) == {1e-2, 3e-3}
    for rate in settings.learning_rates:
        alone = fit_probe(features, labels, 4, replace(settings, learning_rates=(rate,)))
        assert together.validation[rate] == alone.validation[rate]
        if rate == together.learning_rate:
            same(together, alone, rtol=1e-9, atol=1e-12)
        else:
            assert (together.weight - alone.weight).norm() > 0.1 * alone.weight.norm(), "vacuous: rates do not matter"


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("head", HEADS)
def test_equals_a_literal_training(head, loss):
    """One head, written out: preconditioned features, batches from the seed, AdamW, one cycle."""
    features, labels = problem(300)
    settings = replace(QUICK, head=head, loss=loss, seed=3)
    (found,) = training(features, labels, settings).heads(torch.arange(300), (3e-2,))
    plain = head == "linear"
    x = (features - features.mean(0)) / features.std(0, correction=0) if plain else features / rms(features)
    means = torch.stack([x[labels == c].mean(0) for c in range(4)])
    model = torch.nn.Linear(12, 4).double() if plain else BcosLinear(12, 4).double()
    with torch.no_grad():
        model.weight.copy_(torch.nn.functional.normalize(means - means.mean(0)))
        if plain:
            model.bias.zero_()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-2, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-2, epochs=5, steps_per_epoch=5)
    generator = draws(3)
    for _ in range(5):
        for batch in torch.randperm(300, generator=generator).split(64):
            logits = model(x[batch]) - (math.log(3) if loss == "bce" else 0)
            optimizer.zero_grad()
            LOSSES[loss](logits, labels[batch]).backward()
            optimizer.step()
            schedule.step()
    expected = model(x).detach() - (math.log(3) if loss == "bce" else 0)
    torch.testing.assert_close(found.logits(features), expected, rtol=1e-8, atol=1e-8)
    assert (found.predict(features) == labels).double().mean() > 0.5, "vacuous: it learns nothing"


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("head", HEADS)
def test_a_head_is_the_same_to_the_last_bit_whichever_are_trained_beside_it(head, loss):
    features, labels = problem()
    rows, rates = torch.arange(len(features)), (1e-1, 1e-2, 3e-3)
    run = lambda *some: training(features.float(), labels, replace(QUICK, head=head, loss=loss)).heads(rows, some)  # noqa: E731
    for rate, found in zip(rates, run(*rates), strict=True):
        (alone,) = run(rate)
        assert torch.equal(found.weight, alone.weight)
        assert found.bias is None or torch.equal(found.bias, alone.bias)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("head", HEADS)
def test_folding_is_exact(head, loss):
    """The kept head gives on raw features what the trained one gave on preconditioned features."""
    features, labels = problem()
    features[:, 3] = 7.0  # one that never varies
    settings = replace(QUICK, head=head, loss=loss)
    run = training(features, labels, settings)
    raw, original = [], run._folded
    run._folded = lambda *given: raw.append(given) or original(*given)  # type: ignore[method-assign]
    (found,) = run.heads(torch.arange(len(features)), (1e-2,))
    _, shift, scale, weight, *bias = raw[0]
    x = (features - shift) / scale
    if head == "linear":
        expected = x @ weight.T + bias[0]
        torch.testing.assert_close(x.mean(0), torch.zeros_like(x[0]), rtol=0, atol=1e-9)
        varying = torch.arange(12) != 3
        torch.testing.assert_close(x.std(0, correction=0)[varying], torch.ones(11, dtype=x.dtype))
    else:
        product = x @ weight.T
        expected = product * (product / x.norm(dim=1, keepdim=True) / weight.norm(dim=1)).abs()
        torch.testing.assert_close(x.square().mean(), torch.ones((), dtype=x.dtype))
        assert shift.abs().max() == 0
    expected = expected - (math.log(3) if loss == "bce" else 0)
    torch.testing.assert_close(found.logits(features), expected, rtol=1e-6, atol=1e-6)
    assert (found.logits(features) - expected).abs().max() < 1e-10
    assert found.logit_bias == pytest.approx(-math.log(3) if (head, loss) == ("bcos", "bce") else 0)


@pytest.mark.parametrize("b", [1.0, 1.5, 2.0])
def test_a_bcos_head_is_a_bcos_unit(b):
    features, labels = problem()
    probe = fit_probe(features, labels, 4, replace(QUICK, b=b))
    unit = BcosLinear(12, 4, b).double()
    unit.weight.data = probe.weight
    torch.testing.assert_close(probe.logits(features), unit(features).detach())
    torch.testing.assert_close(probe.logits(3 * features), 3 * probe.logits(features))
    assert probe.bias is None


def test_accuracy_of_logistic_regression():
    """Within half a point on 8 000 test images of a problem where it gets about three quarters right."""
    pipeline = pytest.importorskip("sklearn.pipeline")
    scaler = pytest.importorskip("sklearn.preprocessing").StandardScaler()
    logistic = pytest.importorskip("sklearn.linear_model").LogisticRegression(max_iter=1000)
    features, labels = problem(12_000, 16, 10, dtype=torch.float32)
    features += torch.randn(features.shape, generator=draws(5)) * features.std(0)
    train, test = slice(0, 4000), slice(4000, None)
    model = pipeline.make_pipeline(scaler, logistic).fit(features[train].numpy(), labels[train].numpy())
    theirs = model.score(features[test].numpy(), labels[test].numpy())
    assert 0.5 < theirs < 0.95, "vacuous: too hard or too easy"
    probe = fit_probe(features[train], labels[train], 10, ProbeSettings(head="linear", epochs=10))
    ours = float((probe.predict(features[test]) == labels[test]).double().mean())
    assert ours > theirs - 0.005


def test_seeds():
    features, labels = problem(dtype=torch.float32)
    state = torch.random.get_rng_state()
    first, again = (fit_probe(features, labels, 4, QUICK) for _ in range(2))
    other = fit_probe(features, labels, 4, replace(QUICK, seed=1))
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)
    assert torch.equal(torch.random.get_rng_state(), state), "global random state was touched"


def test_the_split_is_stratified():
    labels = torch.tensor([0] * 100 + [1] * 20 + [2] * 3 + [3])
    train, held_out = linear._split(labels, QUICK)
    assert labels[held_out].bincount(minlength=4).tolist() == [10, 2, 1, 0]
    assert sorted(train.tolist() + held_out.tolist()) == list(range(124))
    assert not torch.equal(linear._split(labels, replace(QUICK, seed=1))[1], held_out)


def test_the_rate_is_chosen_by_validation_and_trained_again_on_everything():
    features, labels = problem()
    probe = fit_probe(features, labels, 4, QUICK)
    assert probe.validation[probe.learning_rate] == max(probe.validation.values())
    run = training(features, labels)
    train, held_out = linear._split(labels, QUICK)
    (whole,) = run.heads(torch.cat([train, held_out]), (probe.learning_rate,))
    (part,) = run.heads(train, (probe.learning_rate,))
    same(probe, whole)
    same(fit_probe(features, labels, 4, replace(QUICK, refit=False)), part, rtol=1e-9, atol=1e-12)


def test_equal_accuracies_go_to_the_lower_loss():
    """Two classes far apart: every rate is right about all images, the larger one is surer."""
    labels = torch.arange(60) % 2
    features = torch.stack([labels - 0.5, torch.ones(60)], dim=1)
    for rates in ((1e-6, 1e-1), (1e-1, 1e-6)):
        probe = fit_probe(features, labels, 2, replace(QUICK, learning_rates=rates))
        assert list(probe.validation.values()) == [1, 1]
        assert probe.learning_rate == 1e-1


def test_a_given_validation_set():
    features, labels = problem()
    settings = replace(QUICK, refit=False, learning_rates=(1e-2, 1e-6))
    trained, untouched = (
        fit_probe(features, labels, 4, replace(settings, learning_rates=(rate,))) for rate in settings.learning_rates
    )
    for head in (trained, untouched):  # each one's own answers are the truth
        truth = (features, head.predict(features))
        probe = fit_probe(features, labels, 4, replace(settings, validation_fraction=0.5), validation=truth)
        assert probe.learning_rate == head.learning_rate
    wrong = (features, (labels + 1) % 4)
    probe, refitted = (
        fit_probe(features, labels, 4, replace(settings, refit=r), validation=wrong) for r in (False, True)
    )
    assert not torch.equal(refitted.weight, probe.weight), "validation images are trained on in the end"


def test_a_diverged_rate_does_not_win():
    features, labels = problem(dtype=torch.float32)
    for head in HEADS:
        settings = replace(QUICK, head=head, learning_rates=(1e38, 1e-2))
        probe = fit_probe(features, labels, 4, settings)
        assert list(probe.validation) == [1e-2]
        alone = fit_probe(features, labels, 4, replace(settings, learning_rates=(1e-2,)))
        same(probe, alone)
        with pytest.raises(UserError, match="diverged at every learning rate"):
            fit_probe(features, labels, 4, replace(settings, learning_rates=(1e38,)))


def test_a_rate_whose_loss_is_not_finite_does_not_win(monkeypatch):
    monkeypatch.setattr(linear, "_score", lambda head, *_: (1.0, math.nan if head.learning_rate == 1e-2 else -1.0))
    probe = fit_probe(*problem(), 4, QUICK)
    assert (probe.learning_rate, probe.validation) == (3e-3, {3e-3: 1.0})


FEATURES, LABELS = problem(40)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"features": torch.full((40, 12), float("nan"))}, "training features are not finite"),
        ({"labels": LABELS[:-1]}, "40 training features but 39 labels"),
        ({"labels": LABELS - 1}, "training labels run from -1 to 2, the classes from 0 to 3"),
        ({"num_classes": 3}, "from 0 to 3, the classes from 0 to 2"),
        ({"num_classes": 6}, "Class 4 has no training images; 2 of 6"),
        ({"labels": torch.zeros(40, dtype=torch.int64)}, "All training images are of one class"),
        ({"features": FEATURES[:0], "labels": LABELS[:0]}, "no training images"),
        ({"features": FEATURES[:4], "labels": LABELS[:4]}, "single image"),
        ({"validation": (FEATURES[:0], LABELS[:0])}, "no validation images"),
        ({"validation": (FEATURES[:, :5], LABELS)}, "differ in width"),
        ({"validation": (FEATURES, LABELS + 1)}, "validation labels run from 1 to 4"),
        ({"validation": (FEATURES * float("inf"), LABELS)}, "validation features are not finite"),
        ({"validation": (FEATURES[:1], LABELS[:1])}, "All validation images are of one class"),
    ],
    ids=str,
)
def test_mistakes(changed, words):
    given = {"features": FEATURES, "labels": LABELS, "num_classes": 4, **changed}
    with pytest.raises(UserError, match=words):
        fit_probe(**given, settings=QUICK)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"head": "mlp"}, "head 'mlp'"),
        ({"loss": "hinge"}, "loss 'hinge'"),
        ({"learning_rates": ()}, "must be positive"),
        ({"learning_rates": (0.0,)}, "must be positive"),
        ({"learning_rates": (float("nan"),)}, "must be positive"),
        ({"epochs": 0}, "one epoch"),
        ({"batch_size": 0}, "one image per batch"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"b": 0.5}, "b >= 1"),
    ],
    ids=str,
)
def test_settings_out_of_range(changed, words):
    with pytest.raises(UserError, match=words):
        ProbeSettings(**changed)
