"""Goes on training the shipped scene teacher on 2x2 grids of scenes, so that it names every object of a picture instead of
the most conspicuous one, and writes it as a folder in transformers' format.

A step sees single scenes at 64 px and grids of four at 128 px, with a binary cross-entropy per class; the patch tokens learn
the class and the mask inside each patch, as in train_scene_teacher.py. The scenes are those of the shipped teacher's training
(seed 1000). `--grids-folder` writes the grids of unlabelled scenes of another seed, to which a student can be aligned. From a
checkout with the package installed: python scripts/train_grid_teacher.py OUTPUT."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from train_scene_teacher import RESOLUTION, TEST_SEED, TRAIN_SEED, SideTasks, augment, muon, scenes
from transformers import ViTForImageClassification, ViTImageProcessor

from aloe.data.scenes import CLASSES, teacher_path
from aloe.metrics.grids import compose


def main() -> None:
    """Parse the command line, render, train, test, save."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    if args.grids_folder:
        write_grids(args, generator)
        return
    train = scenes(TRAIN_SEED, args.train_scenes, args.processes, args.cache)
    test = scenes(TEST_SEED, args.test_scenes, args.processes, args.cache)
    model = ViTForImageClassification.from_pretrained(args.start)
    start = time.monotonic()
    fit(model, train, test, args, generator)
    single, recall = accuracies(model, test, args.grid_pixels)
    print(
        f"{(time.monotonic() - start) / 60:.0f} minutes; single scenes {single:.2f} %, classes of grids {recall:.2f} %"
    )
    model.save_pretrained(args.output_dir)
    half, size = [0.5, 0.5, 0.5], {"height": RESOLUTION, "width": RESOLUTION}
    ViTImageProcessor(size=size, image_mean=half, image_std=half).save_pretrained(args.output_dir)


def fit(
    model: ViTForImageClassification,
    train: tuple[Tensor, Tensor, Tensor],
    test: tuple[Tensor, Tensor, Tensor],
    args: argparse.Namespace,
    generator: torch.Generator,
) -> None:
    """Train in place: Muon for the blocks' matrices, AdamW for the rest, warm-up and a cosine of the learning rate."""
    images, masks, labels = train
    side = SideTasks(model.config.hidden_size)
    matrices = [p for p in model.vit.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in [*model.parameters(), *side.parameters()] if id(p) not in chosen]
    optimizer = muon(matrices, rest, args.lr, args.weight_decay)
    seen, start = 0.0, time.monotonic()
    for step in range(args.steps):
        done = (step + 1) / args.steps
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(done / 0.04, 0.5 + 0.5 * math.cos(math.pi * done))
        model.zero_grad(set_to_none=True)
        side.zero_grad(set_to_none=True)
        loss = torch.zeros(())
        for cells, count in ((1, args.singles), (4, args.grids)):
            index = torch.randint(len(images), (count * cells,), generator=generator)
            pixels, mask = augment(images[index], masks[index], generator)
            names = labels[index].view(count, cells)
            if cells > 1:
                pixels, mask = (
                    scaled(compose(x.unflatten(0, (count, cells))), args.grid_pixels) for x in (pixels, mask)
                )
            tokens = model.vit(pixels, interpolate_pos_encoding=True).last_hidden_state
            present = F.one_hot(names, len(CLASSES)).amax(1).float()
            named = F.binary_cross_entropy_with_logits(model.classifier(tokens[:, 0]), present)
            told = grid_side_loss(side, tokens[:, 1:], mask, names)
            (10 * named + told).backward()
            loss += named.detach()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seen += float(loss)
        if (step + 1) % args.report == 0:
            single, recall = accuracies(model, tuple(x[:500] for x in test), args.grid_pixels)
            print(
                f"step {step + 1}: loss {seen / args.report:.3f}, first 500 test scenes {single:.1f} %, "
                f"grids of them {recall:.1f} %, {time.monotonic() - start:.0f} s",
                flush=True,
            )
            seen = 0.0
            model.train()


def grid_side_loss(side: SideTasks, tokens: Tensor, masks: Tensor, names: Tensor) -> Tensor:
    """The side tasks on every cell by itself: tokens (B,N,D) of grids, masks (B,1,H,W), names (B, cells)."""
    n = math.isqrt(names.shape[1])
    patches = math.isqrt(tokens.shape[1]) // n
    cells = tokens.unflatten(1, (n, patches, n, patches)).permute(0, 1, 3, 2, 4, 5)
    pieces = masks.unflatten(2, (n, -1)).unflatten(4, (n, -1)).permute(0, 2, 4, 1, 3, 5)
    return side(cells.flatten(3, 4).flatten(0, 2), pieces.flatten(0, 2), names.flatten())


@torch.no_grad()
def accuracies(model: ViTForImageClassification, test: tuple[Tensor, ...], side: int) -> tuple[float, float]:
    """Percent of single scenes named correctly, and of a 2x2 grid's four distinct classes among its four largest logits."""
    model.eval()
    images, labels = test[0], test[2]
    logits = torch.cat([model(x.float() / 127.5 - 1).logits for x in images.split(250)])
    single = (logits.argmax(1) == labels).float().mean()
    # ten consecutive scenes hold each class once: the first eight of them make two grids
    index = torch.arange(len(images) // 10 * 10).view(-1, 10)[:, :8].reshape(-1, 4)
    grids = scaled(compose(images[index].float() / 127.5 - 1), side)
    top = torch.cat([model(x, interpolate_pos_encoding=True).logits.topk(4)[1] for x in grids.split(50)])
    found = (top[:, :, None] == labels[index][:, None]).any(1).float().mean()
    return 100 * float(single), 100 * float(found)


def scaled(images: Tensor, side: int) -> Tensor:
    """Images (B,C,H,W) as squares of `side` pixels."""
    return images if images.shape[-1] == side else F.interpolate(images, size=(side, side), mode="area")


def write_grids(args: argparse.Namespace, generator: torch.Generator) -> None:
    """Unlabelled 2x2 grids of scenes as PNG files."""
    images, _, _ = scenes(args.grids_seed, args.train_scenes, args.processes, args.cache)
    args.grids_folder.mkdir(parents=True, exist_ok=True)
    for number in range(args.grids_count):
        four = images[torch.randint(len(images), (4,), generator=generator)]
        grid = compose(four[None].float())[0].permute(1, 2, 0).byte().numpy()
        Image.fromarray(grid).save(args.grids_folder / f"{number:06d}.png")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output_dir", type=Path, nargs="?", help="folder to write")
    parser.add_argument("--cache", type=Path, help="folder that keeps rendered scenes between runs")
    parser.add_argument("--train-scenes", type=int, default=10000)
    parser.add_argument("--test-scenes", type=int, default=2000)
    parser.add_argument("--start", type=Path, default=teacher_path(), help="teacher to go on from")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--singles", type=int, default=24, help="single scenes a step")
    parser.add_argument("--grids", type=int, default=16, help="grids of four a step")
    parser.add_argument(
        "--grid-pixels", type=int, default=2 * RESOLUTION, help="side of a grid; 64: resized to one scene"
    )
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--report", type=int, default=100, help="steps between lines")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2, help="processes that render")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grids-folder", type=Path, help="write grids of other scenes here instead of training")
    parser.add_argument("--grids-count", type=int, default=4000)
    parser.add_argument("--grids-seed", type=int, default=7)
    args = parser.parse_args()
    if (args.output_dir is None) == (args.grids_folder is None):
        parser.error("give an output folder or --grids-folder")
    return args


if __name__ == "__main__":
    main()
