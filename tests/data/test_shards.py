"""WebDataset shards: complete, disjoint, seeded, and retried when they fail."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, islice
from pathlib import Path
from threading import Event, Thread

import pytest
from PIL import Image
from torch.utils.data import DataLoader

from aloe.core.errors import UserError
from aloe.data import shards
from aloe.data.decode import DataError
from aloe.data.draws import ShardDraws, collate_draws
from aloe.data.shards import ShardSource
from aloe.data.sources import open_source
from aloe.data.transforms import ResizeCenterCrop


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_shards(root: Path, shards: int = 4, per_shard: int = 5) -> str:
    """Image k of shard s has the red value 10 s + k; each sample has a text member as well."""
    root.mkdir(parents=True, exist_ok=True)
    for s in range(shards):
        with tarfile.open(root / f"part-{s:03d}.tar", "w") as archive:
            for k in range(per_shard):
                for suffix, data in (("txt", b"words"), ("png", png(10 * s + k))):
                    member = tarfile.TarInfo(f"{k:04d}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return f"{root}/part-{{000..{shards - 1:03d}}}.tar"


def reds(samples: Iterator[tuple[str, bytes]]) -> list[int]:
    return [Image.open(io.BytesIO(data)).getpixel((0, 0))[0] for _, data in samples]


def everything(shards: int = 4) -> list[int]:
    return [10 * s + k for s in range(shards) for k in range(5)]


def test_one_pass_holds_every_image_once_in_a_seeded_order(tmp_path: Path) -> None:
    source = open_source(f"wds:{write_shards(tmp_path)}")
    assert isinstance(source, ShardSource)
    passes = [reds(source.samples(seed=seed, repeat=False)) for seed in (0, 0, 1)]
    assert passes[0] == passes[1] != passes[2]
    assert sorted(passes[0]) == sorted(passes[2]) == everything()


def test_repetition_is_reshuffled(tmp_path: Path) -> None:
    stream = ShardSource(write_shards(tmp_path)).samples(seed=0)
    first, second = reds(islice(stream, 20)), reds(islice(stream, 20))
    assert sorted(first) == sorted(second) == everything()
    assert first != second


@pytest.mark.parametrize("slots", [2, 3, 4, 7])  # 7: more readers than shards
def test_shares_are_disjoint_and_complete(slots: int, tmp_path: Path) -> None:
    source = ShardSource(write_shards(tmp_path))
    shares = [reds(source.samples(seed=3, slot=slot, slots=slots, repeat=False)) for slot in range(slots)]
    assert all(shares)
    assert sorted(chain.from_iterable(shares)) == everything()


def test_patterns(tmp_path: Path) -> None:
    braces = write_shards(tmp_path)
    stars = ShardSource(f"{tmp_path}/part-*.tar")
    assert stars.urls == ShardSource(braces).urls
    assert stars.fingerprint() == ShardSource(braces).fingerprint()
    assert len(ShardSource("https://example.org/{00..11}.tar").urls) == 12


@pytest.mark.parametrize("pattern", ["pipe:cat a.tar", "s3://bucket/a.tar", "file:a.tar"])
def test_other_addresses_are_refused(pattern: str) -> None:
    with pytest.raises(UserError, match="refused"):
        ShardSource(pattern)


def test_missing_shard(tmp_path: Path) -> None:
    write_shards(tmp_path, shards=2)
    with pytest.raises(UserError, match=r"part-002.tar does not exist"):
        ShardSource(f"{tmp_path}/part-{{000..002}}.tar")


def test_shards_without_images(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    with pytest.raises(DataError, match="No images"):
        next(ShardSource(f"{tmp_path}/a.tar").samples(seed=0))


def test_a_failing_shard_is_continued_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every opening but the third breaks off in the middle of the shard."""
    source = ShardSource(write_shards(tmp_path, shards=1), pause=0, retries=2)
    whole, opened = Path(source.urls[0]).read_bytes(), []

    def flaky(url: str, timeout: float) -> io.BytesIO:
        opened.append(url)
        cut = len(whole) if len(opened) == 3 else 2 * 1024 * len(opened) + 1100
        return io.BytesIO(whole[:cut])

    monkeypatch.setattr(shards, "_open", flaky)
    assert sorted(reds(source.samples(seed=0, repeat=False))) == everything(1)
    assert len(opened) == 3


def test_a_lost_shard_is_named(tmp_path: Path) -> None:
    source = ShardSource(write_shards(tmp_path, shards=2), pause=0)
    Path(source.urls[1]).unlink()
    with pytest.raises(DataError, match=r"part-001.tar could not be read \(No such file.*4 times"):
        list(source.samples(seed=0, repeat=False))


def test_over_http(tmp_path: Path) -> None:
    write_shards(tmp_path, shards=2)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}"
        source = ShardSource(f"{root}/part-{{000..001}}.tar")
        assert sorted(reds(source.samples(seed=0, repeat=False))) == everything(2)
        lost = ShardSource(f"{root}/part-009.tar", pause=0, retries=1)
        with pytest.raises(DataError, match=r"part-009.tar could not be read"):
            next(lost.samples(seed=0))
        server.shutdown()


def test_a_server_that_hangs_or_errs_is_asked_again_and_then_named(tmp_path: Path) -> None:
    """Twice a promise without bytes, then an error, then the shard; a server that only hangs is a clear stop."""
    write_shards(tmp_path, shards=1)
    whole, asked, done = (tmp_path / "part-000.tar").read_bytes(), [], Event()

    class Moody(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            asked.append(self.path)
            if "part" in self.path and len(asked) == 3:
                self.send_error(503)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(whole)))
            self.end_headers()
            if "part" in self.path and len(asked) == 4:
                self.wfile.write(whole)
                return
            self.wfile.write(whole[:600])
            self.wfile.flush()
            done.wait(20)

    with ThreadingHTTPServer(("127.0.0.1", 0), Moody) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}"
        source = ShardSource(f"{root}/part-000.tar", pause=0, timeout=0.3)
        assert sorted(reds(source.samples(seed=0, repeat=False))) == everything(1)
        assert len(asked) == 4
        stuck = ShardSource(f"{root}/stuck.tar", pause=0, retries=1, timeout=0.3)
        with pytest.raises(DataError, match=r"stuck.tar could not be read \(timed out; tried 2 times\)"):
            next(stuck.samples(seed=0))
        done.set()
        server.shutdown()


@pytest.mark.parametrize("workers", [0, 2])
def test_draws_from_a_loader_are_one_pass(workers: int, tmp_path: Path) -> None:
    source = ShardSource(write_shards(tmp_path))
    draws = ShardDraws(source, ResizeCenterCrop(4), seed=0, repeat=False)
    loader = DataLoader(draws, batch_size=4, num_workers=workers, collate_fn=collate_draws)
    values = [round(v * 255) for b in loader for v in b["pixel_values"][:, 0, 0, 0].tolist()]
    assert sorted(values) == everything()


def test_draws_split_by_rank(tmp_path: Path) -> None:
    source, values = ShardSource(write_shards(tmp_path)), []
    for rank in range(2):
        draws = ShardDraws(source, ResizeCenterCrop(4), seed=0, repeat=False, rank=rank, world_size=2)
        values += [round(sample["pixel_values"][0, 0, 0].item() * 255) for sample in draws]
    assert sorted(values) == everything()


def test_unreadable_images_are_skipped_and_named(tmp_path: Path) -> None:
    write_shards(tmp_path, shards=1)
    with tarfile.open(tmp_path / "part-000.tar", "a") as archive:
        member = tarfile.TarInfo("0009.jpg")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"bad"))
    draws = ShardDraws(ShardSource(f"{tmp_path}/part-000.tar"), ResizeCenterCrop(4), seed=0)
    batch = collate_draws(list(islice(draws, 12)))
    assert len(batch["pixel_values"]) == 12
    assert batch["unreadable"]
    assert all("part-000.tar: 0009.jpg: not an image" in name for name in batch["unreadable"])
