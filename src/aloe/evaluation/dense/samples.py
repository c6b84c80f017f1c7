"""The training frames of a dense probe as features and ground truth: kept from the first reading, or augmented anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from aloe.core import processes
from aloe.core.bounds import check_batch
from aloe.core.errors import UserError
from aloe.core.progress import tracked
from aloe.data.frames.frame import Frame, FrameSource, NoTruth
from aloe.evaluation.dense.augment import augmented
from aloe.evaluation.dense.depth import DepthTask
from aloe.evaluation.dense.normals import NormalsTask
from aloe.evaluation.dense.settings import DenseSettings

FeaturesOf: TypeAlias = Callable[[Tensor], Sequence[Tensor]]
"""Images (B, 3, S, S) in [0, 1] to maps (B, D_i, h, w), one for every block."""
_Sample: TypeAlias = tuple[list[Tensor], Tensor, Tensor]  # maps (D_i, h, w), truth (C, H, W), valid (H, W)


@dataclass(frozen=True, eq=False)
class View:
    """A square as the backbone sees it, (3, S, S), and with the ground truth at its own resolution."""

    image: Tensor
    seen: Frame

    @property
    def size(self) -> tuple[int, int]:
        return self.seen.image.shape[-2], self.seen.image.shape[-1]


def viewed(square: Frame, side: int, settings: DenseSettings) -> View:
    """A square frame at the backbone's `side`, its ground truth at `target_side` or as it is."""
    seen = square if settings.target_side is None else square.resized(settings.target_side)
    return View(Frame(square.image).resized(side).image, seen)


class Samples:
    """The frames with ground truth of a source; `left_out` names those without a valid pixel.

    Raises:
        UserError: no frame, or none with a valid pixel.
    """

    def __init__(
        self,
        features_of: FeaturesOf,
        source: FrameSource,
        task: DepthTask | NormalsTask,
        settings: DenseSettings,
        side: int,
        device: torch.device,
        progress: str | None,
    ) -> None:
        if not len(source):
            raise UserError("There are no training frames.")
        check_batch(settings.batch_size, len(source))
        self.features_of, self.source, self.task, self.settings = features_of, source, task, settings
        self.side, self.device = side, device
        self.rows: list[int] = []  # of the source
        self.left_out: list[str] = []
        self.kept: list[_Sample] = []
        reasons: list[str] = []
        parts = torch.arange(len(source)).split(settings.batch_size)
        batches = processes.shared(self._made, parts, rounds=True)
        for rows, samples, without in tracked(batches, progress and f"{progress}: features", len(parts)):
            self.rows += rows
            self.kept += samples
            self.left_out += [name for name, _ in without]
            reasons += [reason for _, reason in without]
        if not self.rows:
            raise UserError(f"None of the {len(source)} training frames can be used. {reasons[0]}")
        self.widths = [len(x) for x in self._plain(0)[0]]

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, places: Sequence[int], draws: torch.Generator | None) -> tuple[list[Tensor], Tensor, Tensor]:
        """Maps (B, D_i, h, w), truth (B, C, H, W) and valid (B, H, W) on the device; augmented by `draws` if settings ask."""
        if self.settings.augment and draws is not None:
            samples = self._read([self._augmented(i, draws) for i in places])
        else:
            samples = [self._plain(i) for i in places]
        sizes = sorted({tuple(valid.shape) for _, _, valid in samples})
        if len(sizes) > 1:
            words = " and ".join(f"{h} x {w}" for h, w in sizes)
            raise UserError(f"The training frames have squares of {words} pixels; give target_side.")
        blocks = range(len(self.widths))
        maps = [torch.stack([maps[k] for maps, _, _ in samples]).to(self.device) for k in blocks]
        truth = torch.stack([truth for _, truth, _ in samples]).to(self.device)
        return maps, truth, torch.stack([valid for _, _, valid in samples]).to(self.device)

    def moments(self, places: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
        """Mean and deviation of every channel (D_i,), over the tokens of these frames as they are; 1 where nothing varies."""
        sums = [torch.zeros(2, width, dtype=torch.float64) for width in self.widths]
        for i in places:
            for total, x in zip(sums, self._plain(i)[0], strict=True):
                total += torch.stack([x.double(), x.double().square()]).mean(dim=(2, 3)) / len(places)
        spreads = [(square - mean.square()).clamp_min(0).sqrt() for mean, square in sums]
        # Of a channel that never varies only rounding is left.
        deviations = [
            s.masked_fill(s <= 1e-6 * square.sqrt(), 1.0) for s, (_, square) in zip(spreads, sums, strict=True)
        ]
        return [mean.float() for mean, _ in sums], [deviation.float() for deviation in deviations]

    def _plain(self, place: int) -> _Sample:
        """A frame as it is."""
        return self.kept[place] if self.kept else self._read([self.source[self.rows[place]].cropped_square()])[0]

    @torch.no_grad()
    def _read(self, squares: Sequence[Frame]) -> list[_Sample]:
        views = [viewed(square, self.side, self.settings) for square in squares]
        targets = [self.task.target(view.seen) for view in views]
        images = torch.stack([view.image for view in views]).to(self.device)
        # Copies: the maps are views that would keep every token of every block alive.
        maps = [x.to("cpu", torch.float32, copy=True).contiguous() for x in self.features_of(images)]
        return [([x[i] for x in maps], truth, valid) for i, (truth, valid) in enumerate(targets)]

    def _made(self, rows: Tensor) -> tuple[list[int], list[_Sample], list[tuple[str, str]]]:
        """Of some frames: the numbers of those with ground truth, their samples where they are kept, and the others' names
        with the reason."""
        squares, numbers, without = [], [], []
        for i in rows.tolist():
            square = self.source[i].cropped_square()
            try:
                self._seen(square)
            except NoTruth as error:
                without.append((square.name, str(error)))
                continue
            numbers.append(i)
            squares.append(square)
        return numbers, self._read(squares) if squares and not self.settings.augment else [], without

    def _seen(self, square: Frame) -> None:
        """Raises NoTruth when nothing of the frame counts."""
        side = self.settings.target_side
        self.task.target(square if side is None else square.resized(side))

    def _augmented(self, place: int, draws: torch.Generator) -> Frame:
        """The frame augmented; as it is where the part that was drawn has no valid pixel."""
        square = self.source[self.rows[place]].cropped_square()
        new = augmented(square, draws)
        try:
            self._seen(new)
        except NoTruth:
            return square
        return new
