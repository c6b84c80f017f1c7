"""Sets of frames by name: `open_frames` for the depth and normal probes, `open_pairs` for correspondence.

rendered   rendered:TRAIN,TEST@SEED/RESOLUTION     the package's scenes (default rendered:400,100@0/64)
rgbd=PATH                                          a posed RGB-D folder or archive, your own or the sample
nyuv2=PATH                                         NYUv2: the official .mat, Probe3D's pickle, GeoNet's training folder
navi=PATH   scannet=PATH                           pairs of views: NAVI v1, the 1500 pairs of ScanNet
"""

from __future__ import annotations

from pathlib import Path

from aloe.core.errors import UserError
from aloe.core.files import expanded
from aloe.data.frames.frame import FramePairs, FrameSplits
from aloe.data.frames.navi import navi_pairs
from aloe.data.frames.nyuv2 import nyuv2_splits
from aloe.data.frames.pair_settings import PairSettings
from aloe.data.frames.rendered import rendered_pairs, rendered_splits
from aloe.data.frames.rgbd import rgbd_pairs, rgbd_splits
from aloe.data.frames.scannet import scannet_pairs


def open_frames(spec: str) -> FrameSplits:
    """The train and test frames that `spec` names (`rendered`, `rgbd=PATH`, `nyuv2=PATH`; see the head of this module).

    Raises:
        UserError: unknown spec, absent or damaged files, or a data set that serves pairs only.
    """
    kind, path = _parsed(spec)
    if kind == "rendered":
        return rendered_splits(spec)
    if kind == "rgbd":
        return rgbd_splits(path)
    if kind == "nyuv2":
        return nyuv2_splits(path)
    raise UserError(f"{spec!r} serves view pairs for correspondence, not depth and normals; use {_SPLITS} for those.")


def open_pairs(
    spec: str,
    *,
    gaps: tuple[int, int] | None = None,
    count: int | None = None,
    seed: int | None = None,
    min_overlap: float | None = None,
) -> FramePairs:
    """The pairs of views that `spec` names (`rendered`, `rgbd=PATH`, `navi=PATH`, `scannet=PATH`).

    Args:
        gaps: rgbd only: smallest and largest distance of the two frame numbers, both included (default 8, 64).
        count: rgbd only: how many pairs at most, drawn at random from those that overlap (default 200).
        seed: rgbd only: of that draw (default 0).
        min_overlap: rgbd only: share of the first view's points that the second sees at the same depth (default 0.3).

    Raises:
        UserError: unknown spec, absent or damaged files, no overlapping pairs, a data set without poses, impossible options,
            or an option for a data set whose pairs are fixed.
    """
    kind, path = _parsed(spec)
    arguments = {"gaps": gaps, "count": count, "seed": seed, "min_overlap": min_overlap}
    options = {key: value for key, value in arguments.items() if value is not None}
    if options and kind != "rgbd":
        raise UserError(f"The pairs of {kind} are fixed: {', '.join(options)} can be chosen for rgbd=PATH only.")
    if kind == "rendered":
        return rendered_pairs(spec)
    if kind == "rgbd":
        return rgbd_pairs(path, PairSettings.of(**options))
    if kind == "navi":
        return navi_pairs(path)
    if kind == "scannet":
        return scannet_pairs(path)
    raise UserError(f"{spec!r} has no camera poses, so it serves depth and normals only; use {_PAIRS} for pairs.")


_SPLITS = "rendered, rgbd=PATH or nyuv2=PATH"
_PAIRS = "rendered, rgbd=PATH, navi=PATH or scannet=PATH"


def _parsed(spec: str) -> tuple[str, Path]:
    """The data set's kind and its path, which exists (unused for `rendered`)."""
    kind, separator, path = spec.partition("=")
    if spec.partition(":")[0] == "rendered":
        return "rendered", Path()
    if kind not in ("rgbd", "nyuv2", "navi", "scannet") or not separator or not path:
        raise UserError(f"{spec!r} is not a data set with depth; give {_SPLITS}, navi=PATH or scannet=PATH.")
    place = expanded(path)
    if not place.exists():
        raise UserError(f"{place} does not exist; {kind}=PATH needs the folder or file of the data set.")
    if not place.is_dir() and not place.is_file():
        raise UserError(f"{place} is neither a folder nor a regular file; {kind}=PATH needs those of the data set.")
    return kind, place
