"""Arrays from files that nobody vouches for (.npz, .mat, HDF5): shapes, kinds and sizes are known before anything is made."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from aloe.core.errors import UserError
from aloe.data.matlab import load_matlab, matlab_bytes, matlab_classes

NPZ_BYTES = 1 << 26
"""Of a .npz file, and of its arrays together."""
CHUNK_BYTES = 1 << 28
"""Of a chunk of an HDF5 data set, which is read whole."""
_BROKEN = (
    *(ValueError, OSError, EOFError, LookupError, AttributeError, TypeError, NotImplementedError),
    *(OverflowError, MemoryError, RuntimeError, SyntaxError, zipfile.BadZipFile, zlib.error),
)


def numbers(values: Any, what: str) -> np.ndarray:
    """`values` as an array of real numbers; raises UserError for text, objects, complex numbers and the like."""
    try:
        array = np.asarray(values)
    except _BROKEN as error:
        raise UserError(f"{what} is no array of numbers ({error}).") from error
    if array.dtype.kind not in "biuf":
        raise UserError(f"{what} is no array of numbers but of {array.dtype}.")
    return array


def whole_numbers_of(values: Any, what: str) -> list[int]:
    """`values` as a flat list of whole numbers; raises UserError for anything else."""
    array = numbers(values, what).ravel()
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (np.abs(array) < 2**53).all()):
        raise UserError(f"{what} holds numbers that count nothing.")
    if array.dtype.kind == "f" and (array != np.rint(array)).any():
        raise UserError(f"{what} holds numbers that are not whole.")
    return [int(value) for value in array]


def arrays_of_npz(data: bytes, name: str) -> dict[str, np.ndarray]:
    """The arrays of numbers in a .npz; each is as large as its bytes, whatever its header declares.

    Raises:
        UserError: damaged, of more than `NPZ_BYTES` unpacked, or holding anything but arrays of numbers.
    """
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            infos = archive.infolist()
            if sum(info.file_size for info in infos) > NPZ_BYTES:
                raise UserError(f"{name} unpacks to more than {NPZ_BYTES >> 20} MiB.")
            arrays = {}
            for info in infos:
                with archive.open(info) as member:
                    content = member.read(info.file_size)
                key = info.filename.removesuffix(".npy")
                arrays[key] = numbers(_npy(content), f"{key} of {name}")
            return arrays
    except UserError:
        raise
    except _BROKEN as error:
        raise UserError(f"{name} is damaged or not an archive of arrays ({error}).") from error


def _npy(content: bytes) -> np.ndarray:
    stream = BytesIO(content)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject or prod(shape) * dtype.itemsize > len(content) or min(shape, default=0) < 0:
        raise ValueError(f"an array of {shape} {dtype} in {len(content)} bytes")
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)


def load_mat(path: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays `keys`, as far as they are there, of a MATLAB file of versions 4 to 7.

    Raises:
        UserError: as `load_matlab`, or one of them is no array of numbers.
    """
    data = matlab_bytes(path, str(path))
    kinds = {key: kind for key, kind in matlab_classes(data, str(path)).items() if key in keys}
    for key, kind in kinds.items():
        if kind not in _CLASSES:
            raise UserError(f"{path}: {key} is no array of numbers but of the class {kind}.")
    stored = load_matlab(BytesIO(data), str(path), list(kinds)) if kinds else {}
    return {key: numbers(stored[key], f"{key} of {path}") for key in kinds}


_CLASSES = ("double", "single", "logical", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))


def plain_dataset(file: Any, key: str, path: Path) -> Any:
    """The data set `key` of an open HDF5 file, or None: of numbers, in the file itself, in chunks that memory holds.

    Raises:
        UserError: a link to another file, data kept outside or put together from other files, other kinds of data.
    """
    import h5py

    try:
        link = file.get(key, getlink=True)
        if link is None:
            return None
        dataset: Any = file[key] if isinstance(link, h5py.HardLink) else None
        plain = isinstance(dataset, h5py.Dataset) and dataset.external is None and not dataset.is_virtual
        if not plain or dataset.dtype.kind not in "biuf":
            raise UserError(f"{path}: {key} is no data set of numbers in the file itself.")
        if prod(dataset.chunks or (0,)) * dataset.dtype.itemsize > CHUNK_BYTES:
            raise UserError(f"{path}: {key} is in chunks of {dataset.chunks}, more than {CHUNK_BYTES >> 20} MiB.")
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged ({error}).") from error
    return dataset
