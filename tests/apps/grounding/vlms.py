"""Small random LLaVA models with every kind of text tower, their students, and words for them; made on the fly."""

from __future__ import annotations

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers

from aloe.apps.grounding.model import VisionLanguage
from aloe.apps.grounding.view import View
from aloe.models.convert import bcosify
from aloe.models.teachers import Teacher

WORDS = [
    *("a", "red", "blue", "cup", "tree", "house", "left", "right", "of", "is", "there", "what", "the", "in"),
    *("picture", "user", "model", ":", "?", "two", "three"),
]
SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>", "<image>")
TEMPLATE = (
    "{{ bos_token }} {% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}model :{% endif %}"
)
SIZE = {
    "vocab_size": len(SPECIAL) + len(WORDS),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
TEXT = {
    "gemma2": lambda: hf.Gemma2Config(
        **SIZE,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=6,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=3.0,
    ),
    "llama": lambda: hf.LlamaConfig(**SIZE),
    "qwen2": lambda: hf.Qwen2Config(**SIZE, use_sliding_window=True, sliding_window=6, max_window_layers=1),
}
VISION = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
TOWERS = {"siglip": hf.SiglipVisionConfig, "clip": hf.CLIPVisionConfig}
VIEW = View("squash", (0.5,) * 3, (0.5,) * 3)


def build_tokenizer(image: bool = True):
    """One token per word; `image`: whether it knows the image's mark."""
    words = [w for w in (*SPECIAL, *WORDS)]
    if not image:
        words[4] = "<unused>"
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", bos_token="<bos>", eos_token="<eos>"
    )
    if image:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def build(text="gemma2", tower="siglip", *, bias=True, seed=0, **config) -> VisionLanguage:
    """A model whose norms, weights and (unless told otherwise) biases are all at non-trivial values."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = hf.LlavaForConditionalGeneration(
            hf.LlavaConfig(
                **{
                    "vision_config": TOWERS[tower](**VISION),
                    "text_config": TEXT[text](),
                    "image_token_index": 4,
                    "vision_feature_layer": -2,
                    "vision_feature_select_strategy": "full" if tower == "siglip" else "default",
                    "multimodal_projector_bias": bias,
                    **config,
                }
            )
        )
        randomize(made, bias)
    return VisionLanguage(made.eval(), build_tokenizer(), VIEW)


def randomize(module, bias=True) -> None:
    with torch.no_grad():
        for name, p in module.named_parameters():
            if name.endswith("bias"):
                p.normal_(0, 0.1) if bias else p.zero_()
            elif "norm" in name:
                p.uniform_(0.5, 1.5)
            elif "embed_tokens" in name:
                p.normal_(0, 0.3)
            elif p.ndim >= 2 and "position" not in name:
                p.normal_(0, p[0].numel() ** -0.5)


def student_of(model: VisionLanguage, **options):
    """The converted student of a model's own tower."""
    return bcosify(Teacher(model.tower, "tower"), **options).eval()


def picture(seed=0, side=32):
    from PIL import Image

    pixels = torch.randint(0, 256, (side, side, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())
