"""Tar archives by Python's reader, which believes headers too far: they are held against bounds before it acts on them."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import IO, Any, Literal

HEADER_LIMIT = 1 << 20
"""Bytes of a name or of the attributes that stand before a member; tarfile would read as many as are declared."""
MEMBER_LIMIT = 1 << 50
_BESIDE = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
BROKEN = (tarfile.TarError, EOFError, ValueError, OverflowError, LookupError, RecursionError, MemoryError)
"""What tarfile raises on damaged input."""


class DishonestHeader(tarfile.TarError):
    """A header that declares what no archive has."""


class Header(tarfile.TarInfo):
    """A member's header within bounds."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str | None, errors: str) -> Any:
        """As tarfile does it, then checked; raises DishonestHeader."""
        header = super().frombuf(buf, encoding, errors)  # type: ignore[arg-type]
        most = HEADER_LIMIT if header.type in _BESIDE else MEMBER_LIMIT
        if not 0 <= header.size <= most:
            raise DishonestHeader(f"a header declares {header.size} bytes")
        return header


def open_tar(path: Path | str | None, mode: Literal["r:", "r:*", "r|*"], stream: IO[bytes] | None = None) -> Any:
    """`tarfile.open` with headers within bounds; raises some of `BROKEN`, and OSError."""
    return tarfile.open(path, mode, fileobj=stream, tarinfo=Header)


def is_tar(path: Path) -> bool:
    """Whether a regular file begins like an uncompressed tar.

    Raises:
        DishonestHeader, and others of `BROKEN`: it does, and goes on as none does.
    """
    try:
        with open_tar(path, "r:"):
            return True
    except tarfile.ReadError:
        return False
