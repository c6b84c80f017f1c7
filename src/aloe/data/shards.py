"""WebDataset shards as an endless, seeded, evenly divided stream of encoded images, local or over
http(s).

A shard that cannot be read is tried again from the image after the last one delivered, so nothing
is repeated. Which members are samples is the rule of `aloe.data.members`; what it leaves out is told.
"""

from __future__ import annotations

import copy
import errno
import glob
import hashlib
import os
import random
import re
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from importlib.util import find_spec
from itertools import chain, count, islice
from math import prod
from typing import IO

from aloe.core.errors import UserError
from aloe.core.files import expanded
from aloe.core.printable import shown
from aloe.data.archives import COMPRESSED
from aloe.data.decode import MAX_BYTES, DataError, is_image_name
from aloe.data.members import Members, normal, split_key
from aloe.data.tars import BROKEN, open_tar

MAX_SHARDS = 10**6


class ShardSource:
    """The shards that `pattern` names: paths or http(s) addresses, with `{000..099}` and, for
    paths, `*`.

    Args:
        pattern: a path that exists is taken as it stands; `#rgb.png` at its end chooses the image member.
        buffer: Number of encoded images among which the stream is shuffled.
        retries: How often a shard that fails is read again, if waiting may help.
        pause: Seconds before the first retry; doubled before each further one.
        timeout: Seconds without a byte after which a remote shard counts as failed.

    `left_out` says what was read over, shard by shard, as far as this process has read.

    Raises:
        UserError: A local shard that does not exist, or another kind of address.
    """

    def __init__(
        self, pattern: str, *, buffer: int = 1000, retries: int = 3, pause: float = 1.0, timeout: float = 60.0
    ) -> None:
        if find_spec("webdataset") is None:
            raise UserError("wds:... needs the package webdataset; pip install 'aloe-vit[data]'.")
        self.buffer, self.retries, self.pause, self.timeout = buffer, retries, pause, timeout
        self.member = ""
        match = re.fullmatch(r"(.+)#([\w.-]+)", pattern)
        if match and not os.path.exists(expanded(pattern)):
            pattern, self.member = match.groups()
        self.urls = _urls(pattern)
        self.left_out: list[str] = []
        self._picked: dict[str, set[int]] = {}

    def fingerprint(self) -> str:
        """A hash of the addresses; the shards are not read."""
        suffix = [f"#{self.member}"] if self.member else []
        return hashlib.sha256("\n".join([*self.urls, *suffix]).encode("utf-8", "surrogateescape")).hexdigest()

    def hold_out(self, count: int) -> tuple[ShardSource, list[tuple[str, bytes]]]:
        """The source without its last shard, and the first `count` images of that shard; needs two shards or more."""
        rest = copy.copy(self)
        rest.urls = self.urls[:-1]
        return rest, list(islice(self._read(self.urls[-1]), count))

    def in_order(self) -> Iterator[tuple[str, bytes]]:
        """(name, encoded image) of every sample once, shard after shard.

        Raises:
            DataError: A shard that cannot be read.
        """
        return chain.from_iterable(map(self._read, self.urls))

    def samples(self, *, seed: int, slot: int = 0, slots: int = 1, repeat: bool = True) -> Iterator[tuple[str, bytes]]:
        """(name, encoded image) of share `slot` of `slots`: one image member of each sample.

        Shares are disjoint and together complete in every pass. Whole shards are shared out where
        there are enough of them, else single images (each slot then reads every shard).

        Raises:
            DataError: A shard that cannot be read, or no image in the whole share.
        """
        import webdataset

        for epoch in count() if repeat else range(1):
            urls = list(self.urls)
            random.Random(f"{seed} {epoch}").shuffle(urls)
            share: Iterator[tuple[str, bytes]]
            if len(urls) >= slots:
                share = chain.from_iterable(map(self._read, urls[slot::slots]))
            else:
                share = islice(chain.from_iterable(map(self._read, urls)), slot, None, slots)
            shuffle = webdataset.shuffle(self.buffer, rng=random.Random(f"{seed} {epoch} {slot}"))
            empty = True
            for sample in shuffle(share):
                empty = False
                yield sample
            if empty:
                raise DataError(
                    f"No images for reader {slot + 1} of {slots} in {len(urls)} shards"
                    f" ({urls[0]}, ...): use fewer workers or other shards."
                )

    def _read(self, url: str) -> Iterator[tuple[str, bytes]]:
        done, problem, tries = 0, "", 0
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            tries += 1
            try:
                for sample in islice(self._images(url), done, None):
                    done += 1
                    yield sample
                return
            except (OSError, EOFError, HTTPException, tarfile.TarError) as error:  # may pass by waiting
                problem = _words(error)
            except BROKEN as error:  # what the shard holds does not change
                problem = _words(error)
                break
        raise DataError(
            f"The shard {shown(url)} could not be read ({problem}; tried {tries} time{'s' * (tries > 1)});"
            " restore it or leave it out."
        )

    def _images(self, url: str) -> Iterator[tuple[str, bytes]]:
        """One pass over one shard."""
        members = Members(shown(url), self.member)
        if not _is_remote(url) and url not in self._picked:
            # The headers of a local shard are read first, so that the members of a sample may lie anywhere in it.
            self._picked[url] = members.pick(_names(url, members))
            self._tell(members.left_out())
        with _open(url, self.timeout) as opened:
            stream = _Counted(opened)
            with open_tar(None, "r|*", stream) as archive:  # type: ignore[arg-type]
                for name, data in self._samples(url, archive, members):
                    yield f"{shown(url)}: {shown(name)}", data
                end = archive.offset
            stream.check(end)
        self._tell(members.left_out())

    def _samples(self, url: str, archive: tarfile.TarFile, members: Members) -> Iterator[tuple[str, bytes]]:
        picked = self._picked.get(url)
        if picked is not None:
            for i, (name, member) in enumerate(_files(archive, Members(url))):
                if i in picked:
                    yield name, _data(archive, member)
            return
        group: list[tuple[str, bytes]] = []
        for name, member in _files(archive, members):
            if group and split_key(name)[0] != split_key(group[-1][0])[0]:
                yield from (group[i] for i in sorted(members.pick([n for n, _ in group])))
                group = []
            group.append((name, _data(archive, member) if is_image_name(name) else b""))
        yield from (group[i] for i in sorted(members.pick([n for n, _ in group])))

    def _tell(self, words: list[str]) -> None:
        self.left_out += [sentence for sentence in words if sentence not in self.left_out]


def _urls(pattern: str) -> list[str]:
    """Paths and http(s) addresses. Braces and stars stand for several only in what does not exist as it is written."""
    from webdataset.shardlists import expand_urls

    if os.path.exists(expanded(pattern)):
        return [str(expanded(pattern))]
    if prod(max(abs(int(b) - int(a)) + 1, 1) for a, b in re.findall(r"\{(\d{1,18})\.\.(\d+)\}", pattern)) > MAX_SHARDS:
        raise UserError(f"{shown(pattern)} stands for more than {MAX_SHARDS} shards; give fewer.")
    try:
        addresses = expand_urls(pattern)
    except ValueError as error:  # braces without an end
        raise UserError(f"{shown(pattern)} is no pattern of shards ({error}); write {{000..099}}.") from error
    urls: list[str] = []
    for url in addresses:
        path = str(expanded(url))
        if _is_remote(url):
            urls.append(url)
        elif (
            paths := [path] if os.path.exists(path) else sorted(glob.glob(path) or glob.glob(path.replace("[", "[[]")))
        ):
            urls += paths
        elif _SCHEME.match(url):
            raise UserError(f"{shown(url)} is refused: shards are local paths or http(s) addresses.")
        else:
            raise UserError(f"The shard {shown(url)} does not exist; check the pattern {shown(pattern)}.")
    return urls


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|(pipe|file|data|ftp|s3|gs|gcs|az|hdfs|hf|ssh|scp|sftp):")


def _is_remote(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _words(error: BaseException) -> str:
    """An error of a reader in words: never a traceback's, or an object's address."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = error.args[0] if error.args and isinstance(error.args[0], str) else ""
    return shown(words.splitlines()[0]) if words.strip() else type(error).__name__


def _names(url: str, members: Members) -> list[str]:
    """The names of a local shard's files, in the order of `_files`."""
    if os.path.exists(url) and not os.path.isfile(url):
        raise OSError(errno.EINVAL, "not a regular file", url)
    with open_tar(url, "r:*") as archive:
        names = [name for name, _ in _files(archive, members)]
        archive.fileobj.seek(archive.offset)
        _check_end(archive.fileobj.read(tarfile.BLOCKSIZE))
    return names


def _check_end(block: bytes) -> None:
    """Raises EOFError where a tar goes on after what tarfile took for its end: a damaged header, most likely."""
    if block.strip(b"\0"):
        raise EOFError("damaged or cut off")


def _files(archive: tarfile.TarFile, members: Members) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """The regular files of a shard by their names; images that cannot be read from it are left out, by name."""
    for member in archive:
        archive.members = []  # type: ignore[attr-defined]  # keeps memory flat
        name = normal(member.name)
        if member.isdir():
            continue
        if not member.isreg():
            if is_image_name(name):
                members.leave(name, "a link or a device")
        elif member.size > MAX_BYTES:
            if is_image_name(name):
                members.leave(name, f"a file of more than {MAX_BYTES >> 20} MiB")
        else:
            yield name, member


def _data(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return b"" if file is None else file.read()


class _Counted:
    """A stream that knows whether it was cut off: tarfile takes a cut or damaged header for the end."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.total, self.head, self.recent = stream, 0, b"", b""

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(size)
        self.total += len(data)
        self.head = self.head or data[:6]
        self.recent = self.recent[-_RECENT:] + data if len(data) < _RECENT else data
        return data

    def check(self, end: int) -> None:
        """Raises EOFError when bytes are missing to whole tar blocks or to the promised length, or the tar goes on at `end`,
        where its reader stopped."""
        compressed = self.head.startswith(tuple(COMPRESSED))
        start = end - (self.total - len(self.recent))
        if not compressed and start >= 0:
            _check_end(self.recent[start : start + tarfile.BLOCKSIZE])
        while self.read(1 << 20):
            pass
        if (self.total % tarfile.BLOCKSIZE and not compressed) or getattr(self.stream, "length", None):
            raise EOFError("cut off")


_RECENT = 1 << 15  # bytes: more than tarfile reads at once


def _open(url: str, timeout: float) -> IO[bytes]:
    if url.startswith(("http://", "https://")):
        stream: IO[bytes] = urllib.request.urlopen(url, timeout=timeout)
        return stream
    if os.path.exists(url) and not os.path.isfile(url):
        raise OSError(errno.EINVAL, "not a regular file", url)
    return open(url, "rb")
