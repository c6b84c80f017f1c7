"""MATLAB files, versions 4 to 7, by scipy: damaged ones in one sentence."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from aloe.core.errors import UserError

# What scipy's reader raises on damaged files, beside its own error.
_BROKEN = (
    *(OSError, EOFError, ValueError, TypeError, NotImplementedError, LookupError, AttributeError, OverflowError),
    zlib.error,
)


def load_matlab(file: Path | IO[bytes], where: str, fields: Sequence[str] | None = None, squeeze: bool = False) -> Any:
    """The fields of a MATLAB file by name; `where` is what to call it.

    Raises:
        UserError: damaged, a file of version 7.3 (HDF5), one of `fields` is not in it, or scipy is not installed.
    """
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise UserError(f"{where} needs scipy: pip install scipy.") from error
    try:
        found = loadmat(file, squeeze_me=squeeze, variable_names=fields)
    except (MatReadError, *_BROKEN) as error:
        raise UserError(f"{where} is damaged or not a MATLAB file of the older kind ({error}).") from error
    if absent := [field for field in fields or () if field not in found]:
        raise UserError(f"{where} has no field {absent[0]}; it is not the official file.")
    return found
