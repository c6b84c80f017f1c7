"""WebDataset shards as an endless, seeded, evenly divided stream of encoded images, local or over
http(s).

A shard that cannot be read is tried again from the image after the last one delivered, so nothing
is repeated.
"""

from __future__ import annotations

import copy
import glob
import hashlib
import random
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from itertools import chain, count, islice
from pathlib import Path
from typing import IO

from aloe.core.errors import UserError
from aloe.data.archives import COMPRESSED
from aloe.data.decode import DataError, is_image_name


class ShardSource:
    """The shards that `pattern` names: paths or http(s) addresses, with `{000..099}` and, for
    paths, `*`.

    Args:
        buffer: Number of encoded images among which the stream is shuffled.
        retries: How often a shard that fails is read again.
        pause: Seconds before the first retry; doubled before each further one.
        timeout: Seconds without a byte after which a remote shard counts as failed.

    Raises:
        UserError: A local shard that does not exist, or another kind of address.
    """

    def __init__(
        self, pattern: str, *, buffer: int = 1000, retries: int = 3, pause: float = 1.0, timeout: float = 60.0
    ) -> None:
        try:
            from webdataset.shardlists import expand_urls
        except ImportError as error:
            raise UserError("wds:... needs the package webdataset; pip install 'aloe-vit[data]'.") from error
        self.buffer, self.retries, self.pause, self.timeout = buffer, retries, pause, timeout
        self.urls: list[str] = []
        for url in expand_urls(pattern):
            if url.startswith(("http://", "https://")):
                self.urls.append(url)
            elif ":" in url:
                raise UserError(f"{url} is refused: shards are local paths or http(s) addresses.")
            else:
                found = sorted(glob.glob(str(Path(url).expanduser())))
                if not found:
                    raise UserError(f"The shard {url} does not exist; check the pattern {pattern}.")
                self.urls += found

    def fingerprint(self) -> str:
        """A hash of the addresses; the shards are not read."""
        return hashlib.sha256("\n".join(self.urls).encode()).hexdigest()

    def hold_out(self, count: int) -> tuple[ShardSource, list[tuple[str, bytes]]]:
        """The source without its last shard, and the first `count` images of that shard; needs two shards or more."""
        rest = copy.copy(self)
        rest.urls = self.urls[:-1]
        return rest, list(islice(self._read(self.urls[-1]), count))

    def samples(self, *, seed: int, slot: int = 0, slots: int = 1, repeat: bool = True) -> Iterator[tuple[str, bytes]]:
        """(name, encoded image) of share `slot` of `slots`: the first image member of each sample.

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
        done, problem = 0, ""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                for sample in islice(_images(url, self.timeout), done, None):
                    done += 1
                    yield sample
                return
            except (OSError, EOFError, ValueError, HTTPException, tarfile.TarError) as error:
                problem = str(error.args[0]) if error.args else type(error).__name__
                if isinstance(error, OSError) and error.strerror:
                    problem = error.strerror
        raise DataError(
            f"The shard {url} could not be read ({problem}; tried {self.retries + 1} times);"
            " restore it or leave it out."
        )


def _images(url: str, timeout: float) -> Iterator[tuple[str, bytes]]:
    """One pass over one shard."""
    from webdataset.tariterators import group_by_keys, tar_file_expander

    with _open(url, timeout) as opened:
        stream = _Counted(opened)
        files = tar_file_expander([{"url": url, "stream": stream}], select_files=is_image_name, eof_value=None)
        for sample in group_by_keys(files):
            key = sample["__key__"]
            suffix = next((name for name in sample if not name.startswith("__")), None)
            if suffix is not None:
                yield f"{url}: {key}.{suffix}", sample[suffix]
        stream.check()


class _Counted:
    """A stream that knows whether it was cut off: tarfile takes a cut header for the end."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.total, self.head = stream, 0, b""

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(size)
        self.total += len(data)
        self.head = self.head or data[:6]
        return data

    def check(self) -> None:
        """Raises EOFError when bytes are missing to whole tar blocks or to the promised length."""
        while self.read(1 << 20):
            pass
        whole_blocks = self.total % 512 == 0 or self.head.startswith(tuple(COMPRESSED))
        if not whole_blocks or getattr(self.stream, "length", None):
            raise EOFError("cut off")


def _open(url: str, timeout: float) -> IO[bytes]:
    if url.startswith(("http://", "https://")):
        stream: IO[bytes] = urllib.request.urlopen(url, timeout=timeout)
        return stream
    return open(url, "rb")
