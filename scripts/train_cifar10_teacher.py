"""Trains a small supervised CIFAR-10 ViT from scratch (32 px, patch 4), measures it on the test images and writes its folder
(config, weights, image processor, README) in transformers' format. From a checkout with the package installed:
python scripts/train_cifar10_teacher.py cifar10.tar.xz cifar10-vit. The same command goes on after an interruption."""

from __future__ import annotations

import argparse
import copy
import datetime
import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from train_scene_teacher import muon, vit_config
from transformers import ViTForImageClassification, ViTImageProcessor

from aloe.data.sources import ImageSource
from aloe.data.splits import in_order_of, open_parts
from aloe.train.checkpoints import last_sound, read_state, seal, write_state

RESOLUTION, PATCH = 32, 4
GRID = RESOLUTION // PATCH
GAIN = 1.5  # of queries and keys as they start: how sharply a head looks at its neighbour
TOLD_EVERY, SAVED_EVERY = 50, 100  # steps
NEIGHBOURS = ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, -1), (-1, 1))  # rows, columns


def main() -> None:
    """Parse the command line, decode, train, test, save."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    parts = open_parts(args.data)
    source = parts["train"]()
    classes = list(source.classes or [])
    train, test = pixels_and_labels(source), pixels_and_labels(in_order_of(source, parts["test"]()))
    run = Run(build(args.width, args.blocks, args.heads, classes).to(args.device), args)
    run.fit(*train)
    correct = predictions(run.average, test[0], args.device) == test[1]
    print(f"test accuracy {correct.float().mean():.4f} after {run.seconds / 60:.1f} minutes")
    for label, name in enumerate(classes):
        print(f"  {name:10s} {correct[test[1] == label].float().mean():.3f}")
    save(run, len(train[0]), len(test[0]), float(correct.float().mean()))


def pixels_and_labels(source: ImageSource) -> tuple[Tensor, Tensor]:
    """Every image, (N,3,32,32) uint8, and its label (N,)."""
    images = np.stack([np.asarray(source.load(i).resize((RESOLUTION, RESOLUTION))) for i in range(len(source))])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.as_tensor(source.labels)


def build(width: int, blocks: int, heads: int, classes: list[str]) -> ViTForImageClassification:
    """A freshly initialised ViT classifier that starts as something like a convolutional network.

    Position embeddings are sines and cosines of row and column; queries and keys read them so that every head looks at one
    neighbour of its patch, the four beside it and the four at its corners in turn. Training is free to change all of it.
    Source: Zheng et al. 2024, "Convolutional initialization for data-efficient vision transformers", for the idea.
    """
    model = ViTForImageClassification(vit_config(RESOLUTION, PATCH, width, blocks, heads, classes))
    bands, size = width // 4, width // heads
    rates = math.pi * (torch.arange(bands) + 0.5) / bands
    angle = torch.arange(GRID)[:, None] * rates
    waves = torch.stack([angle.sin(), angle.cos()], -1).flatten(1)  # (grid, width / 2): sine and cosine side by side
    rows, columns = waves[:, None].expand(-1, GRID, -1), waves[None].expand(GRID, -1, -1)
    model.vit.embeddings.position_embeddings.data[0, 1:] = 0.3 * torch.cat([rows, columns], -1).flatten(0, 1)
    for block, layer in enumerate(model.vit.layers):
        for head in range(heads):
            offset = NEIGHBOURS[(block * heads + head) % len(NEIGHBOURS)]
            out = slice(head * size, (head + 1) * size)
            query, key = _looks_at(offset, rates, torch.arange(head, bands, heads), width)
            layer.attention.q_proj.weight.data[out] += query
            layer.attention.k_proj.weight.data[out] += key
    return model


class Run:
    """A training in progress: model, moving average of its weights, optimizers, and how far it is."""

    def __init__(self, model: ViTForImageClassification, args: argparse.Namespace) -> None:
        self.model, self.args = model, args
        self.average = copy.deepcopy(model).requires_grad_(False)
        matrices = [p for p in model.vit.layers.parameters() if p.ndim == 2]
        chosen = {id(p) for p in matrices}
        rest = [p for p in model.parameters() if id(p) not in chosen]
        self.optimizer = muon(matrices, rest, args.lr, args.weight_decay)
        self.generator = torch.Generator().manual_seed(args.seed)
        self.steps, self.seconds = 0, 0.0

    def fit(self, images: Tensor, labels: Tensor) -> None:
        """Train until the epochs are over; checkpoints on the way are what an interrupted run goes on from."""
        self._resume()
        per_epoch = len(images) // self.args.batch
        total = round(self.args.epochs * per_epoch)
        order, seen, told = torch.empty(0), torch.zeros(2), self.seconds
        start = time.monotonic() - self.seconds
        while self.steps < total:
            epoch, place = divmod(self.steps, per_epoch)
            if not len(order) or place == 0:
                shuffle = torch.Generator().manual_seed(self.args.seed + 1 + epoch)
                order = torch.randperm(len(images), generator=shuffle)
            index = order[place * self.args.batch : (place + 1) * self.args.batch]
            seen += self.step(images[index], labels[index], self.steps / total) / TOLD_EVERY
            self.steps, self.seconds = self.steps + 1, time.monotonic() - start
            if self.steps % TOLD_EVERY == 0:
                speed = TOLD_EVERY * self.args.batch / (self.seconds - told)
                words = f"loss {seen[0]:.3f}, accuracy {seen[1]:.3f}, {speed:.0f} images/s"
                print(f"step {self.steps} of {total}: {words}", flush=True)
                seen, told = torch.zeros(2), self.seconds
            if self.steps % SAVED_EVERY == 0 or self.steps == total:
                self._checkpoint()

    def step(self, images: Tensor, labels: Tensor, done: float) -> Tensor:
        """One step; returns (loss, share of hits) as (2,). Early steps see a window of the patches."""
        args = self.args
        self.model.train()
        rate = args.lr * min((done + 1e-3) / args.warmup, 0.5 + 0.5 * math.cos(math.pi * done))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        pixels = augment(images, self.generator).to(args.device)
        tokens = self.model.vit.embeddings(pixels)
        if done < args.full_from:
            chosen = window(len(images), args.window, self.generator).to(args.device)
            tokens = tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[2]))
        for layer in self.model.vit.layers:
            tokens = layer(tokens)
        logits = self.model.classifier(self.model.vit.layernorm(tokens[:, 0]))
        labels = labels.to(args.device)
        loss = F.cross_entropy(logits, labels, label_smoothing=args.smoothing)
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        decay = min(args.ema, (self.steps + 1) / (self.steps + 10))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        return torch.stack([loss.detach(), (logits.argmax(1) == labels).float().mean()]).cpu()

    def _checkpoint(self) -> None:
        folder = self.args.output_dir / f"checkpoint-{self.steps}"
        staging = self.args.output_dir / ".checkpoint"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "far": [self.steps, self.seconds],
        }
        write_state(staging / "state.safetensors", state)
        seal(staging)
        staging.rename(folder)
        for old in self.args.output_dir.glob("checkpoint-*"):
            if old != folder:
                shutil.rmtree(old)

    def _resume(self) -> None:
        folder, _ = last_sound(self.args.output_dir)
        if folder is None:
            return
        state: dict[str, Any] = read_state(folder / "state.safetensors")
        if "optimizer" not in state:
            raise SystemExit(f"{folder} is of an earlier version of this script; remove it, or give another folder.")
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.steps, self.seconds = state["far"]
        print(f"going on from {folder.name}")


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Normalised pixels (B,3,H,W) of uint8 images after a shift of up to 4 pixels (edges repeat), a flip and a change of
    contrast and brightness."""
    count, size = len(images), images.shape[-1]
    shift = torch.randint(-4, 5, (2, count, 1), generator=generator)
    rows, columns = (torch.arange(size) + shift).clamp(0, size - 1)
    flip = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(flip, columns.flip(1), columns)
    which, channel = torch.arange(count)[:, None, None, None], torch.arange(3)[:, None, None]
    pixels = images[which, channel, rows[:, None, :, None], columns[:, None, None, :]].float() / 127.5 - 1
    gain = 0.8 + 0.4 * torch.rand(count, 1, 1, 1, generator=generator)
    lift = 0.2 * torch.rand(count, 1, 1, 1, generator=generator) - 0.1
    return pixels * gain + lift


def window(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Indices (B, 1 + side²) of the class token and of a square of patches, at another place for every image."""
    row, column = torch.randint(0, GRID - side + 1, (2, count, 1, 1), generator=generator)
    cells = torch.arange(side)
    patches = 1 + (row + cells[:, None]) * GRID + column + cells
    return torch.cat([torch.zeros(count, 1, dtype=torch.long), patches.flatten(1)], 1)


@torch.no_grad()
def predictions(model: ViTForImageClassification, images: Tensor, device: str) -> Tensor:
    """Predicted class (N,) of uint8 images (N,3,H,W)."""
    model.eval()
    batches = images.split(250)
    return torch.cat([model(batch.to(device).float() / 127.5 - 1).logits.argmax(1).cpu() for batch in batches])


def save(run: Run, trained_on: int, tested_on: int, accuracy: float) -> None:
    """Write the teacher's folder."""
    args, model = run.args, run.average
    model.save_pretrained(args.output_dir)
    half, size = [0.5, 0.5, 0.5], {"height": RESOLUTION, "width": RESOLUTION}
    ViTImageProcessor(size=size, image_mean=half, image_std=half).save_pretrained(args.output_dir)
    facts = {
        "parameters": sum(p.numel() for p in model.parameters()) / 1e6,
        "accuracy": 100 * accuracy,
        "spent": run.seconds / 60,
        "trained_on": trained_on,
        "tested_on": tested_on,
        "command": " ".join(["python scripts/train_cifar10_teacher.py cifar10.tar.xz cifar10-vit", *_settings(args)]),
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__.split("+")[0],
    }
    (args.output_dir / "README.md").write_text(README.format(**(vars(args) | facts)))
    print(f"saved to {args.output_dir}")


README = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: image-classification
---

# CIFAR-10 teacher

A small supervised ViT for CIFAR-10 (32 px, patch 4, {blocks} blocks, width {width}, {heads} heads, {parameters:.2f} M
parameters; pixels are normalised with mean 0.5 and standard deviation 0.5).

- Accuracy: **{accuracy:.2f} %** on {tested_on} test images, measured once after training.
- Data: the {trained_on} CIFAR-10 training images with their labels; no other images and no pretrained weights.
- Training: {epochs:g} epochs of batch {batch}, {spent:.0f} minutes on {threads} thread(s) of {device}, torch {torch}, {date};
  the weights are a moving average.
- Command: `{command}`
- Limits: a network for examples and tests; it knows ten classes at 32 pixels and nothing else.
- Licence: Apache-2.0.
"""


def _looks_at(offset: tuple[int, int], rates: Tensor, bands: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Query and key weights (size, width) of one head that reads `bands` of both axes' waves, its queries turned by `offset`:
    their product is the sum of cos(rate (place + offset - other place)), largest at the neighbour."""
    query, key = torch.zeros(2, 4 * len(bands), width).unbind()
    for axis, step in enumerate(offset):
        for i, band in enumerate(bands):
            row, column = 2 * (axis * len(bands) + i), axis * width // 2 + 2 * int(band)
            sine, cosine = (rates[band] * step).sin(), (rates[band] * step).cos()
            key[row, column] = key[row + 1, column + 1] = GAIN
            query[row, column], query[row, column + 1] = GAIN * cosine, GAIN * sine
            query[row + 1, column], query[row + 1, column + 1] = -GAIN * sine, GAIN * cosine
    return query, key


def _settings(args: argparse.Namespace) -> list[str]:
    """The options that shape the result, as on the command line; where files lie is left out."""
    places = {"data", "output_dir"}
    return [f"--{key.replace('_', '-')} {value}" for key, value in vars(args).items() if key not in places]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="class folders under train and test, or an archive of them")
    parser.add_argument("output_dir", type=Path, help="folder to write")
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--warmup", type=float, default=0.04, help="share of the run")
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--smoothing", type=float, default=0.05)
    parser.add_argument("--ema", type=float, default=0.995, help="decay of the average of the weights, per step")
    parser.add_argument("--window", type=int, default=6, help="side in patches of what early steps see")
    parser.add_argument(
        "--full-from", type=float, default=0.7, help="share of the run after which steps see all patches"
    )
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
