"""Files on users' disks: read as text, JSON or YAML by one rule, written whole or not at all, and hashed.

A file is written aside, in its own folder, and renamed: a reader sees the old one or the new one, never a part.
"""

from __future__ import annotations

import codecs
import csv
import errno
import hashlib
import io
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from aloe.core.errors import UserError
from aloe.core.typed import first_twice

TEXT_LIMIT = 256 << 20
"""Bytes of the largest text file that is read."""
YAML_LIMIT = 1 << 18
"""And of a file of settings, which are read slowly."""


def expanded(path: str | Path) -> Path:
    """A path with `~` for a user's own folder.

    Raises:
        UserError: nobody of that name has one here.
    """
    place = Path(os.path.expanduser(path))
    if str(place).startswith("~") and not os.path.lexists(place):
        raise UserError(
            f"{place} begins with the folder of a user who has none here; write the path out, or ./~ for a name."
        )
    return place


def read_bytes(path: Path, limit: int = TEXT_LIMIT) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: there is none, or it cannot be read.
        UserError: it is a device or a pipe, or larger than `limit` bytes.
    """
    with open_regular(path, limit) as file:
        data = file.read(limit + 1)
    if len(data) > limit:  # of /proc, whose files have no size
        raise _too_large(path, len(data), limit)
    return data


def open_regular(path: Path, limit: int | None = None) -> BinaryIO:
    """A regular file, open for reading; nothing else is waited for or read.

    Raises:
        OSError: there is none, or it cannot be read.
        UserError: it is a device or a pipe, or larger than `limit` bytes.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a null character in its name
        raise UserError(f"{str(path)!r} is no name of a file ({error}).") from error
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENODEV):  # a socket, or a device without its hardware
            raise UserError(_no_file(path)) from error
        raise
    facts = os.fstat(handle)
    if not stat.S_ISREG(facts.st_mode):
        os.close(handle)
        if stat.S_ISDIR(facts.st_mode):
            raise IsADirectoryError(errno.EISDIR, "Is a directory", str(path))
        raise UserError(_no_file(path))
    if limit is not None and facts.st_size > limit:
        os.close(handle)
        raise _too_large(path, facts.st_size, limit)
    return os.fdopen(handle, "rb")


def _no_file(path: Path) -> str:
    return f"{path} is not a regular file but a device or a pipe; give a file."


def _too_large(path: Path, size: int, limit: int) -> UserError:
    return UserError(f"{path} has {size / 1e6:.0f} MB, more than the {limit / 1e6:.0f} MB that are read.")


def decoded(data: bytes) -> str:
    """The text of bytes in UTF-8, or in UTF-16 where they begin with its mark, without the mark.

    Raises:
        UnicodeDecodeError: they are neither.
    """
    marked = len(data) > 2 and data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if marked else "utf-8-sig")


def read_text(path: Path, limit: int = TEXT_LIMIT) -> str:
    """The text of a file in UTF-8 or marked UTF-16, without the byte-order mark that spreadsheets write.

    Raises:
        OSError: there is none, or it cannot be read.
        UnicodeDecodeError: it is in another encoding.
        UserError: it is no regular file, or too large.
    """
    return decoded(read_bytes(path, limit))


def read_words(path: Path, limit: int = TEXT_LIMIT) -> str:
    """The text of a user's file, as `read_text` reads it.

    Raises:
        UserError: it cannot be read, is no text in UTF-8, or is larger than `limit` bytes.
    """
    try:
        return read_text(path, limit)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        hint = "" if path.suffix == ".md" else " (Excel: CSV UTF-8)"
        raise UserError(f"{_not_utf8(path)}{hint}.") from error


def _not_utf8(path: Path) -> str:
    return f"{path} is not a text file in UTF-8; save it as UTF-8"


def read_table(path: Path, columns: Sequence[str], what: str) -> list[tuple[int, dict[str, str]]]:
    """(line, cells by column) of the rows of a CSV file with a header, parted by commas, semicolons or tabs.

    Empty rows and a first line `sep=;` are passed over; columns that were not asked for are left out.

    Args:
        columns: those that there must be. what: what a row ought to be, such as "answer of a study".

    Raises:
        UserError: it cannot be read, lacks columns or names one twice, or has a row with too few or too many cells.
    """
    lines = list(io.StringIO(read_words(path), newline=""))  # str.splitlines would end a line at U+2028 and others
    first = 1 if lines and lines[0].lower().startswith("sep=") else 0
    header = lines[first] if len(lines) > first else ""
    parted = {sign: [name.strip().strip('"') for name in header.strip("\r\n").split(sign)] for sign in ",;\t"}
    sign = max(parted, key=lambda each: len(set(columns) & set(parted[each])))
    if missing := [name for name in columns if name not in parted[sign]]:
        raise UserError(
            f"{path} holds no {what}: its first line does not name the column{'s' * (len(missing) > 1)} "
            f"{', '.join(missing)}."
        )
    if twice := [name for name in columns if parted[sign].count(name) > 1]:
        raise UserError(f"{path} names the column {twice[0]} more than once; leave one of them.")
    reader = csv.reader(lines[first + 1 :], delimiter=sign)
    rows = []
    try:
        for cells in reader:
            number = first + 1 + reader.line_num
            if not any(map(str.strip, cells)):
                continue
            if len(cells) != len(parted[sign]):
                raise UserError(
                    f"{path}, line {number}, has {len(cells)} cells where the first line names {len(parted[sign])} columns."
                )
            row = dict(zip(parted[sign], cells, strict=True))
            rows.append((number, {name: row[name] for name in columns}))
    except csv.Error as error:
        raise UserError(f"{path}, line {first + 1 + reader.line_num}, cannot be read as CSV: {error}.") from error
    return rows


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text, with or without a byte-order mark.

    Raises:
        ValueError: it is not JSON in UTF-8, names something twice, or is nested too deeply to be honest.
    """
    try:
        words = decoded(text) if isinstance(text, bytes) else text.removeprefix("\ufeff")
        return json.loads(words, object_pairs_hook=_each_once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise ValueError(f"it names {first_twice(name for name, _ in pairs)!r} twice")
    return mapping


def parse_yaml(text: str | bytes) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: it is not plain YAML in UTF-8 (`core.plain_yaml`), or nested too deeply; the message is one line.
    """
    import yaml

    from aloe.core import plain_yaml

    try:
        return plain_yaml.load(decoded(text) if isinstance(text, bytes) else text)
    except yaml.YAMLError as error:
        raise ValueError(str(error).splitlines()[0]) from error
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON; a `UserError` for what is no regular file or too large.
    """
    return parse_json(read_bytes(path))


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """The object in a JSON file. `remedy` says what to do about a file that holds something else.

    Raises:
        UserError: it cannot be read or holds something else.
    """
    try:
        value = read_json(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise UserError(f"{_not_utf8(path)}, or {remedy}.") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); {remedy}.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object; {remedy}.")
    return value


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """The `key: value` lines of a YAML file; `what` names the file in errors, such as "configuration file".

    Raises:
        UserError: it cannot be read or holds something else.
    """
    try:
        values = parse_yaml(read_bytes(path, YAML_LIMIT))
    except OSError as error:
        raise UserError(f"The {what} {path} cannot be read: {error.strerror}.") from error
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise UserError(f"The {what} {_not_utf8(path)}.") from error
    except ValueError as error:
        raise UserError(f"The {what} {path} is not YAML: {error}.") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"The {what} {path} must hold `key: value` lines.")
    return values


@contextmanager
def whole(path: Path, fault: Callable[[OSError], str] | None = None) -> Iterator[Path]:
    """A path beside `path` to write to; what is written there takes its place when the context ends, and only then.

    Args:
        fault: the sentence for a file that cannot be written; default: one that names `path`.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")  # two machines may share a number
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        os.replace(aside, path)
    except OSError as error:
        words = fault(error) if fault else f"{path} cannot be written: {error.strerror or error}."
        raise UserError(words) from error
    finally:
        with suppress(OSError):  # it was renamed, or was never there
            aside.unlink()


def write_whole(path: Path, data: str | bytes) -> None:
    """Write a file whole or not at all; text in UTF-8.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    with whole(path) as aside:
        aside.write_bytes(data.encode() if isinstance(data, str) else data)


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Write a value as JSON, whole or not at all.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    write_whole(path, json.dumps(value, indent=indent) + "\n")


def replace_folder(home: Path, made: Path) -> None:
    """A new folder in the place of an old one, on the same file system; if that fails the old one is back.

    Raises:
        OSError: it cannot be put there.
    """
    old = home.with_name(f".{home.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    if home.exists():
        os.replace(home, old)
    try:
        os.replace(made, home)
    except OSError:
        if old.exists():
            os.replace(old, home)
        raise
    shutil.rmtree(old, ignore_errors=True)


def append_line(path: Path, value: Any) -> None:
    """Append a value to a file of JSON lines; it is on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value) + "\n")
        file.flush()
        os.fsync(file.fileno())


def json_lines(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of every line that is not empty; the value of a line that is not JSON is its `ValueError`."""
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            try:
                yield number, parse_json(line)
            except ValueError as error:
                yield number, error


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with open_regular(path) as file:
        state = hashlib.sha256()
        while part := file.read(1 << 20):
            state.update(part)
        return state.hexdigest()


def stamp(path: Path) -> str:
    """What the system tells of a file and that differs after any change of it, without reading it."""
    # The inode tells apart files of one size and moment whose folders have swapped names.
    try:
        facts = path.stat()
    except OSError as error:
        return f"unreadable: {error.strerror}"
    return f"{facts.st_size} {facts.st_ino} {facts.st_mtime_ns} {facts.st_ctime_ns}"


def digest(lines: Iterable[str]) -> str:
    """The SHA-256 of lines, in hexadecimal digits; names that are no text count by their bytes."""
    state = hashlib.sha256()
    for line in lines:
        state.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return state.hexdigest()


def digest_of(facts: Any, digits: int) -> str:
    """The first digits of the SHA-256 of facts as JSON with sorted keys; what JSON has no word for counts as its `str`."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:digits]
