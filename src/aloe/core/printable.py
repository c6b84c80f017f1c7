"""Names of files and members as text: any byte string that a file system holds, written so that it can be read back."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

# What no list, log, page or terminal should get raw: control characters, bytes that are no UTF-8 (Python's lone
# surrogates), line separators, and marks that turn the direction of what follows.
_RAW = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_UNSAFE = re.compile("""[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069%<>:"|?*\\\\]""")
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
LONGEST = 160  # bytes of a file's name, with room for what is added to it
_LIKE_OURS = re.compile(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|\\)")


def shown(name: str) -> str:
    """`name` with `\\xNN` and `\\uNNNN` for what cannot be shown; a name that needs none stays as it is.

    Different names stay different: a backslash is doubled where the name has one of these, or looks as if it had.
    """
    if not (_RAW.search(name) or _LIKE_OURS.search(name)):
        return name
    return _RAW.sub(_escaped, name.replace("\\", "\\\\"))


def append_lines(path: Path, lines: list[str]) -> None:
    """Add lines to a text file, each on one line whatever it holds."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(f"{shown_line(line)}\n" for line in lines))


def read_lines(path: Path) -> list[str]:
    """The lines of a text file; none where there is no file, bytes that are no text as in names."""
    if not path.is_file():
        return []
    return [shown_line(line) for line in path.read_bytes().decode("utf-8", "surrogateescape").split("\n") if line]


def shown_line(line: str) -> str:
    """A sentence with what cannot be shown escaped; one that holds shown names already stays as it is."""
    return _RAW.sub(_escaped, line)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}"


def shown_text(text: str) -> str:
    """Several lines with what cannot be shown escaped; line ends and tabs stay."""
    return "\n".join("\t".join(map(shown_line, line.split("\t"))) for line in text.split("\n"))


def file_name(name: str) -> str:
    """A name for a file on every system: `%NN`, as in URLs, for what terminals, shells and pages read as more than a letter.

    `urllib.parse.unquote` gives the name back. Of a long one the end makes room for 12 digits of the whole name's SHA-256.
    """
    plain = _UNSAFE.sub(
        lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape")), name
    )
    if len(plain.encode("utf-8", "surrogateescape")) <= LONGEST:
        return plain
    stem, dot, suffix = plain.rpartition(".")
    suffix = suffix if dot and len(suffix) <= 5 else ""
    kept = (stem if suffix else plain).encode()[: LONGEST - 24].decode(errors="ignore")
    return f"{kept}-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}{'.' if suffix else ''}{suffix}"


def for_spreadsheets(cell: Any) -> Any:
    """A cell of a CSV file: words that a spreadsheet would compute (`=1+1`) get an apostrophe before them."""
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def from_spreadsheets(cell: Any) -> Any:
    """The cell as it was before `for_spreadsheets`."""
    return cell[1:] if isinstance(cell, str) and cell.startswith("'") and _FORMULA.match(cell) else cell
