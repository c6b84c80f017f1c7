"""Small image-text pairs with random weights and real tokenizer files, saved as transformers saves them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
import transformers as hf
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

CONTEXT, WIDTH, PATCH, SIDE = 16, 32, 8, 32
SIZE = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
# name -> model type and the tokenizer class that the checkpoints on the hub name
PAIRS = {
    "siglip": ("siglip", "TokenizersBackend"),
    "siglip2": ("siglip", "GemmaTokenizer"),
    "siglip2-naflex": ("siglip2", "Siglip2Tokenizer"),
}
SENTENCES = [
    "a photo of a cactus",
    "a red car on the left",
    "the tree",
    "a photo of a snowman",
    "A Granny Smith apple.",
]
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>"]


def write_pair(folder: Path, name: str, *, tokenizer: bool = True, width: int = WIDTH) -> Path:
    """A folder with both towers, as `SiglipModel.save_pretrained` and a tokenizer's leave it."""
    model_type, tokenizer_class = PAIRS[name]
    naflex = model_type == "siglip2"
    config_class, model_class = (hf.Siglip2Config, hf.Siglip2Model) if naflex else (hf.SiglipConfig, hf.SiglipModel)
    size = {**SIZE, "hidden_size": width}
    view = {"num_patches": (SIDE // PATCH) ** 2} if naflex else {"image_size": SIDE}
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    config = config_class(
        vision_config={**size, **view, "patch_size": PATCH},
        text_config={**size, **special, "vocab_size": 120, "max_position_embeddings": CONTEXT},
    )
    with torch.random.fork_rng():
        torch.manual_seed(sum(map(ord, name)))
        model = model_class(config)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "norm" in key:
                    parameter.uniform_(0.5, 1.5) if key.endswith("weight") else parameter.normal_(0, 0.1)
            model.logit_scale.fill_(math.log(12))
            model.logit_bias.fill_(-3)
    model.save_pretrained(folder)
    if tokenizer:
        write_tokenizer(folder, tokenizer_class)
    return folder


def write_tokenizer(folder: Path, tokenizer_class: str, **settings: object) -> None:
    """tokenizer.json and tokenizer_config.json: byte-pair encoding over the SENTENCES, in the manner of Gemma's."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", "\u2581")])
    bpe.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    bpe.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=60, special_tokens=SPECIAL))
    bpe.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    bpe.save(str(folder / "tokenizer.json"))
    stated = {
        "tokenizer_class": tokenizer_class,
        **{f"{word.strip('<>')}_token": word for word in SPECIAL},
        "padding_side": "right",
        "model_input_names": ["input_ids"],
        "do_lower_case": True,
        "add_bos_token": False,
        "add_eos_token": True,
        **settings,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in stated.items() if v is not None}))


def reference_logits(folder: Path, images: Tensor, texts: list[str]) -> Tensor:
    """transformers' own `logits_per_image` for images (B, 3, SIDE, SIDE) in [0, 1]."""
    tokens = hf.AutoTokenizer.from_pretrained(folder)(
        texts, padding="max_length", max_length=CONTEXT, return_tensors="pt"
    )
    pixels = (images - 0.5) / 0.5
    model = hf.AutoModel.from_pretrained(folder)
    options = {"pixel_values": pixels}
    if model.config.model_type == "siglip2":
        columns = torch.nn.functional.unfold(pixels, PATCH, stride=PATCH)  # channel, row, column inside a patch
        patches = columns.unflatten(1, (3, PATCH * PATCH)).permute(0, 3, 2, 1).flatten(2)
        grid = torch.full((len(images), 2), SIDE // PATCH)
        mask = torch.ones(patches.shape[:2], dtype=torch.long)
        options = {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": grid}
    with torch.no_grad():
        return model(**tokens, **options).logits_per_image
