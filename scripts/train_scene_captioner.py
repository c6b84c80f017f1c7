"""Trains a small vision-language model that describes rendered scenes of two objects, "a red rocket left of a blue table",
and writes its folder, which `aloe ground` takes, with its vision tower beside it as OUTPUT/tower, which `aloe align` takes.

It is a `LlavaForConditionalGeneration` as the large ones are: a SigLIP tower read at its second-to-last hidden state, a
projector of two layers, and a Gemma-2 text tower of a few blocks with one token per word. The tower starts from the blocks
of the shipped scene teacher, which has seen single objects only; all of it learns together, from answers that are built
from what is known of a scene: class and mean colour of each object, and which is on the left. It takes no download; from a
checkout with the package installed: python scripts/train_scene_captioner.py OUTPUT."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional as F
from train_scene_siglip import COLOURS, facts
from train_scene_siglip import build as build_siglip
from train_scene_teacher import RESOLUTION, TEST_SEED, TRAIN_SEED, Row, augment, muon, rendered
from transformers import (
    Gemma2Config,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from aloe.apps.grounding.language import cap
from aloe.apps.grounding.loading import load_vision_language
from aloe.apps.grounding.model import VisionLanguage
from aloe.data.scenes import CLASSES
from aloe.data.scenes.pairs import render_pair

WHOLE, LEFT, RIGHT = "what is in the picture ?", "what is on the left ?", "what is on the right ?"  # of equal length
RELATION = "left of"
PAD, UNKNOWN, BEGIN, END, IMAGE = "<pad>", "<unk>", "<bos>", "<eos>", "<image>"
TEMPLATE = (
    "{{ bos_token }} {% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}model :{% endif %}"
)


def main() -> None:
    """Parse the command line, render, train, save, test."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    train = rendered("pairs", _pair, TRAIN_SEED, args.train_scenes, args.processes, args.cache)
    test = rendered("pairs", _pair, TEST_SEED, args.test_scenes, args.processes, args.cache)
    tokenizer = build_tokenizer()
    if args.start is None:
        save(build(args, len(tokenizer)), tokenizer, args.output_dir)
    whole = load_vision_language(args.start or args.output_dir)
    start = time.monotonic()
    fit(whole, train, args)
    minutes = (time.monotonic() - start) / 60
    save(whole.model, tokenizer, args.output_dir)
    if args.images:
        write_images(train[0], args.images)
    print(f"after {minutes:.1f} minutes of training; of {len(test[0])} scenes of seed {TEST_SEED}, shares right:")
    for name, value in accuracies(whole, test).items():
        print(f"  {name:24s} {100 * value:.1f} %")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word."""
    text = " ".join((*CLASSES, *COLOURS, WHOLE, LEFT, RIGHT, RELATION, "a user model :"))
    words = (PAD, UNKNOWN, BEGIN, END, IMAGE, *dict.fromkeys(text.split()))
    model = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token=PAD, unk_token=UNKNOWN, bos_token=BEGIN, eos_token=END
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def build(args: argparse.Namespace, vocabulary: int) -> LlavaForConditionalGeneration:
    """A tower of the scene teacher's blocks, an untrained projector and text tower."""
    tower = build_siglip(vocabulary).vision_model
    text = Gemma2Config(
        vocab_size=vocabulary,
        hidden_size=args.width,
        intermediate_size=4 * args.width,
        num_hidden_layers=args.blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=args.width // 4,
        query_pre_attn_scalar=args.width // 4,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        initializer_range=0.05,
    )
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(**tower.config.to_dict()),
        text_config=text,
        image_token_index=4,
        image_seq_length=(tower.config.image_size // tower.config.patch_size) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )
    config._attn_implementation = "eager"
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    return model


def fit(whole: VisionLanguage, data: tuple[Tensor, Tensor, Tensor], args: argparse.Namespace) -> None:
    """Train in place, Muon for the blocks' matrices and AdamW for the rest, with warm-up and a cosine."""
    images, masks, labels = data
    generator = torch.Generator().manual_seed(args.seed)
    model = whole.model
    if args.start is None:
        standardize(whole, images[:500])
    optimizers = _optimizers(whole, args)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    per_epoch = len(images) // args.batch
    total = args.epochs * per_epoch
    model.train()
    for epoch in range(args.epochs):
        order = torch.randperm(len(images), generator=generator)
        seen, start = torch.zeros(2), time.monotonic()
        for step in range(per_epoch):
            done = (epoch * per_epoch + step + 1) / total
            for optimizer, peak in zip(optimizers, peaks, strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = peak * min(done / 0.05, 0.5 + 0.5 * math.cos(math.pi * done))
            index = order[step * args.batch : (step + 1) * args.batch]
            pixels, mask = augment(images[index], masks[index], generator)
            known = pair_facts(pixels, mask, labels[index])
            tokens = whole.projector(see(whole, pixels))
            questions = [WHOLE] * len(index)
            if step % 2:
                questions = [(LEFT, RIGHT)[k] for k in torch.randint(2, (len(index),), generator=generator)]
            loss, hits = answer_loss(
                whole, tokens, questions, [answer(f, q) for f, q in zip(known, questions, strict=True)]
            )
            model.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
            seen += torch.stack([loss.detach(), hits])
            if step % 50 == 49:
                speed = (step + 1) * args.batch / (time.monotonic() - start)
                print(
                    f"epoch {epoch + 1}, step {step + 1}: loss {seen[0] / 50:.3f} per word, classes right "
                    f"{seen[1] / 50:.3f}, {speed:.0f} scenes/s",
                    flush=True,
                )
                seen.zero_()
    model.eval()


def _optimizers(whole: VisionLanguage, args: argparse.Namespace) -> list[torch.optim.Optimizer]:
    tower, decoder = list(whole.tower.named_parameters()), list(whole.decoder.named_parameters())
    found: list[torch.optim.Optimizer] = []
    for part, rate in ((tower, args.tower_lr), (decoder, args.lr)):
        inner = [p.ndim == 2 and "layers." in name for name, p in part]
        matrices, rest = (
            [p for (_, p), yes in zip(part, inner, strict=True) if yes is wanted] for wanted in (True, False)
        )
        found.append(muon(matrices, rest, rate, 0.05))
    return [*found, torch.optim.AdamW(whole.projector.parameters(), args.lr, weight_decay=0.0)]


def answer_loss(
    whole: VisionLanguage, tokens: Tensor, questions: list[str], answers: list[str]
) -> tuple[Tensor, Tensor]:
    """Mean cross entropy of the answers' words after projected visual tokens (B,N,D), and the share of classes foreseen."""
    said = whole.tokenizer([f"{text} {END}" for text in answers], padding=True, return_tensors="pt")["input_ids"]
    ids = torch.cat([torch.tensor([whole.ids(question) for question in questions]), said], 1)
    places = ids == whole.image_token
    embedded = whole.decoder.get_input_embeddings()(ids.masked_fill(places, 0)).masked_scatter(
        places[..., None], tokens
    )
    hidden = whole.decoder(inputs_embeds=embedded, use_cache=False).last_hidden_state
    logits = cap(whole.model.lm_head(hidden[:, -said.shape[1] - 1 : -1]), whole.softcap)
    classes = torch.tensor(whole.tokenizer.convert_tokens_to_ids(list(CLASSES)))
    hits = (logits.detach().argmax(-1) == said)[torch.isin(said, classes)].float().mean()
    return F.cross_entropy(logits.flatten(0, 1), said.flatten(), ignore_index=whole.tokenizer.pad_token_id), hits


@torch.no_grad()
def standardize(whole: VisionLanguage, images: Tensor) -> None:
    """Start the projector where its inputs have mean 0 and deviation 1 in every channel."""
    tokens = see(whole, images.float() / 127.5 - 1).flatten(0, 1)
    first, second = whole.projector.linear_1, whole.projector.linear_2
    first.weight.normal_(0, tokens.shape[1] ** -0.5).div_(tokens.std(0))
    first.bias.copy_(-first.weight @ tokens.mean(0))
    second.weight.normal_(0, second.in_features**-0.5)


def see(whole: VisionLanguage, pixels: Tensor) -> Tensor:
    """What the tower gives the projector, (B, tokens, D), for normalised pixels."""
    return whole.tower(pixels, output_hidden_states=True).hidden_states[whole.reading.blocks[0]]


def pair_facts(pixels: Tensor, masks: Tensor, labels: Tensor) -> Tensor:
    """Indices of class and colour of the object on the left and of the one on the right, (B,2,2); a scene may be mirrored."""
    known = torch.stack([facts(pixels, masks[:, k : k + 1].float(), labels[:, k])[:, :2] for k in (0, 1)], 1)
    across = (masks.sum(2) * torch.arange(masks.shape[-1])).sum(-1) / masks.sum((2, 3)).clamp_min(1)
    return torch.where((across[:, 0] > across[:, 1])[:, None, None], known.flip(1), known)


def answer(known: Tensor, question: str) -> str:
    """The answer to a question about a scene's facts (2,2)."""
    left, right = (f"a {COLOURS[colour]} {CLASSES[label]}" for label, colour in known.tolist())
    return {WHOLE: f"{left} {RELATION} {right}", LEFT: left, RIGHT: right}[question]


@torch.no_grad()
def accuracies(whole: VisionLanguage, data: tuple[Tensor, Tensor, Tensor]) -> dict[str, float]:
    """Shares of scenes in which answers that the model gives by itself have the right words in the right places."""
    images, masks, labels = data
    known = pair_facts(images.float() / 127.5 - 1, masks, labels)
    right: dict[str, list[bool]] = {}
    for i, image in enumerate(images):
        tokens = see(whole, image[None].float() / 127.5 - 1)
        for question in (WHOLE, LEFT, RIGHT):
            found = whole.tokenizer.decode(whole.answer(whole.ids(question), tokens, 12)).split()
            wanted = answer(known[i], question).split()
            for kind, words in (("classes", CLASSES), ("colours", COLOURS)):
                same = [w for w in found if w in words] == [w for w in wanted if w in words]
                right.setdefault(f"{kind}, {question}", []).append(same)
            right.setdefault(f"all words, {question}", []).append(found == wanted)
    return {kind: sum(values) / len(values) for kind, values in right.items()}


def save(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the folder: model, tokenizer and image processor; and its tower as a folder of its own."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tower = SiglipVisionModel(model.config.vision_config)
    tower.load_state_dict(model.model.vision_tower.state_dict())
    tower.save_pretrained(folder / "tower")
    half = [0.5, 0.5, 0.5]
    size = {"height": RESOLUTION, "width": RESOLUTION}
    for where in (folder, folder / "tower"):
        SiglipImageProcessor(size=size, image_mean=half, image_std=half).save_pretrained(where)


def write_images(images: Tensor, folder: Path) -> None:
    """The scenes (N,3,H,W) as PNG files, for aligning a student to the tower."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i:05}.png")


def _pair(seed: int, index: int) -> Row:
    pair = render_pair(seed, index, RESOLUTION)
    return pair.image.transpose(2, 0, 1), pair.masks.astype(np.uint8), pair.labels


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output_dir", type=Path, help="folder to write")
    parser.add_argument("--start", type=Path, help="captioner to go on from, another folder than the output")
    parser.add_argument("--images", type=Path, help="folder to write the training scenes to, as PNG files")
    parser.add_argument("--cache", type=Path, help="folder that keeps rendered scenes between runs")
    parser.add_argument("--train-scenes", type=int, default=8000)
    parser.add_argument("--test-scenes", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--tower-lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2, help="processes that render")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
