"""LLaVA-MORE's layout: the same logits as its own arithmetic, and a sentence for everything that cannot be mapped."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from safetensors.torch import save_file
from vlms import SIZE, TEXT, VISION, build_tokenizer, picture, randomize, student_of

from aloe.apps.grounding.ground import ground
from aloe.apps.grounding.loading import load_vision_language
from aloe.core.errors import UserError

MM = {
    "model_type": "llava_gemma",
    "model_architecture": "gemma_2",
    "mm_projector_type": "mlp2x_gelu",
    "mm_hidden_size": 24,
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "mm_patch_merge_type": "flat",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "image_aspect_ratio": "pad",
    "use_mm_proj": True,
    "tokenizer_padding_side": "right",
    "siglip": True,
}


@pytest.fixture
def checkpoint(tmp_path):
    """A small Gemma-2, a projector and a tower under LLaVA-MORE's names; the tower's own folder beside it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        text = hf.Gemma2ForCausalLM(TEXT["gemma2"]())
        tower = hf.SiglipVisionModel(hf.SiglipVisionConfig(**VISION))
        projector = torch.nn.Sequential(torch.nn.Linear(24, 32), torch.nn.GELU(), torch.nn.Linear(32, 32))
        for part in (text, tower, projector):
            randomize(part)
    home, eye = tmp_path / "llava", tmp_path / "tower"
    tower.save_pretrained(eye)
    processor = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 32, "width": 32}}
    processor |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_normalize": True, "resample": 3}
    (eye / "preprocessor_config.json").write_text(json.dumps(processor))
    build_tokenizer(image=False).save_pretrained(home)
    values = {**TEXT["gemma2"]().to_dict(), **MM, "mm_vision_tower": str(eye), "tie_word_embeddings": True}
    (home / "config.json").write_text(json.dumps(values))
    tensors = {k: v for k, v in text.state_dict().items() if k != "lm_head.weight"}
    tensors |= {f"model.mm_projector.{k}": v for k, v in projector.state_dict().items()}
    tensors |= {f"model.vision_tower.vision_tower.vision_model.{k}": v for k, v in tower.state_dict().items()}
    write(home, tensors)
    return home, text.eval(), tower.eval(), projector


def write(home, tensors):
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, home / "model.safetensors")


def edit(home, **values):
    path = home / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def tensors_of(home):
    from safetensors.torch import load_file

    return load_file(home / "model.safetensors")


def test_logits_are_those_of_its_own_arithmetic(checkpoint):
    """All embeddings, image features included, times sqrt(D); the final soft cap."""
    home, text, tower, projector = checkpoint
    model = load_vision_language(home)
    ids = model.ids("what is there")
    assert ids.count(model.image_token) == 16
    assert ids.count(2) == 1, "one BOS"
    seen, _ = model.see(model.picture(picture(side=40)))
    hidden = model.decoder(inputs_embeds=model.embed(ids, model.projector(seen))).last_hidden_state
    found = model.logits(hidden)

    pixels = model.view.normalize(_pixels(model.picture(picture(side=40))))
    features = projector(tower(pixels, output_hidden_states=True).hidden_states[-2])
    row = torch.tensor(ids)
    unscaled = F.embedding(row.masked_fill(row == model.image_token, 0), text.get_input_embeddings().weight)[None]
    unscaled = unscaled.masked_scatter((row == model.image_token)[None, :, None], features)
    expected = text(inputs_embeds=unscaled * math.sqrt(SIZE["hidden_size"])).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert found.abs().max() < 3.0, "soft cap"


def test_it_is_grounded_through_a_student(checkpoint):
    home = checkpoint[0]
    model = load_vision_language(home)
    model = model.with_student(student_of(model))
    word = ground(model, picture(side=40), "what is there", answer="a red cup", words=["cup"], variant="cp").words[0]
    assert word.map.shape == (32, 32)
    assert word.map.abs().sum() > 0


def test_pictures_are_padded_with_the_mean_colour(checkpoint):
    view = load_vision_language(checkpoint[0]).view
    wide = picture(side=32).resize((64, 32))
    corner = view.picture(wide, 32).getpixel((16, 1))
    assert view.how == "pad"
    assert corner == (127, 127, 127)


def test_the_tower_may_lie_elsewhere(checkpoint, tmp_path):
    home, _, _, _ = checkpoint
    write(home, {k: v for k, v in tensors_of(home).items() if "vision_tower" not in k})
    whole = load_vision_language(home)
    (tmp_path / "moved").symlink_to(tmp_path / "tower")
    edit(home, mm_vision_tower=str(tmp_path / "gone"))
    moved = load_vision_language(home, tower=tmp_path / "moved")
    for a, b in zip(whole.tower.parameters(), moved.tower.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(UserError, match="gone"):
        load_vision_language(home)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mm_projector_type": "linear"}, "mm_projector_type is 'linear', which cannot be mapped"),
        ({"mm_patch_merge_type": "spatial"}, "mm_patch_merge_type is 'spatial'"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio is 'anyres'"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end is True"),
        ({"s2": True}, "several scales"),
        ({"mm_hidden_size": 48}, "reads features of width 48 but the vision tower's have 24"),
        ({"model_type": "llava_llama"}, "is a llava_llama model; token grounding takes LLaVA models"),
        (
            {"num_hidden_layers": 2, "layer_types": None},
            "tensors do not map; 'model.language_model.layers.2.* has no place",
        ),
        ({"intermediate_size": 48}, "but the configuration says"),
    ],
)
def test_what_cannot_be_mapped_is_refused(values, message, checkpoint):
    edit(checkpoint[0], **values)
    with pytest.raises(UserError, match=message) as caught:
        load_vision_language(checkpoint[0])
    assert "\n" not in str(caught.value)


def test_tensors_without_a_counterpart_or_missing_are_named(checkpoint):
    home = checkpoint[0]
    tensors = tensors_of(home)
    write(home, {**tensors, "model.resampler.weight": torch.zeros(1)})
    with pytest.raises(UserError, match=r"'model.resampler.weight' that cannot be mapped"):
        load_vision_language(home)
    del tensors["model.mm_projector.2.bias"]
    write(home, tensors)
    with pytest.raises(UserError, match=r"'model.multi_modal_projector.linear_2\.bias' is missing"):
        load_vision_language(home)


def _pixels(image):
    import numpy as np

    return torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 255)
