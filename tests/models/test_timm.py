"""Teachers in timm's layout: against a slow forward written out from timm's definitions, against timm itself where it can be
imported, by name alone, from a hub's cache, and everything that is refused.
"""

from __future__ import annotations

import json
import re

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from aloe.attribution.methods import attribute
from aloe.core.errors import UserError
from aloe.evaluation.backbones import load_any
from aloe.models.convert import bcosify
from aloe.models.families import HALF, IMAGENET_MEAN, OPENAI_MEAN
from aloe.models.saving import is_student
from aloe.models.teachers import load_teacher
from aloe.models.timm_layouts import HEADS, LAYOUTS, layout_of
from timm_models import ARCHITECTURES, DEPTH, HEADS_, PATCH, SIDE, D, build, literal

MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
HOSTS = {
    **{"vit": "ViT", "flexivit": "ViT", "deit3": "DINOv2", "dinov2": "DINOv2", "reg4": "DINOv2 with registers"},
    **{"dinov3": "DINOv3", "siglip": "SigLIP", "clip": "CLIP"},
}


def write(folder, architecture, tensors=None, **config):
    """A folder as timm writes it."""
    folder.mkdir(exist_ok=True)
    save_file(build(architecture) if tensors is None else tensors, folder / "model.safetensors")
    stated = {"tag": "x", "input_size": [3, SIDE, SIDE], "mean": MEAN, "std": STD, "interpolation": "bicubic"}
    values = {
        "architecture": architecture,
        "num_features": D,
        "pretrained_cfg": stated,
        "model_args": {"num_heads": HEADS_},
    }
    (folder / "config.json").write_text(json.dumps(values | config))
    return folder


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_features_are_those_of_timms_definition(tmp_path, architecture, images):
    tensors = build(architecture)
    teacher = load_teacher(write(tmp_path / "here", architecture, tensors))
    facts = ARCHITECTURES[architecture]
    host = next(v for k, v in reversed(HOSTS.items()) if k in architecture)
    assert teacher.family.name == ("DINOv2 with registers" if "reg4" in architecture else host)
    assert (teacher.name, teacher.mean, teacher.std, teacher.resolution) == ("here", tuple(MEAN), tuple(STD), SIDE)
    states, tokens, pooled = literal(architecture, tensors, teacher.normalize(images))
    found = teacher(images, after_block=[1, 2])
    for k in (1, 2):
        close(found.states[k], states[k - 1])
    close(found.tokens, tokens)
    close(found.pooled, pooled)
    if facts.get("classes") and host == "ViT":
        close(found.logits, pooled @ tensors["head.weight"].T + tensors["head.bias"])
        assert teacher.unread == ()
    else:
        assert found.logits is None
        assert teacher.unread == (("head.bias", "head.weight") if facts.get("classes") else ())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_written_out_forward_is_timms_own(architecture, images):
    timm = pytest.importorskip("timm", reason="timm is not installed: its own forward cannot be compared")
    facts, tensors = ARCHITECTURES[architecture], build(architecture)
    size = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": D, "depth": DEPTH, "num_heads": HEADS_}
    ratio = 256 / D if facts.get("mlp") == "packed" else 2.0
    model = timm.create_model(architecture, **size, mlp_ratio=ratio, num_classes=facts.get("classes", 0)).eval()
    model.load_state_dict(tensors)
    with torch.no_grad():
        final, raw = model.forward_intermediates(images, return_prefix_tokens=True, output_fmt="NLC")
        states, tokens, pooled = literal(architecture, tensors, images)
        for expected, state in zip(raw, states, strict=True):
            close(state, torch.cat(expected[::-1], 1) if isinstance(expected, tuple) else expected)
        close(tokens, final)
        if "dinov3" not in architecture:  # timm averages the patches there; DINOv3 itself takes the CLS token
            close(pooled, model.forward_head(final, pre_logits=True))


@pytest.mark.parametrize(
    "architecture", ["vit_small_patch14_reg4_dinov2", "vit_base_patch16_dinov3", "vit_base_patch16_clip_224"]
)
def test_students_of_timm_teachers(tmp_path, architecture, images):
    """Through the same conversion: without biases, at B = 1, the teacher's states; and an explanation."""
    zeroed = {
        n: torch.zeros_like(v) if n.endswith("bias") and "patch_embed" not in n else v
        for n, v in build(architecture).items()
    }
    folder = write(tmp_path, architecture, zeroed)
    teacher = load_teacher(folder)
    student, report = bcosify(teacher, b=1.0, with_report=True)
    assert not report.new
    assert student.config.teacher["mean"] == MEAN
    with torch.no_grad():
        expected, got = teacher(images, after_block=[2]), student(images, output_hidden_states=True)
    assert (got.hidden_states[2] - expected.states[2]).abs().max() < 1e-4 * expected.states[2].abs().max()
    assert attribute(bcosify(str(folder)), images, None, "inherent").maps.shape == (3, SIDE, SIDE)


def test_a_half_precision_file_is_read_as_floats(tmp_path, images):
    tensors = {name: tensor.half() for name, tensor in build("vit_base_patch16_224").items()}
    teacher = load_teacher(write(tmp_path, "vit_base_patch16_224", tensors))
    assert {p.dtype for p in teacher.parameters()} == {torch.float32}
    states, *_ = literal("vit_base_patch16_224", {n: v.float() for n, v in tensors.items()}, teacher.normalize(images))
    close(teacher(images, after_block=[2]).states[2], states[1])


def test_classes_and_sizes_that_are_stated(tmp_path):
    name = "vit_base_patch16_224"
    names = ["tench", "shark", "ray", "cock", "hen"]
    teacher = load_teacher(write(tmp_path / "a", name, label_names=names))
    assert list(teacher.config.id2label.values()) == names
    assert load_teacher(write(tmp_path / "b", name, label_names=names[:3])).config.id2label[0] == "LABEL_0"
    stated = {"input_size": [3, 48, 48], "mean": MEAN, "std": STD}
    assert load_teacher(write(tmp_path / "c", name, pretrained_cfg=stated)).resolution == 48
    assert (
        load_teacher(write(tmp_path / "d", name, pretrained_cfg=stated | {"input_size": [3, 33, 33]})).image_size == 33
    )
    teacher = load_teacher(tmp_path / "a", mean=STD, std=MEAN, resolution=24)
    assert (teacher.mean, teacher.std, teacher.resolution) == (tuple(STD), tuple(MEAN), 24)
    averaged = load_teacher(write(tmp_path / "e", name, global_pool="avg"))
    assert (averaged.classifier, averaged.unread) == (None, ("head.bias", "head.weight"))


def wide(architecture, width=192):
    """A state dict whose width has a known number of heads."""
    facts = {"cls": "siglip" not in architecture}
    tensors = {"patch_embed.proj.weight": torch.ones(width, 3, PATCH, PATCH), "norm.weight": torch.ones(width)}
    block = {"attn.qkv": (3 * width, width), "attn.proj": (width, width), "mlp.fc1": (8, width), "mlp.fc2": (width, 8)}
    for part, shape in block.items():
        tensors |= {f"blocks.0.{part}.weight": torch.ones(shape), f"blocks.0.{part}.bias": torch.ones(shape[0])}
    for part in ("blocks.0.norm1", "blocks.0.norm2", "norm", "norm_pre"):
        tensors |= {f"{part}.weight": torch.ones(width), f"{part}.bias": torch.ones(width)}
    tensors |= {"cls_token": torch.ones(1, 1, width), "pos_embed": torch.ones(1, 4 + facts["cls"], width)}
    drop = {"cls_token", "norm_pre.weight", "norm_pre.bias"} if not facts["cls"] else set()
    if "clip" not in architecture:
        tensors["patch_embed.proj.bias"] = torch.ones(width)
        drop |= {"norm_pre.weight", "norm_pre.bias"}
    return {name: tensor for name, tensor in tensors.items() if name not in drop}


@pytest.mark.parametrize(
    ("name", "mean", "activation"),
    [
        ("vit_tiny_patch16_224.augreg_in21k", HALF, "gelu"),
        ("vit_base_patch16_224.mae", IMAGENET_MEAN, "gelu"),
        ("deit_tiny_patch16_224.fb_in1k", IMAGENET_MEAN, "gelu"),
        ("vit_base_patch16_siglip_gap_224.webli", HALF, "gelu"),
        ("vit_so400m_patch16_siglip_gap_256.v2_webli", HALF, "gelu_pytorch_tanh"),
        ("vit_base_patch16_clip_224.laion2b", OPENAI_MEAN, "gelu"),
        ("vit_large_patch14_clip_224.laion2b", HALF, "gelu"),
        ("vit_base_patch16_clip_224.openai", OPENAI_MEAN, "quick_gelu"),
        ("vit_base_patch16_clip_224.openai_ft_in1k", OPENAI_MEAN, "gelu"),
        ("vit_huge_patch14_clip_quickgelu_224.dfn5b", OPENAI_MEAN, "quick_gelu"),
    ],
)
def test_what_the_name_of_a_file_tells(tmp_path, name, mean, activation):
    path = tmp_path / f"{name}.safetensors"
    save_file(wide(name), path)
    teacher = load_teacher(path)
    assert (teacher.name, teacher.mean, teacher.config.hidden_act) == (name, tuple(mean), activation)
    assert (teacher.config.num_attention_heads, teacher.image_size, teacher.resolution) == (3, 16, 16)
    anonymous = tmp_path / "weights.safetensors"
    path.rename(anonymous)
    again = load_teacher(anonymous, architecture=name)
    assert (again.mean, again.config.hidden_act) == (teacher.mean, teacher.config.hidden_act)


def test_a_file_reads_the_config_beside_it_and_is_no_student(tmp_path):
    folder = write(tmp_path / "mine", "vit_base_patch16_224")
    teacher = load_teacher(folder / "model.safetensors")
    assert (teacher.name, teacher.mean, teacher.config.num_attention_heads) == ("mine", tuple(MEAN), HEADS_)
    assert not is_student(folder)
    assert not is_student(folder / "model.safetensors")
    assert load_any(str(folder / "model.safetensors")).name == "mine"
    other = tmp_path / "vit_tiny_patch16_224.augreg_in21k"
    other.mkdir()
    save_file(wide("vit_tiny_patch16_224"), other / "model.safetensors")
    assert load_teacher(other / "model.safetensors").mean == HALF


def test_a_file_and_a_folder_on_the_command_line(tmp_path, aloe):
    folder = write(tmp_path / "mine", "vit_base_patch16_224")
    for source, out in ((folder, "a"), (folder / "model.safetensors", "b")):
        code, _, err = aloe("bcosify", source, "--output-dir", out)
        assert code == 0, err
    code, _, err = aloe("bcosify", tmp_path / "none.safetensors", "--output-dir", "c")
    assert code == 2
    assert "There is no file" in err


def test_a_hub_id_from_the_cache(tmp_path, monkeypatch):
    """The layout of huggingface_hub's cache, offline."""
    import huggingface_hub.constants as constants

    home = tmp_path / "models--timm--vit_base_patch16_dinov3.lvd1689m"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    (home / "snapshots").mkdir()
    write(home / "snapshots" / ("0" * 40), "vit_base_patch16_dinov3")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    teacher = load_teacher("timm/vit_base_patch16_dinov3.lvd1689m")
    assert (teacher.name, teacher.family.name) == ("timm/vit_base_patch16_dinov3.lvd1689m", "DINOv3")
    (home / "snapshots" / ("0" * 40) / "model.safetensors").unlink()
    refuse("model.safetensors", "timm/vit_base_patch16_dinov3.lvd1689m")
    refuse("neither a local folder nor reachable", "timm/vit_base_patch16_224.mae")


def refuse(words, source, **options):
    with pytest.raises(UserError, match=words) as caught:
        load_teacher(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")


def changed(change, architecture="vit_base_patch16_224"):
    tensors = build(architecture)
    change(tensors)
    return tensors


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("blocks.1.mlp.fc2.bias"), r"tensor 'blocks\.1\.mlp\.fc2\.bias' .* is missing"),
        (lambda t: t.pop("patch_embed.proj.weight"), r"tensor 'patch_embed\.proj\.weight' .* is missing"),
        (lambda t: t.update({"blocks.0.attn.q_norm.weight": torch.ones(12)}), r"1 tensors are no part .*q_norm"),
        (
            lambda t: t.update({"fc_norm.weight": torch.ones(D)}),
            r"no part of timm's vit_base_patch16_224, first 'fc_norm",
        ),
        (lambda t: t.update({"blocks.0.ls1.gamma": torch.ones(D)}), r"no part of .*ls1"),
        (
            lambda t: t.update({"norm.weight": torch.ones(D - 1)}),
            r"'norm\.weight' has shape \(47,\), from .* cannot be made",
        ),
        (lambda t: t.update({"blocks.0.attn.qkv.weight": torch.ones(1, D)}), r"qkv\.weight' has shape \(1, 48\), from"),
        (lambda t: t.update({"pos_embed": torch.ones(1, 19, D)}), r"19 position embeddings are not those of a square"),
        (lambda t: t.update({"patch_embed.proj.weight": torch.ones(D, 1, 8, 8)}), r"not of square patches of RGB"),
        (lambda t: t.update({"dist_token": torch.ones(1, 1, D)}), "cannot be converted.* not distilled ones"),
    ],
    ids=range(10),
)
def test_tensors_that_are_refused(tmp_path, change, words):
    refuse(words, write(tmp_path, "vit_base_patch16_224", changed(change)))


@pytest.mark.parametrize(
    ("architecture", "config", "words"),
    [
        ("resnet50", {}, "'resnet50' cannot be converted; ALOE takes its ViT"),
        ("deit_small_distilled_patch16_224", {}, "cannot be converted.* not distilled"),
        ("vit_base_patch16_gap_224", {}, "cannot be converted"),
        ("vit_base_patch16_clip_224", {}, r"'norm_pre\.weight' .* is missing"),
        ("vit_small_patch14_dinov2", {}, r"'blocks\.0\.ls1\.gamma' .* is missing"),
        (None, {"model_args": {}}, "how many attention heads a width of 48 has cannot be seen; add num_heads"),
        (None, {"model_args": {"num_heads": 5}}, "how many attention heads"),
        (None, {"model_args": {"num_heads": -4}}, "how many attention heads"),
        (None, {"model_args": {"num_heads": HEADS_, "qk_norm": True}}, "argument 'qk_norm' .* has no form here"),
        (None, {"model_args": {"num_heads": HEADS_, "act_layer": "mish"}}, "activation 'mish' has no B-cos form"),
        (None, {"model_args": {"num_heads": "4"}}, "how many attention heads"),
        (None, {"pretrained_cfg": {"input_size": [3, 32, 48]}}, "only square images"),
        (None, {"pretrained_cfg": {"input_size": 32}}, "wrong type"),
        (
            None,
            {"pretrained_cfg": {"tag": "x"}},
            r"normalisation cannot be told from the name 'vit_base_patch16_224\.x'",
        ),
        (None, {"pretrained_cfg": {"mean": [0.5], "std": [0.5]}}, "three numbers"),
        (None, {"pretrained_cfg": {"mean": ["a", 0, 0], "std": STD}}, "mean must be three numbers"),
        (None, {"pretrained_cfg": {"mean": MEAN, "std": [1, 1, 0]}}, "std must be positive"),
        (None, {"pretrained_cfg": "x"}, "wrong type"),
    ],
    ids=str,
)
@pytest.mark.parametrize("alone", [False, True], ids=["folder", "file"])
def test_configurations_that_are_refused(tmp_path, architecture, config, words, alone):
    tensors = build("vit_base_patch16_224")
    write(tmp_path, architecture or "vit_base_patch16_224", tensors, **config)
    refuse(words, tmp_path / "model.safetensors" if alone else tmp_path)


def test_files_that_are_refused(tmp_path):
    path = tmp_path / "vit_base_patch16_224.augreg_in21k.safetensors"
    refuse("There is no file", path)
    save_file(wide("vit_tiny_patch16_224"), path)
    path.write_bytes(path.read_bytes()[:-1000])
    refuse("truncated or corrupt .* fetch it again", path)
    pickled = tmp_path / "pytorch_model.bin"
    torch.save({}, pickled)
    refuse("only safetensors are loaded, never pickled", pickled)
    save_file(wide("vit_tiny_patch16_224"), tmp_path / "weights.safetensors")
    refuse("architecture 'weights' cannot be converted", tmp_path / "weights.safetensors")
    untold = tmp_path / "vit_large_patch14_clip_224.safetensors"
    save_file(wide("vit_large_patch14_clip_224"), untold)
    refuse("normalisation cannot be told from the name 'vit_large_patch14_clip_224'", untold)
    assert load_teacher(untold, mean=MEAN, std=STD).mean == tuple(MEAN)
    with_pickle = write(tmp_path / "pickled", "vit_base_patch16_224")
    (with_pickle / "model.safetensors").rename(with_pickle / "model.safetensors.old")
    torch.save({}, with_pickle / "pytorch_model.bin")
    refuse("has no model.safetensors; only safetensors are loaded, never pickled", with_pickle)


def test_a_folder_of_transformers_is_not_read_as_timms(tmp_path):
    hf.ViTModel(
        hf.ViTConfig(hidden_size=48, num_hidden_layers=1, num_attention_heads=4, intermediate_size=8)
    ).save_pretrained(tmp_path)
    refuse("cannot be converted", tmp_path / "model.safetensors")
    assert "embeddings.cls_token" in load_file(tmp_path / "model.safetensors")


def test_every_layout_is_chosen_by_one_name_alone():
    for architecture in ARCHITECTURES:
        matching = [layout for layout in LAYOUTS if re.fullmatch(layout.architectures, architecture)]
        assert matching == [layout_of(architecture)]
    assert all(width % heads == 0 for width, heads in HEADS.items())
