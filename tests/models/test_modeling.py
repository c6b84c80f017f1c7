"""The student as a transformers model: saving, loading, outputs, precisions, resolutions, compilation."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

import aloe
from aloe.bcos.layers import rotate
from aloe.core.errors import UserError
from aloe.models.configuration import BcosViTConfig
from aloe.models.convert import bcosify
from aloe.models.modeling import BcosViTForImageClassification, BcosViTModel
from aloe.models.saving import save_student
from conftest import build_teacher

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SMALL = {**SMALL, "image_size": 32, "patch_size": 8}
KINDS = {
    "plain": {},
    "rope": {"position_embedding": "rope", "num_register_tokens": 2, "layer_scale": True, "mlp": "swiglu"},
    "pooling": {"use_cls_token": False, "pooling": "attention", "hidden_act": "gelu_pytorch_tanh"},
    "mean-conv": {"use_cls_token": False, "pooling": "mean", "stem": "conv"},
    "even-conv": {"stem": "conv", "stem_kernel": 4},
}


def build(kind="plain", *, classifier=False, **overrides):
    config = BcosViTConfig(**{**SMALL, **KINDS[kind], "num_labels": 5, **overrides})
    model = (BcosViTForImageClassification if classifier else BcosViTModel)(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.5, generator=generator)
    return model.eval()


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def same_weights(a, b):
    mine, other = a.state_dict(), b.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[n], other[n]) for n in mine)


def outputs(model, images, **options):
    with torch.no_grad():
        return model(images, **options)


@pytest.mark.parametrize("classifier", [False, True])
def test_saved_and_loaded_is_bit_equal(tmp_path, images, kind, classifier):
    model = build(kind, classifier=classifier, logit_bias=-0.5)
    save_student(model, tmp_path)
    auto = AutoModelForImageClassification if classifier else AutoModel
    expected = outputs(model, images)
    ours = aloe.load(tmp_path)
    for loaded in (type(model).from_pretrained(tmp_path), auto.from_pretrained(tmp_path), ours):
        assert type(loaded) is type(model)
        assert not loaded.training
        assert same_weights(model, loaded)
        # a copy, because BLAS rounds otherwise where memory is aligned otherwise; `aloe.load` makes one itself
        model_in_memory = loaded if loaded is ours else copy.deepcopy(loaded)
        for name, value in outputs(model_in_memory, images).items():
            assert torch.equal(value, expected[name])
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, BcosViTConfig)
    for field in (*SMALL, *KINDS[kind], "logit_bias", "stem_widths"):
        assert getattr(config, field) == getattr(model.config, field)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "model.safetensors", "preprocessor_config.json"}


def test_a_converted_student_keeps_its_teacher(tmp_path, family):
    student = bcosify(build_teacher(family))
    save_student(student, tmp_path)
    loaded = aloe.load(tmp_path)
    assert same_weights(student, loaded)
    assert loaded.config.teacher == student.config.teacher
    assert loaded.config.id2label == student.config.id2label


def test_the_image_processor_loads(tmp_path):
    from PIL import Image
    from transformers import AutoImageProcessor

    save_student(build(), tmp_path)
    try:
        processor = AutoImageProcessor.from_pretrained(tmp_path)
    except ImportError as error:
        pytest.skip(f"this transformers needs more for image processors: {error}")
    from aloe.data.transforms import ResizeCenterCrop, to_tensor

    for width, height in ((50, 40), (40, 75), (32, 32), (20, 30)):
        values = torch.randint(256, (height, width, 3), generator=torch.Generator().manual_seed(width)).byte()
        image = Image.fromarray(values.numpy())
        pixels = processor(image, return_tensors="pt")["pixel_values"]
        expected = to_tensor(ResizeCenterCrop(32)(image))
        assert (pixels[0] - expected).abs().max() <= 1.001 / 255, (width, height)
    assert processor(image.convert("L"), return_tensors="pt")["pixel_values"].shape == (1, 3, 32, 32)


def test_loading_runs_no_code_of_the_folder(tmp_path):
    home, marker = tmp_path / "student", tmp_path / "executed"
    save_student(build(), home)
    (home / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Config: pass\nclass Model: pass\n")
    config = json.loads((home / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    (home / "config.json").write_text(json.dumps(config))
    assert isinstance(aloe.load(home), BcosViTModel)
    assert isinstance(AutoModel.from_pretrained(home), BcosViTModel)
    config["model_type"] = "evil"
    (home / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="evil model, not a B-cos student"):
        aloe.load(home)
    with pytest.raises(UserError):
        aloe.load_teacher(home)
    assert not marker.exists()


def test_incomplete_and_foreign_folders_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    save_student(build(), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    gone = weights.pop("norm.weight")
    for changed, message in (
        (weights, "missing keys in the weights, first 'norm.weight'"),
        ({**weights, "norm.weight": gone, "extra": gone.clone()}, "unexpected keys in the weights, first 'extra'"),
        ({**weights, "norm.weight": gone[:3].clone()}, "norm.weight|mismatched"),
    ):
        save_file(changed, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UserError, match=message):
            aloe.load(tmp_path)
    build_teacher("vit").model.save_pretrained(tmp_path / "vit")
    with pytest.raises(UserError, match="vit model, not a B-cos student"):
        aloe.load(tmp_path / "vit")
    with pytest.raises(UserError, match="not a folder"):
        aloe.load(tmp_path / "nothing")


def test_sdpa_equals_eager(images, kind):
    model = build(kind)
    assert model.config._attn_implementation == "sdpa"
    fast = outputs(model, images, output_hidden_states=True)
    model.set_attn_implementation("eager")
    slow = outputs(model, images, output_hidden_states=True)
    torch.testing.assert_close(fast.hidden_states, slow.hidden_states, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fast.pooler_output, slow.pooler_output, rtol=1e-5, atol=1e-5)


def test_attentions_come_from_eager_only(images, kind):
    model = build(kind, classifier=True)
    with pytest.raises(ValueError, match="set_attn_implementation"):
        model(images, output_attentions=True)
    assert outputs(model, images).attentions is None
    model.set_attn_implementation("eager")
    attentions = outputs(model, images, output_attentions=True).attentions
    count = 16 + model.config.num_prefix_tokens
    assert [a.shape for a in attentions] == [(3, 2, count, count)] * 2
    for a in attentions:
        torch.testing.assert_close(a.sum(-1), torch.ones(3, 2, count))
        assert a.std() > 0.01


def test_hidden_states_are_the_raw_residual_stream(images, kind):
    model = build(kind)
    raw = {}
    model.embeddings.register_forward_hook(lambda _m, _i, out: raw.update({0: out}))
    for k, layer in enumerate(model.layers, 1):
        layer.register_forward_hook(lambda _m, _i, out, k=k: raw.update({k: out[0]}))
    out = outputs(model, images, output_hidden_states=True)
    assert len(out.hidden_states) == 3
    assert all(torch.equal(state, raw[k]) for k, state in enumerate(out.hidden_states))
    assert torch.equal(model.norm(raw[2]), out.last_hidden_state)
    assert not torch.allclose(raw[2], out.last_hidden_state)
    assert outputs(model, images).hidden_states is None


@pytest.mark.parametrize("classifier", [False, True])
def test_tuples_on_request(images, classifier):
    model = build(classifier=classifier)
    full = outputs(model, images)
    by_argument = outputs(model, images, return_dict=False)
    model.config.return_dict = False
    by_config = outputs(model, images)
    for got in (by_argument, by_config):
        assert isinstance(got, tuple)
        assert len(got) == len(full.to_tuple())
        assert all(torch.equal(a, b) for a, b in zip(got, full.to_tuple(), strict=True))
    assert torch.equal(aloe.explain(model, images).logit, aloe.explain(build(classifier=classifier), images).logit)


def test_labels_give_a_loss(images):
    model, labels = build(classifier=True, logit_bias=-1.0), torch.tensor([0, 4, 2])
    out = outputs(model, images, labels=labels)
    assert torch.equal(out.loss, torch.nn.functional.cross_entropy(out.logits, labels))
    assert torch.equal(out.logits, model.classifier(out.pooler_output) - 1)


def test_gradient_checkpointing_gives_the_same_gradients(images, kind):
    found = []
    for checkpointing in (False, True):
        model = build(kind).train()
        calls = []
        model.layers[0].norm1.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(images).pooler_output.square().sum().backward()
        assert len(calls) == 1 + checkpointing  # computed again in the backward pass
        found.append([p.grad for p in model.parameters()])
    assert any(g.any() for g in found[0])
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 32), (24, 56), (8, 8)])
def test_other_resolutions(height, width, kind):
    model = build(kind)
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    out = outputs(model, images)
    count = height * width // 64 + model.config.num_prefix_tokens
    assert out.last_hidden_state.shape == (2, count, 16)
    assert out.pooler_output.isfinite().all()
    if (height, width) != (32, 32):
        with pytest.raises(ValueError, match="not the native 32"):
            model(images, interpolate_pos_encoding=False)


def test_position_embeddings_follow_their_place():
    """A table that grows from left to right still does so on a wider grid, and no row is mixed with a column."""
    model = build(hidden_size=4, num_attention_heads=1)
    table = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij"), -1).flatten(0, 1)
    model.embeddings.position_embeddings.data[0, 1:, :2] = table
    grid = model.embeddings.constants(6, 8)[0, 1:].view(6, 8, 4).detach()
    assert (grid[:, 1:, 1] > grid[:, :-1, 1]).all()
    assert (grid[1:, :, 0] > grid[:-1, :, 0]).all()
    torch.testing.assert_close(grid[0, :, 1], grid[5, :, 1])
    assert torch.equal(model.embeddings.constants(4, 4)[:, 1:], model.embeddings.position_embeddings[:, 1:])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 36, 32), "36x32 are not a whole number of 8-pixel patches"),
        ((1, 3, 4, 4), "4x4 are not a whole number"),
        ((1, 4, 32, 32), "got (1, 4, 32, 32)"),
        ((3, 32, 32), "got (3, 32, 32)"),
    ],
)
def test_images_that_do_not_fit(shape, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        build()(torch.rand(shape))


def test_three_and_six_channels_agree(images, kind):
    model = build(kind)
    six = torch.cat((images, 1 - images), 1)
    strided = six.to(memory_format=torch.channels_last)
    expected = outputs(model, images).last_hidden_state
    assert torch.equal(expected, outputs(model, six).last_hidden_state)
    torch.testing.assert_close(outputs(model, strided).last_hidden_state, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
def test_rotation_equals_transformers(grid):
    from transformers import DINOv3ViTConfig
    from transformers.models.dinov3_vit import modeling_dinov3_vit as dinov3

    model = build("rope", rope_theta=50.0)
    theirs = DINOv3ViTConfig(**SMALL, rope_theta=50.0)
    cos, sin = model._rope(*grid, torch.zeros(1))
    pixels = torch.zeros(1, 3, 8 * grid[0], 8 * grid[1])
    expected = dinov3.DINOv3ViTRopePositionEmbedding(theirs).eval()(pixels)
    torch.testing.assert_close((cos, sin), tuple(expected), rtol=1e-5, atol=1e-6)
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 2, 3 + len(cos), 8, generator=generator) for _ in "qk")
    got, want = (rotate(q, cos, sin), rotate(k, cos, sin)), dinov3.apply_rotary_pos_emb(q, k, cos, sin)
    torch.testing.assert_close(got, want)
    assert torch.equal(rotate(q, cos, sin)[:, :, :3], q[:, :, :3])


@pytest.mark.parametrize(
    "wrong",
    [
        {"stem": "cnn"},
        {"position_embedding": "sine"},
        {"position_interpolation": "nearest"},
        {"mlp": "moe"},
        {"pooling": "max"},
        {"b": 0.5},
        {"hidden_size": 18, "num_attention_heads": 4},
        {"use_cls_token": False},
        {"image_size": 4},
        {"stem": "conv", "patch_size": 14},
    ],
    ids=lambda w: next(iter(w)),
)
def test_a_config_that_no_model_can_have_is_refused(wrong):
    field = "patch size" if "patch_size" in wrong else next(iter(wrong))
    with pytest.raises(ValueError, match=field):
        BcosViTConfig(**{**SMALL, **wrong})
    with pytest.raises(ValueError, match="hidden_act must be one of"):
        BcosViTModel(BcosViTConfig(**SMALL, hidden_act="swish"))


def test_bfloat16_model_runs(tmp_path, images, kind):
    model = build(kind, classifier=True)
    expected = outputs(model, images).pooler_output
    save_student(model.bfloat16(), tmp_path)
    loaded = aloe.load(tmp_path, dtype=torch.bfloat16)
    assert loaded.dtype == torch.bfloat16
    out = outputs(loaded, images)
    assert {v.dtype for v in out.values()} == {torch.bfloat16}
    assert torch.cosine_similarity(out.pooler_output.float(), expected).min() > 0.9
    loaded(images).logits.sum().backward()
    assert all(p.grad.isfinite().all() for p in loaded.parameters())


def test_new_weights_are_initialised(kind):
    torch.manual_seed(0)
    model = BcosViTForImageClassification(BcosViTConfig(**{**SMALL, **KINDS[kind]}))
    for name, parameter in model.named_parameters():
        if "norm" in name or "layer_scale" in name or (".stem." in name and parameter.ndim == 1):
            assert (parameter == 1).all(), name
        else:
            assert 0.01 < parameter.std() < 0.03, name
            assert parameter.abs().max() <= 0.04 + 1e-6, name


@pytest.mark.slow
def test_a_compiled_model_equals_eager(images):
    """One graph forward and one backward. `aot_eager` runs them without code generation, which takes over a minute."""
    model = build("rope", classifier=True)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    labels = torch.tensor([0, 1, 2])
    losses, gradients = [], []
    for run in (model, compiled):
        model.zero_grad()
        loss = run(images, labels=labels).loss
        loss.backward()
        losses.append(loss.detach())
        gradients.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-5)
