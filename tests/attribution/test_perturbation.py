"""Integrated Gradients is complete; LIME finds the weights of a model that is linear in the presence of segments."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from aloe.attribution.methods import attribute
from aloe.attribution.perturbation import integrated_gradients, lime
from aloe.attribution.subject import Outputs, Subject, opened
from aloe.attribution.targets import TextTarget
from aloe.core.errors import UserError
from aloe.models.convert import bcosify
from conftest import build_teacher

captum = pytest.importorskip("captum.attr")
pytest.importorskip("sklearn")

FEW = ("dinov3-swiglu", "siglip")


def models_of(family):
    teacher = build_teacher(family)
    return {"teacher": teacher, "student": bcosify(teacher).eval()}


def value_at(subject, inputs, target):
    with torch.no_grad():
        return subject.value(subject.run(inputs), target)


@pytest.mark.parametrize("baseline", ["zero", "black"])
@pytest.mark.parametrize("kind", ["teacher", "student"])
@pytest.mark.parametrize("family", FEW)
def test_integrated_gradients_are_complete(family, kind, baseline, images):
    """Their sum is f(x) - f(baseline), per image, and captum's own convergence delta is as small."""
    model = models_of(family)[kind]
    target = torch.randn(3, 48, generator=torch.Generator().manual_seed(1))
    # where a student's tokens vanish with the pixels, for want of learned positions, LayerNorm is steep
    steps = 512 if (family, kind, baseline) == ("dinov3-swiglu", "student", "zero") else 64
    with opened(model) as subject:
        maps, value = integrated_gradients(subject, images, target, steps=steps, baseline=baseline)
        inputs = subject.prepare(images)
        start = torch.zeros_like(inputs) if baseline == "zero" else subject.prepare(torch.zeros_like(images))
        gap = value_at(subject, inputs, target) - value_at(subject, start, target)
        torch.testing.assert_close(value, value_at(subject, inputs, target))
        reference = captum.IntegratedGradients(lambda x, d: subject.value(subject.run(x), d))
        found, delta = reference.attribute(
            inputs,
            start,
            additional_forward_args=target,
            n_steps=steps,
            internal_batch_size=100,
            return_convergence_delta=True,
        )
    error = 3e-4 * maps.abs().sum((1, 2))
    assert (gap.abs() > error).all(), "vacuous: nothing to attribute"
    assert ((maps.sum((1, 2)) - gap).abs() <= error).all(), (maps.sum((1, 2)), gap)
    assert (delta.abs() <= error).all()
    torch.testing.assert_close(maps, found.detach().sum(1).float(), rtol=1e-3, atol=1e-5)


def test_the_two_baselines_and_steps_differ(images):
    teacher = build_teacher("vit-classifier")
    maps = [attribute(teacher, images, 1, "intgrad", steps=s, baseline=b).maps for s, b in ((8, "zero"), (8, "black"))]
    assert (maps[0] - maps[1]).norm() > 1e-2 * maps[0].norm()
    few = attribute(teacher, images, 1, "intgrad", steps=1).maps
    assert (maps[0] - few).norm() > 1e-2 * maps[0].norm()


@pytest.mark.parametrize("size", [None, 1, 4, 1000])
def test_images_per_pass_do_not_change_integrated_gradients(size, images):
    student = models_of("vit-classifier")["student"]
    expected = attribute(student, images, [0, 1, 2], "intgrad", steps=5).maps
    found = attribute(student, images, [0, 1, 2], "intgrad", steps=5, internal_batch_size=size)
    torch.testing.assert_close(found.maps, expected, rtol=1e-4, atol=1e-6)
    assert (found.cost.forward, found.cost.backward) == (6, 5)


class Presence(Subject):
    """Linear in which of 3 x 3 segments are there: the pooled output's two entries are sums of the segments' weights."""

    def __init__(self, weights, scale=1.0):
        super().__init__(nn.Linear(1, 1))
        self.weights, self.scale = weights, scale
        self.config = SimpleNamespace(model_type="presence")
        self.largest = 0

    def prepare(self, images):
        return images

    def run(self, inputs):
        self.largest = max(self.largest, len(inputs))
        there = (nn.functional.max_pool2d(inputs.abs().sum(1, keepdim=True), 4)[:, 0] > 0).float().flatten(1)
        return Outputs(self.scale * there @ self.weights.T + 0.3, None)


WEIGHTS = torch.tensor(
    [[3.0, -1.0, 0.5, 2.0, 0.0, -2.0, 1.0, -0.5, 4.0], [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]]
)
AXES = torch.eye(2)


@pytest.fixture
def patches():
    return torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0)) + 0.1


def by_segment(maps):
    """(B, 9), after making sure that every segment has one value."""
    blocks = maps.unflatten(2, (3, 4)).unflatten(1, (3, 4))
    assert torch.equal(blocks.amax((2, 4)), blocks.amin((2, 4)))
    return blocks.amax((2, 4)).flatten(1)


def test_lime_finds_the_weights_of_a_linear_model(patches):
    exact, value = lime(Presence(WEIGHTS), patches, AXES, samples=100, segments=3, alpha=0.0)
    torch.testing.assert_close(by_segment(exact), WEIGHTS, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(value, WEIGHTS.sum(1) + 0.3)
    ridge, _ = lime(Presence(WEIGHTS), patches, AXES, samples=400, segments=3)
    assert torch.equal(by_segment(ridge)[0].argsort(), WEIGHTS[0].argsort()), "segments are not in order"
    assert int(by_segment(ridge)[1].argmax()) == 4
    assert (by_segment(ridge) - WEIGHTS).abs().max() < 0.2


def test_lime_does_not_depend_on_the_scale_of_the_logits(patches):
    one, _ = lime(Presence(WEIGHTS), patches, AXES, samples=60, segments=3)
    small, _ = lime(Presence(WEIGHTS, 1e-3), patches, AXES, samples=60, segments=3)
    torch.testing.assert_close(small * 1000, one, rtol=1e-3, atol=1e-3)
    for method, options in (("lime", {"samples": 10, "segments": 2}), ("intgrad", {"steps": 4})):
        for model in models_of("dinov3-swiglu").values():
            direction = torch.randn(48, generator=torch.Generator().manual_seed(2))
            image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
            a, b = (attribute(model, image, s * direction, method, **options).maps for s in (1.0, 50.0))
            assert (b - 50 * a).norm() < 1e-2 * b.norm()


@pytest.mark.parametrize("size", [0, 1, 7, 1000])
def test_lime_is_evaluated_in_parts(size, patches):
    subject = Presence(WEIGHTS)
    found, _ = lime(subject, patches, AXES, samples=20, segments=3, internal_batch_size=size)
    expected, _ = lime(Presence(WEIGHTS), patches, AXES, samples=20, segments=3)
    torch.testing.assert_close(found, expected)
    torch.manual_seed(0)
    distinct = len(torch.stack([torch.bernoulli(torch.full((9,), 0.5)) for _ in range(20)]).unique(dim=0))
    assert distinct < 20, "vacuous: no sample twice"
    assert subject.largest == max(len(patches), min(max(size, 1), distinct))
    assert (subject.forwards, subject.backwards) == (2 * (1 + distinct), 0)


@pytest.mark.parametrize("kind", ["teacher", "student"])
@pytest.mark.parametrize(
    ("regression", "alpha", "layout"),
    [("lasso", None, {"square": 16}), ("lasso", 1e-5, {"square": 12}), ("ridge", None, {"segments": 3})],
)
def test_lime_is_captums(kind, regression, alpha, layout, images):
    """Samples, weights and the fit, with captum's default regression and with the ridge; 12 px leave a narrow last square."""
    from captum._utils.models.linear_model import SkLearnRidge

    model = models_of("vit-classifier")[kind]
    options = {"samples": 60, "regression": regression, "alpha": alpha, "seed": 5, **layout}
    found = attribute(model, images, [0, 1, 2], "lime", **options).maps
    rows = torch.arange(32) // layout["square"] if "square" in layout else torch.arange(32) * 3 // 32
    mask = rows[:, None] * (int(rows.max()) + 1) + rows
    fit = SkLearnRidge(alpha=1.0) if regression == "ridge" else None
    if alpha is not None:
        from captum._utils.models.linear_model import SkLearnLasso

        fit = SkLearnLasso(alpha=alpha)
    with opened(model) as subject, torch.random.fork_rng(), torch.no_grad():
        inputs = subject.prepare(images)
        for i in range(3):
            torch.manual_seed(5)
            theirs = captum.Lime(lambda x, i=i: subject.run(x).logits[:, i], interpretable_model=fit).attribute(
                inputs[i : i + 1], feature_mask=mask[None, None], n_samples=60, perturbations_per_eval=7
            )
            torch.testing.assert_close(found[i], theirs[0, 0].float(), rtol=1e-3, atol=2e-6)
    # the logits of a student that is not trained are so small that captum's alpha leaves nothing of them
    small = (kind, regression, alpha) == ("student", "lasso", None)
    assert bool((found != 0).flatten(1).any(1).all()) != small, "vacuous: no segment matters"


@pytest.mark.parametrize("method", ["lime", "intgrad"])
@pytest.mark.parametrize("family", ["vit-classifier", "siglip"])
def test_targets_of_one_image_share_its_passes(method, family, images):
    """Equal images in a row have the maps that each has alone, for the forward passes of one."""
    options = {"lime": {"samples": 12, "segments": 3}, "intgrad": {"steps": 5}}[method]
    for model in models_of(family).values():
        if family == "siglip":
            targets = torch.randn(5, 48, generator=torch.Generator().manual_seed(3))
        else:
            targets = torch.tensor([0, 1, 2, 2, 0])
        of = torch.tensor([0, 0, 0, 1, 2])
        found = attribute(model, images[of], targets, method, **options)
        for i, image in enumerate(of.tolist()):
            alone = attribute(model, images[image], targets[i : i + 1], method, **options)
            torch.testing.assert_close(found.maps[i], alone.maps[0], rtol=1e-3, atol=1e-5)
            torch.testing.assert_close(found.value[i], alone.value[0])
        assert found.cost.forward * 5 == 5 + 3 * (alone.cost.forward - 1)
        assert found.cost.backward == alone.cost.backward


def test_lime_on_one_segment_and_on_an_empty_input(patches):
    """Neither divides by zero: one segment that is always there, and an image without any energy."""
    whole, _ = lime(Presence(WEIGHTS), patches, AXES, samples=8, square=100)
    assert whole.shape == (2, 12, 12)
    assert whole.isfinite().all()
    empty, _ = lime(Presence(WEIGHTS), torch.zeros(1, 3, 12, 12), AXES[:1], samples=8, segments=3)
    assert (empty == 0).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"samples": 1}, "at least 2 samples"),
        ({"regression": "linear"}, "no regression 'linear'; it takes ridge or lasso"),
    ],
)
def test_bad_limes(options, sentence, patches):
    with pytest.raises(UserError, match=sentence):
        lime(Presence(WEIGHTS), patches, AXES, **options)


@pytest.mark.parametrize("target", [1, "LABEL_1", [1, 1, 1], torch.tensor(1), torch.tensor([1, 1, 1])])
@pytest.mark.parametrize("method", ["lime", "intgrad"])
def test_every_form_of_a_class(method, target, images):
    options = {"lime": {"samples": 6, "segments": 2}, "intgrad": {"steps": 3}}[method]
    teacher = build_teacher("vit-classifier")
    expected = attribute(teacher, images, ["LABEL_1", 1, "label_1"], method, **options)
    found = attribute(teacher, images, target, method, **options)
    torch.testing.assert_close(found.maps, expected.maps)
    torch.testing.assert_close(found.value, teacher(images).logits[:, 1])


@pytest.mark.parametrize("method", ["lime", "intgrad"])
def test_every_image_has_its_own_text(method, images):
    options = {"lime": {"samples": 6, "segments": 2}, "intgrad": {"steps": 3}}[method]
    teacher = build_teacher("siglip")
    texts = torch.randn(3, 48, generator=torch.Generator().manual_seed(1))
    found = attribute(teacher, images, TextTarget(texts, 10.0), method, **options).maps
    for i in range(3):
        alone = attribute(teacher, images[i], TextTarget(texts[i], 10.0), method, **options).maps
        torch.testing.assert_close(found[i], alone[0], rtol=1e-3, atol=1e-5)


def test_lime_is_the_seed_s_and_no_one_else_s(patches):
    subject = Presence(WEIGHTS)
    before = torch.get_rng_state()
    first, _ = lime(subject, patches, AXES, samples=12, segments=3, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    again, _ = lime(subject, patches, AXES, samples=12, segments=3, seed=1)
    other, _ = lime(subject, patches, AXES, samples=12, segments=3, seed=2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("size", "segments", "rows", "columns"), [((16, 24), 3, 3, 3), ((8, 40), 100, 8, 40)])
def test_segments_fit_any_image(size, segments, rows, columns):
    """As even as they can be, and never more than there are pixels."""
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    found = attribute(
        build_teacher("dinov2"), image, None, "lime", samples=64, segments=segments, internal_batch_size=64
    )
    for axis, count in ((1, rows), (2, columns)):
        changes = found.maps.diff(dim=axis).abs().amax((0, 3 - axis)) > 0
        widths = torch.tensor([0, *(changes.nonzero()[:, 0] + 1).tolist(), size[axis - 1]]).diff()
        assert len(widths) == count
        assert widths.max() - widths.min() <= 1
