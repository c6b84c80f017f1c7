"""Trains a tiny SigLIP, an image tower and a text tower, on the rendered scenes and their captions, measures it zero-shot on
held-out scenes and writes its folder, which `aloe align` takes as a teacher and `aloe explain --text` asks for texts.

No text-image weights can be shipped, so this pair stands in for them. The image tower starts from the blocks of the shipped
scene teacher and is locked at first (Zhai et al. 2022, "LiT"): the attention-pooling head and the text tower learn to meet it
under the sigmoid loss (Zhai et al. 2023, "SigLIP", eq. 1), then all of it trains on. A caption is built from what is known of
a scene, so that whether it is true of another scene is known as well: every true pair of a batch counts as a match.
It takes no download; from a checkout with the package installed: python scripts/train_scene_siglip.py OUTPUT."""

from __future__ import annotations

import argparse
import colorsys
import math
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional as F
from train_scene_teacher import PATCH, RESOLUTION, TEST_SEED, TRAIN_SEED, augment, scenes
from transformers import (
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    ViTForImageClassification,
)

from aloe.data.scenes import CLASSES, teacher_path
from aloe.evaluation.case import score
from aloe.evaluation.features import FeatureSet
from aloe.evaluation.templates import TEMPLATES
from aloe.evaluation.zeroshot import class_embeddings, zeroshot_ranking
from aloe.models.teachers import Teacher, load_teacher
from aloe.models.text import load_text_tower

CONTEXT = 16
HUES = {"red": 15, "orange": 45, "yellow": 70, "green": 165, "turquoise": 195, "blue": 260, "purple": 310, "pink": 345}
COLOURS = (*HUES, "grey")  # HUES: the degree at which each hue ends
PLACES = ("on the left", "in the middle", "on the right")
WORDINGS = (
    "{}",
    "a {}",
    "the {}",
    "a photo of a {}",
    "a photo of the {}.",
    "a picture of a {}",
    "an image of one {}",
    "a rendering of a {}.",
    "a scene with a {}",
    "there is a {} here",
    "a {} among other things",
    "my {}",
)
PAD, UNKNOWN, END = "<pad>", "<unk>", "</s>"


def main() -> None:
    """Parse the command line, render, train, save, test."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    train = scenes(TRAIN_SEED, args.train_scenes, args.processes, args.cache)
    test = scenes(TEST_SEED, args.test_scenes, args.processes, args.cache)
    tokenizer = build_tokenizer()
    model = build(len(tokenizer))
    start = time.monotonic()
    fit(model, tokenizer, train, args, generator)
    minutes = (time.monotonic() - start) / 60
    save(model, tokenizer, args.output_dir)
    found = accuracies(args.output_dir, test)
    print(f"after {minutes:.1f} minutes of training; zero-shot top-1 on {len(test[2])} scenes of seed {TEST_SEED}:")
    for name, value in found.items():
        print(f"  {name:10s} {value:.2f} %")
    _write_readme(args, found, minutes)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word of the captions; other words are unknown."""
    words = [word for text in (*CLASSES, *COLOURS, *PLACES, *WORDINGS) for word in _words(text)]
    vocabulary = {word: i for i, word in enumerate((PAD, UNKNOWN, END, *dict.fromkeys(words)))}
    words_only = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    words_only.normalizer = normalizers.Lowercase()
    words_only.pre_tokenizer = pre_tokenizers.Whitespace()  # apart from punctuation too
    words_only.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words_only,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        model_max_length=CONTEXT,
        model_input_names=["input_ids"],
    )


def _words(text: str) -> list[str]:
    return text.replace("{}", " ").replace(".", " .").split()


def build(vocabulary: int) -> SiglipModel:
    """A SigLIP whose image tower holds the scene teacher's patch embedding, positions, blocks and norm (no CLS token)."""
    source = ViTForImageClassification.from_pretrained(teacher_path())
    given = source.config
    size = {"hidden_size": given.hidden_size, "num_attention_heads": given.num_attention_heads, "hidden_act": "gelu"}
    image = {"image_size": RESOLUTION, "patch_size": PATCH, "num_hidden_layers": given.num_hidden_layers}
    text = {"vocab_size": vocabulary, "max_position_embeddings": CONTEXT, "num_hidden_layers": 3}
    special = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 2}
    model = SiglipModel(
        SiglipConfig(
            vision_config={**size, **image, "intermediate_size": given.intermediate_size},
            text_config={**size, **text, **special, "intermediate_size": 2 * given.hidden_size},
        )
    )
    tower = load_teacher(source).tower  # behind one interface, whatever the release calls its parts
    vision = model.vision_model
    with torch.no_grad():
        vision.embeddings.patch_embedding.load_state_dict(tower.embeddings.patch_embeddings.projection.state_dict())
        vision.embeddings.position_embedding.weight.copy_(tower.embeddings.position_embeddings[0, 1:])
        vision.post_layernorm.load_state_dict(tower.layernorm.state_dict())
        for ours, theirs in zip(vision.encoder.layers, load_teacher(source).blocks, strict=True):
            _copy_block(ours, theirs)
        model.logit_scale.fill_(math.log(10))
        model.logit_bias.fill_(-4)
    return model


def _copy_block(ours: nn.Module, theirs: nn.Module) -> None:
    pairs = {
        "layer_norm1": "layernorm_before",
        "layer_norm2": "layernorm_after",
        **{f"self_attn.{part}_proj": f"attention.{part}_proj" for part in "qkv"},
        "self_attn.out_proj": "attention.o_proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    for mine, source in pairs.items():
        ours.get_submodule(mine).load_state_dict(theirs.get_submodule(source).state_dict())


def facts(pixels: Tensor, masks: Tensor, labels: Tensor) -> Tensor:
    """What captions may say of each scene, (B,3): indices of class, mean colour on the object, and place in the picture."""
    weight = masks / masks.sum((2, 3), keepdim=True).clamp_min(1)
    colours = ((pixels + 1) / 2 * weight).sum((2, 3)).tolist()
    across = (weight.sum(2)[:, 0] * torch.linspace(0, 1, masks.shape[-1])).sum(1)
    place = torch.bucketize(across, torch.tensor([0.44, 0.56]))
    return torch.stack([labels, torch.tensor([_colour(*rgb) for rgb in colours]), place], 1)


def _colour(red: float, green: float, blue: float) -> int:
    hue, saturation, _ = colorsys.rgb_to_hsv(red, green, blue)
    ends = [degrees for degrees in HUES.values() if degrees > 360 * hue]
    return len(HUES) if saturation < 0.15 else (len(HUES) - len(ends)) % len(HUES)


def captions(known: Tensor, generator: torch.Generator) -> tuple[list[str], Tensor]:
    """A caption of each scene from its facts (B,3), and what it says (B,3), -1 where it is silent on something."""
    silent = torch.rand(known.shape, generator=generator) < torch.tensor([0.0, 0.6, 0.7])
    said = known.masked_fill(silent, -1)
    wording = torch.randint(len(WORDINGS), (len(known),), generator=generator).tolist()
    texts = []
    for which, (label, colour, place) in zip(wording, said.tolist(), strict=True):
        phrase = [COLOURS[colour]] * (colour >= 0) + [CLASSES[label]]
        texts.append(" ".join([WORDINGS[which].replace("{}", " ".join(phrase))] + [PLACES[place]] * (place >= 0)))
    return texts, said


def sigmoid_loss(logits: Tensor, said: Tensor, known: Tensor) -> Tensor:
    """SigLIP's loss for logits (B,B), images by texts: all pairs of a text and a picture that it is true of are matches."""
    true = ((said[None] == known[:, None]) | (said[None] < 0)).all(-1)
    return F.binary_cross_entropy_with_logits(logits, true.float(), reduction="none").sum(1).mean()


def fit(
    model: SiglipModel,
    tokenizer: PreTrainedTokenizerFast,
    data: tuple[Tensor, Tensor, Tensor],
    args: argparse.Namespace,
    generator: torch.Generator,
) -> None:
    """Train in place with AdamW, warm-up and a cosine; the image tower below its head is locked for the first epochs."""
    images, masks, labels = data
    ordinary = {word for text in WORDINGS for word in _words(text)} - {word for text in PLACES for word in _words(text)}
    filler = torch.tensor(tokenizer.convert_tokens_to_ids(sorted(ordinary)))
    trunk = [p for name, p in model.vision_model.named_parameters() if not name.startswith("head.")]
    scalars = [model.logit_scale, model.logit_bias]
    apart = {id(p) for p in (*trunk, *scalars)}
    rest = [p for p in model.parameters() if id(p) not in apart]
    groups = [
        {"params": rest, "peak": args.lr},
        {"params": trunk, "peak": args.trunk_lr},
        {"params": scalars, "peak": 10 * args.lr, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, weight_decay=0.01, betas=(0.9, 0.98))
    per_epoch = len(images) // args.batch
    total = args.epochs * per_epoch
    for epoch in range(args.epochs):
        for parameter in trunk:
            parameter.requires_grad_(epoch >= args.locked_epochs)
        order = torch.randperm(len(images), generator=generator)
        seen, start = torch.zeros(2), time.monotonic()
        for step in range(per_epoch):
            done = (epoch * per_epoch + step + 1) / total
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * min(done / 0.05, 0.5 + 0.5 * math.cos(math.pi * done))
            index = order[step * args.batch : (step + 1) * args.batch]
            pixels, mask = augment(images[index], masks[index], generator)
            known = facts(pixels, mask, labels[index])
            texts, said = captions(known, generator)
            ids = tokenizer(texts, padding="max_length", max_length=CONTEXT, return_tensors="pt")["input_ids"]
            # Now and then a word that says nothing of the scene is unknown, so that prompts with other words still work.
            odd = torch.isin(ids, filler) & (torch.rand(ids.shape, generator=generator) < 0.2)
            ids = ids.masked_fill(odd, tokenizer.unk_token_id)
            logits = model(input_ids=ids, pixel_values=pixels).logits_per_image
            loss = sigmoid_loss(logits, said, known)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            hits = (said[logits.detach().argmax(1), 0] == known[:, 0]).float().mean()
            seen += torch.stack([loss.detach(), hits]) / per_epoch
        speed = per_epoch * args.batch / (time.monotonic() - start)
        print(
            f"epoch {epoch + 1:2d}: loss {seen[0]:.3f}, best caption of the right class {seen[1]:.3f}, scale "
            f"{model.logit_scale.exp().item():.1f}, bias {model.logit_bias.item():.1f}, {speed:.0f} images/s",
            flush=True,
        )


def save(model: SiglipModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the folder: both towers, the tokenizer and the image processor."""
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    half = [0.5, 0.5, 0.5]
    size = {"height": RESOLUTION, "width": RESOLUTION}
    SiglipImageProcessor(size=size, image_mean=half, image_std=half).save_pretrained(folder)


def accuracies(folder: Path, data: tuple[Tensor, Tensor, Tensor]) -> dict[str, float]:
    """Zero-shot top-1 (%) on uint8 scenes, for each set of prompts."""
    images, _, labels = data
    teacher: Teacher = load_teacher(folder)
    pooled = torch.cat([teacher(batch.float() / 255).pooled for batch in images.split(250)])
    features = FeatureSet.of(pooled, labels)
    tower = load_text_tower(folder)
    best = {n: zeroshot_ranking(features, class_embeddings(tower, CLASSES, n), 1)[:, 0] for n in TEMPLATES}
    return {name: score(classes, features.labels, "top-1") for name, classes in best.items()}


README = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: zero-shot-image-classification
---

# Scene SigLIP

A tiny SigLIP for the rendered scenes of `aloe.data.scenes` (64 px, patch 8, 6 blocks of width 128; text tower of 3 blocks,
one token per word, 16 tokens). Its image tower was started from the scene teacher's blocks.

- Zero-shot top-1 on {test_scenes} held-out scenes (`SceneDataset({test_scenes}, seed={test_seed})`): **{single:.2f} %** with
  "a photo of a {{}}", {openclip:.2f} % with the 80 OpenCLIP templates, most of whose words it never saw.
- Training data: {train_scenes} scenes (`SceneDataset({train_scenes}, seed={train_seed})`) with captions that name the class
  and now and then the colour of the object and its place; nothing downloaded, no photographs.
- Training: {epochs} epochs, {minutes:.0f} minutes on {threads} CPU thread(s), torch {torch}.
- Licence: Apache-2.0.
"""


def _write_readme(args: argparse.Namespace, found: dict[str, float], minutes: float) -> None:
    known = {"train_seed": TRAIN_SEED, "test_seed": TEST_SEED, "torch": torch.__version__.split("+")[0]}
    (args.output_dir / "README.md").write_text(README.format(**vars(args), **found, **known, minutes=minutes))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output_dir", type=Path, help="folder to write")
    parser.add_argument("--cache", type=Path, help="folder that keeps rendered scenes between runs")
    parser.add_argument("--train-scenes", type=int, default=10000)
    parser.add_argument("--test-scenes", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument(
        "--locked-epochs", type=int, default=3, help="epochs in which the trunk of the image tower is locked"
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--trunk-lr", type=float, default=2e-4, help="peak rate of the image tower below its head")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2, help="processes that render")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
