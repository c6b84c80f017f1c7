"""The members of shards: keys, the image of a sample, and what is left out; the same images as from the plain archive."""

from __future__ import annotations

import io
import random
import tarfile
import time
from pathlib import Path

import pytest
from test_shards import png, reds

from aloe.core.errors import UserError
from aloe.data.decode import DataError
from aloe.data.draws import FaultLog, ShardDraws, collate_draws
from aloe.data.members import split_key
from aloe.data.shards import ShardSource
from aloe.data.sources import open_images, open_source
from aloe.data.transforms import ResizeCenterCrop

MODES = {"plain": "w", "gzip": "w:gz"}


def write_tar(path: Path, names: list[str], mode: str = "w") -> Path:
    """Image k, whatever its name, has the red value k; other files hold words."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for k, name in enumerate(names):
            data = png(k) if not name.endswith((".json", ".txt", ".cls")) else b"1"
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def read(source: ShardSource) -> dict[str, int]:
    """Red value by the member's name."""
    samples = list(source.samples(seed=0, repeat=False))
    return {name.partition(": ")[2]: red for (name, _), red in zip(samples, reds(samples), strict=True)}


@pytest.mark.parametrize(
    ("name", "key", "fields"),
    [
        ("000.jpg", "000", "jpg"),
        ("000.depth.png", "000", "depth.png"),
        ("IMG_22.01.jpg", "IMG_22.01", "jpg"),
        ("IMG_22.01.depth.png", "IMG_22.01", "depth.png"),
        ("Screenshot at 10.15.32.png", "Screenshot at 10.15.32", "png"),
        ("a.b/c.d/000.seg.png", "a.b/c.d/000", "seg.png"),
        ("v1.2.final.jpg", "v1.2", "final.jpg"),
        ("noextension", "noextension", ""),
    ],
)
def test_keys(name, key, fields):
    assert split_key(name) == (key, fields)


FOLDERS = {
    "dotted": [f"IMG_22.{k:02}.jpg" for k in range(12)],
    "below a dot": [f"./{k}.png" for k in range(9)],
    "dots and folders": [f"./set.{s}/IMG.{k}.png" for s in range(2) for k in range(3)],
    "words": ["holiday.paris.jpg", "holiday.rome.jpg", "holiday.oslo.jpg"],
    "upper case": ["A.JPG", "b.Png", "c.01.JPEG"],
    "times": [f"Bild 2021-01-01 um 10.15.{k}.png" for k in range(4)],
}


@pytest.mark.parametrize("names", FOLDERS.values(), ids=FOLDERS)
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_a_tar_of_a_folder_has_the_images_of_the_plain_archive(tmp_path, names, mode):
    path = write_tar(tmp_path / "s.tar", names, mode)
    plain = open_images(path)
    expected = {plain.name(i): plain.load(i).getpixel((0, 0))[0] for i in range(len(plain))}
    source = ShardSource(str(path))
    assert read(source) == expected
    assert len(expected) == len(names)
    assert source.left_out == []


def test_a_shard_of_a_folder_beside_a_usual_one_loses_nothing(tmp_path):
    write_tar(tmp_path / "s-0.tar", [f"./{k}.png" for k in range(12)])
    write_tar(tmp_path / "s-1.tar", [f"{k:03}.png" for k in range(12)])
    write_tar(tmp_path / "s-2.tar", [f"IMG.{k:02}.png" for k in range(12)])
    assert len(list(ShardSource(f"{tmp_path}/s-{{0..2}}.tar").samples(seed=1, repeat=False))) == 36


COMPANIONS = [name for k in range(6) for name in (f"{k:03}.depth.png", f"{k:03}.jpg", f"{k:03}.json")]


@pytest.mark.parametrize("order", ["by name", "depth first", "depth last", "mixed"])
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_the_plain_image_is_taken_and_the_other_is_named(tmp_path, order, mode):
    names = sorted(COMPANIONS, key=lambda n: ("depth" in n) * {"depth first": -1, "depth last": 1}.get(order, 0))
    if order == "mixed":
        random.Random(0).shuffle(names)
    path = write_tar(tmp_path / "s.tar", names, mode)
    source = ShardSource(str(path))
    assert sorted(read(source)) == [f"{k:03}.jpg" for k in range(6)]
    (told,) = source.left_out
    assert told.startswith(f"{path}: 6 images left out, beside a plain image of the same key (#depth.png")
    assert "000.depth.png" in told or order == "mixed"
    chosen = ShardSource(f"{path}#depth.png")
    assert sorted(read(chosen)) == [f"{k:03}.depth.png" for k in range(6)]
    assert chosen.left_out == []
    assert chosen.fingerprint() != source.fingerprint()


def test_a_depth_map_without_its_image_is_no_sample(tmp_path):
    path = write_tar(tmp_path / "s.tar", ["0.jpg", "0.depth.png", "1.depth.png", "2.jpg"])
    source = ShardSource(str(path))
    assert sorted(read(source)) == ["0.jpg", "2.jpg"]
    assert any(
        "1 image left out, its sample has no plain image" in line and "1.depth.png" in line for line in source.left_out
    )


def test_of_plain_images_of_one_key_the_photograph_is_taken(tmp_path):
    path = write_tar(tmp_path / "s.tar", ["0.webp", "0.png", "0.jpg", "1.gif", "1.webp"])
    source = ShardSource(str(path))
    assert sorted(read(source)) == ["0.jpg", "1.webp"]
    assert "3 images left out, beside" in " ".join(source.left_out) or len(source.left_out) > 1


@pytest.mark.parametrize(
    "names", [["0.rgb.png", "0.depth.png", "0.json"], ["0.a.png", "0.b.png", "1.a.png", "1.b.png"]]
)
def test_several_images_of_a_key_and_none_is_plain(tmp_path, names):
    path = write_tar(tmp_path / "s.tar", names)
    with pytest.raises(
        DataError, match=r"the sample \d has the images \.(\w+)\.png and .*choose one by adding #"
    ) as told:
        read(ShardSource(str(path)))
    assert "\n" not in str(told.value)
    fields = names[0].partition(".")[2]
    assert sorted(read(ShardSource(f"{path}#{fields}"))) == sorted(n for n in names if n.endswith(fields))


def test_a_chosen_member_that_is_missing_is_counted(tmp_path):
    path = write_tar(tmp_path / "s.tar", ["0.rgb.png", "0.depth.png", "1.depth.png"])
    source = ShardSource(f"{path}#rgb.png")
    assert list(read(source)) == ["0.rgb.png"]
    assert source.left_out == [f"{path}: 1 image left out, its sample has no .rgb.png: 1.depth.png"]


@pytest.mark.parametrize("apart", [False, True])
def test_a_name_twice_is_counted_and_the_last_is_used(tmp_path, apart):
    names = ["0.png", "1.png", "2.png", "1.png"] if apart else ["0.png", "1.png", "1.png", "2.png"]
    path = write_tar(tmp_path / "s.tar", names)
    start = time.perf_counter()
    source = ShardSource(str(path), pause=5)
    plain = open_images(path)
    assert read(source) == {plain.name(i): plain.load(i).getpixel((0, 0))[0] for i in range(3)}
    assert time.perf_counter() - start < 4  # nothing that does not pass by waiting is tried again
    assert source.left_out == [f"{path}: 1 image left out, another member of the same name comes after it: 1.png"]


def test_links_in_a_shard_are_named(tmp_path):
    path = write_tar(tmp_path / "s.tar", ["0.png"])
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("1.png")
        link.type, link.linkname = tarfile.SYMTYPE, "0.png"
        archive.addfile(link)
    source = ShardSource(str(path))
    assert list(read(source)) == ["0.png"]
    assert source.left_out == [f"{path}: 1 image left out, a link or a device: 1.png"]


def test_names_of_any_bytes(tmp_path):
    path = write_tar(tmp_path / "s.tar", ["caf\udce9.png", "a\nb.png"])
    assert sorted(read(ShardSource(str(path)))) == ["a\\u000ab.png", "caf\\xe9.png"]
    source = open_images(path)
    assert sorted(map(source.name, range(2))) == ["a\\u000ab.png", "caf\\xe9.png"]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_left_out_reaches_the_account(tmp_path, workers):
    from torch.utils.data import DataLoader

    write_tar(tmp_path / "s-0.tar", COMPANIONS)
    write_tar(tmp_path / "s-1.tar", COMPANIONS)
    draws = ShardDraws(ShardSource(f"{tmp_path}/s-{{0..1}}.tar"), ResizeCenterCrop(4), seed=0)
    log = FaultLog(path=tmp_path / "unreadable.txt")
    for _, batch in zip(range(12), DataLoader(draws, 4, num_workers=workers, collate_fn=collate_draws), strict=False):
        assert set(log.take(batch)) == {"pixel_values", "label"}
    lines = (tmp_path / "left_out.txt").read_text().splitlines()
    assert sorted(line.partition(":")[0][-7:] for line in lines) == ["s-0.tar", "s-1.tar"]
    assert "Left out: " in log.summary()


@pytest.mark.parametrize(
    "name", ["a:b", "run 12:30", "set[1]", "a#b", "a{b", "x{0..1}y", "a::b", "*", "s3:x", "caf\udce9"]
)
def test_paths_with_signs_in_them(tmp_path, name):
    path = write_tar(tmp_path / name / "s-0.tar", ["0.png", "1.png"])
    assert len(read(open_source(f"wds:{path}"))) == 2
    if "{" not in name and "::" not in name and "*" not in name:
        assert open_source(f"wds:{tmp_path / name}/s-{{0..0}}.tar").urls == [str(path)]
        assert open_source(f"wds:{tmp_path / name}/s-*.tar").urls == [str(path)]


@pytest.mark.parametrize("name", ["s[1].tar", "s:1.tar", "s#1.tar", "s{0..3}.tar"])
def test_shards_with_signs_in_their_names(tmp_path, monkeypatch, name):
    write_tar(tmp_path / name, ["0.png"])
    monkeypatch.chdir(tmp_path)
    assert open_source(f"wds:{name}").urls == [name]
    assert len(read(open_source(f"wds:{tmp_path / name}"))) == 1


@pytest.mark.parametrize("pattern", ["s-{000..", "s-{a,b", "nowhere:x.tar", "a[b].tar"])
def test_a_pattern_of_nothing_is_one_sentence(pattern):
    with pytest.raises(UserError) as told:
        open_source(f"wds:{pattern}")
    assert "\n" not in str(told.value)


def test_a_damaged_header_is_told_in_words(tmp_path):
    path = write_tar(tmp_path / "s.tar", ["0.png", "1.png"])
    data = bytearray(path.read_bytes())
    data[1024 + 148 : 1024 + 156] = b"nonsense"  # the checksum of the second header
    path.write_bytes(bytes(data))
    with pytest.raises(DataError) as told:
        list(ShardSource(str(path), pause=0).samples(seed=0, repeat=False))
    assert "0x" not in str(told.value)
    assert "dict_keys" not in str(told.value)
