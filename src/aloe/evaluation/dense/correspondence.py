"""Multiview correspondence by nearest features (Probe3D, El Banani et al. 2024; docs/dense.md): no training.

Points are every `1 / scale`-th pixel with depth. Every point of view 0 takes the nearest feature of view 1; the ratio of the
two smallest cosine distances, score = 1 - d1 / d2, ranks these matches and the best `num_corr` are kept: one direction only,
no mutual check, no visibility test. A match is right when the point of view 0, moved into the camera of view 1, lies within a
threshold of the point it was given. Recall is reported over all matches of all pairs ("global") and as the mean of pairs in
bins of the rotation between the cameras; "averaged over viewing angles" (the paper's Figure B1) may mean either.

Departures from Probe3D, each small: images are resized to whole patches, not padded; points are pixel centres with their own
rays, where Probe3D moves the features of NAVI by 1.5 of 512 pixels against them; a point in view 0 counts as unmatched in
pixels when it falls behind camera 1. ScanNet has metric errors as well, which Probe3D gives for NAVI only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aloe.core import processes
from aloe.core.errors import UserError
from aloe.data.frames.frame import Frame, FramePairs
from aloe.data.frames.geometry import back_project, project, relative_pose, rotation_angle, transform
from aloe.data.frames.pair_settings import CorrespondenceSettings
from aloe.evaluation.dense.features import choose_blocks, dense_features
from aloe.evaluation.dense.matching import match, nearest_distances
from aloe.models.backbone import Backbone

VIEWS = 64  # frames whose features are kept; most pairs share frames with their neighbours


@dataclass(frozen=True, eq=False)
class View:
    """The P points of one frame and their features, D numbers each.

    Shapes: `features()` (P, D) float32, made when asked for; `xyz` (3, P) float64, metres in the camera frame; `pixels`
    (2, P) float64, x and y of the pixels' centres; `intrinsics` (3, 3), `camera_to_world` (4, 4).
    """

    name: str
    features: Callable[[], Tensor]
    xyz: Tensor
    pixels: Tensor
    intrinsics: Tensor
    camera_to_world: Tensor


@dataclass(frozen=True, eq=False)
class PairMatches:
    """One pair with its M kept matches, the best score first.

    `angle` is the rotation between the cameras in degrees, `points` how many points each view has. Shapes: `pixels`
    (M, 2, 2), x and y in view 0 and in view 1; `scores`, `errors` (metres), `pixel_errors` and `nearest`, the metres from the
    point of view 0 to the closest point that view 1 has at all, (M,). All float32 on the CPU.
    """

    pair: tuple[int, int]
    angle: float
    points: tuple[int, int]
    pixels: Tensor
    scores: Tensor
    errors: Tensor
    pixel_errors: Tensor
    nearest: Tensor

    def __len__(self) -> int:
        return len(self.errors)

    def recall(self, threshold: float, of: str = "errors") -> float:
        """The share of matches below a threshold, in percent; `of` is `errors`, `pixel_errors` or `nearest`."""
        return 100 * float((getattr(self, of) < threshold).double().mean())


@dataclass(frozen=True, eq=False)
class Correspondence:
    """What was found for all pairs; recalls are in percent, of `errors`, `pixel_errors` or `nearest` (`PairMatches`)."""

    name: str
    settings: CorrespondenceSettings
    bins: tuple[float, ...]
    pairs: tuple[PairMatches, ...]

    def global_recall(self, threshold: float, of: str = "errors") -> float:
        """Over all matches of all pairs."""
        return 100 * float((torch.cat([getattr(p, of) for p in self.pairs]) < threshold).double().mean())

    def binned(self, threshold: float, of: str = "errors") -> list[float | None]:
        """The mean of pairs whose angle is in [edge k, edge k + 1), for each bin; None for a bin without pairs."""
        return [_mean([p.recall(threshold, of) for p in pairs]) for pairs in self._by_bin()]

    def mean_of_bins(self, threshold: float, of: str = "errors") -> float | None:
        """The mean of the bins that have pairs; None where no pair is in any."""
        return _mean([value for value in self.binned(threshold, of) if value is not None])

    def details(self) -> dict[str, Any]:
        """What a result row says: `thresholds` (m), recalls by threshold (`global`, `binned`, `mean_of_bins`), `bins` with
        the number of pairs in each (`pairs_in_bins`), numbers of pairs and matches; the same of errors in pixels, and
        `reachable`, the recall a perfect choice for the same points of view 0 would have."""
        edges = [[low, high] for low, high in zip(self.bins, self.bins[1:], strict=False)]
        steps, pixels = self.settings.thresholds, self.settings.pixel_thresholds
        return {
            "thresholds": list(steps),
            "global": [self.global_recall(t) for t in steps],
            "bins": edges,
            "binned": [self.binned(t) for t in steps],
            "mean_of_bins": [self.mean_of_bins(t) for t in steps],
            "pairs": len(self.pairs),
            "matches": sum(map(len, self.pairs)),
            "pairs_in_bins": [len(pairs) for pairs in self._by_bin()],
            "pixels": {
                "thresholds": list(pixels),
                "global": [self.global_recall(t, "pixel_errors") for t in pixels],
                "binned": [self.binned(t, "pixel_errors") for t in pixels],
            },
            "reachable": {
                "global": [self.global_recall(t, "nearest") for t in steps],
                "binned": [self.binned(t, "nearest") for t in steps],
                "mean_of_bins": [self.mean_of_bins(t, "nearest") for t in steps],
            },
        }

    def _by_bin(self) -> list[list[PairMatches]]:
        return [
            [pair for pair in self.pairs if low <= pair.angle < high]
            for low, high in zip(self.bins, self.bins[1:], strict=False)
        ]


@torch.no_grad()
def correspondence(
    model: Backbone,
    pairs: FramePairs,
    settings: CorrespondenceSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Correspondence:
    """Match every pair; frames are read, and go through the model on its device, one at a time.

    Memory: the feature maps of the last 64 frames (`VIEWS`), the features of two views' points, and 64 MiB.

    Args:
        settings: what they leave unset is as `pairs.defaults` says.
        progress: told the number of pairs done, and of all, after each.

    Raises:
        UserError: no pairs, frames without depth or camera or without points, blocks or a resolution that the model does
            not have.
    """
    settings_used = (settings or CorrespondenceSettings.of()).over(pairs.defaults)
    if not pairs.pairs:
        raise UserError(f"{pairs.name} has no pairs of views; correspondence needs at least one.")
    blocks = choose_blocks(model, settings_used.blocks)
    model = model.eval()

    @lru_cache(maxsize=VIEWS)
    def view(index: int) -> View:
        frame = pairs.frames[index]
        maps = dense_features(model, model_input(model, frame.image, settings_used.resolution)[None], blocks)
        return make_view(frame, torch.cat(maps, dim=1)[0].float(), settings_used)

    def compared(numbers: Sequence[int]) -> list[PairMatches]:
        matches = []
        for done, number in enumerate(numbers, 1):
            first, second = pairs.pairs[number]
            matches.append(compare_views(view(first), view(second), (first, second), settings_used))
            if progress:
                progress(min(done * processes.count(), len(pairs.pairs)), len(pairs.pairs))
        return matches

    # Pairs that stand together share frames, so each process has some in a row.
    shares = [part.tolist() for part in torch.arange(len(pairs.pairs)).tensor_split(processes.count())]
    matches = [pair for part in processes.shared(compared, shares) for pair in part]
    return Correspondence(pairs.name, settings_used, tuple(pairs.bins), tuple(matches))


def model_input(model: Backbone, image: Tensor, resolution: int | None = None) -> Tensor:
    """The image (3, H, W) at a whole number of patches, on the model's device: each side to the nearest, or with
    `resolution` the shorter side to that and the longer in proportion.

    Raises:
        UserError: a resolution that is not a whole number of patches.
    """
    height, width = image.shape[-2:]
    patch = model.patch_size
    zoom = 1.0 if resolution is None else model.side(resolution) / min(height, width)
    size = [max(1, round(side * zoom / patch)) * patch for side in (height, width)]
    image = image.to(next(model.parameters()).device)
    if size == [height, width]:
        return image
    smooth = F.interpolate(image[None], size, mode="bilinear", antialias=True, align_corners=False)[0]
    return smooth.clamp_(0, 1)


def make_view(frame: Frame, features: Tensor, settings: CorrespondenceSettings) -> View:
    """The points of a frame, with features read off the map (D, h, w) of its whole image.

    Of the image of H x W pixels round(scale * H) x round(scale * W) are taken, evenly (those nearest to the centres of the
    cells), and of these the ones with depth, and in the mask if the frame has one.

    Raises:
        UserError: no depth, intrinsics or pose, no point, or features that are not finite.
    """
    name = frame.name or "A frame"
    if frame.depth is None or frame.intrinsics is None or frame.camera_to_world is None:
        raise UserError(f"{name} has no depth, intrinsics or pose; correspondence needs all three.")
    if not features.isfinite().all():
        raise UserError(f"The features of {name} are not finite; the model cannot be used for matching.")
    height, width = frame.depth.shape
    grid = tuple(max(1, round(settings.scale * side)) for side in (height, width))
    rows, columns = (((torch.arange(n) + 0.5) * side / n).long() for n, side in zip(grid, (height, width), strict=True))
    valid = frame.depth.isfinite() & (frame.depth > 0)
    valid &= frame.mask if frame.mask is not None else True
    cells = valid[rows][:, columns].flatten().nonzero()[:, 0]
    if not len(cells):
        where = "in its mask " if frame.mask is not None else ""
        raise UserError(f"{name} has no point with depth {where}to match; leave it out.")
    row, column = rows[cells // grid[1]], columns[cells % grid[1]]
    xyz = back_project(frame.depth, frame.intrinsics)[:, row, column]
    pixels = torch.stack((column, row)).double() + 0.5

    def read() -> Tensor:
        if settings.sampling == "upsampled":
            return F.interpolate(features[None], grid, mode="bicubic", align_corners=False)[0].flatten(1).T[cells]
        place = (2 * pixels.T / torch.tensor([width, height]) - 1).to(features)
        # Off the outer token centres the border is repeated: zero padding gives the same directions.
        return F.grid_sample(
            features[None], place[None, None], mode="bilinear", padding_mode="border", align_corners=False
        )[0, :, 0].T

    return View(name, read, xyz, pixels, frame.intrinsics, frame.camera_to_world)


def compare_views(first: View, second: View, pair: tuple[int, int], settings: CorrespondenceSettings) -> PairMatches:
    """Match two views and measure every kept match.

    Raises:
        UserError: view 1 has fewer than two points, which the ratio needs.
    """
    if second.xyz.shape[1] < 2:
        raise UserError(f"{second.name} has a single point with depth; the ratio test needs two.")
    matches = match(first.features(), second.features(), settings.num_corr)
    motion = relative_pose(first.camera_to_world, second.camera_to_world)
    moved = transform(motion, first.xyz[:, matches.first])
    here, there = first.pixels[:, matches.first], second.pixels[:, matches.second]
    seen = torch.where(moved[2] > 0, project(moved, second.intrinsics), torch.inf)
    return PairMatches(
        pair=pair,
        angle=rotation_angle(motion),
        points=(first.xyz.shape[1], second.xyz.shape[1]),
        pixels=torch.stack((here.T, there.T), dim=1).float(),
        scores=matches.scores.float(),
        errors=(moved - second.xyz[:, matches.second]).norm(dim=0).float(),
        pixel_errors=(seen - there).norm(dim=0).float(),
        nearest=nearest_distances(moved, second.xyz).float(),
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
