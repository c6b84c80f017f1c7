"""Frozen features of any backbone, teacher or student, over an image source: batched, resumable, cached on disk."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aloe.core import processes
from aloe.core.errors import UserError
from aloe.core.files import digest_of
from aloe.core.progress import Bar
from aloe.core.settings import workers_here
from aloe.core.torch_state import compiled
from aloe.data.draws import ImageDataset, collate_images
from aloe.data.sources import ImageSource
from aloe.data.states import earlier_states
from aloe.data.subset import SubsetImages
from aloe.data.transforms import ResizeCenterCrop
from aloe.evaluation.backbones import model_fingerprint
from aloe.evaluation.cache import Part, PartFolder, read_part
from aloe.evaluation.feeding import Fitting, fed
from aloe.evaluation.stored import StoredRows
from aloe.models.backbone import Backbone

FEATURES = ("pooled", "cls", "mean", "concat")
PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
PART_IMAGES = 8192  # images whose features are written, and later read, together
IN_MEMORY = 1 << 30  # bytes of features that a probe draws from memory
SEEN_WITHIN = 70.0  # seconds after which a file that another machine wrote is there, on any file system


@dataclass(frozen=True)
class FeatureSet:
    """Frozen features of N images in their order, in memory or on disk, read a part at a time.

    `parts` hold float32 `features` (n, D), int64 `labels` (n,), -1 where unlabelled, and `index` (n,), the image's number
    in its source; images that could not be read are in none of them but named in `unreadable`.
    """

    parts: tuple[Part | Path, ...]
    labels: Tensor
    index: Tensor
    width: int
    unreadable: tuple[str, ...] = ()

    @classmethod
    def of(cls, features: Tensor, labels: Tensor) -> FeatureSet:
        """Features (N, D) that are already in memory."""
        index = torch.arange(len(features))
        part = {"features": features.float(), "labels": labels, "index": index}
        return cls((part,), labels, index, features.shape[1])

    def __len__(self) -> int:
        return len(self.labels)

    def chunks(self) -> Iterator[Tensor]:
        """The features part by part, (n, D) float32, in order; each is read when it is asked for."""
        for part in self.parts:
            yield (read_part(part) if isinstance(part, Path) else part)["features"]

    def tensor(self) -> Tensor:
        """All features at once, (N, D)."""
        return torch.cat(list(self.chunks()))

    def rows(self, limit: int = IN_MEMORY) -> Tensor | StoredRows:
        """All features (N, D), to be indexed by numbers: in memory up to `limit` bytes, beyond it read where asked for."""
        if 4 * len(self) * self.width <= limit:
            return self.tensor()
        return StoredRows([part if isinstance(part, Path) else part["features"] for part in self.parts])


def extract(
    model: Backbone,
    source: ImageSource,
    *,
    feature: str = "pooled",
    resolution: int | None = None,
    batch_size: int = 128,
    device: str = "cpu",
    precision: str = "float32",
    compile: bool = False,
    workers: int = 0,
    cache: Path | None = None,
    progress: str | None = None,
) -> FeatureSet:
    """Features of every readable image in evaluation view (shorter side resized, centre crop, no augmentation).

    Args:
        feature: `pooled`, the model's pooled output; `cls`, its normed CLS token; `mean` of its normed patch tokens;
            `concat`, pooled and mean side by side.
        resolution: pixels on a side; default: the model's own.
        precision: float32, or autocast to bf16 or fp16; what is returned and stored is float32.
        batch_size: images per pass; fewer where they do not fit a GPU's memory.
        compile: run the model's blocks through `torch.compile`; the features are others in their last bits.
        cache: folder of cached features. They are kept under a hash of the weights, the data, the view, the precision and
            whether the model was compiled, written part by part, so an interrupted extraction goes on where it stopped.
        progress: a title shows a progress bar on standard error.

    Raises:
        UserError: an unknown feature or one that the model lacks, or none of the images is readable.
    """
    side = resolution or model.side()
    check_view(model, feature, precision, side)
    model = model.to(device).eval()
    folder = None
    if cache is not None:
        folder = part_folder(cache, model, source, view_of(feature, side, precision, device, compile))
    starts = range(0, len(source), PART_IMAGES)
    todo = processes.of_first(lambda: [i for i in range(len(starts)) if folder is None or not folder.has(i)])
    alone = 0 if folder is None else len(todo) // processes.count() * processes.count()
    own = processes.dealt(todo[:alone])
    images = sum(min(PART_IMAGES, len(source) - starts[i]) for i in [*own, *todo[alone:]])
    fitting = Fitting()
    parts: list[Part | Path] = [] if folder is None else [folder.path(i) for i in range(len(starts))]
    with Bar(progress, -(-images // batch_size)) as bar, compiled(model, compile):

        def one_part(i: int, together: bool) -> tuple[Part, list[str]]:
            images = SubsetImages(source, np.arange(starts[i], min(starts[i] + PART_IMAGES, len(source))))
            view = feature, side, batch_size, device, precision, workers
            part, unreadable = extract_part(model, images, *view, fitting, together=together, advance=bar.advance)
            part["index"] += starts[i]
            return part, unreadable

        for i in own:  # a part for each process, as often as there are enough of them
            folder.write(i, *one_part(i, together=False))  # type: ignore[union-attr]
        for i in todo[alone:]:  # of each of the others every process makes some batches
            part, unreadable = one_part(i, together=True)
            if folder is None:
                parts.append({**part, "unreadable": unreadable})
            elif processes.is_first():
                folder.write(i, part, unreadable)
    if folder is not None:
        _check_shared(folder, range(len(starts)))
    return _collected(parts)


def _check_shared(folder: PartFolder, numbers: Sequence[int]) -> None:
    """Wait for the parts of every process; raises UserError where this one does not see them."""
    if processes.count() == 1:
        return
    processes.wait()
    until = time.monotonic() + SEEN_WITHIN
    while not all(folder.path(i).is_file() for i in numbers):
        if time.monotonic() > until:
            raise UserError(
                f"The features that other processes made are not in {folder.folder.parent} here; give a --cache folder"
                " that all machines share, or --no-cache."
            )
        time.sleep(0.2)


def classify(model: Backbone, features: Tensor) -> Tensor | None:
    """Logits (N, C) of a model's own classifier for its pooled outputs (N, D); None when it has none."""
    classifier = getattr(model, "classifier", None)
    if classifier is None:
        return None
    with torch.no_grad():
        logits: Any = model.classify(features.to(next(classifier.parameters())))
    return logits.float().cpu()


def extract_part(
    model: Any,
    source: ImageSource,
    feature: str,
    side: int,
    batch_size: int,
    device: str,
    precision: str,
    workers: int,
    fitting: Fitting,
    *,
    together: bool,
    advance: Any,
) -> tuple[Part, list[str]]:
    """The images of one part, batch by batch; `together`: every process makes some of the batches, all have the part."""
    batches = [rows.tolist() for rows in torch.arange(len(source)).split(batch_size)]
    loader: Any = torch.utils.data.DataLoader(
        ImageDataset(source, ResizeCenterCrop(side)),
        batch_sampler=processes.dealt(batches) if together else batches,
        num_workers=workers_here(workers),
        collate_fn=collate_images,
        pin_memory=torch.device(device).type == "cuda",
    )
    parts: list[tuple[Part, list[str]]] = []
    kind, dtype = torch.device(device).type, PRECISIONS[precision]
    with torch.no_grad(), torch.autocast(kind, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        for batch in fed(loader, device):
            advance()
            part: Part = {}
            if len(batch["pixel_values"]):
                # A copy: the CLS token is a view that would keep the tokens of every image alive. It leaves the device at the
                # end of the part, so that the next batch need not wait for it.
                features = fitting(partial(_float_features, model, feature), batch["pixel_values"])
                part = {"features": features, "labels": batch["label"], "index": batch["index"]}
            parts.append((part, batch["unreadable"]))
    parts = [({name: value.cpu() for name, value in part.items()}, names) for part, names in parts]
    parts = processes.in_order(parts) if together else parts
    unreadable = [name for _, names in parts for name in names]
    full = [part for part, _ in parts if part]
    if not full:
        empty = torch.empty(0, dtype=torch.int64)
        return {"features": torch.empty(0, 0), "labels": empty, "index": empty.clone()}, unreadable
    return {name: torch.cat([part[name] for part in full]) for name in full[0]}, unreadable


def _float_features(model: Any, feature: str, images: Tensor) -> Tensor:
    return features_of(model, images, feature).to(torch.float32, copy=True)


def features_of(model: Any, images: Tensor, feature: str) -> Tensor:
    """(B, D) of images (B, 3, H, W) in [0, 1]."""
    outputs = model.read(images)
    if feature == "pooled":
        return outputs.pooled
    if feature == "cls":
        return outputs.tokens[:, 0]
    mean = outputs.tokens[:, model.num_prefix_tokens :].mean(dim=1)
    return mean if feature == "mean" else torch.cat([outputs.pooled, mean], dim=-1)


def _collected(parts: Sequence[Part | Path]) -> FeatureSet:
    facts = [read_part(p, without=("features",)) if isinstance(p, Path) else p for p in parts]
    unreadable = tuple(str(name) for f in facts for name in f["unreadable"])
    full = [(part, f) for part, f in zip(parts, facts, strict=True) if len(f["labels"])]
    if not full:
        raise UserError(f"None of the images could be read: {'; '.join(unreadable[:3])}.")
    first = full[0][0]
    width = (read_part(first) if isinstance(first, Path) else first)["features"].shape[1]
    labels, index = (torch.cat([f[name] for _, f in full]) for name in ("labels", "index"))
    return FeatureSet(tuple(part for part, _ in full), labels, index, width, unreadable)


def check_view(model: Any, feature: str, precision: str, side: int) -> None:
    """Raises a UserError for an unknown feature or precision, one that the model lacks, or a size that it does not take."""
    if feature not in FEATURES:
        raise UserError(f"There is no feature {feature!r}; features: {', '.join(FEATURES)}.")
    if precision not in PRECISIONS:
        raise UserError(f"There is no precision {precision!r}; precisions: {', '.join(PRECISIONS)}.")
    if feature == "cls" and not model.use_cls_token:
        raise UserError("This model has no CLS token; choose the feature pooled, mean or concat.")
    model.side(side)


def view_of(feature: str, side: int, precision: str, device: str, compile: bool) -> dict[str, Any]:
    """What features depend on besides model and images; `compiled` came later and is named only where it is so."""
    view = {"feature": feature, "side": side, "precision": precision, "device": torch.device(device).type}
    return {**view, "compiled": True} if compile else view


def part_folder(cache: Path, model: Any, source: ImageSource, view: dict[str, Any]) -> PartFolder:
    """Where these features are kept: where they were once, if they are there."""

    def name() -> str:
        new = _key(model, source, **view)
        if (cache / new).is_dir():
            return new
        with earlier_states():
            old = _key(model, source, **view)
        return old if (cache / old).is_dir() else new

    return PartFolder(cache / processes.of_first(name))  # a copy elsewhere has other inodes


def _key(model: Any, source: ImageSource, **view: Any) -> str:
    facts = {
        "format": 1,
        "weights": model_fingerprint(model),
        "data": source.state(),
        "versions": [version(name) for name in ("aloe-vit", "torch", "transformers", "pillow")],
        "part": PART_IMAGES,
        **view,
    }
    return digest_of(facts, 24)
