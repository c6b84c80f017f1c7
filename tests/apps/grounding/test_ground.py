"""Grounding a word: completeness from the logit to the pixels, on every text tower, through students and plain towers."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from vlms import build, picture, student_of

from aloe.apps.grounding.ground import ground
from aloe.apps.grounding.language import TEXT_TOWERS, explained
from aloe.apps.grounding.model import VisionLanguage
from aloe.apps.grounding.vision import Reading, check_student, read, reading_of, through_student
from aloe.attribution.inherent import explain
from aloe.core.errors import UserError
from aloe.models.configuration import BcosViTConfig
from aloe.models.modeling import BcosViTModel

PROMPT, ANSWER = "what is there in the picture ?", "a red cup left of a blue tree"


def with_student(model, **options):
    return model.with_student(student_of(model, **options))


@pytest.mark.parametrize("tower", ["siglip", "clip"])
@pytest.mark.parametrize("text", TEXT_TOWERS)
def test_the_parts_of_a_value_add_up(text, tower):
    """cp, no biases, a student: pixels, the encoder's constants and words are all there is to the model's own logit."""
    model = with_student(build(text, tower, bias=False))
    found = ground(model, picture(), PROMPT, answer=ANSWER, variant="cp")
    assert [w.span.text for w in found.words] == ANSWER.split()
    seen, _ = model.see(model.picture(picture()))
    hidden = model.decoder(inputs_embeds=model.embed(found.ids, model.projector(seen))).last_hidden_state
    logits = model.logits(hidden[0]).detach()
    for n, word in enumerate(found.words):
        logit = float(logits[found.start + n - 1, found.ids[found.start + n]])
        assert abs(word.value - logit) <= 1e-4 * abs(logit) + 1e-5
        size = sum(abs(p) for p in (word.image, word.constants, word.prompt, word.before)) + abs(word.value)
        assert abs(word.rest) <= 1e-4 * size
        assert abs(word.image) > 1e-4 * size, "vacuous: no pixel matters"


def test_the_full_variant_reports_what_is_left():
    found = ground(with_student(build()), picture(), PROMPT, answer=ANSWER, words=["cup"])
    (word,) = found.words
    total = word.image + word.constants + word.prompt + word.before + word.rest
    assert abs(total - word.value) < 1e-5
    assert abs(word.rest) > 1e-4
    assert abs(float(word.map.sum()) - word.image) < 1e-5
    assert word.tokens[found.start + word.span.tokens[0] :].abs().max() == 0


def test_words_asked_for_together_or_alone_are_the_same():
    model = with_student(build())
    every = ground(model, picture(), PROMPT, answer=ANSWER, together=3)
    for word in every.words:
        if word.span.text in ("cup", "tree"):
            (alone,) = ground(model, picture(), PROMPT, answer=ANSWER, words=[word.span.text]).words
            torch.testing.assert_close(alone.map, word.map, rtol=1e-3, atol=1e-5 * float(word.map.abs().max()))
            assert abs(alone.value - word.value) < 1e-5


def test_a_word_does_not_depend_on_what_follows_it():
    model = with_student(build())
    short = ground(model, picture(), PROMPT, answer="a red cup", words=["cup"]).words[0]
    long = ground(model, picture(), PROMPT, answer=ANSWER, words=["cup"]).words[0]
    torch.testing.assert_close(short.map, long.map, rtol=1e-3, atol=1e-5 * float(long.map.abs().max()))


def test_a_phrase_is_the_sum_of_its_tokens_and_a_contrast_the_difference_of_two():
    model = with_student(build("llama"))
    phrase = ground(model, picture(), PROMPT, answer=ANSWER, words=["red cup"]).words[0]
    red, cup = ground(model, picture(), PROMPT, answer=ANSWER, words=["red", "cup"]).words
    torch.testing.assert_close(phrase.map, red.map + cup.map, rtol=1e-3, atol=1e-6)
    assert abs(phrase.value - red.value - cup.value) < 1e-4
    contrast = ground(model, picture(), PROMPT, answer=ANSWER, words=["cup"], against="tree").words[0]
    other = ground(model, picture(), PROMPT, answer="a red tree", words=["tree"]).words[0]
    torch.testing.assert_close(contrast.map, cup.map - other.map, rtol=1e-3, atol=1e-6)
    assert abs(contrast.value - (cup.value - other.value)) < 1e-4


def test_the_plain_tower_is_explained_by_attnlrp():
    model = with_student(build())
    own = ground(model, picture(), PROMPT, answer=ANSWER, words=["cup"])
    plain = ground(model, picture(), PROMPT, answer=ANSWER, words=["cup"], plain=True)
    assert (own.path, plain.path) == ("inherent", "attnlrp")
    assert plain.words[0].weights is None
    assert own.words[0].weights.shape == (6, 32, 32)
    assert plain.words[0].map.abs().sum() > 0
    half = ground(
        VisionLanguage(build().model.bfloat16(), model.tokenizer, model.view), picture(), PROMPT, answer=ANSWER
    )
    assert half.words[0].map.dtype == torch.float32
    assert all(w.map.isfinite().all() for w in half.words)


def test_the_answer_is_the_model_s_own():
    """Cached generation says what uncached argmax says; transformers' generate as well, where no soft cap differs."""
    model = build("qwen2")
    ids = model.ids(PROMPT)
    seen, _ = model.see(model.picture(picture()))
    said = model.answer(ids, seen, 6)
    so_far = list(ids)
    for token in said:
        hidden = model.decoder(inputs_embeds=model.embed(so_far, model.projector(seen))).last_hidden_state
        assert int(model.logits(hidden[0, -1]).argmax()) == token
        so_far.append(token)
    pixels = model.view.normalize(torch.from_numpy(_array(picture())))
    theirs = model.model.generate(
        input_ids=torch.tensor([ids]), pixel_values=pixels, max_new_tokens=6, do_sample=False, eos_token_id=3
    )[0, len(ids) :]
    assert [t for t in theirs.tolist() if t != 3] == said


def test_everything_is_left_as_it_was():
    model = with_student(build())
    parts = (model.model, model.student)
    model.student.train()
    hooks = [n for n in vars(model.model) if "hooks" in n]

    def state():
        return [
            (
                {n: (m.training, [dict(getattr(m, h)) for h in hooks]) for n, m in part.named_modules()},
                {n: (p.requires_grad, p.grad, p.detach().numpy().tobytes()) for n, p in part.named_parameters()},
                part.config._attn_implementation,
            )
            for part in parts
        ]

    before = state()
    ground(model, picture(), PROMPT, answer=ANSWER, words=["cup"])
    with pytest.raises(UserError):
        ground(model, picture(), PROMPT, answer=ANSWER, words=["boat"])
    assert state() == before


# --- the visual path ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case", ["second to last", "two layers", "registers", "registers and cls", "attention", "mean", "cls"]
)
def test_the_visual_path_is_the_student_s_own(case):
    """Tokens are W(x)x plus constants, exactly, whatever is read; prefix tokens that the tower lacks are left out."""
    pooled = case in ("attention", "mean", "cls")
    cls = case in ("cls", "registers and cls")
    config = BcosViTConfig(
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
        use_cls_token=cls,
        num_register_tokens=3 if "registers" in case else 0,
        pooling=case if pooled else ("cls" if cls else "mean"),
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        student = BcosViTModel(config).eval()
        for p in student.parameters():
            p.data.uniform_(0.5, 1.5) if p.ndim == 1 else p.data.normal_(0, 0.2)
    reading = Reading(
        (1, 2) if case == "two layers" else (2,), has_cls=cls, drop_first=cls and not pooled, pooled=pooled
    )
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with explained(student):
        tokens, pull = through_student(student, images, reading)
        gradients = torch.randn(2, *tokens.shape[1:], generator=torch.Generator().manual_seed(3))
        found = pull(gradients)
    assert tokens.shape == (1, reading.tokens_of(16), 48 if case == "two layers" else 24)
    value = (gradients * tokens).sum((1, 2))
    torch.testing.assert_close(found.maps.sum((1, 2)) + found.constants, value, rtol=1e-4, atol=1e-4)
    assert found.constants.abs().min() > 1e-5
    if pooled:  # then it is what aloe.explain says of the same direction of the pooled output
        own = explain(student, images, gradients[:1, 0])
        scale = float(value[0] / own.logit[0])
        torch.testing.assert_close(found.maps[0], own.contributions[0] * scale, rtol=1e-3, atol=1e-6)
    if case.startswith("registers"):
        states = student(images, output_hidden_states=True).hidden_states[2]
        assert torch.allclose(tokens[0], states[0, 3 + int(cls) :], atol=1e-5)


def test_a_pooled_student_answers_with_one_visual_token():
    model = build()
    pooled = VisionLanguage(model.model, model.tokenizer, model.view, pooled=True)
    pooled = pooled.with_student(student_of(model))
    assert pooled.ids(PROMPT).count(model.image_token) == 1
    word = ground(pooled, picture(), PROMPT, answer=ANSWER, words=["cup"]).words[0]
    assert word.map.abs().sum() > 0


def test_reading_follows_transformers():
    """The tower's tokens here are those that LlavaModel gives its projector."""
    for text, tower, config in (
        ("llama", "clip", {}),
        ("llama", "clip", {"vision_feature_select_strategy": "full"}),
        ("llama", "siglip", {"vision_feature_layer": [-2, -1]}),
        ("llama", "siglip", {"vision_feature_select_strategy": "default"}),
    ):
        model = build(text, tower, **config)
        kept = []
        hook = model.projector.register_forward_hook(lambda _m, i, _o, kept=kept: kept.append(i[0]))
        pixels = model.view.normalize(torch.from_numpy(_array(picture())))
        model.model.model.get_image_features(pixel_values=pixels, return_dict=True)
        hook.remove()
        out = model.tower(pixels, output_hidden_states=True)
        torch.testing.assert_close(read(out, model.reading, int(model.reading.has_cls)), kept[0])
        assert model.image_tokens == kept[0].shape[1]


# --- bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "<bos> <image> what <image> is there"}, "has 2 image tokens .* but the vision tower gives 16"),
        ({"words": ["boat"]}, "The answer has no 'boat'; it reads 'a red cup left"),
        ({"answer": ""}, "The answer is empty"),
        ({"answer": " ".join(["cup"] * 200)}, "are 2.. tokens but the text tower's context holds 96; shorten"),
        ({"prompt": " ".join(["what"] * 90)}, "are 1.. tokens but the text tower's context holds 96"),
        ({"variant": "half"}, "variant full or cp, got 'half'"),
        ({"words": ["cup"], "against": "boat"}, "knows no word 'boat'"),
        ({"words": ["cup"], "against": "cup"}, "cannot be told from 'cup'"),
    ],
)
def test_mistakes_are_one_sentence(change, message):
    options = {"prompt": PROMPT, "answer": ANSWER, **change}
    with pytest.raises(UserError, match=message) as caught:
        ground(build(), picture(), options.pop("prompt"), **options)
    assert "\n" not in str(caught.value)


def test_a_prompt_needs_a_place_for_the_image():
    model = build()
    model.tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template, so the prompt must hold the image token"):
        model.ids("what is there")
    assert model.ids("<bos> <image> what is there").count(4) == 16
    model.tokenizer.chat_template = "{{ messages[0]['content'] | replace('<image>', '') }}"
    with pytest.raises(UserError, match="leaves out the image token"):
        model.ids("what is there")
    with pytest.raises(UserError, match="16 image tokens but the vision encoder gives 9"):
        model.embed(model.ids("<image> what"), torch.zeros(1, 9, 32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 48}, "width is 48 and the vision tower's 24"),
        ({"num_hidden_layers": 2}, "number of blocks is 2 and the vision tower's 3"),
        ({"image_size": 64}, "number of patch tokens is 64 and the vision tower's 16"),
        ({"use_cls_token": True}, "number of CLS tokens is 1 and the vision tower's 0"),
    ],
)
def test_a_student_of_another_geometry_is_refused(change, message):
    model = build()
    values = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    values |= {"image_size": 32, "patch_size": 8, "use_cls_token": False, "pooling": "mean", **change}
    with pytest.raises(UserError, match=message):
        model.with_student(BcosViTModel(BcosViTConfig(**values)))


def test_a_student_aligned_elsewhere_is_refused():
    model = build()
    student = student_of(model)
    with pytest.raises(UserError, match="reads the tower after block 2, but the student was aligned after blocks 1, 3"):
        model.with_student(student, [1, 3])
    assert model.with_student(student, [2]).student is student
    with pytest.raises(UserError, match="is not a B-cos student"):
        check_student(model.tower, model.model.config.vision_config, model.reading)


def test_a_hidden_state_that_is_not_there_is_refused():
    config = build().model.config
    for layer in (0, -4, 9):
        config.vision_feature_layer = layer
        with pytest.raises(UserError, match=f"vision_feature_layer {layer} names no block of a tower of 3"):
            reading_of(config)


def _array(image: Image.Image):
    import numpy as np

    return np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 255


def test_numbers_are_json():
    found = ground(with_student(build()), picture(), PROMPT, answer=ANSWER, words=["cup"])
    row = json.loads(json.dumps(found.row()))
    assert row["words"][0]["word"] == "cup"
    assert len(row["words"][0]["text"]) == found.start - 16 + 2
