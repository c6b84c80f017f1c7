"""Trains the small supervised ViT teacher that ships with the rendered scenes, measures it on held-out scenes and
writes its folder (config, weights, image processor, README) in transformers' format. It takes no download; from a
checkout with the package installed: python scripts/train_scene_teacher.py."""

from __future__ import annotations

import argparse
import datetime
import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from aloe.data.scenes import CLASSES, render, teacher_path
from aloe.train.muon import MATRICES, Muon

TRAIN_SEED, TEST_SEED = 1000, 2000
RESOLUTION, PATCH = 64, 8
Row = tuple[np.ndarray, np.ndarray, int | np.ndarray]


def main() -> None:
    """Parse the command line, render, train, test, save."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    train = scenes(TRAIN_SEED, args.train_scenes, args.processes, args.cache)
    test = scenes(TEST_SEED, args.test_scenes, args.processes, args.cache)
    model = build(args.width, args.blocks, args.heads)
    start = time.monotonic()
    fit(model, train, args, generator)
    minutes = (time.monotonic() - start) / 60
    correct = predictions(model, test[0]) == test[2]
    print(f"test accuracy {correct.float().mean():.4f} after {minutes:.1f} minutes of training")
    for label, name in enumerate(CLASSES):
        print(f"  {name:10s} {correct[test[2] == label].float().mean():.3f}")
    save(model, args, float(correct.float().mean()), minutes)


def scenes(seed: int, count: int, processes: int, cache: Path | None) -> tuple[Tensor, Tensor, Tensor]:
    """Images (N,3,H,W) uint8, masks (N,1,H,W) uint8 and labels (N,) of `count` scenes, kept in `cache` if given."""
    return rendered("scenes", _scene, seed, count, processes, cache)


def rendered(
    kind: str, draw: Callable[[int, int], Row], seed: int, count: int, processes: int, cache: Path | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The rows (image, masks, labels) that `draw` makes of a seed and the indices below `count`, stacked."""
    store = cache / f"{kind}-{seed}-{count}.npz" if cache else None
    if store and store.exists():
        held = np.load(store)
        images, masks, labels = held["images"], held["masks"], held["labels"]
    else:
        start = time.monotonic()
        with ProcessPoolExecutor(processes) as pool:
            rows = list(pool.map(partial(draw, seed), range(count), chunksize=50))
        images, masks, labels = (np.stack([row[i] for row in rows]) for i in range(3))
        print(f"rendered {count} {kind} at {count / (time.monotonic() - start):.1f} a second", flush=True)
        if store:
            store.parent.mkdir(parents=True, exist_ok=True)
            np.savez(store, images=images, masks=masks, labels=labels)
    return torch.from_numpy(images), torch.from_numpy(masks), torch.from_numpy(labels)


def build(width: int, blocks: int, heads: int) -> ViTForImageClassification:
    """A freshly initialised ViT classifier for 64 px scenes; wider initial weights than the large models' and position
    embeddings that start as sines and cosines of row and column shorten the start of training several times over."""
    model = ViTForImageClassification(vit_config(RESOLUTION, PATCH, width, blocks, heads, CLASSES))
    grid, bands = RESOLUTION // PATCH, width // 4
    angle = torch.arange(grid)[:, None] * 30.0 ** -(torch.arange(bands) / bands)
    waves = torch.cat([angle.sin(), angle.cos()], 1)
    rows, columns = waves[:, None].expand(-1, grid, -1), waves[None].expand(grid, -1, -1)
    model.vit.embeddings.position_embeddings.data[0, 1:] = 0.3 * torch.cat([rows, columns], -1).flatten(0, 1)
    return model


def vit_config(resolution: int, patch: int, width: int, blocks: int, heads: int, classes: Sequence[str]) -> ViTConfig:
    """A small ViT classifier, its initial weights wider than the large models'."""
    return ViTConfig(
        image_size=resolution,
        patch_size=patch,
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        initializer_range=0.06,
        id2label=dict(enumerate(classes)),
        label2id={name: i for i, name in enumerate(classes)},
    )


class SideTasks(nn.Module):
    """What the patch tokens (B,N,D) must also tell, from the exact masks; not saved.

    Each names the class in its patch, or "background", and draws the object's mask inside its patch. This shows the
    small network where to look long before the class token alone would.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.name = nn.Linear(width, len(CLASSES) + 1)
        self.draw = nn.Linear(width, PATCH * PATCH)

    def forward(self, tokens: Tensor, masks: Tensor, labels: Tensor) -> Tensor:
        """The sum of both mean losses for masks (B,1,H,W) in {0, 1} and labels (B,)."""
        pixels = F.unfold(masks, PATCH, stride=PATCH).transpose(1, 2)
        share = pixels.mean(2, keepdim=True)
        target = share * F.one_hot(labels, len(CLASSES) + 1)[:, None]
        target[..., -1:] += 1 - share
        naming = F.cross_entropy(self.name(tokens).flatten(0, 1), target.flatten(0, 1))
        return naming + F.binary_cross_entropy_with_logits(self.draw(tokens), pixels)


def fit(
    model: ViTForImageClassification,
    data: tuple[Tensor, Tensor, Tensor],
    args: argparse.Namespace,
    generator: torch.Generator,
) -> None:
    """Train in place: Muon for the blocks' matrices, AdamW for the rest, warm-up and a cosine of the learning rate."""
    images, masks, labels = data
    side = SideTasks(model.config.hidden_size)
    matrices = [p for p in model.vit.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in [*model.parameters(), *side.parameters()] if id(p) not in chosen]
    optimizer = muon(matrices, rest, args.lr, args.weight_decay)
    per_epoch = len(images) // args.batch
    total = args.epochs * per_epoch
    for epoch in range(args.epochs):
        model.train()
        order = torch.randperm(len(images), generator=generator)
        seen, start = torch.zeros(3), time.monotonic()
        for step in range(per_epoch):
            done = (epoch * per_epoch + step + 1) / total
            rate = args.lr * min(done / 0.04, 0.5 + 0.5 * math.cos(math.pi * done))
            for group in optimizer.param_groups:
                group["lr"] = rate
            index = order[step * args.batch : (step + 1) * args.batch]
            pixels, mask = augment(images[index], masks[index], generator)
            tokens = model.vit(pixels).last_hidden_state
            logits = model.classifier(tokens[:, 0])
            main_loss = F.cross_entropy(logits, labels[index], label_smoothing=args.smoothing)
            side_loss = side(tokens[:, 1:], mask, labels[index])
            model.zero_grad(set_to_none=True)
            side.zero_grad(set_to_none=True)
            (main_loss + args.side_weight * side_loss).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            hits = (logits.argmax(1) == labels[index]).float().mean()
            seen += torch.stack([main_loss.detach(), side_loss.detach(), hits]) / per_epoch
        speed = per_epoch * args.batch / (time.monotonic() - start)
        print(
            f"epoch {epoch + 1:3d}: loss {seen[0]:.3f}, side {seen[1]:.3f}, "
            f"accuracy {seen[2]:.3f}, {speed:.0f} images/s",
            flush=True,
        )


def muon(matrices: Iterable[Tensor], rest: Iterable[Tensor], rate: float, decay: float) -> Muon:
    """Muon for matrices, with weight decay; AdamW for the rest, without."""
    return Muon([{"params": list(matrices), MATRICES: True, "weight_decay": decay}, {"params": list(rest)}], rate)


def augment(images: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Normalised pixels (B,3,H,W) and masks (B,M,H,W) after flip, shift of up to 6 pixels, and colour jitter."""
    count, size = len(images), images.shape[-1]
    both = torch.cat([images, masks], 1).float()
    shift = torch.randint(-6, 7, (2, count, 1), generator=generator)
    rows, columns = (torch.arange(size) + shift).clamp(0, size - 1)
    flip = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(flip, columns.flip(1), columns)
    both = both[
        torch.arange(count)[:, None, None, None],
        torch.arange(both.shape[1])[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]
    pixels, masks = both[:, :3] / 127.5 - 1, both[:, 3:]
    swap = torch.rand(count, 3, generator=generator).argsort(1)
    pixels = pixels.gather(1, swap[:, :, None, None].expand_as(pixels))
    gain = 0.8 + 0.4 * torch.rand(count, 3, 1, 1, generator=generator)
    lift = 0.3 * torch.rand(count, 1, 1, 1, generator=generator) - 0.15
    return (pixels * gain + lift).clamp(-1, 1), masks


@torch.no_grad()
def predictions(model: ViTForImageClassification, images: Tensor) -> Tensor:
    """Predicted class (N,) of uint8 images (N,3,H,W)."""
    model.eval()
    batches = images.split(250)
    return torch.cat([model(batch.float() / 127.5 - 1).logits.argmax(1) for batch in batches])


def save(model: ViTForImageClassification, args: argparse.Namespace, accuracy: float, minutes: float) -> None:
    """Write the teacher's folder."""
    folder: Path = args.output_dir
    model.save_pretrained(folder)
    half = [0.5, 0.5, 0.5]
    size = {"height": RESOLUTION, "width": RESOLUTION}
    ViTImageProcessor(size=size, image_mean=half, image_std=half).save_pretrained(folder)
    facts = {
        "parameters": sum(p.numel() for p in model.parameters()) / 1e6,
        "accuracy": 100 * accuracy,
        "minutes": minutes,
        "train_seed": TRAIN_SEED,
        "test_seed": TEST_SEED,
        "classes": ", ".join(CLASSES),
        "command": " ".join(["python scripts/train_scene_teacher.py", *_settings(args)]),
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__.split("+")[0],
    }
    (folder / "README.md").write_text(README.format(**vars(args), **facts))
    print(f"saved {sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.1f} MB to {folder}")


README = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: image-classification
---

# Scene teacher

A small supervised ViT for the rendered scenes of `aloe.data.scenes` (64 px, patch 8, {blocks} blocks, width {width},
{heads} heads, {parameters:.2f} M parameters; pixels are normalised with mean 0.5 and standard deviation 0.5).

- Accuracy: **{accuracy:.1f} %** on {test_scenes} held-out scenes (`SceneDataset({test_scenes}, seed={test_seed})`),
  measured once after training.
- Training data: {train_scenes} scenes (`SceneDataset({train_scenes}, seed={train_seed})`), labels and object masks;
  nothing downloaded, no photographs.
- Classes: {classes}.
- Training: {epochs} epochs, {minutes:.0f} minutes on {threads} CPU threads, torch {torch}, {date}. Besides the class
  token, the patch tokens learned the class and the mask inside each patch (two linear heads that are not saved).
- Command: `{command}`
- Limits: it knows ten kinds of rendered objects, one in a picture, and no photographs.
- Licence: Apache-2.0.
"""


def _scene(seed: int, index: int) -> Row:
    scene = render(seed, index, RESOLUTION)
    return scene.image.transpose(2, 0, 1), scene.mask[None].astype(np.uint8), scene.label


def _settings(args: argparse.Namespace) -> list[str]:
    """The options that shape the result, as on the command line; where files lie is left out."""
    places = {"output_dir", "cache"}
    return [f"--{key.replace('_', '-')} {value}" for key, value in vars(args).items() if key not in places]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", type=Path, default=teacher_path(), help="folder to write")
    parser.add_argument("--cache", type=Path, help="folder that keeps rendered scenes between runs")
    parser.add_argument("--train-scenes", type=int, default=10000)
    parser.add_argument("--test-scenes", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--smoothing", type=float, default=0.05)
    parser.add_argument("--side-weight", type=float, default=1.0, help="weight of the side tasks")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2, help="processes that render")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
