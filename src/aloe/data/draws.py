"""Sources to what a `DataLoader` reads: every draw reproducible, unreadable files skipped, counted.

A sample carries the unreadable files it met under "unreadable" (a list of `name: reason`), because
workers cannot write to the parent's memory; the parent hands each batch to a `FaultLog`, which
stops the run past a set fraction. Samples of shards carry "left_out" too: what the shards hold that is no sample.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from aloe.core.names import first_few
from aloe.core.printable import append_lines, read_lines, shown_line
from aloe.data.decode import DataError, DraftSize, UnreadableImage, decode_image
from aloe.data.shards import ShardSource
from aloe.data.sources import ImageSource
from aloe.data.transforms import Transform, to_tensor

Sample = dict[str, Any]

MAX_SKIPS = 64  # unreadable images in a row after which a draw gives up
HOPELESS = 1e-6  # the share of sources within the limit that an early look may refuse
LEFT_OUT_NAME = "left_out.txt"


class AlignmentDraws(Dataset[Sample]):
    """`total` augmented draws: epoch after epoch of `source`, each a new permutation.

    Draw i is a pure function of (source, transform, seed, i), so neither workers, ranks nor a
    resumed run change it. Read it in order (a sequential sampler): the permutations are the
    shuffling. An unreadable image is replaced by the next of the permutation.

    Item: {"pixel_values": float32 (3, H, W) in [0, 1], "label": int (of the image in it, -1 if
    unlabelled), "unreadable": list of str}. Collate with `collate_draws`.

    Raises:
        DataError: `MAX_SKIPS` unreadable images in a row.
    """

    def __init__(self, source: ImageSource, transform: Transform, seed: int, total: int) -> None:
        if seed < 0 or total < 1:
            raise ValueError(f"seed {seed} must not be negative and total {total} must be positive")
        self.source, self.transform, self.seed, self.total = source, transform, seed, total
        self._labels = source.labels  # once, because a part of a source makes them anew each time
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, draw: int) -> Sample:
        if not 0 <= draw < self.total:
            raise IndexError(f"draw {draw} of {self.total}")
        images = len(self.source)
        epoch, position = divmod(draw, images)
        order = self._order(epoch)
        fresh = partial(_generator, self.seed, _AUGMENTATION, draw)
        draft = _draft_size(self.transform, fresh)
        unreadable: list[str] = []
        for step in range(min(images, MAX_SKIPS)):
            index = int(order[(position + step) % images])
            try:
                image = self.source.load(index, draft)
            except UnreadableImage as error:
                unreadable.append(str(error))
                continue
            pixels = to_tensor(self.transform(image, fresh()))
            return {"pixel_values": pixels, "label": _label(self._labels, index), "unreadable": unreadable}
        raise _too_many(unreadable)

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            order = _generator(self.seed, _ORDER, epoch).permutation(len(self.source))
            self._orders = {k: v for k, v in self._orders.items() if k == epoch - 1} | {epoch: order}
        return self._orders[epoch]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_orders": {}}


class ShardDraws(IterableDataset[Sample]):
    """Augmented draws from a stream of shards, split by rank and worker; the samples of
    `AlignmentDraws`, all unlabelled.

    Deterministic for a given seed, number of ranks and number of workers. A resumed run must skip
    what it has used.

    Args:
        repeat: Start again after each pass, in a new order, for ever.
        rank, world_size: Default: torch's distributed settings. Give 0 and 1 where one process
            reads for all (accelerate's `dispatch_batches`).
    """

    def __init__(
        self,
        source: ShardSource,
        transform: Transform,
        seed: int,
        *,
        repeat: bool = True,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        if seed < 0:
            raise ValueError(f"seed {seed} must not be negative")
        self.source, self.transform, self.seed, self.repeat = source, transform, seed, repeat
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[Sample]:
        from webdataset.utils import pytorch_worker_info

        rank, world_size, worker, workers = pytorch_worker_info()
        rank = rank if self.rank is None else self.rank
        world_size = world_size if self.world_size is None else self.world_size
        slot, slots = rank * workers + worker, world_size * workers
        unreadable: list[str] = []
        stream = self.source.samples(seed=self.seed, slot=slot, slots=slots, repeat=self.repeat)
        for draw, (name, data) in enumerate(stream):
            fresh = partial(_generator, self.seed, _AUGMENTATION, slot, draw)
            draft = _draft_size(self.transform, fresh)
            try:
                image = decode_image(data, name=name, draft_size=draft)
            except UnreadableImage as error:
                unreadable.append(str(error))
                if len(unreadable) >= MAX_SKIPS:
                    raise _too_many(unreadable) from error
                continue
            pixels = to_tensor(self.transform(image, fresh()))
            told, self.source.left_out = self.source.left_out, []
            yield {"pixel_values": pixels, "label": -1, "unreadable": unreadable, "left_out": told}
            unreadable = []


class ImageDataset(Dataset[Sample]):
    """The images of `source` in order, for evaluation, without the indices in `skip`.

    Item: {"pixel_values": float32 (3, H, W), "label": int (-1 if unlabelled), "index": int in the
    source, "unreadable": list of str}. An unreadable image is white and named under "unreadable";
    `collate_images` leaves it out of the batch.
    """

    def __init__(self, source: ImageSource, transform: Transform, skip: Collection[int] = ()) -> None:
        self.source, self.transform = source, transform
        self.skip = sorted(set(skip))
        self._labels = source.labels
        self._indices = np.setdiff1d(np.arange(len(source)), np.array(self.skip, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, item: int) -> Sample:
        if not 0 <= item < len(self):
            raise IndexError(f"image {item} of {len(self)}")
        index, unreadable = int(self._indices[item]), []
        try:
            image = self.source.load(index)
        except UnreadableImage as error:
            image = Image.new("RGB", (64, 64), "white")
            unreadable = [str(error)]
        return {
            "pixel_values": to_tensor(self.transform(image)),
            "label": _label(self._labels, index),
            "index": index,
            "unreadable": unreadable,
        }


class FaultLog:
    """The account of what was not used in a run, kept by the parent process: images that are unreadable, and what a source
    holds that is no image of it (`aloe.data.sources.left_out`).

    Args:
        images: Number of images in the source; None for shards, whose number is unknown.
        max_bad_fraction: The fraction of unreadable images past which the run is stopped.
        path: A file that lists them, one a line, as they are found: a resumed run goes on with it, and several
            processes add to it. `left_out.txt` beside it lists the rest.
        left_out: what is known to be left out from the start.
    """

    def __init__(
        self,
        images: int | None = None,
        max_bad_fraction: float = 0.05,
        path: Path | None = None,
        left_out: Sequence[str] = (),
    ) -> None:
        self.images, self.max_bad_fraction, self.path = images, max_bad_fraction, path
        self.draws_lost: dict[str, int] = dict.fromkeys(self._listed(), 0)
        self.left_out: list[str] = [] if path is None else read_lines(path.with_name(LEFT_OUT_NAME))
        self._seen = 0
        self._leave(left_out)

    def take(self, batch: Sample) -> Sample:
        """Counts the batch's unreadable files and returns the batch without them.

        Raises:
            DataError: More than `max_bad_fraction` of the images are unreadable. For shards, whose number is unknown: of
                those drawn so far so many that at most `HOPELESS` of the sources within the limit would show it.
        """
        unreadable = [shown_line(message) for message in batch.get("unreadable", [])]
        self._seen += len(batch["pixel_values"]) + len(unreadable)
        self._leave(batch.get("left_out", []))
        new = [message for message in dict.fromkeys(unreadable) if message not in self.draws_lost]
        if new and self.path is not None:
            append_lines(self.path, new)
        for message in unreadable:
            self.draws_lost[message] = self.draws_lost.get(message, 0) + 1
        if unreadable and self.images:
            _refuse_past(self.max_bad_fraction, list(self.draws_lost), self.images)
        elif unreadable:
            lost = sum(self.draws_lost.values())
            if chance_of(lost, self._seen, self.max_bad_fraction) < HOPELESS:
                raise _past(self.max_bad_fraction, lost, self._seen, list(self.draws_lost))
        return {key: value for key, value in batch.items() if key not in ("unreadable", "left_out")}

    def summary(self) -> str | None:
        """What was unreadable and left out, a line for each, for the end of a run; None when there is nothing to tell."""
        lines = []
        names = list(dict.fromkeys([*self.draws_lost, *self._listed()]))
        if names:
            lost = sum(self.draws_lost.values())
            where = f" (all in {self.path})" if self.path is not None else ""
            lines.append(f"{len(names)} unreadable images were skipped ({lost} draws lost here): {_some(names)}{where}")
        if self.left_out:
            where = f" (all in {self.path.with_name(LEFT_OUT_NAME)})" if self.path is not None else ""
            lines.append(f"Left out: {_some(self.left_out)}{where}")
        return "\n".join(lines) or None

    def _leave(self, sentences: Sequence[str]) -> None:
        new = [line for line in dict.fromkeys(map(shown_line, sentences)) if line not in self.left_out]
        self.left_out += new
        if new and self.path is not None and self.path.parent.is_dir():
            append_lines(self.path.with_name(LEFT_OUT_NAME), new)

    def _listed(self) -> list[str]:
        return [] if self.path is None else read_lines(self.path)


def check_source(source: ImageSource, sample: int = 64, max_bad_fraction: float = 0.05) -> list[str]:
    """Decodes `sample` evenly spaced images before a run and returns the unreadable ones, as `name:
    reason`.

    Raises:
        DataError: More than `max_bad_fraction` of the source are unreadable: for certain where the sample is all of it or
            holds so many; else at most `HOPELESS` of the sources within the limit would be refused, whatever the order of
            their images (a second sample, drawn at random, must say the same).
    """
    images = len(source)
    spaced = np.linspace(0, images - 1, min(sample, images)).round().astype(int).tolist()
    unreadable = _unreadable(source, spaced)
    _refuse_past(max_bad_fraction, unreadable, images)
    if chance_of(len(unreadable), len(spaced), max_bad_fraction, images) < HOPELESS:
        drawn = np.random.default_rng(0).choice(images, len(spaced), replace=False).tolist()
        again = _unreadable(source, drawn)
        if chance_of(len(again), len(drawn), max_bad_fraction, images) < HOPELESS:
            raise _past(max_bad_fraction, len(again), len(drawn), again)
    return unreadable


def chance_of(bad: int, seen: int, fraction: float, images: int | None = None) -> float:
    """The chance that of `seen` images drawn at random `bad` or more are unreadable, where `fraction` of all are.

    Args:
        images: how many there are in all (drawn without repeating: hypergeometric); None for a stream (binomial).
    """
    if bad <= 0:
        return 1.0
    if bad > seen:
        return 0.0
    if images is None:
        if fraction <= 0 or fraction >= 1:
            return float(fraction >= 1)
        terms = [
            _log_choose(seen, k) + k * math.log(fraction) + (seen - k) * math.log1p(-fraction)
            for k in range(bad, seen + 1)
        ]
    else:
        worst = math.floor(fraction * images)
        most, least = min(worst, seen), max(bad, seen - (images - worst))
        whole = _log_choose(images, seen)
        terms = [_log_choose(worst, k) + _log_choose(images - worst, seen - k) - whole for k in range(least, most + 1)]
    return min(1.0, math.fsum(map(math.exp, terms)))


def collate_draws(samples: Sequence[Sample]) -> Sample:
    """{"pixel_values": (B, 3, H, W), "label": (B,) int64, "unreadable": the lists joined}."""
    return {
        "pixel_values": torch.stack([sample["pixel_values"] for sample in samples]),
        "label": torch.tensor([sample["label"] for sample in samples], dtype=torch.int64),
        "unreadable": [name for sample in samples for name in sample["unreadable"]],
        **(
            {"left_out": [line for sample in samples for line in sample["left_out"]]}
            if "left_out" in samples[0]
            else {}
        ),
    }


def collate_images(samples: Sequence[Sample]) -> Sample:
    """{"pixel_values": (B, 3, H, W), "label", "index": (B,), "unreadable"}; only readable ones."""
    batch = collate_draws(samples)
    good = [k for k, sample in enumerate(samples) if not sample["unreadable"]]
    if len(good) < len(samples):
        batch |= {key: batch[key][good] for key in ("pixel_values", "label")}
    batch["index"] = torch.tensor([samples[k]["index"] for k in good], dtype=torch.int64)
    return batch


_ORDER, _AUGMENTATION = 0, 1


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def _draft_size(transform: Transform, fresh: partial[np.random.Generator]) -> DraftSize | None:
    """The resolution the transform needs as a function of the image size; None if it tells none."""
    enough = getattr(transform, "enough", None)
    return None if enough is None else partial(enough, fresh=fresh)


def _label(labels: np.ndarray | None, index: int) -> int:
    return -1 if labels is None else int(labels[index])


def _unreadable(source: ImageSource, indices: Sequence[int]) -> list[str]:
    lines = []
    for index in indices:
        try:
            source.load(index, draft_size=1)
        except UnreadableImage as error:
            lines.append(shown_line(str(error)))
    return lines


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _refuse_past(limit: float, unreadable: Sequence[str], images: int) -> None:
    if len(unreadable) > math.floor(limit * images):
        raise _past(limit, len(unreadable), images, unreadable)


def _past(limit: float, count: int, images: int, unreadable: Sequence[str]) -> DataError:
    return DataError(
        f"{count} of {images} images are unreadable, past the allowed {limit:.1%};"
        f" remove them or raise max_bad_fraction: {_some(unreadable)}"
    )


def _too_many(unreadable: Sequence[str]) -> DataError:
    return DataError(f"{len(unreadable)} images in a row are unreadable: {_some(unreadable)}")


def _some(messages: Sequence[str]) -> str:
    return f"{first_few(messages, more='; and {} more', between='; ')}."
