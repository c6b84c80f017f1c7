"""Explanations: completeness for every family, equality with a literal frozen twin, and a model left as it was."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import aloe
from aloe.attribution.inherent import explain
from aloe.attribution.targets import TextTarget
from aloe.bcos.dynamic import is_explaining
from aloe.core.errors import UserError
from aloe.draw.explanations import over_white
from aloe.models.configuration import BcosViTConfig
from aloe.models.convert import bcosify
from aloe.models.modeling import BcosViTForImageClassification
from conftest import FAMILIES, build_teacher

NAMES = {0: "cat", 1: "dog", 2: "owl", 3: "newt", 4: "7 spot ladybird"}


def build_student(family="vit", stem="patch", dtype=torch.float64):
    """A student with a classifier, whose stem is scaled up so that pixels and not constants decide the outcome."""
    backbone = bcosify(build_teacher(family), stem=stem)
    backbone = getattr(backbone, "vit", backbone)
    config = BcosViTConfig.from_dict({**backbone.config.to_dict(), "id2label": NAMES, "logit_bias": -0.2})
    model = BcosViTForImageClassification(config)
    model.vit = backbone
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        model.classifier.weight.normal_(0, 5, generator=generator)
        model.vit.embeddings.patch_embedding.weight.mul_(30 if stem == "patch" else 100)
        if model.vit.pre_norm is not None:
            model.vit.pre_norm.weight.mul_(0.25)  # else the CLS token, which is constant, outweighs the pixels
    return model.to(dtype).eval()


def rand(*shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(scope="module")
def student():
    return build_student("dinov2-registers")


def target_of(kind, count):
    if kind == "class":
        return list(range(1, count + 1))
    if kind in ("prediction", "own direction"):
        return None
    direction = rand(count, 48, seed=3, dtype=torch.float32) - 0.5
    return direction if kind == "direction" else TextTarget(direction, scale=10.0, bias=-2.0)


@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize("family", FAMILIES)
def test_completeness_and_gradient_freeze(family, stem):
    """What is explained is the sum of its parts, and W(x) is the same when everything frozen is found in float64."""
    exact = build_student(family, stem, torch.float64)
    single = copy.deepcopy(exact).float()
    images = rand(2, 3, 32, 32, dtype=torch.float32)
    for kind in ("class", "prediction", "direction", "text", "own direction"):
        target = target_of(kind, 2)
        found = []
        for model, tolerance in ((exact, 1e-9), (single, 1e-4)):
            e = explain(model.vit if kind == "own direction" else model, images, target)
            pixels, size = e.contributions.sum((1, 2)), e.contributions.abs().sum((1, 2))
            assert (size > 0.05 * (size + e.residual.abs())).all(), "vacuous: pixels do not matter"
            assert (pixels.abs() > 0.01 * e.logit.abs()).any(), "vacuous: pixels cancel"
            assert (e.residual.abs() > 1e-3 * e.logit.abs()).all(), "vacuous: constants do not matter"
            assert (e.logit.abs() > 1e-3 * (size + e.residual.abs())).all(), f"the terms cancel: {kind}"
            assert ((e.logit - pixels - e.residual).abs() <= tolerance * e.logit.abs()).all(), (kind, tolerance)
            assert (e.completeness_error() <= tolerance).all()
            torch.testing.assert_close(e.contributions, (e.weights * six(images).to(e.weights)).sum(1))
            found.append(e.weights.double())
        assert (found[1] - found[0]).norm() < 1e-3 * found[0].norm()


def six(images):
    return torch.cat((images, 1 - images), 1)


class Tape:
    """Keeps the dynamic factors of one pass and plays them back in the next."""

    def __init__(self):
        self.kept, self.at = [], None

    def __call__(self, make):
        if self.at is None:
            self.kept.append(make())
            return self.kept[-1]
        self.at += 1
        return self.kept[self.at - 1]


def unit(x, w, tape):
    o = x @ w.T
    return o * tape(lambda: o.abs() / x.norm(dim=-1, keepdim=True) / w.norm(dim=-1))


def twin(model, x, tape, constants):
    """Logits, less their bias, of the network written out from its formulas; see `twin_tokens`."""
    return unit(twin_tokens(model, x, tape, constants)[:, 0], model.state_dict()["classifier.weight"], tape)


def twin_tokens(model, x, tape, constants):
    """Normed tokens, written out; with a played-back tape they are linear in (x, constants)."""
    p, config = model.state_dict(), model.config
    heads, prefix = config.num_attention_heads, config.num_prefix_tokens

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        inverse_std = tape(lambda: (centred.square().mean(-1, keepdim=True) + config.layer_norm_eps) ** -0.5)
        return centred * inverse_std * p[name]

    patch = config.patch_size
    rows = [
        x[:, :, i : i + patch, j : j + patch].reshape(len(x), -1)
        for i in range(0, x.shape[2], patch)
        for j in range(0, x.shape[3], patch)
    ]
    tokens = unit(torch.stack(rows, 1), p["vit.embeddings.patch_embedding.weight"].flatten(1), tape)
    h = torch.cat((tokens.new_zeros(len(x), prefix, tokens.shape[-1]), tokens), 1) + constants
    for i in range(config.num_hidden_layers):
        block = f"vit.layers.{i}."
        y = norm(h, block + "norm1.weight")
        q, k, v = (y @ w.T for w in p[block + "attention.qkv.weight"].chunk(3))
        mixed = []
        for a, b, c in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
            weights = tape(lambda a=a, b=b: torch.softmax(a @ b.transpose(1, 2) / a.shape[-1] ** 0.5, -1))
            mixed.append(weights @ c)
        h = h + unit(torch.cat(mixed, -1), p[block + "attention.out.weight"], tape) * p[block + "layer_scale1.weight"]
        up = unit(norm(h, block + "norm2.weight"), p[block + "mlp.up.weight"], tape)
        act = up * tape(lambda up=up: (1 + torch.erf(up / 2**0.5)) / 2)
        h = h + unit(act, p[block + "mlp.down.weight"], tape) * p[block + "layer_scale2.weight"]
    return norm(h, "vit.norm.weight")


def test_it_equals_a_literal_twin_row_by_row():
    """W(x) built from unit images through a frozen network that shares no code with the package."""
    config = BcosViTConfig(
        hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20, image_size=8, patch_size=4,
        num_register_tokens=2, layer_scale=True, num_labels=3, logit_bias=-0.7,
    )  # fmt: skip
    model = BcosViTForImageClassification(config).double().eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(generator=generator)
    p = model.state_dict()
    position = p["vit.embeddings.position_embeddings"]
    cls = p["vit.embeddings.cls_token"] + position[:, :1]
    constants = torch.cat((cls, p["vit.embeddings.register_tokens"], position[:, 1:]), 1)
    images = rand(1, 3, 8, 8)
    with torch.no_grad():
        tape = Tape()
        logits = twin(model, six(images), tape, constants)
        tape.at = 0
        w_of_x = twin(model, torch.eye(384).double().view(384, 6, 8, 8), tape, 0 * constants)
        tape.at = 0
        residual = twin(model, torch.zeros(1, 6, 8, 8).double(), tape, constants)[0]
    torch.testing.assert_close(model(images).logits, logits - 0.7)
    for k in range(3):
        e = explain(model, images, k)
        torch.testing.assert_close(e.weights[0], w_of_x[:, k].view(6, 8, 8), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(e.residual[0], residual[k] - 0.7)
        torch.testing.assert_close(e.logit[0], logits[0, k] - 0.7)


TARGETS = {
    "none": None,
    "index": 2,
    "name": "Newt",
    "indices": [0, 4, 2],
    "mixed": [0, "dog", 2],
    "long": torch.tensor([1, 1, 3]),
    "long-0-dim": torch.tensor(3),
    "direction": rand(48, seed=1) - 0.5,
    "directions": rand(3, 48, seed=1) - 0.5,
    "text": TextTarget(rand(48, seed=1) - 0.5, 10.0, -2.0),
    "texts": TextTarget(rand(3, 48, seed=1) - 0.5, 10.0, -2.0),
}


def one_of(target, i):
    if isinstance(target, TextTarget):
        return TextTarget(one_of(target.embedding, i), target.scale, target.bias)
    if isinstance(target, list):
        return target[i]
    per_image = isinstance(target, torch.Tensor) and (target.ndim == 2 or (target.ndim == 1 and len(target) == 3))
    return target[i] if per_image else target


def assert_same(a, b):
    for name, value in vars(a).items():
        torch.testing.assert_close(value, getattr(b, name), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", TARGETS)
def test_a_batch_equals_one_at_a_time_and_in_parts(student, name):
    images, target = rand(3, 3, 32, 32), TARGETS[name]
    whole = explain(student, images, target)
    assert_same(whole, explain(student, images, target, batch_size=2))
    for i in range(3):
        assert_same(
            type(whole)(*(v[i : i + 1] for v in vars(whole).values())), explain(student, images[i], one_of(target, i))
        )


def test_targets_explain_what_they_say(student):
    images = rand(3, 3, 32, 32)
    with torch.no_grad():
        out = student(images)
    logits, pooled = out.logits, out.pooler_output
    rows = torch.arange(3)
    expected = {
        "none": logits.amax(1),
        "index": logits[:, 2],
        "name": logits[:, 3],
        "indices": logits[rows, [0, 4, 2]],
        "mixed": logits[rows, [0, 1, 2]],
        "long": logits[rows, [1, 1, 3]],
        "long-0-dim": logits[:, 3],
        "direction": pooled @ TARGETS["direction"],
        "directions": (pooled * TARGETS["directions"]).sum(1),
        "text": 10 * torch.cosine_similarity(pooled, TARGETS["text"].embedding[None]) - 2,
        "texts": 10 * torch.cosine_similarity(pooled, TARGETS["texts"].embedding) - 2,
    }
    for name, value in expected.items():
        e = explain(student, images, TARGETS[name])
        torch.testing.assert_close(e.logit, value, msg=name)
        assert torch.equal(e.prediction, logits.argmax(1))
        torch.testing.assert_close(e.logits, logits)
    assert float(explain(student, images[:1], "7 spot ladybird").logit) == pytest.approx(float(logits[0, 4]))
    assert float(explain(student, images[:1], "4").logit) == pytest.approx(float(logits[0, 4]))
    torch.testing.assert_close(explain(student.vit, images).logit, pooled.norm(dim=1))


@pytest.fixture(scope="module")
def narrow():
    """D = 4, so that a batch can be as large as the model is wide."""
    config = BcosViTConfig(
        hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=8, patch_size=4
    )
    model = BcosViTForImageClassification(config).eval()
    for parameter in model.parameters():
        parameter.data.normal_(generator=torch.Generator().manual_seed(1))
    return model.vit


def test_a_direction_is_not_taken_for_a_batch_of_them(narrow):
    """B == D: (D,) is one direction for all, (B, D) is one each; (D, D) for another B is an error."""
    images, matrix = rand(4, 3, 8, 8, dtype=torch.float32), rand(4, 4, dtype=torch.float32)
    pooled = narrow(images).pooler_output
    for batch_size in (1, 3, 32):
        for wrap in (lambda d: d, TextTarget):
            single = explain(narrow, images, wrap(matrix[1]), batch_size=batch_size)
            each = explain(narrow, images, wrap(matrix), batch_size=batch_size)
            scale = pooled.norm(dim=1) * matrix.norm(dim=1) if wrap is TextTarget else 1
            one = pooled.norm(dim=1) * matrix[1].norm() if wrap is TextTarget else 1
            torch.testing.assert_close(single.logit, pooled @ matrix[1] / one)
            torch.testing.assert_close(each.logit, (pooled * matrix).sum(1) / scale)
    for wrap in (lambda d: d, TextTarget):
        for images_given in (images[:2], images[:3]):
            for batch_size in (1, 2, 32):
                with pytest.raises(UserError, match="4 targets were given for"):
                    explain(narrow, images_given, wrap(matrix), batch_size=batch_size)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_and_the_images_are_left_as_they_were(training):
    student = build_student("vit").train(training)
    student.vit.layers[0].train(not training)  # a mixed state is kept as well
    modes = [m.training for m in student.modules()]
    before = {n: p.clone() for n, p in student.state_dict().items()}
    images = rand(2, 3, 32, 32).requires_grad_()
    first, second = explain(student, images), explain(student, images)
    assert all(torch.equal(v, getattr(second, k)) for k, v in vars(first).items())
    with pytest.raises(UserError):
        explain(student, images, "unicorn")
    assert not is_explaining()
    assert [m.training for m in student.modules()] == modes
    assert images.grad is None
    assert all(p.grad is None and p.requires_grad for p in student.parameters())
    assert all(torch.equal(before[n], p) for n, p in student.state_dict().items())
    assert not any(v.requires_grad for v in vars(first).values())


def test_the_caller_s_gradient_mode_and_precision_do_not_matter(student):
    images = rand(2, 3, 32, 32)
    expected = explain(student, images)
    for context in (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)):
        with context:
            assert_same(explain(student, images), expected)
    with torch.inference_mode():
        made_inside = images.clone()
    assert_same(explain(student, made_inside), expected)


GOOD = rand(2, 3, 32, 32, dtype=torch.float32)
BAD = {
    "class out of range": (GOOD, 5, "Class 5 is out of range"),
    "negative class": (GOOD, -1, "Class -1 is out of range"),
    "unknown name": (GOOD, "unicorn", "no class 'unicorn'; the model knows cat, dog"),
    "class is a float": (GOOD, [0.5, 1.0], "A class is an index or a name, got 0.5"),
    "direction too wide": (GOOD, torch.rand(49), r"shape \(48,\) or \(2, 48\), got \(49,\)"),
    "direction a scalar": (GOOD, torch.tensor(0.5), r"got \(\)"),
    "text too wide": (GOOD, TextTarget(torch.rand(2, 49)), r"got \(2, 49\)"),
    "text a scalar": (GOOD, TextTarget(torch.tensor(1.0)), r"got \(\)"),
    "direction of three axes": (GOOD, torch.rand(2, 2, 48), r"got \(2, 2, 48\)"),
    "too many targets": (GOOD, [0, 1, 2], "3 targets were given for 2 images"),
    "too few targets": (GOOD, torch.tensor([1]), "1 targets were given for 2 images"),
    "no targets": (GOOD, [], "0 targets were given for 2 images"),
    "too many texts": (GOOD, TextTarget(torch.rand(3, 48)), "3 targets were given for 2 images"),
    "too many directions": (GOOD, torch.rand(48, 48), "48 targets were given for 2 images"),
    "normalised images": (GOOD * 4 - 2, 0, r"lie in \[0, 1\]"),
    "not a number": (GOOD * torch.nan, 0, r"lie in \[0, 1\]"),
    "integer images": ((GOOD * 255).long(), 0, "float"),
    "one channel": (GOOD[:, :1], 0, r"\(2, 1, 32, 32\)"),
    "an object": (object(), 0, "cannot be a object; give a float tensor"),
    "no images": (GOOD[:0], 0, "no images to explain"),
    "no pictures": ([], 0, "no images to explain"),
    "half a patch": (GOOD[..., :30], 0, "are not a whole number of 8-pixel patches"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_sentence(student, name):
    images, target, message = BAD[name]
    with pytest.raises(UserError, match=message) as caught:
        explain(student, images, target)
    assert "\n" not in str(caught.value)


def test_bad_models_and_batch_sizes(student):
    for size in (0, -1):
        with pytest.raises(UserError, match="batch_size must be at least 1"):
            explain(student, GOOD, batch_size=size)
    with pytest.raises(UserError, match="Linear is not a B-cos model"):
        explain(torch.nn.Linear(2, 2), GOOD)
    with pytest.raises(UserError, match="not a B-cos model"):
        explain(build_teacher("vit").model, GOOD)
    with pytest.raises(UserError, match="no classifier: give a direction"):
        explain(student.vit, GOOD, 1)


def test_pictures_are_resized_to_the_model(student):
    from PIL import Image

    array = (rand(70, 50, 3) * 255).byte().numpy()
    rgb, grey = Image.fromarray(array), Image.fromarray(array).convert("L")
    one, two = explain(student, rgb, 0), explain(student, [rgb, grey], 0)
    assert one.weights.shape == (1, 6, 32, 32)
    assert_same(explain(student, [rgb], 0), one)
    torch.testing.assert_close(two.logit[:1], one.logit)
    assert two.logit[1] != two.logit[0]


def test_odd_pictures_are_read_like_files(student):
    """16 bits are scaled, not clipped; a transparent picture lies on white; a turned camera is turned back."""
    from io import BytesIO

    from PIL import Image

    values = (rand(32, 32) * 65535).to(torch.int32).numpy()
    deep = Image.fromarray(values.astype("uint16"))
    grey = Image.fromarray(((values + 128) // 257).astype("uint8"))
    clear, white = Image.new("RGBA", (32, 32), (0, 0, 0, 0)), Image.new("RGB", (32, 32), "white")
    array = (rand(40, 50, 3) * 255).byte().numpy()
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(array[::-1, ::-1].copy()).save(file := BytesIO(), "PNG", exif=exif)
    for odd, plain in ((deep, grey), (clear, white), (Image.open(file), Image.fromarray(array))):
        assert_same(explain(student, odd, 0), explain(student, plain, 0))


def test_colour_explanations_have_the_shape_of_the_image(student):
    e = explain(student, rand(2, 3, 24, 40))
    rgba = e.to_rgba()
    assert (len(e), rgba.shape, rgba.dtype) == (2, (2, 24, 40, 4), torch.uint8)
    assert rgba[..., 3].any()
    pictures = e.to_pil(smooth=3)
    assert [(p.mode, p.size) for p in pictures] == [("RGBA", (40, 24))] * 2


def test_an_explanation_prints_in_one_line():
    model = aloe.bcosify(build_teacher("vit-classifier")).eval()
    for found in (aloe.explain(model, GOOD), aloe.attribute(model, GOOD, method="legrad")):
        assert "images of 32 x 32 pixels" in repr(found)
        assert "tensor" not in repr(found)
        assert "\n" not in repr(found)


def test_pictures_over_a_colour_are_the_composite(tmp_path):
    model = aloe.bcosify(build_teacher("vit-classifier")).eval()
    explanation = aloe.explain(model, GOOD)
    picture = explanation.to_pil(background="white")[0]
    assert picture.mode == "RGB"
    picture.save(tmp_path / "why.jpg")
    expected = over_white(explanation.to_rgba())[0].int()
    found = torch.from_numpy(np.array(picture)).int()
    assert (found - expected).abs().max() <= 1  # rounding
    assert explanation.to_pil()[0].mode == "RGBA"


@pytest.mark.parametrize(
    ("smooth", "background", "words"),
    [
        (None, "nocolour", "^There is no colour 'nocolour'.*; give a name such as white, or #204060"),
        (None, "wite", "did you mean white"),
        (None, 2.5, "^There is no colour 2.5"),
        (2.5, None, "^smooth is a whole number of pixels, at most 16384, got 2.5"),
        ("white", None, "^smooth is a whole number of pixels"),
        (-1, None, "^smooth is a whole number of pixels"),
        (True, None, "^smooth is a whole number of pixels"),
    ],
)
def test_what_a_picture_cannot_be_made_with_is_one_sentence(student, smooth, background, words):
    explanation = explain(student, rand(1, 3, 16, 16))
    with pytest.raises(UserError, match=words):
        explanation.to_pil(smooth, background=background)
    assert explanation.to_pil(np.int64(3), background="#204060")[0].mode == "RGB"
