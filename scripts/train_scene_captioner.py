"""Trains a small vision-language model that describes the rendered scenes, "a red rocket on the left", and writes its folder,
which `aloe ground` takes.

It is a `LlavaForConditionalGeneration` as the large ones are: a frozen SigLIP tower (of train_scene_siglip.py) read at its
second-to-last hidden state, a projector of two layers, and a Gemma-2 text tower of a few blocks with one token per word.
Projector and text tower learn from captions that are built from what is known of a scene: class, mean colour and place of its
object. Masks are never shown to the model. It takes no download; from a checkout with the package installed:
python scripts/train_scene_captioner.py OUTPUT --tower SIGLIP."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional as F
from train_scene_siglip import COLOURS, PLACES, facts
from train_scene_teacher import TEST_SEED, TRAIN_SEED, scenes
from transformers import (
    Gemma2Config,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
    SiglipVisionModel,
)

from aloe.data.scenes import CLASSES
from aloe.grounding.language import cap
from aloe.grounding.loading import load_vision_language
from aloe.grounding.model import VisionLanguage

QUESTIONS = ("what is in the picture ?", "where is what in the picture ?")
ANSWERS = ("a {0} {1} {2}", "{2} a {0} {1}")  # colour, class, place
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
    train = scenes(TRAIN_SEED, args.train_scenes, args.processes, args.cache)
    test = scenes(TEST_SEED, args.test_scenes, args.processes, args.cache)
    tokenizer = build_tokenizer()
    model = build(args, len(tokenizer))
    save(model, tokenizer, args.output_dir)
    whole = load_vision_language(args.output_dir)
    start = time.monotonic()
    fit(whole, train, args)
    minutes = (time.monotonic() - start) / 60
    save(whole.model, tokenizer, args.output_dir)
    found = accuracies(whole, test)
    print(
        f"after {minutes:.1f} minutes of training; shares of {2 * len(test[0])} answers about scenes of seed {TEST_SEED}:"
    )
    for name, value in found.items():
        print(f"  {name:8s} {100 * value:.1f} % right")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word."""
    text = " ".join((*CLASSES, *COLOURS, *PLACES, *QUESTIONS, *ANSWERS, "user model :"))
    words = (PAD, UNKNOWN, BEGIN, END, IMAGE, *dict.fromkeys(w for w in text.split() if "{" not in w))
    model = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token=PAD, unk_token=UNKNOWN, bos_token=BEGIN, eos_token=END
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def build(args: argparse.Namespace, vocabulary: int) -> LlavaForConditionalGeneration:
    """The tower as it is, an untrained projector and text tower."""
    tower = SiglipVisionModel.from_pretrained(args.tower)
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
        vision_config=tower.config,
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
    """Train projector and text tower in place on what the tower gives for every scene and its mirror image."""
    images, masks, labels = data
    generator = torch.Generator().manual_seed(args.seed)
    tokens = torch.cat([features(whole, images), features(whole, images.flip(-1))])
    said = torch.cat([known(images, masks, labels), known(images.flip(-1), masks.flip(-1), labels)])
    model = whole.model
    standardize(whole.projector, tokens[:1000].flatten(0, 1).float())
    learnt = [*whole.projector.parameters(), *whole.decoder.parameters()]
    optimizer = torch.optim.AdamW(learnt, args.lr, weight_decay=0.05, betas=(0.9, 0.98))
    per_epoch = len(tokens) // args.batch
    total = args.epochs * per_epoch
    asked = [whole.ids(question) for question in QUESTIONS]
    model.train()
    for epoch in range(args.epochs):
        order = torch.randperm(len(tokens), generator=generator)
        seen, start = 0.0, time.monotonic()
        for step in range(per_epoch):
            done = (epoch * per_epoch + step + 1) / total
            for group in optimizer.param_groups:
                group["lr"] = args.lr * min(done / 0.05, 0.5 + 0.5 * math.cos(math.pi * done))
            index = order[step * args.batch : (step + 1) * args.batch]
            way = step % 2
            answers = whole.tokenizer([caption(row, way) for row in said[index]], return_tensors="pt")["input_ids"]
            answers = torch.cat((answers, torch.full((len(answers), 1), whole.tokenizer.eos_token_id)), 1)
            ids = torch.cat((torch.tensor(asked[way]).expand(len(index), -1), answers), 1)
            places = ids == whole.image_token
            embedded = whole.decoder.get_input_embeddings()(ids.masked_fill(places, 0))
            embedded = embedded.masked_scatter(places[..., None], whole.projector(tokens[index].float()))
            hidden = whole.decoder(inputs_embeds=embedded, use_cache=False).last_hidden_state
            logits = cap(model.lm_head(hidden[:, -answers.shape[1] - 1 : -1]), whole.softcap)
            loss = F.cross_entropy(logits.flatten(0, 1), answers.flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(learnt, 1.0)
            optimizer.step()
            seen += float(loss.detach()) / per_epoch
            if step % 50 == 49:
                speed = (step + 1) * args.batch / (time.monotonic() - start)
                print(
                    f"epoch {epoch + 1}, step {step + 1}: loss {float(loss.detach()):.3f}, {speed:.0f} captions/s",
                    flush=True,
                )
        print(f"epoch {epoch + 1}: mean loss {seen:.3f} per word", flush=True)
    model.eval()


@torch.no_grad()
def standardize(projector: nn.Module, tokens: Tensor) -> None:
    """Start the projector where its inputs have mean 0 and deviation 1 in every channel."""
    first, second = projector.linear_1, projector.linear_2
    first.weight.normal_(0, tokens.shape[1] ** -0.5).div_(tokens.std(0))
    first.bias.copy_(-first.weight @ tokens.mean(0))
    second.weight.normal_(0, second.in_features**-0.5)


@torch.no_grad()
def features(whole: VisionLanguage, images: Tensor) -> Tensor:
    """What the tower gives the projector, (N, tokens, D) float16, for uint8 images."""
    found = []
    for batch in images.split(100):
        states = whole.tower(whole.view.normalize(batch.float() / 255), output_hidden_states=True).hidden_states
        found.append(states[whole.reading.blocks[0]].half())
    return torch.cat(found)


def known(images: Tensor, masks: Tensor, labels: Tensor) -> Tensor:
    """Indices of class, colour and place of every scene's object, (N, 3)."""
    parts = zip(images.split(500), masks.split(500), labels.split(500), strict=True)
    return torch.cat([facts(i.float() / 127.5 - 1, m.float(), n) for i, m, n in parts])


def caption(row: Tensor, way: int) -> str:
    """The answer to a question about a scene's facts (3,)."""
    label, colour, place = row.tolist()
    return ANSWERS[way].format(COLOURS[colour], CLASSES[label], PLACES[place])


@torch.no_grad()
def accuracies(whole: VisionLanguage, data: tuple[Tensor, Tensor, Tensor]) -> dict[str, float]:
    """Shares of right words of each kind in answers the model gives by itself, and of answers right in every word."""
    images, masks, labels = data
    said = known(images, masks, labels)
    kinds = {"classes": CLASSES, "colours": COLOURS, "places": ("left", "middle", "right")}
    right = dict.fromkeys((*kinds, "answers"), 0)
    for i, image in enumerate(images):
        tokens = features(whole, image[None]).float()
        for way, question in enumerate(QUESTIONS):
            found = whole.tokenizer.decode(whole.answer(whole.ids(question), tokens, 12)).split()
            wanted = caption(said[i], way).split()
            for kind, words in kinds.items():
                right[kind] += [w for w in found if w in words] == [w for w in wanted if w in words]
            right["answers"] += found == wanted
    return {kind: count / (len(QUESTIONS) * len(images)) for kind, count in right.items()}


def save(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the folder: model, tokenizer and image processor."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    side = model.config.vision_config.image_size
    half = [0.5, 0.5, 0.5]
    size = {"height": side, "width": side}
    SiglipImageProcessor(size=size, image_mean=half, image_std=half).save_pretrained(folder)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output_dir", type=Path, help="folder to write")
    parser.add_argument("--tower", required=True, help="folder of a SigLIP, whose image tower is taken")
    parser.add_argument("--cache", type=Path, help="folder that keeps rendered scenes between runs")
    parser.add_argument("--train-scenes", type=int, default=10000)
    parser.add_argument("--test-scenes", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2, help="processes that render")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
