"""NYUv2 (Silberman et al. 2012) as Probe3D uses it (El Banani et al. 2024; docs/dense.md).

`nyuv2=PATH` is a folder with some of

    nyuv2_snorm_all.pkl                       Probe3D's test set: 1449 labelled frames, raw depth, Ladicky's normals, splits
    nyu_depth_v2_labeled.mat                  the official labelled set, instead of it
      all_normals.pklz                          its normals (optional)
      splits.mat, or train_SN40.json and test_SN40.json     its standard split, 795 / 654
    nyuv2_geonet/ (or nyu_geonet/)            GeoNet's training set, one .mat a frame (optional)

or the .pkl or .mat file itself. Every frame is the central 480 x 480 of 480 x 640 (80 columns off each side), and depth
beyond 10 m is 0. Probe3D trains on GeoNet's frames; without them the 795 labelled training frames are used, as `notes` says.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from aloe.core.errors import UserError
from aloe.core.files import digest, read_json, stamp
from aloe.core.typed import whole_number
from aloe.data.frames.arrays import load_mat, numbers, plain_dataset, whole_numbers_of
from aloe.data.frames.files import positive_depth
from aloe.data.frames.frame import Frame, FrameSource, FrameSplits
from aloe.data.frames.pickles import load_arrays
from aloe.data.sources import FolderStore
from aloe.data.states import FileState, as_before

MAX_DEPTH = 10.0  # metres
SIZE = (480, 640)
CROP = 80  # columns off each side
PICKLE, LABELLED, NORMALS = "nyuv2_snorm_all.pkl", "nyu_depth_v2_labeled.mat", "all_normals.pklz"
GEONET_FOLDERS = ("nyuv2_geonet", "nyu_geonet")
GEONET_MEAN = (122.175, 116.169, 103.508)  # the stored images lack it twice
GEONET_BAD = (21181, 6919)  # entries that Probe3D deletes, in this order
GEONET_WHOLE = 30_000  # frames; the whole release has some 30 800, and the numbers above are of it alone


def nyuv2_splits(path: Path) -> FrameSplits:
    """The training and test frames of NYUv2 at `path` (see the head of this module).

    Raises:
        UserError: neither labelled set is there, its split is missing, or a file is damaged or not of its layout.
    """
    folder = path if path.is_dir() else path.parent
    labelled: Labelled
    if path.name.endswith(".mat") or (path.is_dir() and not (path / PICKLE).is_file()):
        file = folder / LABELLED if path.is_dir() else path
        if not file.is_file():
            raise UserError(f"{path} has neither {PICKLE} nor {LABELLED}; NYUv2 needs one of them.")
        labelled = LabelledMat(file)
    else:
        labelled = LabelledPickle(folder / PICKLE if path.is_dir() else path)
    train_at, test_at = labelled.splits()
    notes = ["Frames are the central 480 x 480 pixels; raw depth, not filled in, none beyond 10 m."]
    if not labelled.has_normals:
        notes.append(f"No surface normals: {NORMALS} is not beside {labelled.path.name}.")
    test = LabelledFrames(labelled, test_at, "test")
    geonet = next((folder / name for name in GEONET_FOLDERS if (folder / name).is_dir()), None)
    if geonet is None:
        train: FrameSource = LabelledFrames(labelled, train_at, "train")
        notes.append(
            f"Deviation: trained on the {len(train_at)} labelled frames, as GeoNet's training set of Probe3D is not there."
        )
    else:
        train = GeoNetFrames(geonet)
        notes.append(
            f"Trained on {len(train)} frames of GeoNet's set; its normals and the test set's are of two makers."
        )
        if not train.whole:
            notes.append(f"Deviation: this is a part of GeoNet's set (fewer than {GEONET_WHOLE} frames).")
    official = isinstance(train, GeoNetFrames) and train.whole
    return FrameSplits("nyuv2", train, test, official=official, max_depth=MAX_DEPTH, notes=tuple(notes))


class Labelled(Protocol):
    """The labelled frames, by their index from 0."""

    path: Path
    has_normals: bool

    def splits(self) -> tuple[list[int], list[int]]:
        """Indices of the training and of the test frames."""

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Image (3, H, W) uint8, depth (H, W) metres, normals (3, H, W) or None."""

    def state(self) -> str: ...


class LabelledFrames:
    """Chosen frames of a labelled set."""

    def __init__(self, labelled: Labelled, indices: list[int], part: str) -> None:
        self.name = f"nyuv2 {part}"
        self._labelled, self._indices = labelled, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Frame:
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        number = self._indices[index]
        return _frame(*self._labelled.read(number), name=f"nyuv2 frame {number + 1}")

    def state(self) -> str:
        return digest([self._labelled.state(), str(self._indices), str((MAX_DEPTH, CROP))])


class LabelledPickle:
    """Probe3D's `nyuv2_snorm_all.pkl`, in memory (some 9 GB for the real one) and read by `pickles.load_arrays`."""

    has_normals = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = _known(path)
        stored = load_arrays(path)
        keys = ("images", "depths", "snorms", "train_indices", "test_indices")
        missing = [key for key in keys if not isinstance(stored, dict) or key not in stored]
        if missing:
            raise UserError(f"{path} lacks {', '.join(missing)}; it is not Probe3D's {PICKLE}.")
        self._images, self._depths, self._normals = (numbers(stored[key], f"{key} of {path}") for key in keys[:3])
        shapes = (self._images.shape[1:], self._depths.shape[1:], self._normals.shape[1:])
        if shapes != ((3, *SIZE), SIZE, (3, *SIZE)):
            raise UserError(f"{path} has images, depths and snorms of {shapes}, not (3, 480, 640) and (480, 640).")
        self._train, self._test = (whole_numbers_of(stored[key], f"{key} of {path}") for key in keys[3:])

    def splits(self) -> tuple[list[int], list[int]]:
        return _checked_split(self._train, self._test, len(self._images), self.path)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        return self._images[index], self._depths[index], self._normals[index]

    def state(self) -> str:
        return digest([self.path.name, stamp(self.path)]) if as_before() else self._known.now


class LabelledMat:
    """The official `nyu_depth_v2_labeled.mat` (MATLAB 7.3, so HDF5 with the axes reversed): images (N, 3, 640, 480) uint8
    and rawDepths (N, 640, 480) metres, 0 where the sensor saw nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._owner, self._file = 0, None
        file = self._open()
        stored = {key: plain_dataset(file, key, path) for key in ("images", "rawDepths")}
        shapes = {key: tuple(one.shape) for key, one in stored.items() if one is not None}
        count = shapes.get("images", (0,))[0]
        if shapes != {"images": (count, 3, *SIZE[::-1]), "rawDepths": (count, *SIZE[::-1])}:
            raise UserError(f"{path} is not {LABELLED}: it needs images and rawDepths of N frames of 640 x 480 pixels.")
        self._count = count
        normals = path.parent / NORMALS
        self.has_normals = normals.is_file()
        self._normals = _read_normals(normals, count) if self.has_normals else None
        self._known = _known(path, *[normals] * self.has_normals)

    def splits(self) -> tuple[list[int], list[int]]:
        folder = self.path.parent
        if (folder / "splits.mat").is_file():
            stored = load_mat(folder / "splits.mat", ("trainNdxs", "testNdxs"))
            if not {"trainNdxs", "testNdxs"} <= stored.keys():
                raise UserError(f"{folder / 'splits.mat'} lacks trainNdxs and testNdxs.")
            where = folder / "splits.mat"
            train, test = (
                [number - 1 for number in whole_numbers_of(stored[key], f"{key} of {where}")]
                for key in ("trainNdxs", "testNdxs")
            )
        elif all((folder / f"{part}_SN40.json").is_file() for part in ("train", "test")):
            train, test = (_sn40(folder / f"{part}_SN40.json") for part in ("train", "test"))
        else:
            raise UserError(
                f"{folder} has no split: put splits.mat, or train_SN40.json and test_SN40.json, beside the .mat."
            )
        return _checked_split(train, test, self._count, folder)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        file = self._open()
        try:
            image, depth = file["images"][index].transpose(0, 2, 1), file["rawDepths"][index].T
        except (OSError, ValueError, RuntimeError, KeyError, MemoryError) as error:
            raise UserError(f"Frame {index + 1} of {self.path} is damaged ({error}).") from error
        return image, depth, None if self._normals is None else self._normals[index]

    def state(self) -> str:
        if not as_before():
            return self._known.now
        normals = stamp(self.path.parent / NORMALS) if self.has_normals else ""
        return digest([self.path.name, stamp(self.path), normals])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_owner": 0}

    def _open(self) -> Any:
        """The HDF5 file, opened once per process."""
        if self._file is None or self._owner != os.getpid():
            try:
                import h5py
            except ImportError as error:
                raise UserError(f"{LABELLED} needs h5py: pip install 'aloe-vit[probe3d]'.") from error
            try:
                self._file, self._owner = h5py.File(self.path, "r"), os.getpid()
            except (OSError, ValueError, RuntimeError, KeyError) as error:
                raise UserError(f"{self.path} is damaged or not a MATLAB 7.3 file ({error}).") from error
        return self._file


class GeoNetFrames:
    """GeoNet's training frames in the order of their names: one .mat each with img, depth and norm.

    All of them, Probe3D's `trainval`; of the whole release two broken entries are left out, as there.
    """

    def __init__(self, folder: Path) -> None:
        self.name = "nyuv2 geonet trainval"
        self.files = sorted(folder.glob("*.mat"))
        if not self.files:
            raise UserError(
                f"{folder} has no .mat files; unpack GeoNet's data1.zip and data2.zip into it, or remove it."
            )
        self.whole = len(self.files) >= GEONET_WHOLE
        if self.whole:
            for entry in GEONET_BAD:
                del self.files[entry]
        self._known = _known(*self.files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Frame:
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        path = self.files[index]
        stored = load_mat(path, ("img", "depth", "norm"))
        height, width = SIZE
        image, depth, normals = (np.atleast_1d(stored.get(key, 0.0)) for key in ("img", "depth", "norm"))
        cut = [x[:height, :width] if x.ndim > 1 else x for x in (image, depth, normals)]
        if [x.shape for x in cut] != [(*SIZE, 3), SIZE, (*SIZE, 3)]:
            shapes = ", ".join(str(x.shape) for x in (image, depth, normals))
            raise UserError(
                f"{path} needs img and norm of (480, 640, 3) and depth of (480, 640) or more, but has {shapes}."
            )
        image, depth, normals = cut
        image = (image + 2 * np.array(GEONET_MEAN)).clip(0, 255).astype(np.uint8)
        return _frame(image.transpose(2, 0, 1), depth, normals.transpose(2, 0, 1), name=path.stem)

    def state(self) -> str:
        files = [f"{file.name}\0{stamp(file)}" for file in self.files] if as_before() else [self._known.now]
        return digest([self.name, str((MAX_DEPTH, CROP)), *files])


def _known(*files: Path) -> FileState:
    """Files of one folder."""
    names = [file.name for file in files]
    return FileState(FolderStore(files[0].parent, names), names, in_pieces=True)


def _frame(image: np.ndarray, depth: np.ndarray, normals: np.ndarray | None, name: str) -> Frame:
    pixels = torch.from_numpy(np.array(image)).float() / 255
    if not pixels.isfinite().all():
        raise UserError(f"{name} has pixels that are not finite; remove it.")
    return Frame(
        image=pixels,
        depth=positive_depth(torch.from_numpy(np.array(depth, dtype=np.float32)), MAX_DEPTH),
        normals=None if normals is None else torch.from_numpy(np.array(normals, dtype=np.float32)),
        name=name,
    ).cropped(0, CROP, SIZE[0], SIZE[1] - 2 * CROP)


def _read_normals(path: Path, count: int) -> np.ndarray:
    """(N, 3, H, W) of `all_normals.pklz`, a gzip pickle of {"all_normals": (N, H, W, 3)}."""
    stored = load_arrays(path)
    normals = stored["all_normals"] if isinstance(stored, dict) and "all_normals" in stored else ()
    normals = numbers(normals, f"all_normals of {path}")
    if normals.shape != (count, *SIZE, 3):
        raise UserError(f"{path} needs all_normals ({count}, 480, 640, 3), but has {normals.shape}.")
    return np.moveaxis(normals, 3, 1)


def _sn40(path: Path) -> list[int]:
    """Indices from a list of {"img": "NUMBER_..."}, numbers from 1."""
    try:
        ids = [whole_number(entry["img"].split("_")[0]) for entry in read_json(path)]
        if None in ids:
            raise ValueError(f"entry {ids.index(None) + 1} has no number")
        return [number - 1 for number in ids if number is not None]
    except UserError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a list of entries with img: NUMBER_... ({error}).") from error


def _checked_split(train: list[int], test: list[int], count: int, where: Path) -> tuple[list[int], list[int]]:
    both = [*train, *test]
    if not train or not test or len(set(both)) < len(both) or min(both) < 0 or max(both) >= count:
        raise UserError(
            f"The split of {where} does not part its {count} frames in two: numbers repeat or do not exist."
        )
    return train, test
