"""Frozen features: every kind against a literal twin, and a cache that resumes and is never stale."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

import aloe.evaluation.features as features_module
from aloe.core.errors import UserError
from aloe.data.sources import open_images
from aloe.data.transforms import ResizeCenterCrop, to_tensor
from aloe.evaluation.backbones import _LATER, model_fingerprint
from aloe.evaluation.features import FeatureSet, classify, extract
from aloe.models.configuration import BcosViTConfig
from aloe.models.convert import bcosify
from conftest import build_teacher
from pictures import write_pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, offset in (("blue", 0), ("red", 50)):
        write_pictures(tmp_path / "images" / name, 4, offset)
    return tmp_path / "images"


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_module, "PART_IMAGES", 3)


def pixels(folder: Path, side: int = 32) -> torch.Tensor:
    source = open_images(folder)
    return torch.stack([to_tensor(ResizeCenterCrop(side)(source.load(i))) for i in range(len(source))])


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_every_feature_is_what_its_name_says(family, kind, folder):
    teacher = build_teacher(family)
    model = teacher if kind == "teacher" else bcosify(teacher)
    source = open_images(folder)
    with torch.no_grad():
        if kind == "teacher":
            out = teacher(pixels(folder))
            tokens, pooled = out.tokens, out.pooled
        else:
            out = model(pixels(folder))
            tokens, pooled = out.last_hidden_state, out.pooler_output
    registers = teacher.num_register_tokens
    patches = tokens[:, registers + (not family.startswith("siglip")) :]
    assert patches.shape[1] == 16
    wanted = {"pooled": pooled, "mean": patches.mean(1), "concat": torch.cat([pooled, patches.mean(1)], -1)}
    if family.startswith("siglip"):
        with pytest.raises(UserError, match="no CLS token"):
            extract(model, source, feature="cls")
    else:
        wanted["cls"] = tokens[:, 0]
    for name, expected in wanted.items():
        found = extract(model, source, feature=name, batch_size=3)
        torch.testing.assert_close(found.tensor(), expected, rtol=1e-5, atol=1e-5)
        assert found.width == expected.shape[1]
    assert found.labels.tolist() == [0] * 4 + [1] * 4


def test_cached_features_are_the_same_and_the_model_is_not_run_again(folder, tmp_path, monkeypatch, small_parts):
    model, source = bcosify(build_teacher("vit")), open_images(folder)
    plain = extract(model, source, batch_size=2)
    first = extract(model, source, batch_size=2, cache=tmp_path / "cache")
    monkeypatch.setattr(features_module, "extract_part", None)
    again = extract(model, source, batch_size=2, cache=tmp_path / "cache")
    for found in (first, again):
        assert torch.equal(found.tensor(), plain.tensor())
        assert torch.equal(found.labels, plain.labels)
        assert torch.equal(found.index, torch.arange(8))
    assert [len(chunk) for chunk in again.chunks()] == [3, 3, 2]


def test_an_interrupted_extraction_goes_on_where_it_stopped(folder, tmp_path, monkeypatch, small_parts):
    model, source = bcosify(build_teacher("vit")), open_images(folder)
    whole, done = features_module.extract_part, []

    def interrupted(*args, **how):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return whole(*args, **how)

    monkeypatch.setattr(features_module, "extract_part", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(model, source, cache=tmp_path / "cache")
    done.clear()
    found = extract(model, source, cache=tmp_path / "cache")
    assert len(done) == 1
    monkeypatch.setattr(features_module, "extract_part", whole)
    assert torch.equal(found.tensor(), extract(model, source).tensor())


def test_a_damaged_part_is_made_again(folder, tmp_path, small_parts):
    model, source = bcosify(build_teacher("vit")), open_images(folder)
    before = extract(model, source, cache=tmp_path / "cache").tensor()
    part = sorted((tmp_path / "cache").glob("*/part-*.safetensors"))[1]
    part.write_bytes(part.read_bytes()[:-20])
    assert torch.equal(extract(model, source, cache=tmp_path / "cache").tensor(), before)


def test_nothing_that_features_depend_on_gives_a_stale_hit(folder, tmp_path):
    cache = tmp_path / "cache"

    def keys() -> int:
        return len(list(cache.iterdir()))

    model = bcosify(build_teacher("vit"))
    before = extract(model, open_images(folder), cache=cache).tensor()
    assert keys() == 1
    with torch.no_grad():
        model.layers[0].mlp.up.weight[0, 0] += 0.5
    assert not torch.equal(extract(model, open_images(folder), cache=cache).tensor(), before)
    assert keys() == 2
    model.config.layer_norm_eps = 1e-3  # a switch that no weight shows
    extract(model, open_images(folder), cache=cache)
    assert keys() == 3
    extract(model, open_images(folder), cache=cache, resolution=64)
    extract(model, open_images(folder), cache=cache, feature="mean")
    extract(model, open_images(folder), cache=cache, precision="bf16")
    assert keys() == 6
    image = folder / "red" / sorted(p.name for p in (folder / "red").iterdir())[0]
    size, facts = image.stat().st_size, image.stat()
    with Image.open(image) as opened:
        Image.new("RGB", opened.size, (9, 99, 9)).save(image)
    image.write_bytes(image.read_bytes().ljust(size, b"\0")[: max(size, image.stat().st_size)])
    os.utime(image, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1_000_000))
    extract(model, open_images(folder), cache=cache)
    assert keys() == 7
    image.rename(folder / "blue" / "moved.png")
    extract(model, open_images(folder), cache=cache)
    assert keys() == 8


def test_a_teachers_normalisation_is_part_of_its_fingerprint():
    one, other = build_teacher("vit"), build_teacher("vit")
    assert model_fingerprint(one) == model_fingerprint(other)
    other.mean = (0.1, 0.2, 0.3)
    assert model_fingerprint(one) != model_fingerprint(other)


def test_unreadable_images_are_left_out_and_named(folder, tmp_path, small_parts):
    for broken in sorted((folder / "red").iterdir())[1:3]:
        broken.write_bytes(b"nothing")
    model = bcosify(build_teacher("vit"))
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        found = extract(model, open_images(folder), cache=cache)
        assert found.index.tolist() == [0, 1, 2, 3, 4, 7]
        assert found.labels.tolist() == [0, 0, 0, 0, 1, 1]
        assert len(found.unreadable) == 2
    for image in folder.glob("*/*"):
        image.write_bytes(b"nothing")
    with pytest.raises(UserError, match="None of the images could be read"):
        extract(model, open_images(folder))


def test_wrong_words(folder):
    model, source = bcosify(build_teacher("vit")), open_images(folder)
    with pytest.raises(UserError, match="no feature 'best'; features: pooled"):
        extract(model, source, feature="best")
    with pytest.raises(UserError, match="no precision 'half'"):
        extract(model, source, precision="half")
    with pytest.raises(UserError, match="Resolution 30 is not a whole number of 8-pixel patches"):
        extract(model, source, resolution=30)


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_classify_is_the_models_own_classifier(kind, folder):
    teacher = build_teacher("vit-classifier")
    model = teacher if kind == "teacher" else bcosify(teacher)
    with torch.no_grad():
        expected = model(pixels(folder)).logits
    found = classify(model, extract(model, open_images(folder)).tensor())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert classify(build_teacher("vit"), torch.zeros(1, 48)) is None


def test_features_in_memory():
    found = FeatureSet.of(torch.arange(6.0).view(3, 2), torch.tensor([0, 1, 0]))
    assert len(found) == 3
    assert found.width == 2
    assert torch.equal(found.tensor(), torch.arange(6.0).view(3, 2))


def test_fields_that_came_later_leave_fingerprints_as_they_were():
    """At their default they are not hashed, so rows measured before stay valid; anything else is."""
    config = BcosViTConfig()
    assert {key: getattr(config, key) for key in _LATER} == _LATER
    plain = bcosify(build_teacher("vit"))
    before = model_fingerprint(plain)
    plain.config.logit_scale = 2.0
    assert model_fingerprint(plain) != before
