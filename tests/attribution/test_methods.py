"""Every attribution method on every family: right shapes and values, batches, a model left as it was, costs, clear errors."""

from __future__ import annotations

import functools
import sys

import numpy as np
import pytest
import torch
import transformers as hf
from torch import nn

from aloe.attribution.methods import METHODS, attribute, find_method, find_methods, unsupported
from aloe.attribution.presets import preset_options
from aloe.attribution.targets import TextTarget
from aloe.core.errors import UserError
from aloe.models.convert import bcosify
from aloe.models.teachers import Teacher
from conftest import FAMILIES, VISION, build_teacher

TINY = {"intgrad": {"steps": 3, "internal_batch_size": 4}, "lime": {"samples": 5, "segments": 2}}
EXPLAINED = [("teacher", m) for m in METHODS if m != "inherent"] + [("student", m) for m in METHODS]


@functools.cache
def model_of(family, kind):
    teacher = build_teacher(family)
    if kind == "teacher":
        return teacher
    student = bcosify(teacher).eval()
    student.config.logit_bias = -0.7
    return student


def maps_of(model, images, target, method, **options):
    return attribute(model, images, target, method, **{**TINY.get(method, {}), **options})


def own_outputs(model, images):
    with torch.no_grad():
        out = model(images)
    return out.pooled if isinstance(model, Teacher) else out.pooler_output, getattr(out, "logits", None)


@pytest.mark.parametrize(("kind", "method"), EXPLAINED)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_on_every_family(family, kind, method, images):
    model = model_of(family, kind)
    pooled, logits = own_outputs(model, images)
    value = pooled.norm(dim=-1) if logits is None else logits.amax(-1)
    shape = (3, 32, 32) if METHODS[method].granularity == "pixel" else (3, 4, 4)
    found = maps_of(model, images, None, method)
    torch.testing.assert_close(found.value, value, rtol=1e-4, atol=1e-5)
    assert found.maps.abs().amax((1, 2)).min() > 0, "vacuous: an empty map"
    with torch.autocast("cpu", torch.bfloat16):
        low = maps_of(model, images, None, method)
    torch.testing.assert_close(low.value, value, rtol=0.1, atol=0.1)
    for a in (found, low):
        assert a.maps.shape == shape
        assert a.pixels().shape == (3, 32, 32)
        assert a.maps.dtype == a.value.dtype == torch.float32
        assert a.maps.isfinite().all()
        assert not a.maps.requires_grad
        assert not a.value.requires_grad
        assert (len(a), a.method, a.size) == (3, method, (32, 32))


@pytest.mark.parametrize(("kind", "method"), EXPLAINED)
def test_other_sizes_and_rectangles(kind, method):
    images = torch.rand(2, 3, 16, 40, generator=torch.Generator().manual_seed(0))
    for family in ("vit", "dinov2", "dinov3", "siglip", "siglip2"):
        found = maps_of(model_of(family, kind), images, None, method)
        assert found.maps.shape == ((2, 16, 40) if METHODS[method].granularity == "pixel" else (2, 2, 5)), family
        assert found.pixels().shape == (2, 16, 40)


def test_a_teacher_whose_native_size_is_no_whole_number_of_patches():
    """SigLIP's 384 pixels in patches of 14: the last rows are not seen, and that is the size it is used at."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = Teacher(hf.SiglipVisionModel(hf.SiglipVisionConfig(**{**VISION, "image_size": 36})))
    images = torch.rand(2, 3, 36, 36, generator=torch.Generator().manual_seed(0))
    pixel, token = attribute(teacher, images, None, "attnlrp"), attribute(teacher, images, None, "legrad")
    assert (pixel.maps.shape, token.maps.shape, token.pixels().shape) == ((2, 36, 36), (2, 4, 4), (2, 36, 36))
    assert pixel.maps[:, :32, :32].abs().min() > 0
    assert not pixel.maps[:, 32:].any()
    with pytest.raises(UserError, match="44x44 are not a whole number of 8-pixel patches"):
        attribute(teacher, torch.rand(1, 3, 44, 44), None, "legrad")


def direction(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


TARGETS = {
    "ints": torch.tensor([4, 0, 2]),
    "names": ["LABEL_1", "label_3", "LABEL_0"],
    "directions": direction(3, 48),
    "text": TextTarget(direction(48), scale=10.0, bias=-2.0),
    "texts": TextTarget(direction(3, 48), scale=10.0, bias=-2.0),
    "prediction": None,
}


def one_of(target, i):
    if isinstance(target, TextTarget):
        return TextTarget(one_of(target.embedding, i), target.scale, target.bias)
    many = isinstance(target, list) or (isinstance(target, torch.Tensor) and len(target) == 3)
    return target[i] if many else target


def expected_value(model, images, target):
    pooled, logits = own_outputs(model, images)
    if isinstance(target, TextTarget):
        return target.scale * torch.cosine_similarity(pooled, target.embedding.expand(3, -1)) + target.bias
    if isinstance(target, torch.Tensor) and target.is_floating_point():
        return (pooled * target).sum(-1)
    if target is None:
        return pooled.norm(dim=-1) if logits is None else logits.amax(-1)
    return logits[range(3), [int(str(int(t) if isinstance(t, torch.Tensor) else t)[-1]) for t in target]]


def assert_same_maps(a, b):
    for x, y in ((a.maps, b.maps), (a.value[:, None, None], b.value[:, None, None])):
        assert ((x - y).flatten(1).norm(dim=1) <= 1e-4 * y.flatten(1).norm(dim=1)).all(), (x - y).abs().max()


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(("kind", "method"), EXPLAINED)
def test_a_batch_equals_one_at_a_time(kind, method, name, images):
    target = TARGETS[name]
    for family in ("vit-classifier", "siglip"):
        if family == "siglip" and name in ("ints", "names", "text"):
            continue
        model = model_of(family, kind)
        whole = maps_of(model, images, target, method)
        torch.testing.assert_close(whole.value, expected_value(model, images, target), rtol=1e-4, atol=1e-5)
        assert_same_maps(maps_of(model, images, target, method, batch_size=2), whole)
        for i in (0, 2):
            alone = maps_of(model, images[i], one_of(target, i), method)
            assert_same_maps(alone, type(whole)(**{**vars(whole), "maps": whole.maps[[i]], "value": whole.value[[i]]}))


def test_a_direction_that_asks_for_a_gradient_is_a_constant(images):
    """As a text embedding is that was made without no_grad."""
    text = direction(48).requires_grad_()
    for method in ("attnlrp", "chefercam", "inputxgrad", "inherent"):
        for target in (text, TextTarget(text)):
            expected = maps_of(
                model_of("siglip", "student"),
                images,
                direction(48) if target is text else TextTarget(direction(48)),
                method,
            )
            torch.testing.assert_close(
                maps_of(model_of("siglip", "student"), images, target, method).maps, expected.maps
            )
    assert text.grad is None


@pytest.mark.parametrize(("kind", "method"), EXPLAINED)
def test_only_rollout_ignores_the_target(kind, method, images):
    a, b = (maps_of(model_of("vit-classifier", kind), images, t, method).maps for t in (0, 1))
    assert torch.equal(a, b) == (method == "rollout")


@pytest.mark.parametrize(("kind", "method"), EXPLAINED)
def test_the_caller_s_modes_do_not_matter(kind, method, images):
    model = model_of("siglip", kind)
    expected = maps_of(model, images, None, method)
    with torch.no_grad():
        assert torch.equal(maps_of(model, images, None, method).maps, expected.maps)
    with torch.inference_mode():
        assert torch.equal(maps_of(model, images.clone(), None, method).maps, expected.maps)
    watched = images.clone().requires_grad_()
    assert torch.equal(maps_of(model, watched, None, method).maps, expected.maps)
    assert watched.grad is None


COSTS = {
    "inherent": ({}, 1, 1),
    "attnlrp": ({}, 1, 1),
    "intgrad": ({"steps": 4, "internal_batch_size": 7}, 5, 4),
    "legrad": ({"layers": 3}, 1, 3),
    "chefercam": ({}, 1, 1),
    "lime": ({"samples": 7, "internal_batch_size": 3}, 8, 0),
    "inputxgrad": ({}, 1, 1),
    "rollout": ({}, 1, 0),
    "random": ({}, 1, 0),
}


@pytest.mark.parametrize(("kind", "method"), EXPLAINED)
def test_costs_are_the_passes_that_took_place(kind, method, images):
    model = model_of("vit-classifier", kind)
    last = (model.blocks if kind == "teacher" else model.base_model.layers)[-1]
    passed = {"forward": 0, "backward": 0}

    def count(_module, _inputs, output):
        passed["forward"] += len(output := output[0] if isinstance(output, tuple) else output)
        if output.requires_grad:
            output.register_hook(lambda g: passed.__setitem__("backward", passed["backward"] + len(g)))

    options, forward, backward = COSTS[method]
    handle = last.register_forward_hook(count)
    try:
        cost = attribute(model, images, 1, method, batch_size=2, **options).cost
    finally:
        handle.remove()
    assert (cost.forward, cost.backward) == (forward, backward)
    assert passed["forward"] == 3 * forward
    if method != "legrad":  # whose passes run back through one block each, and so through the last one once
        assert passed["backward"] == 3 * backward
    assert cost.seconds > 0
    assert cost.peak_bytes is None


def test_progress_and_options_are_reported(images):
    done = []
    found = attribute(
        model_of("vit", "teacher"), images, None, "legrad", batch_size=2, progress=done.append, layers=None
    )
    assert done == [2, 3]
    assert found.options == {"layers": None}
    assert found.granularity == "token"


def test_the_random_map_belongs_to_the_image_and_the_seed(images):
    model = model_of("vit", "teacher")
    a, again, b = (attribute(model, images, None, "random", seed=s).maps for s in (1, 1, 2))
    assert torch.equal(a, again)
    assert not torch.equal(a, b)
    assert not torch.equal(a[0], a[1])
    assert torch.equal(attribute(model, images.flip(0), None, "random", seed=1).maps, a.flip(0))


def test_input_x_gradient_is_what_it_says(images):
    for kind in ("teacher", "student"):
        model = model_of("vit-classifier", kind)
        found = attribute(model, images, 2, "inputxgrad").maps
        x = model.normalize(images) if kind == "teacher" else torch.cat((images, 1 - images), 1)
        x.requires_grad_()
        logits = model.model(x).logits if kind == "teacher" else model(x).logits
        (gradient,) = torch.autograd.grad(logits[:, 2].sum(), x)
        torch.testing.assert_close(found, (x * gradient).sum(1).detach())


def test_methods_are_listed_in_the_order_of_the_tables():
    order = ["inherent", "attnlrp", "intgrad", "legrad", "chefercam", "lime", "inputxgrad", "rollout", "random"]
    assert list(METHODS) == order
    assert [m.key for m in find_methods(["lime", "attnlrp", "lime"])] == ["attnlrp", "lime"]
    assert [m.key for m in find_methods(["lime", "all"])] == order
    assert find_method("rollout").title == "Attention rollout"
    assert unsupported(model_of("vit", "student"), "inherent") is None


GOOD = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(7))
BAD = {
    "unknown method": (
        GOOD,
        0,
        "gradcam",
        {},
        "no attribution method 'gradcam'.*; methods: inherent, attnlrp, .*random",
    ),
    "unknown option": (
        GOOD,
        0,
        "attnlrp",
        {"gama": 1},
        "AttnLRP has no option 'gama'; it takes variant, gamma, conv_gamma",
    ),
    "no options": (GOOD, 0, "rollout", {"layers": 1}, "Attention rollout has no option 'layers'; it takes none"),
    "inherent on a teacher": (GOOD, 0, "inherent", {}, r"W\(x\)x: vit-classifier is a teacher, .* no W\(x\)x"),
    "class out of range": (GOOD, 5, "attnlrp", {}, r"Class 5 is out of range; the model has 5 classes"),
    "negative class": (GOOD, -1, "legrad", {}, "Class -1 is out of range"),
    "unknown name": (GOOD, "unicorn", "chefercam", {}, "no class 'unicorn'; the model knows label_0"),
    "too many targets": (GOOD, [0, 1, 2], "inputxgrad", {}, "3 targets were given for 2 images"),
    "too few texts": (GOOD, TextTarget(torch.rand(1, 48)), "rollout", {}, "1 targets were given for 2 images"),
    "wide direction": (GOOD, torch.rand(49), "attnlrp", {}, r"got \(49,\)"),
    "normalised images": (GOOD * 4 - 2, 0, "attnlrp", {}, r"lie in \[0, 1\]"),
    "not a number": (GOOD * torch.nan, 0, "attnlrp", {}, r"lie in \[0, 1\]"),
    "grey images": (GOOD[:, :1], 0, "attnlrp", {}, r"\(2, 1, 32, 32\)"),
    "half a patch": (GOOD[..., :30], 0, "attnlrp", {}, "32x30 are not a whole number of 8-pixel patches"),
    "no pixels": (GOOD[..., :0], 0, "attnlrp", {}, "32x0 are not a whole number"),
    "no images": (GOOD[:0], 0, "attnlrp", {}, "no images to explain"),
    "no pictures": ([], 0, "attnlrp", {}, "no images to explain"),
    "batch of 0": (GOOD, 0, "attnlrp", {"batch_size": 0}, r"batch_size must be at least 1 .*got 0"),
    "batch of -1": (GOOD, 0, "attnlrp", {"batch_size": -1}, r"batch_size must be at least 1 .*got -1"),
    "no layers": (GOOD, 0, "legrad", {"layers": 0}, "layers: input should be greater than or equal to 1"),
    "too many layers": (GOOD, 0, "legrad", {"layers": 4}, "1 to 3 of this model's blocks, got 4"),
    "unknown pool": (GOOD, 0, "legrad", {"pool": "max"}, "mean of all tokens or.*cls token; got 'max'"),
    "unknown variant": (GOOD, 0, "attnlrp", {"variant": "half"}, "variant full or cp"),
    "negative gamma": (GOOD, 0, "attnlrp", {"gamma": -1.0}, "gamma: input should be greater than or equal to 0"),
    "gamma not a number": (
        GOOD,
        0,
        "attnlrp",
        {"conv_gamma": float("nan")},
        "conv_gamma: input should be a finite number",
    ),
    "a word for a number": (GOOD, 0, "legrad", {"layers": "last"}, r"LeGrad, layers: .*integer.* \(got 'last'\)"),
    "a gamma in words": (GOOD, 0, "attnlrp", {"gamma": "some"}, r"AttnLRP, gamma: .*number.* \(got 'some'\)"),
    "half a sample": (GOOD, 0, "lime", {"samples": 2.5}, r"LIME, samples: .*integer.* \(got 2.5\)"),
    "no steps": (GOOD, 0, "intgrad", {"steps": 0}, "steps: input should be greater than or equal to 1"),
    "unknown baseline": (GOOD, 0, "intgrad", {"baseline": "blur"}, "baseline zero or black"),
    "one sample": (GOOD, 0, "lime", {"samples": 1}, "at least 2 samples"),
    "no segments": (GOOD, 0, "lime", {"segments": 0}, "segments: input should be greater than or equal to 1"),
    "negative alpha": (GOOD, 0, "lime", {"alpha": -1.0}, "alpha: input should be greater than or equal to 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_sentence(name):
    images, target, method, options, message = BAD[name]
    with pytest.raises(UserError, match=message) as caught:
        attribute(model_of("vit-classifier", "teacher"), images, target, method, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", METHODS)
def test_models_that_cannot_be_explained(method):
    for model in (nn.Linear(2, 2), nn.Identity(), build_teacher("vit").model):
        with pytest.raises(UserError, match=f"{type(model).__name__} is neither a teacher .* nor a student"):
            attribute(model, GOOD, None, method)


def test_targets_and_options_that_a_model_has_not():
    for kind in ("teacher", "student"):
        for method in ("attnlrp", "legrad", "chefercam", "rollout", "random"):
            with pytest.raises(UserError, match="no classifier: give a direction"):
                attribute(model_of("siglip", kind), GOOD, 1, method)
        with pytest.raises(UserError, match="cls token; got 'cls'"):
            attribute(model_of("siglip", kind), GOOD, None, "legrad", pool="cls")
    with pytest.raises(UserError, match="gamma rule is for plain linear layers"):
        attribute(model_of("vit", "student"), GOOD, None, "attnlrp", gamma=0.1)
    with pytest.raises(UserError, match="gamma rule is for plain linear layers"):
        attribute(model_of("vit", "student"), GOOD, None, "attnlrp", conv_gamma=0.1)


def test_an_activation_without_a_rule_is_refused_by_name():
    """Written out as a product of two paths, it would silently be halved as one."""
    teacher = Teacher(hf.ViTModel(hf.ViTConfig(**VISION, hidden_act="gelu_new"), add_pooling_layer=False), name="odd")
    with pytest.raises(UserError, match="AttnLRP: it has no rule for odd's activation gelu_new; it knows gelu, "):
        attribute(teacher, GOOD, None, "attnlrp")
    assert unsupported(teacher, "legrad") is None


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    for name in [m for m in sys.modules if m.startswith("sklearn.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match=r"LIME needs scikit-learn: pip install 'aloe-vit\[attribution\]'") as caught:
        attribute(model_of("vit", "teacher"), GOOD, None, "lime")
    assert "\n" not in str(caught.value)
    attribute(model_of("vit", "teacher"), GOOD, None, "intgrad", steps=2)


def test_the_papers_preset_is_the_authors_settings_and_given_options_go_before_it():
    teacher, student = (model_of("vit-classifier", kind) for kind in ("teacher", "student"))
    by_name = {
        "attnlrp": {"variant": "cp", "gamma": 0, "conv_gamma": 0},
        "intgrad": {"steps": 50, "baseline": "zero"},
        "legrad": {"layers": 1},
        "lime": {"samples": 500, "square": 16, "regression": "lasso", "alpha": 0.01},
    }
    for key, options in by_name.items():
        for model in (teacher, student):
            found = attribute(model, GOOD[:1], 1, key, preset="paper")
            torch.testing.assert_close(found.maps, attribute(model, GOOD[:1], 1, key, **options).maps)
            resolved = METHODS[key].resolved(preset_options("paper", key), model)
            assert resolved.items() >= options.items()
        assert (attribute(teacher, GOOD[:1], 1, key, **TINY.get(key, {})).maps != found.maps).any()
    two = attribute(teacher, GOOD[:1], 1, "legrad", preset="paper", layers=2)
    assert two.options == {"layers": 2, "pool": "mean"}
    for key in ("inherent", "chefercam", "rollout", "inputxgrad", "random"):
        assert preset_options("paper", key) == preset_options("best", key) == {}
    with pytest.raises(UserError, match=r"no preset 'papers', did you mean paper.*best, paper"):
        attribute(teacher, GOOD[:1], 1, "legrad", preset="papers")


def test_on_a_student_the_papers_attnlrp_is_its_own_explanation():
    student = model_of("vit-classifier", "student")
    lrp = attribute(student, GOOD, [0, 1, 2][: len(GOOD)], "attnlrp", preset="paper").maps
    own = attribute(student, GOOD, [0, 1, 2][: len(GOOD)], "inherent").maps
    torch.testing.assert_close(lrp, own, rtol=1e-4, atol=1e-7)


def test_targets_in_a_numpy_array():
    student = model_of("vit-classifier", "student")
    for method in ("inherent", "legrad"):
        by_array = attribute(student, GOOD, np.array([3, 0, 4])[: len(GOOD)], method, batch_size=2)
        by_tensor = attribute(student, GOOD, torch.tensor([3, 0, 4])[: len(GOOD)], method)
        torch.testing.assert_close(by_array.value, by_tensor.value)
