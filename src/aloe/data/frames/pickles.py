"""Pickles of arrays read without running what they say: only numpy arrays, numbers, strings, lists, tuples and dicts.

A pickle names functions for its reader to call. Here those that numpy itself writes into pickles of arrays are done by
functions of this module, which make plain numbers, strings and lists only; any other is refused by name and never looked up.
"""

from __future__ import annotations

import gzip
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from aloe.core.errors import UserError
from aloe.core.files import open_regular


def load_arrays(path: Path) -> Any:
    """What the pickle at `path` (gzip or plain) holds, if that is arrays in plain containers.

    Raises:
        UserError: damaged, or it asks for any function or class other than numpy's own for arrays.
    """
    with open_regular(path) as file:
        zipped = file.read(2) == b"\x1f\x8b"
        size = file.seek(0, 2)
        file.seek(0)
        if not zipped:
            return read_arrays(file, path)
        with gzip.GzipFile(fileobj=file) as stream:
            return read_arrays(_Bounded(stream, max(SMALL, RATIO * size)), path)


def read_arrays(stream: Any, path: Path | str) -> Any:
    """As `load_arrays`, of an open stream; `path` is what to call it."""
    try:
        return _Arrays(stream, path).load()
    except UserError:
        raise
    except (*_BROKEN, pickle.UnpicklingError) as error:
        raise UserError(f"{path} is damaged or not a pickle of arrays ({str(error)[:200]}).") from error


RATIO, SMALL = 20, 1 << 28
"""How many times its own size a packed pickle may inflate to, or bytes in any case; maps of normals do so twice or thrice."""
# What the reader raises on damaged input.
_BROKEN = (
    *(OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, zlib.error, OverflowError),
    *(MemoryError, RecursionError, AssertionError, struct.error, NotImplementedError),
)


class _Bounded:
    """A stream that inflates no further than `most` bytes."""

    def __init__(self, stream: Any, most: int) -> None:
        self._stream, self._left = stream, most

    def read(self, size: int = -1) -> bytes:
        return self._counted(self._stream.read(min(size, self._left + 1) if size >= 0 else self._left + 1))

    def readline(self) -> bytes:
        return self._counted(self._stream.readline(self._left + 1))

    def _counted(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise ValueError(f"it inflates to more than {RATIO} times its size")
        return data


_Reader: Any = pickle._Unpickler  # type: ignore[attr-defined]


# Python's own reader, not the one in C: that makes a table of as many places as a pickle names, billions if it likes.
class _Arrays(_Reader):
    dispatch: ClassVar[dict[int, Any]] = dict(_Reader.dispatch)

    def __init__(self, stream: Any, path: Path | str) -> None:
        # latin1 is how Python 3 reads the bytes of arrays that Python 2 pickled.
        super().__init__(stream, encoding="latin1")
        self._path = path

    def load_build(self) -> None:
        """Set the state of an array or a dtype; of nothing else, or a pickle could set attributes of functions."""
        if not isinstance(self.stack[-2], _Array | _Dtype):
            raise ValueError("a state for what has none")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str) -> Any:
        # numpy 2 renamed numpy.core to numpy._core; the names in it stayed.
        allowed = _ALLOWED.get((module.replace("numpy._core", "numpy.core"), name))
        if allowed is None:
            raise UserError(
                f"{self._path} is refused: the pickle asks for {module}.{name}, which is no array of numbers."
            )
        return allowed

    def persistent_load(self, pid: Any) -> Any:
        raise UserError(f"{self._path} is refused: the pickle refers to objects outside it.")


class _Array(np.ndarray):
    """An array that the pickle fills; numpy's own would believe any dtype that the pickle has altered."""

    def __setstate__(self, state: Any) -> None:
        _, shape, code, fortran, data = state
        dtype = code.dtype(objects=True)
        if dtype.hasobject and not isinstance(data, list):
            raise ValueError("objects given as bytes")
        filled: Any = (1, shape, dtype, bool(fortran), data)
        super().__setstate__(filled)


class _Dtype:
    """A dtype's code and byte order."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code = code
        self.order: Literal["<", ">"] = "<"  # single bytes have none

    def __setstate__(self, state: Any) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def dtype(self, objects: bool = False) -> np.dtype:
        """The dtype, made anew from the code; ValueError unless of numbers or strings (or, with `objects`, of objects)."""
        dtype = np.dtype(str(self.code))
        if dtype.kind not in ("biufcSUO" if objects else "biufcSU"):
            raise ValueError(f"an array of {dtype}")
        return dtype.newbyteorder(self.order)


def _array(kind: Any, *_: Any) -> np.ndarray:
    if kind is not _NDARRAY:
        raise ValueError("an array of a class of its own")
    return np.ndarray.__new__(_Array, (0,), np.uint8)


def _scalar(code: _Dtype, data: Any) -> Any:
    return np.frombuffer(_latin1(data) if isinstance(data, str) else bytes(data), code.dtype(), count=1)[0]


def _buffer(data: Any, code: _Dtype, shape: Any, order: Literal["C", "F"]) -> np.ndarray:
    """An array over bytes, as protocol 5 writes it."""
    return np.frombuffer(data, code.dtype()).reshape(shape, order=order)


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 writes bytes; no other codec is looked up."""
    if encoding != "latin1":
        raise ValueError(f"bytes encoded as {encoding}")
    return text.encode("latin1")


_NDARRAY = object()  # stands for the class, which nothing may call

_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _buffer,
    ("_codecs", "encode"): _latin1,
}
