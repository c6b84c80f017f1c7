"""Text towers: equal to transformers' own, and one sentence for every checkpoint that cannot serve as one."""

from __future__ import annotations

import json

import pytest
import torch
import transformers as hf

from aloe.core.errors import UserError
from aloe.models.convert import bcosify
from aloe.models.teachers import load_teacher
from aloe.models.text import TextTower, load_text_tower, text_tower_for
from conftest import build_teacher
from pairs import CONTEXT, PAIRS, SENTENCES, SPECIAL, WIDTH, write_pair, write_tokenizer


@pytest.fixture(scope="module", params=PAIRS)
def pair(request, tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("pair") / request.param, request.param)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("siglip") / "pair", "siglip")


@torch.no_grad()
def test_equals_transformers_text_features(pair):
    tower = load_text_tower(pair)
    lower = [text.lower() for text in SENTENCES]
    tokens = hf.AutoTokenizer.from_pretrained(pair)(
        lower, padding="max_length", max_length=CONTEXT, return_tensors="pt"
    )
    both = hf.AutoModel.from_pretrained(pair)
    expected = both.get_text_features(**tokens).pooler_output
    assert (tower.width, tower.context_length) == (WIDTH, CONTEXT)
    torch.testing.assert_close(tower.encode(lower, batch_size=2), expected, rtol=1e-6, atol=1e-6)
    assert tower.scale == pytest.approx(12)
    assert tower.bias == pytest.approx(-3)
    assert (expected[0] - expected[1]).norm() > 0.1 * expected[0].norm(), "the texts must differ for this to mean much"


def test_only_the_text_side_stays(pair):
    tower = load_text_tower(pair)
    alone = hf.AutoModel.from_pretrained(pair).text_model
    assert sum(p.numel() for p in tower.parameters()) == sum(p.numel() for p in alone.parameters())
    assert not any(p.requires_grad for p in tower.parameters())
    assert not tower.train().training


def test_capitals_count_for_nothing_in_siglip2_and_where_the_tokenizer_says_so(pair):
    """Gemma's tokenizer, which the fixed-resolution SigLIP2 checkpoints name, would split "Cactus" into unknown pieces."""
    tower = load_text_tower(pair)
    torch.testing.assert_close(
        tower.encode(["A Photo of a CACTUS"]), tower.encode(["a photo of a cactus"]), rtol=0, atol=0
    )


def test_the_context_is_filled_exactly_and_never_cut(siglip):
    tower = load_text_tower(siglip)
    words = next(n for n in range(1, 40) if _length(tower, n) == CONTEXT)
    assert tower.encode(["e" + " e" * (words - 1)]).shape == (1, WIDTH)
    with pytest.raises(UserError, match=rf"'e e .* has {CONTEXT + 1} tokens but the text tower reads {CONTEXT}"):
        tower.encode(["a photo of a cactus", "e" + " e" * words])


def _length(tower: TextTower, words: int) -> int:
    return len(tower.tokenizer("e" + " e" * (words - 1))["input_ids"])


def test_a_model_finds_the_tower_of_its_teacher(siglip, monkeypatch):
    monkeypatch.chdir(siglip.parent)
    teacher = load_teacher(siglip)
    student = bcosify(teacher)
    texts = ["a red car"]
    expected = load_text_tower(siglip).encode(texts)
    for model, source in ((teacher, None), (student, siglip), (student, None)):  # the student knows the folder's name
        torch.testing.assert_close(text_tower_for(model, source).encode(texts), expected, rtol=0, atol=0)
    monkeypatch.chdir("/")
    with pytest.raises(UserError, match=r"tower of pair is not here; name the teacher's .* --text-tower"):
        text_tower_for(student)
    student.config.teacher = {}
    with pytest.raises(UserError, match="tower of an unnamed teacher is not here"):
        text_tower_for(student)


def test_a_tower_of_another_width_is_refused(siglip, tmp_path):
    wide = write_pair(tmp_path / "wide", "siglip", width=48)
    with pytest.raises(UserError, match="width 48 but the model's pooled output 32"):
        text_tower_for(load_teacher(siglip), wide)


def _no_tokenizer(folder):
    write_pair(folder, "siglip", tokenizer=False)


def _damaged_tokenizer(folder):
    write_pair(folder, "siglip")
    (folder / "tokenizer.json").write_text('{"version": ')


def _empty_tokenizer(folder):
    """Special tokens only: what transformers makes of a hub repository without a tokenizer."""
    file = write_pair(folder, "siglip2-naflex") / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["model"] |= {"vocab": {word: i for i, word in enumerate(SPECIAL)}, "merges": []}
    file.write_text(json.dumps(tokenizer))


def _no_padding(folder):
    write_pair(folder, "siglip", tokenizer=False)
    write_tokenizer(folder, "TokenizersBackend", pad_token=None)


def _image_tower_only(folder):
    hf.SiglipModel.from_pretrained(write_pair(folder, "siglip")).vision_model.save_pretrained(folder)


def _another_family(folder):
    build_teacher("vit").model.save_pretrained(folder)


def _classifier_of_the_same_type(folder):
    """Its configuration says siglip, but it holds the image tower and a classifier only."""
    config = hf.SiglipModel.from_pretrained(write_pair(folder, "siglip")).config
    hf.SiglipForImageClassification(config).save_pretrained(folder)


def _foreign_tokenizer(folder):
    config = json.loads((write_pair(folder, "siglip") / "config.json").read_text())
    config["text_config"]["vocab_size"] = 30
    model = hf.SiglipModel(hf.SiglipConfig(**{k: config[k] for k in ("text_config", "vision_config")}))
    model.save_pretrained(folder)


def _nothing(folder):
    folder.mkdir()


BROKEN = {
    _no_tokenizer: "has no tokenizer; its folder needs a tokenizer.json",
    _empty_tokenizer: "has no tokenizer; its folder needs a tokenizer.json",
    _damaged_tokenizer: "tokenizer of .* cannot be loaded .*; it needs a sound tokenizer.json",
    _no_padding: "the tokenizer of .* has no padding token",
    _image_tower_only: "is a siglip_vision_model model without a text tower",
    _another_family: "is a vit model without a text tower",
    _classifier_of_the_same_type: "holds no whole text tower: .* weights are missing, first ",
    _foreign_tokenizer: "gives token .* but its text tower knows 30",
    _nothing: "holds no config.json",
}


@pytest.mark.parametrize("make", BROKEN, ids=lambda make: make.__name__.strip("_"))
def test_what_cannot_serve_is_refused_in_one_sentence(make, tmp_path):
    make(tmp_path / "it")
    with pytest.raises(UserError, match=f"(?i){BROKEN[make]}") as found:
        load_text_tower(tmp_path / "it").encode(["a photo of a cactus"])
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(("texts", "words"), [([], "no text to encode"), (["a cactus", " "], "A text is empty: ' '")])
def test_no_text(siglip, texts, words):
    with pytest.raises(UserError, match=words):
        load_text_tower(siglip).encode(texts)
