"""MATLAB files, versions 4 to 7, by scipy: damaged ones in one sentence."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from aloe.core.errors import UserError
from aloe.core.files import read_bytes

MAT_BYTES = 1 << 26
"""Of a file, and of each of its variables unpacked."""
# What scipy's reader raises on damaged files, beside its own error.
_BROKEN = (
    *(OSError, EOFError, ValueError, TypeError, NotImplementedError, LookupError, AttributeError, OverflowError),
    *(zlib.error, MemoryError, RuntimeError),
)


def load_matlab(file: Path | IO[bytes], where: str, fields: Sequence[str] | None = None, squeeze: bool = False) -> Any:
    """The fields of a MATLAB file by name; `where` is what to call it.

    Raises:
        UserError: damaged, a file of version 7.3 (HDF5), one of `fields` is not in it, or scipy is not installed.
    """
    data = matlab_bytes(file, where)
    content = _by_scipy(lambda io: io.loadmat(BytesIO(data), squeeze_me=squeeze, variable_names=fields), where)
    if absent := [field for field in fields or () if field not in content]:
        raise UserError(f"{where} has no field {absent[0]}; it is not the official file.")
    return content


def matlab_bytes(file: Path | IO[bytes], where: str) -> bytes:
    """The content of a MATLAB file that unpacks to what memory holds.

    Raises:
        UserError: no regular file, or more than `MAT_BYTES` packed or unpacked.
    """
    try:
        data = read_bytes(file, MAT_BYTES) if isinstance(file, Path) else file.read(MAT_BYTES + 1)
        if len(data) > MAT_BYTES:
            raise ValueError(f"it has more than {MAT_BYTES >> 20} MiB")
        _check_inflated(data)
    except UserError:
        raise
    except _BROKEN as error:
        raise _damaged(where, error) from error
    return data


def matlab_classes(data: bytes, where: str) -> dict[str, str]:
    """The class of every variable by its name, such as `double` or `cell`; raises UserError for damaged files."""
    return {name: kind for name, _, kind in _by_scipy(lambda io: io.whosmat(BytesIO(data)), where)}


def _by_scipy(read: Callable[[Any], Any], where: str) -> Any:
    try:
        from scipy import io
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise UserError(f"{where} needs scipy: pip install scipy.") from error
    try:
        return read(io)
    except (MatReadError, *_BROKEN) as error:
        raise _damaged(where, error) from error


def _damaged(where: str, error: BaseException) -> UserError:
    return UserError(f"{where} is damaged or not a MATLAB file of the older kind ({error}).")


def _check_inflated(data: bytes) -> None:
    """Raises ValueError for a packed variable of version 5 that inflates to more than `MAT_BYTES`."""
    at, order = 128, "little" if data[126:128] == b"IM" else "big"
    while data[126:128] in (b"IM", b"MI") and at + 8 <= len(data):
        kind, size = (int.from_bytes(data[at + i : at + i + 4], order) for i in (0, 4))  # type: ignore[arg-type]
        if kind == 15:  # miCOMPRESSED
            inflate = zlib.decompressobj()
            inflate.decompress(data[at + 8 : at + 8 + size], MAT_BYTES)
            if inflate.unconsumed_tail:
                raise ValueError(f"a variable of more than {MAT_BYTES >> 20} MiB")
        at += 8 + size
