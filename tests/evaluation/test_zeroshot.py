"""Zero-shot logits equal transformers' SiglipModel, for the teacher and for a student in its image tower's place."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
import torch
import transformers as hf

from aloe.attribution.inherent import explain
from aloe.core.errors import UserError
from aloe.evaluation.features import FeatureSet
from aloe.evaluation.templates import OPENCLIP, SINGLE, read_templates
from aloe.evaluation.zeroshot import class_embeddings, read_class_names, text_targets, zeroshot_logits, zeroshot_ranking
from aloe.models.convert import bcosify
from aloe.models.teachers import load_teacher
from aloe.models.text import load_text_tower
from pairs import PAIRS, WIDTH, reference_logits, write_pair
from places import DATA

CLASSES = ["cactus", "red car", "tree"]
PROMPTS = [f"a photo of a {name}" for name in CLASSES]


@pytest.fixture(scope="module", params=PAIRS)
def pair(request, tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("pair") / request.param, request.param)


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    return load_text_tower(write_pair(tmp_path_factory.mktemp("tower") / "pair", "siglip"))


def test_the_teachers_logits_are_transformers_own(pair, images):
    tower = load_text_tower(pair)
    found = zeroshot_logits(
        load_teacher(pair)(images).pooled, class_embeddings(tower, CLASSES), tower.scale, tower.bias
    )
    expected = reference_logits(pair, images, PROMPTS)
    assert expected.std(dim=0).min() > 1e-3, "the images must differ for this to mean much"
    assert expected.std(dim=1).min() > 1e-1, "and so must the texts"
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_a_student_that_computes_the_same_gives_the_same_logits(name, images, tmp_path):
    """At B = 1, from a teacher without biases, the conversion is exact (method.md, 4), and so is all that follows."""
    pair = write_pair(tmp_path / name, name)
    both = hf.AutoModel.from_pretrained(pair)
    with torch.no_grad():
        for key, parameter in both.vision_model.named_parameters():
            if key.endswith("bias") and "patch_embedding" not in key:
                parameter.zero_()
    both.save_pretrained(pair)
    student, tower = bcosify(load_teacher(pair), b=1.0), load_text_tower(pair)
    with torch.no_grad():
        pooled = student(images).pooler_output
    found = zeroshot_logits(pooled, class_embeddings(tower, CLASSES), tower.scale, tower.bias)
    torch.testing.assert_close(found, reference_logits(pair, images, PROMPTS), rtol=0, atol=1e-3)


def test_an_explanation_of_a_text_is_complete_and_its_logit_the_zero_shot_one(pair, images):
    student, tower = bcosify(load_teacher(pair)), load_text_tower(pair)
    with torch.no_grad():
        pooled = student(images).pooler_output
    logits = zeroshot_logits(pooled, class_embeddings(tower, CLASSES), tower.scale, tower.bias)
    for column, target in enumerate(text_targets(tower, CLASSES, "single").values()):
        found = explain(student, images, target)
        torch.testing.assert_close(found.logit, logits[:, column], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            found.contributions.sum((1, 2)) + found.residual, logits[:, column], rtol=1e-4, atol=1e-4
        )
        assert found.contributions.abs().sum() > 0


def test_a_text_target_is_the_text_as_it_is_unless_there_are_templates(tower):
    plain = text_targets(tower, ["a red car"])["a red car"]
    torch.testing.assert_close(plain.embedding, torch.nn.functional.normalize(tower.encode(["a red car"]))[0])
    assert (plain.scale, plain.bias) == (tower.scale, tower.bias)
    put_in = text_targets(tower, ["red car"], "single")["red car"]
    torch.testing.assert_close(put_in.embedding, class_embeddings(tower, ["red car"])[0])


def test_class_embeddings_are_means_of_unit_embeddings_made_unit(tower):
    prompts = ["a {}", "the {} on the left", "a photo of a {}"]
    found = class_embeddings(tower, CLASSES, prompts, batch_size=4)
    assert found.shape == (3, WIDTH)
    for name, row in zip(CLASSES, found, strict=True):
        total = torch.zeros(WIDTH)
        for prompt in prompts:
            (one,) = tower.encode([prompt.format(name)])
            total += one / one.norm() / len(prompts)
        torch.testing.assert_close(row, total / total.norm())


def test_ranking_and_accuracy_over_parts():
    generator = torch.Generator().manual_seed(0)
    features, embeddings = (torch.randn(n, 8, generator=generator) for n in (50, 7))
    labels = torch.arange(50) % 7
    whole = FeatureSet.of(features, labels)
    parts = tuple({"features": part} for part in features.split([20, 1, 29]))
    cosines = [[float(f @ e / f.norm() / e.norm()) for e in embeddings] for f in features]
    ranked = torch.tensor([sorted(range(7), key=lambda c: -row[c])[:5] for row in cosines])
    for data in (whole, dataclasses.replace(whole, parts=parts)):
        assert torch.equal(zeroshot_ranking(data, embeddings), ranked)
    assert 0 < int((ranked[:, 0] == labels).sum()) < 50
    assert zeroshot_ranking(whole, embeddings[:2]).shape == (50, 2)


def test_the_templates_are_the_published_ones():
    assert SINGLE == ("a photo of a {}",)
    assert len(set(OPENCLIP)) == 80
    assert hashlib.sha256("\n".join(OPENCLIP).encode()).hexdigest()[:16] == "4f976686fb651bb5"


@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")
def test_the_templates_letter_for_letter():
    assert list(OPENCLIP) == json.loads((DATA / "openai_imagenet_templates.json").read_text())["templates"]
    assert len(read_class_names(DATA / "imagenet_classnames.json", 1000)) == 1000


def written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


FILES = {
    "names.txt": "a\n\n  b c \n",
    "names.json": '["a", "b c"]',
    "index.json": '{"1": "b c", "0": "a"}',
    "sourced.json": '{"source": "someone", "names": ["a", "b c"]}',
}


@pytest.mark.parametrize("name", FILES)
def test_class_names_from_files(tmp_path, name):
    assert read_class_names(written(tmp_path, name, FILES[name]), 2) == ["a", "b c"]
    with pytest.raises(UserError, match=f"{name} has 2 class names but the data have 3 classes"):
        read_class_names(tmp_path / name, 3)


def test_class_names_from_folders_and_templates_from_files(tmp_path):
    assert read_class_names(["red_panda", "cat"], 2) == ["red panda", "cat"]
    assert read_templates(written(tmp_path, "mine.txt", "a {} here\nmy {}\n")) == ("a {} here", "my {}")
    assert read_templates("openclip") == OPENCLIP


BAD = {
    "none.txt": (None, "none.txt'; give single, openclip, or a file"),
    "no place.txt": ("a photo of a {}\na photo\n", r"'a photo' must contain \{\} exactly once"),
    "two.txt": ("a {} and a {}", "exactly once"),
    "empty.txt": ("\n", "no prompts"),
    "cut.json": ('["a {}"', "not valid JSON"),
    "number.json": ("[1]", "no list of strings"),
    "gap.json": ('{"0": "a {}", "2": "b {}"}', "no list of strings"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_of_prompts(tmp_path, name):
    text, words = BAD[name]
    path = tmp_path / name if text is None else written(tmp_path, name, text)
    with pytest.raises(UserError, match=words):
        read_templates(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_class_names(tmp_path)


def test_what_does_not_belong_together():
    features = FeatureSet.of(torch.ones(2, 8), torch.tensor([0, 2]))
    with pytest.raises(UserError, match="image features have width 8 and the text embeddings 32"):
        zeroshot_ranking(features, torch.ones(3, 32))
    with pytest.raises(UserError, match="not finite"):
        zeroshot_ranking(FeatureSet.of(torch.tensor([[0.0, torch.nan]]), torch.tensor([0])), torch.ones(3, 2))
