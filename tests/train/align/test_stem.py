"""The warm-up of a conv stem: what it learns from, what it leaves alone, resume; and kernels that read all pixels alike."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from safetensors.torch import load_file

from aloe.attribution.inherent import explain
from aloe.core.errors import UserError
from aloe.models.configuration import BcosViTConfig
from aloe.models.convert import bcosify, with_conv_stem
from aloe.train import trainer as trainer_module
from aloe.train.align.settings import AlignSettings
from aloe.train.align.stem import FOLDER, StemModel, relative_error
from aloe.train.checkpoints import checkpoints
from aloe.train.progress import JsonlLog, read_log
from conftest import build_teacher
from pictures import write_pictures
from train.align.test_run import losses, same_weights, tiny

CONV = {"stem": "conv-even", "stem_steps": 4, "save_every": 2, "holdout": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("images"), 24)


@pytest.fixture
def images():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("stem", "even"), [("conv", False), ("conv-even", True)])
def test_the_even_stem_reads_every_pixel_equally_often(stem, even):
    """Counted kernel by kernel from the last convolution back to the pixels, without the border."""
    core = bcosify(build_teacher("vit"), stem=stem)
    reads = torch.ones(1, 1, 16, 16, dtype=torch.float64)
    for layer in reversed(core.embeddings.stem):
        side, stride = layer[0].weight.shape[-1], layer[0].stride
        kernel = torch.ones(1, 1, side, side, dtype=torch.float64)
        reads = F.conv_transpose2d(reads, kernel, stride=stride, padding=1, output_padding=(stride - side) % 2)
    inner = reads[0, 0, 32:-32, 32:-32]
    assert inner.shape == (64, 64)
    assert bool((inner == inner[0, 0]).all()) is even
    assert even or float(inner.max() / inner.min()) > 2


def test_completeness_and_the_token_grid(images):
    student = bcosify(build_teacher("vit-classifier"), stem="conv-even").double()
    found = explain(student, images.double())
    assert float(found.completeness_error().max()) < 1e-12
    assert student.config.stem_name == "conv-even"
    assert student.base_model.embeddings.patches(student.base_model.encode(images.double())).shape[1] == 16


def test_configurations_of_before_have_kernels_of_3():
    known = bcosify(build_teacher("vit"), stem="conv").config.to_dict()
    assert known.pop("stem_kernel") == 3
    assert BcosViTConfig(**known).stem_kernel == 3
    with pytest.raises(ValueError, match="stem_kernel must be 3 or 4"):
        BcosViTConfig(stem="conv", stem_kernel=5)


@pytest.mark.parametrize("family", ["vit", "siglip", "dinov2"])
def test_the_target_is_the_teacher_s_patch_embedding(family, images):
    teacher = build_teacher(family)
    model = StemModel(bcosify(teacher, stem="conv"), teacher)
    convolution = next(m for m in teacher.tower.modules() if isinstance(m, torch.nn.Conv2d))
    with torch.no_grad():
        ours, theirs = model(images)
        wanted = convolution(teacher.normalize(images)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(theirs, wanted, rtol=1e-4, atol=1e-5)
    ratios = [float(((a - b) ** 2).sum() / (b**2).sum()) for a, b in zip(ours, theirs, strict=True)]
    assert relative_error(ours, theirs).item() == pytest.approx(sum(ratios) / len(images), rel=1e-5)


def test_only_stem_and_patch_unit_learn_and_the_error_falls(folder, tmp_path):
    tiny(folder, tmp_path / "run", **{**CONV, "stem_steps": 30, "steps": 1, "batch_size": 8})
    found = losses(tmp_path / "run" / FOLDER)
    assert len(found) == 30
    assert sum(found[-5:]) < 0.8 * sum(found[:5])
    warm = load_file(tmp_path / "run" / FOLDER / "model.safetensors")
    fresh = bcosify(build_teacher("vit"), stem="conv-even").state_dict()
    moved = {name for name, value in fresh.items() if not torch.equal(value, warm[name])}
    assert moved == {n for n in fresh if n.startswith(("embeddings.stem", "embeddings.patch_embedding"))}
    assert any("eval_cosine_patches" in row for row in read_log(tmp_path / "run" / FOLDER))
    assert not checkpoints(tmp_path / "run" / FOLDER)


def cut_and_resumed(folder, tmp_path, monkeypatch, step, stage, settings):
    """A run that is stopped after `step` steps of all its stages, then resumed, takes the steps of one that is not."""
    whole = tiny(folder, tmp_path / "whole", **settings)
    passed = []

    class Stops(JsonlLog):
        def on_step_end(self, args, state, control, **_):
            passed.append(state.global_step)
            if len(passed) == step:
                raise KeyboardInterrupt

    monkeypatch.setattr(trainer_module, "JsonlLog", Stops)
    with pytest.raises(KeyboardInterrupt):
        tiny(folder, tmp_path / "cut", **settings)
    monkeypatch.setattr(trainer_module, "JsonlLog", JsonlLog)
    assert same_weights(whole, tiny(folder, tmp_path / "cut", **settings))
    for place in ("whole", "cut"):
        assert len(losses(tmp_path / place)) == len(losses(tmp_path / place / stage)) == 4
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert losses(tmp_path / "cut" / stage) == losses(tmp_path / "whole" / stage)


@pytest.mark.parametrize("step", [3, 7])
def test_interrupted_in_either_stage_it_goes_on_as_if_nothing_had_happened(folder, tmp_path, monkeypatch, step):
    cut_and_resumed(folder, tmp_path, monkeypatch, step, FOLDER, {**CONV, "steps": 4})


def test_a_patch_stem_has_nothing_to_warm_up():
    with pytest.raises(UserError, match="the stem is patch"):
        AlignSettings.resolve(overrides={"stem_steps": 10})


@pytest.fixture(scope="module")
def aligned(folder, tmp_path_factory):
    """A student with a patch stem."""
    return tiny(folder, tmp_path_factory.mktemp("aligned") / "run", steps=1)


def test_a_student_s_new_stem_learns_the_student_s_own_tokens(aligned, images):
    model = StemModel(with_conv_stem(aligned, "conv-even"), aligned)
    with torch.no_grad():
        ours, theirs = model(images)
        wanted = aligned.embeddings.patches(aligned.encode(images))
    assert ours.shape == theirs.shape
    assert torch.equal(theirs, wanted)
    assert all(p.requires_grad for p in aligned.parameters())  # whose tensors they are not


def test_a_new_stem_leaves_the_rest_of_the_student_alone(aligned):
    changed = with_conv_stem(aligned, "conv-even", seed=3)
    before, after = aligned.state_dict(), changed.state_dict()
    same = {name for name in before if name in after and torch.equal(before[name], after[name])}
    assert set(before) - same == {"embeddings.patch_embedding.weight"}
    assert set(after) - set(before) == {name for name in after if ".stem." in name}
    assert len(after) > len(before)
    assert changed.config.stem_name == "conv-even"
    assert changed.config.grid_size == aligned.config.grid_size
    assert aligned.config.stem_name == "patch"
    again = with_conv_stem(aligned, "conv-even", seed=3).state_dict()
    assert all(torch.equal(again[name], value) for name, value in after.items())


def test_patches_of_14_become_16_on_the_same_grid(images):
    size = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "mlp_ratio": 2}
    student = bcosify(hf.Dinov2Model(hf.Dinov2Config(**size, image_size=56, patch_size=14)))
    changed = with_conv_stem(student, "conv")
    assert (changed.config.patch_size, changed.config.grid_size) == (16, student.config.grid_size)
    assert changed.config.resolution == student.config.resolution // 14 * 16
    larger = F.interpolate(images, size=(changed.config.grid_size * 16,) * 2)
    ours, theirs = StemModel(changed, student)(larger)
    assert ours.shape == theirs.shape == (3, student.config.grid_size**2, student.config.hidden_size)


def test_a_student_aligned_on_with_a_new_stem(aligned, folder, tmp_path):
    settings = {**CONV, "stem_steps": 30, "steps": 2, "batch_size": 8}
    student = tiny(folder, tmp_path / "run", student=aligned, **settings)
    found = losses(tmp_path / "run" / FOLDER)
    assert len(found) == 30
    assert sum(found[-5:]) < 0.8 * sum(found[:5])
    warm = load_file(tmp_path / "run" / FOLDER / "model.safetensors")
    assert all(torch.equal(warm[n], v) for n, v in aligned.state_dict().items() if "patch_embedding" not in n)
    assert student.config.stem_name == "conv-even"
    assert student.config.teacher["stage"] == "aligned"
    assert student.config.teacher["steps"] == 3
    assert float(explain(student.double(), torch.rand(1, 3, 32, 32).double()).completeness_error().max()) < 1e-12


def test_a_new_stem_that_is_cut_goes_on_as_if_nothing_had_happened(aligned, folder, tmp_path, monkeypatch):
    cut_and_resumed(folder, tmp_path, monkeypatch, 3, FOLDER, {**CONV, "steps": 4, "student": aligned})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"stem": "conv"}, "give stem_steps"),
        ({"stem": "patch"}, "must be conv or conv-even|give stem_steps"),
        ({"stem": "conv", "stem_steps": 2, "b": 2.0}, "b is of the conversion"),
    ],
)
def test_what_a_new_stem_cannot_be(aligned, folder, tmp_path, settings, words):
    with pytest.raises(UserError, match=words):
        tiny(folder, tmp_path / "run", student=aligned, **settings)
    assert not (tmp_path / "run").exists()
